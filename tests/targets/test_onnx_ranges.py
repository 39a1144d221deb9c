from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, MinMaxCalibrater

from calibration.errors import UnsupportedError
from targets.device.golden import sqnr_db
from targets.onnx_float import COMPARED, FloatGraph
from targets.onnx_quantization import StaticScheme, static
from targets.onnx_ranges import answers, ends, float_tensors, observe
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.profile import load_profile
from tests.models import calibration_of, convolutional, transformer

READS = OnnxruntimeCpu().capabilities(load_profile("host"))


@pytest.mark.parametrize("model", [convolutional, transformer])
def test_extremes_are_those_of_onnxruntimes_own_calibrator(tmp_path, model):
    package = model(tmp_path / "model")
    calibration = calibration_of(package)
    graph = FloatGraph(package, calibration).model
    onnx.save(graph, tmp_path / "prepared.onnx")

    class Reader(CalibrationDataReader):
        feeds = iter(calibration.feeds(len(calibration)))

        def get_next(self):  # pyright: ignore[reportIncompatibleMethodOverride] - None ends it
            return next(self.feeds, None)

    peer = MinMaxCalibrater(tmp_path / "prepared.onnx", augmented_model_path=str(tmp_path / "augmented.onnx"))
    peer.augment_graph()
    peer.create_inference_session()
    peer.collect_data(Reader())
    theirs = peer.compute_data().data
    ours = observe(graph, calibration)
    assert theirs.keys() <= ours.keys()
    assert len(theirs) > 5
    for name, found in theirs.items():
        low, high = ours[name].seen()
        assert (low[0], high[0]) == pytest.approx(
            tuple(float(np.squeeze(end)) for end in found.range_value), rel=1e-5, abs=1e-6
        )


def test_the_batches_do_not_matter(tmp_path, monkeypatch):
    package = convolutional(tmp_path / "model")
    found = []
    for size in (1, 5, 64):
        monkeypatch.setattr("targets.onnx_ranges.OBSERVED_AT_ONCE", size)
        found.append(FloatGraph(package, calibration_of(package)).histograms)
    for histograms in found[1:]:
        assert histograms.keys() == found[0].keys()
        for name, histogram in histograms.items():
            # A convolution of another batch may sum in another order: values at an edge move by one bin.
            moved = np.abs(np.cumsum(histogram.counts - found[0][name].counts, axis=1)).max()
            assert moved <= 0.01 * histogram.counts.sum()


def test_ends_are_those_of_the_histograms(tmp_path):
    package = convolutional(tmp_path / "model")
    graph, calibration = FloatGraph(package, calibration_of(package)).model, calibration_of(package)
    found, histograms = ends(graph, calibration), observe(graph, calibration)
    assert found.keys() == histograms.keys()
    for name, reached in found.items():
        assert np.allclose(reached, histograms[name].seen(), rtol=1e-5, atol=1e-6)


def test_a_tensor_without_a_number_is_named(tmp_path):
    package = convolutional(tmp_path / "model")
    graph = FloatGraph(package, calibration_of(package)).model
    first = graph.graph.node[0].output[0]
    graph.graph.node.append(onnx.helper.make_node("Log", [first], ["logarithm"]))
    assert "logarithm" in float_tensors(graph)[1]
    for look in (observe, ends):
        with pytest.raises(UnsupportedError, match="tensor logarithm: it has NaN or infinity on calibration samples"):
            look(graph, calibration_of(package))


def test_the_method_that_answers_best_is_kept_and_said(tmp_path):
    """An input with one outlier in a thousand pixels: taking it in costs more than clipping it."""
    package = convolutional(tmp_path / "model")
    calibration = calibration_of(package)
    (name,) = calibration.inputs
    spoilt = calibration.inputs[name].copy()
    spoilt[-1, 0, 0, 0] = 400.0
    outlying = replace(calibration, inputs={name: spoilt})
    (tmp_path / "out").mkdir()
    made = static("route", StaticScheme("uint8"), FloatGraph(package, outlying), READS).make(tmp_path / "out")
    method = made.notes[0].removeprefix("ranges by ").partition(":")[0]
    assert method != "min_max"
    said = float(made.notes[0].partition(": ")[2].partition(" dB")[0])
    feeds = outlying.feeds(16)[: COMPARED // 16]
    assert sqnr_db(answers(onnx.load(package.graph), feeds), answers(onnx.load(made.graph), feeds)) == pytest.approx(
        said, abs=0.06
    )
    assert all(said >= float(other.rpartition(" ")[2]) for other in made.notes[0].partition("(")[2][:-1].split(", "))


@pytest.mark.parametrize("value", [0.0, 1.0, -1e30, 1e-42], ids=str)
def test_constant_inputs_give_a_sound_model(tmp_path, value):
    package = convolutional(tmp_path / "model")
    calibration = calibration_of(package)
    constant = {name: np.full_like(array, value) for name, array in calibration.inputs.items()}
    (tmp_path / "out").mkdir()
    graph = FloatGraph(package, replace(calibration, inputs=constant))
    made = static("route", StaticScheme("uint8"), graph, READS).make(tmp_path / "out")
    found = answers(onnx.load(made.graph), replace(calibration, inputs=constant).feeds(4))
    assert np.isfinite(found).all()
