"""Faults planted in real int8 models, found by what `edgewright diff` computes."""

import sys

import pytest

from calibration.divergence import first


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


@pytest.mark.slow
def test_sums_that_overflow_on_an_older_processor_are_named(faults):
    """The same artifact that raises no alarm on a processor with VNNI."""
    finding = first(faults.unspoilt("depthwise", "Haswell"))
    assert finding is not None
    assert finding.kind == "saturation"
    node = faults.node_of(faults.artifact_of("depthwise"), finding.op)
    assert faults.can_clip(faults.artifact_of("depthwise"), node)


@pytest.mark.slow
def test_guarded_weights_raise_no_alarm_there(faults):
    float_graph = faults.graph_of("depthwise")
    guarded = faults.quantized(float_graph, "depthwise", "pairs")
    emulated = faults._emulator("Haswell")
    layers = faults.layers_of(faults.float_reference(float_graph), guarded, faults.feeds(), emulated)
    assert first(layers) is None


@pytest.mark.nightly
@pytest.mark.parametrize("seeds", [range(30), range(30, 45)])
def test_every_fault_is_pinned(faults, seeds):
    assert faults.pinned(seeds) == (len(seeds), len(seeds))
