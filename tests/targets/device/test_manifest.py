import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.device.errors import BundleError, DeviceError, UnsuitedError
from targets.device.manifest import FILE, Gate, parse_manifest, read_manifest
from tests.bundles import make_bundle

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    bundle = make_bundle(
        tmp_path_factory.mktemp("manifest"), trial=True, pending_gates=[{"name": "energy", "limit": 2}]
    )
    return json.loads((bundle / "payload" / FILE).read_text())


def places(value, path=()):
    """Every key and index of nested JSON, as a path from the top."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from places(inner, (*path, key))


def refusal(record):
    """What is said against a manifest; the file's name where it is read."""
    try:
        parse_manifest(record)
    except DeviceError as e:
        return e.message
    return FILE


def test_reads_what_was_written(record):
    manifest = parse_manifest(record)
    assert (manifest.name, manifest.version, manifest.model_files) == ("tiny", 3, ("model.onnx",))
    assert manifest.inputs[0].shape == ("batch", 1, 8, 8)
    assert manifest.pending_gates == (Gate("energy", 2.0),)
    assert manifest.trial is not None
    assert manifest.trial.files == ("trial/model.onnx",)
    assert manifest.files == record["files"]


def test_unknown_keys_are_ignored(record):
    assert parse_manifest(record | {"colour": "red"}) == parse_manifest(record)


@given(st.data())
def test_any_other_value_anywhere_is_read_or_refused_by_name(record, data):
    spoilt = copy.deepcopy(record)
    *path, last = data.draw(st.sampled_from(list(places(record))))
    inner = spoilt
    for key in path:
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[last] = data.draw(json_values)
    else:
        del inner[last]
    assert FILE in refusal(spoilt)


@given(json_values)
def test_any_json_at_all_is_read_or_refused(value):
    with pytest.raises(BundleError):
        parse_manifest(value)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../x", "a//b", "./a", "a\\b", "", "a\nb", "manifest.json"]
)
def test_paths_that_are_not_plain_are_refused(record, path):
    with pytest.raises(BundleError, match="not a plain path"):
        parse_manifest(record | {"files": record["files"] | {path: "0" * 64}})


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not valid JSON"),
        (b'{"schema": 1, "name"', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"schema": 1, "schema": 2}', "a key occurs twice"),
        (b'{"schema": NaN}', "NaN is not JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"schema": ' + b"9" * 10_000 + b"}", "schema|not valid JSON"),
        (b" " * 16_000_001, "larger than"),
        (b"[]", "expected an object"),
    ],
)
def test_broken_files_are_refused(tmp_path, raw, words):
    (tmp_path / FILE).write_bytes(raw)
    with pytest.raises(DeviceError, match=words):
        read_manifest(tmp_path)


def test_a_newer_schema_asks_for_a_newer_device_part(record):
    with pytest.raises(UnsuitedError, match="schema 2") as caught:
        parse_manifest(record | {"schema": 2})
    assert "device.pyz" in caught.value.next_step


@pytest.mark.parametrize("limit", [float("inf"), 1e400, True, "5"])
def test_a_limit_is_a_finite_number(record, limit):
    with pytest.raises(BundleError, match="limit: expected a number"):
        parse_manifest(record | {"pending_gates": [{"name": "latency_p50_ms", "limit": limit}]})


def test_a_file_that_is_used_must_be_listed(record):
    without = {name: digest for name, digest in record["files"].items() if name != "trial/model.onnx"}
    with pytest.raises(BundleError, match=r"trial/model\.onnx is used but not listed"):
        parse_manifest(record | {"files": without})


def test_the_own_network_in_float_stands_beside_the_trial(record):
    own = record["trial"] | {"files": ["model.onnx"]}
    models = parse_manifest(record | {"own_float": own}).float_models
    assert [model.files for model in models] == [("trial/model.onnx",), ("model.onnx",)]
    with pytest.raises(BundleError, match="own_float: there is no trial beside it"):
        parse_manifest(record | {"own_float": own, "trial": None})
