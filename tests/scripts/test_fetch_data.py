import io
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader

import numpy as np
import pytest


@pytest.fixture(scope="module")
def script(repository):
    loader = SourceFileLoader("fetch_data", str(repository / "scripts/fetch-data"))
    module = module_from_spec(spec_from_loader("fetch_data", loader))
    loader.exec_module(module)
    return module


def test_arrays_are_what_numpy_reads(script):
    labels = bytes([0, 9, 255])
    file = script.npz(
        {
            "image": script.npy("|u1", (3, 2, 1, 1), bytes(range(6))),
            "label": script.npy("<i8", (3,), script.little_endian(labels)),
        }
    )
    arrays = np.load(io.BytesIO(file), allow_pickle=False)
    assert arrays["image"].shape == (3, 2, 1, 1)
    assert arrays["image"].ravel().tolist() == list(range(6))
    assert arrays["label"].dtype == np.int64
    assert arrays["label"].tolist() == [0, 9, 255]


def test_the_same_arrays_give_the_same_file(script):
    arrays = {"x": script.npy("|u1", (2,), b"ab")}
    assert script.npz(arrays) == script.npz(arrays)


def test_a_file_is_published_whole_and_alone(script, tmp_path):
    script.publish(tmp_path / "f", b"old")
    script.publish(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_not_the_known_file_is_refused(script, tmp_path):
    (tmp_path / "f").write_bytes(b"changed")
    with pytest.raises(SystemExit, match="f: the package lacks it, or its sha256 is not 00"):
        script.check(tmp_path / "f", "00")
