import os
import subprocess
import sys

import numpy as np
import pytest

from targets.device.errors import BundleError, UnsuitedError
from targets.device.runners import load_runner, runner_class, runner_names
from targets.device.runners.onnxruntime_cpu import Runner
from tests.bundles import answer, layers, write_model

FEEDS = {"pixel_values": np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)}


@pytest.fixture
def folder(tmp_path):
    write_model(tmp_path / "model.onnx", layers(depth=2, width=32))
    return tmp_path


@pytest.mark.parametrize("name", runner_names())
def test_every_runner_gives_the_answers_of_numpy(folder, name):
    runner = load_runner(name, folder, ["model.onnx"], {"threads": 1})
    outputs = runner.run(FEEDS)
    assert list(outputs) == ["logits"]
    np.testing.assert_allclose(outputs["logits"], answer(layers(depth=2, width=32), FEEDS["pixel_values"]), atol=1e-5)
    assert runner.runtime()["name"] == runner_class(name).distribution
    assert runner.runtime()["version"]


@pytest.mark.parametrize("name", runner_names())
def test_no_runtime_writes_down_what_it_would_report_to_its_maker(folder, repository, name):
    home = folder / "home"
    home.mkdir()
    code = (
        f"from targets.device.runners import load_runner; load_runner({name!r}, '.', ['model.onnx'], {{'threads': 1}})"
    )
    env = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key and key != "XDG_CACHE_HOME"}
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=env | {"HOME": str(home), "PYTHONPATH": str(repository)},
        check=True,
    )
    assert [file for file in home.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("name", runner_names())
def test_answers_are_not_overwritten_by_the_next_call(folder, name):
    runner = load_runner(name, folder, ["model.onnx"], {"threads": 1})
    first = runner.run(FEEDS)["logits"]
    kept = first.copy()
    runner.run({"pixel_values": FEEDS["pixel_values"] * -5})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("name", runner_names())
@pytest.mark.parametrize("raw", [b"", b"not a model", b"\x08\x08\x12\x07garbage" * 50])
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path, name, raw):
    (tmp_path / "model.onnx").write_bytes(raw)
    with pytest.raises(BundleError, match=r"model\.onnx"):
        load_runner(name, tmp_path, ["model.onnx"], {"threads": 1})


@pytest.mark.parametrize("name", runner_names())
def test_a_file_that_is_not_there_is_refused_by_name(tmp_path, name):
    with pytest.raises(BundleError, match=r"model\.onnx: no such model file"):
        load_runner(name, tmp_path, ["model.onnx"], {"threads": 1})


@pytest.mark.parametrize("name", runner_names())
@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"other": FEEDS["pixel_values"]},
        {"pixel_values": FEEDS["pixel_values"][:, :, :4]},
        {"pixel_values": np.array([["a"]])},
    ],
)
def test_feeds_that_do_not_fit_are_refused(folder, name, feeds):
    runner = load_runner(name, folder, ["model.onnx"], {"threads": 1})
    runner.run(FEEDS)
    with pytest.raises(BundleError, match="does not run it"):
        runner.run(feeds)


@pytest.mark.parametrize("name", runner_names())
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": 0}, "threads: expected 1 to 1024"),
        ({"threads": 10**40}, "threads: expected 1 to 1024"),
        ({"threads": True}, "threads: expected int"),
        ({"threads": "1"}, "threads: expected int"),
        ({"colour": 1}, "colour: not an option"),
    ],
)
def test_options_that_it_would_not_honour_are_refused(folder, name, options, words):
    with pytest.raises(BundleError, match=words):
        load_runner(name, folder, ["model.onnx"], options)


def test_onnxruntime_uses_the_cpu_alone_and_the_threads_it_is_given(folder):
    options = {"threads": 2, "optimization": "basic", "spinning": True}
    session = Runner(folder, ["model.onnx"], options).session
    assert session.get_providers() == ["CPUExecutionProvider"]
    used = session.get_session_options()
    assert (used.intra_op_num_threads, used.inter_op_num_threads) == (2, 1)
    assert used.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    with pytest.raises(BundleError, match="optimization: 'most' is not one of"):
        load_runner("onnxruntime_cpu", folder, ["model.onnx"], {"optimization": "most"})


def test_onnxruntime_says_that_it_is_too_old_for_a_newer_model(tmp_path):
    write_model(tmp_path / "model.onnx", layers(depth=1, width=8), ir_version=99)
    with pytest.raises(UnsuitedError, match=r"model\.onnx: onnxruntime \S+ cannot run this model"):
        load_runner("onnxruntime_cpu", tmp_path, ["model.onnx"], {"threads": 1})


def test_openvino_computes_in_the_precision_it_is_told(folder):
    runner = load_runner("openvino", folder, ["model.onnx"], {"threads": 1})
    assert runner.runtime()["inference_precision"] == "f32"


def test_an_unknown_runner_is_refused_with_those_there_are(tmp_path):
    for name in ("tensorrt_rtx", "__init__", "../x", "onnxruntime_cpu.Runner", ""):
        with pytest.raises(UnsuitedError, match="onnxruntime_cpu, openvino"):
            load_runner(name, tmp_path, ["model"], {})
