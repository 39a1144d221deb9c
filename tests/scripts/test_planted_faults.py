"""Faults planted in real int8 models, found by what `edgewright diff` computes."""

import sys

import fault_models
import fault_ways
import onnx
import pytest

from calibration.divergence import first
from pipeline.diff import float_reference, layers_of
from targets.onnx_pairs import can_clip


@pytest.fixture(scope="module")
def faults(repository):
    sys.path.insert(0, str(repository / "recipes"))
    import planted_faults

    yield planted_faults
    sys.path.remove(str(repository / "recipes"))


# One of each kind but saturation in the kernel, which takes QEMU: on the depthwise network and the transformer, then
# on artifacts that were equalized and smoothed before.
@pytest.mark.parametrize("seed", [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 30, 32, 42, 43])
def test_a_planted_fault_is_pinned_to_its_operator(faults, seed):
    outcome = faults.attempt(seed)
    assert outcome.finding is not None
    assert outcome.finding.op in outcome.planted.ops
    assert outcome.finding.kind == outcome.planted.kind


@pytest.mark.parametrize("name", ["residual", "depthwise", "transformer"])
def test_a_sound_artifact_raises_no_alarm(faults, name):
    assert first(faults.unspoilt(name)) is None


@pytest.mark.parametrize("name", ["residual", "depthwise", "outliers"])
def test_what_was_changed_before_it_was_quantized_raises_no_alarm(faults, name):
    """Weights equalized across layers, biases corrected, normalizations smoothed."""
    assert first(faults.unspoilt(name, changed=True)) is None


@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_a_halved_bias_is_no_correction(faults, name):
    """Behind a ReLU too, where much of what it changes is cut off."""
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(fault_models.artifact_of(name))
    node = [node for node in spoilt.graph.node if node.op_type == "Conv"][3]
    bias = next(n for n in spoilt.graph.node if node.input[2] in n.output)
    fault_ways.rewrite(spoilt, bias.name, lambda integers: integers // 2)
    finding = first(layers_of(float_reference(fault_models.graph_of(name)), spoilt, fault_models.feeds()))
    assert finding is not None
    assert finding.op in (node.name, bias.name)


@pytest.mark.slow
def test_sums_that_overflow_on_an_older_processor_are_named(faults):
    """The same artifact that raises no alarm on a processor with VNNI."""
    finding = first(faults.unspoilt("depthwise", "Haswell"))
    assert finding is not None
    assert finding.kind == "saturation"
    artifact = fault_models.artifact_of("depthwise", guard="none")
    assert can_clip(artifact, fault_ways.node_of(artifact, finding.op))


@pytest.mark.slow
def test_guarded_weights_raise_no_alarm_there(faults):
    float_graph = fault_models.graph_of("depthwise")
    guarded = fault_models.quantized(float_graph, "depthwise", "pairs")
    emulated = fault_models.emulation("Haswell")
    layers = layers_of(float_reference(float_graph), guarded, fault_models.feeds(), emulated)
    assert first(layers) is None


@pytest.mark.nightly
@pytest.mark.parametrize("seeds", [range(30), range(30, 45)])
def test_every_fault_is_pinned(faults, seeds):
    assert faults.pinned(seeds) == (len(seeds), len(seeds))
