import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from targets.device.errors import BundleError
from targets.device.golden import EXACT_DB, compare_golden, read_golden, sqnr_db
from targets.device.runners import load_runner
from targets.device.verify import verify
from tests.bundles import SAMPLES, edit_manifest, layers, make_bundle, seal, write_model

signals = arrays(np.float32, (4, 3), elements=st.floats(-100, 100, width=32))


@pytest.fixture
def payload(tmp_path):
    return make_bundle(tmp_path) / "payload"


def spoil(payload, **arrays):
    with np.load(payload / "golden.npz") as archive:
        kept = {name: archive[name] for name in archive.files}
    merged = {name: array for name, array in (kept | arrays).items() if array is not None}
    np.savez(payload / "golden.npz", **merged)
    seal(payload)


def refusal(payload, manifest):
    """What is said against golden.npz; its name where it is read."""
    try:
        read_golden(payload, manifest)
    except BundleError as e:
        return e.message
    return "golden.npz"


@given(signals)
def test_an_exact_answer_has_the_highest_ratio(x):
    assert sqnr_db(x, x.copy()) == EXACT_DB


@given(signals.filter(lambda x: np.abs(x).max() > 1), st.floats(1e-3, 1))
def test_relative_noise_gives_its_own_decibels(x, noise):
    x = x.astype(np.float64)
    assert sqnr_db(x, x * (1 + noise)) == pytest.approx(-20 * np.log10(noise), abs=0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_finite_is_the_worst(value):
    assert sqnr_db(np.ones((2, 2)), np.full((2, 2), value)) == -EXACT_DB


def test_the_model_reproduces_answers_computed_in_numpy(payload):
    manifest, _ = verify(payload)
    runner = load_runner(manifest.runner, payload, manifest.model_files, manifest.options)
    agreement = compare_golden(read_golden(payload, manifest), manifest, runner)
    assert agreement.sqnr_db > 100
    assert (agreement.argmax_agreement, agreement.samples) == (1.0, SAMPLES)


def test_another_model_is_told_apart(payload):
    write_model(payload / "model.onnx", layers(depth=2, width=128, seed=9))
    seal(payload)
    manifest, _ = verify(payload)
    runner = load_runner(manifest.runner, payload, manifest.model_files, manifest.options)
    assert compare_golden(read_golden(payload, manifest), manifest, runner).sqnr_db < 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input.pixel_values": None}, r"no array input\.pixel_values"),
        ({"output.logits": np.zeros((SAMPLES, 5), np.float32)}, r"output\.logits is float32 \[6, 5\]"),
        ({"input.pixel_values": np.zeros((SAMPLES, 1, 8, 8))}, r"input\.pixel_values is float64"),
        ({"output.logits": np.zeros((2, 4), np.float32)}, "samples, not those of the manifest"),
        ({"output.other": np.zeros((SAMPLES, 4), np.float32)}, r"outputs \['other'\] do not fit"),
        ({"output.logits": np.float32(3)}, r"output\.logits holds no sample"),
        ({"output.logits": np.array([object()])}, "not readable"),
    ],
)
def test_arrays_that_do_not_fit_the_manifest_are_refused(payload, changes, words):
    spoil(payload, **changes)
    with pytest.raises(BundleError, match=words):
        read_golden(payload, verify(payload)[0])


@given(st.data())
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    payload = make_bundle(tmp_path_factory.mktemp("golden")) / "payload"
    raw = bytearray((payload / "golden.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (payload / "golden.npz").write_bytes(raw)
    seal(payload)
    manifest, _ = verify(payload)
    assert "golden.npz" in refusal(payload, manifest)


def test_an_array_that_is_no_archive_is_refused(payload):
    with (payload / "golden.npz").open("wb") as f:
        np.save(f, np.zeros(3))
    seal(payload)
    with pytest.raises(BundleError, match=r"not readable as \.npz"):
        read_golden(payload, verify(payload)[0])


def test_an_output_that_the_model_lacks_is_named(payload):
    with np.load(payload / "golden.npz") as archive:
        logits = archive["output.logits"]
    edit_manifest(payload, lambda m: m | {"outputs": [{"name": "scores", "dtype": "float32", "shape": ["batch", 4]}]})
    spoil(payload, **{"output.logits": None, "output.scores": logits})
    manifest, _ = verify(payload)
    runner = load_runner(manifest.runner, payload, manifest.model_files, manifest.options)
    with pytest.raises(BundleError, match="no output 'scores'"):
        compare_golden(read_golden(payload, manifest), manifest, runner)
