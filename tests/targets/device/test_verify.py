import hashlib
import os
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from targets.device.errors import BundleError, CallError, UnsuitedError
from targets.device.verify import find_payload, verify
from tests.bundles import edit_manifest, make_bundle


@pytest.fixture
def payload(tmp_path):
    return make_bundle(tmp_path, trial=True) / "payload"


@pytest.fixture(scope="module")
def shared_payload(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("shared"), trial=True) / "payload"


def outcome(payload):
    """The payload's digest, or what is said against it."""
    try:
        return verify(payload)[1]
    except (BundleError, UnsuitedError) as e:
        return e.message


def test_a_sound_payload_holds(payload):
    manifest, digest = verify(payload)
    assert manifest.name == "tiny"
    assert len(digest) == 64


def test_the_digest_is_that_of_sha256sum_over_all_files(payload):
    command = "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    found = subprocess.run(["bash", "-c", command], cwd=payload, capture_output=True, text=True, check=True).stdout
    assert verify(payload)[1] == found.split()[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_any_flipped_bit_of_any_file_is_found(shared_payload, data):
    files = sorted(f for f in shared_payload.rglob("*") if f.is_file() and f.name != "manifest.json")
    file = data.draw(st.sampled_from(files))
    sound = file.read_bytes()
    bit = data.draw(st.integers(0, len(sound) * 8 - 1))
    spoilt = bytearray(sound)
    spoilt[bit // 8] ^= 1 << bit % 8
    file.write_bytes(spoilt)
    try:
        with pytest.raises(BundleError, match=rf"{file.name}: its bytes are not those of the manifest"):
            verify(shared_payload)
    finally:
        file.write_bytes(sound)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_a_flipped_bit_of_the_manifest_never_keeps_the_digest(shared_payload, data):
    file = shared_payload / "manifest.json"
    sound = file.read_bytes()
    digest = verify(shared_payload)[1]
    bit = data.draw(st.integers(0, len(sound) * 8 - 1))
    spoilt = bytearray(sound)
    spoilt[bit // 8] ^= 1 << bit % 8
    file.write_bytes(spoilt)
    try:
        assert outcome(shared_payload) != digest
    finally:
        file.write_bytes(sound)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "device.pyz", "trial/model.onnx", "manifest.json"])
def test_truncated_missing_and_unreadable_files_are_found(payload, name):
    file = payload / name
    sound = file.read_bytes()
    for size in (0, len(sound) // 2, len(sound) - 1):
        file.write_bytes(sound[:size])
        with pytest.raises(BundleError):
            verify(payload)
    file.unlink()
    with pytest.raises(BundleError, match=f"{file.name}: (missing|cannot be read)"):
        verify(payload)


def test_what_the_manifest_does_not_name_is_found(payload):
    (payload / "trial" / ".gitignore").write_text("")
    with pytest.raises(BundleError, match=r"trial/\.gitignore: not in the manifest"):
        verify(payload)


def test_symbolic_links_are_refused_even_with_the_right_bytes(payload, tmp_path):
    (payload / "model.onnx").rename(tmp_path / "model.onnx")
    (payload / "model.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=r"'model\.onnx' is a link"):
        verify(payload)


def test_a_linked_folder_manifest_or_payload_is_refused(payload, tmp_path):
    (payload / "trial").rename(tmp_path / "trial")
    (payload / "trial").symlink_to(tmp_path / "trial")
    with pytest.raises(BundleError, match="'trial' is a link"):
        verify(payload)
    (payload / "manifest.json").rename(tmp_path / "manifest.json")
    (payload / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read"):
        verify(payload)
    payload.rename(tmp_path / "elsewhere")
    payload.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="symbolic link"):
        find_payload(payload.parent)


def test_a_hard_link_to_a_file_outside_is_refused_and_one_inside_is_not(payload, tmp_path):
    (payload / "sbom.cdx.json").unlink()
    digest = hashlib.sha256((payload / "model.onnx").read_bytes()).hexdigest()
    os.link(payload / "model.onnx", payload / "sbom.cdx.json")
    edit_manifest(payload, lambda m: m | {"files": m["files"] | {"sbom.cdx.json": digest}})
    verify(payload)
    os.link(payload / "model.onnx", tmp_path / "outside")
    with pytest.raises(BundleError, match="hard-linked to a file outside"):
        verify(payload)


def test_a_named_pipe_does_not_hang_it(payload):
    (payload / "golden.npz").unlink()
    os.mkfifo(payload / "golden.npz")
    with pytest.raises(BundleError, match=r"'golden\.npz' is a link or device"):
        verify(payload)
    (payload / "manifest.json").unlink()
    os.mkfifo(payload / "manifest.json")
    with pytest.raises(BundleError, match=r"manifest\.json: not valid JSON"):
        verify(payload)


def test_a_bundle_is_found_from_its_folder_and_the_one_above(payload):
    assert find_payload(payload.parent) == payload == find_payload(payload.parent.parent)
    with pytest.raises(CallError, match="no such folder"):
        find_payload(payload / "nowhere")
    with pytest.raises(CallError, match="not a folder"):
        find_payload(payload / "model.onnx")
    with pytest.raises(BundleError, match="holds no payload"):
        find_payload(payload)
