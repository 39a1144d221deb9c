"""The examples of CONTRIBUTING.md are what it says they are: each file loads, and does its part."""

import re
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.stage import Work
from pipeline.tasks.image_classification import ImageClassification
from targets import plugins
from targets.profile import Runtime, load_profile, profile_names, read_profile
from targets.target import ModelPackage, TensorSpec

NETS = """
import torch
from torch import nn


def net():
    return nn.Linear(40, 3)
"""


@pytest.fixture(scope="module")
def examples(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The path an example names on its first line -> where it is written for the test."""
    folder = tmp_path_factory.mktemp("examples")
    found: dict[str, Path] = {}
    for path, text in re.findall(r"```\w+\n# (\S+)\n(.*?)```", (repository / "CONTRIBUTING.md").read_text(), re.DOTALL):
        found[path] = folder / Path(path).name
        found[path].write_text(text)
    return found


def test_there_is_one_example_of_each_kind(examples: dict[str, Path], repository: Path) -> None:
    folders = sorted(str(Path(path).parent) for path in examples)
    assert folders == ["pipeline/stages", "pipeline/tasks", "targets", "targets/profiles"]
    assert not [path for path in examples if (repository / path).exists()]


def test_the_profile_is_read(examples: dict[str, Path]) -> None:
    profile = read_profile(examples["targets/profiles/raspberry-pi-4.yaml"])
    assert profile.name == "raspberry-pi-4"
    assert profile.name not in profile_names()


def test_the_stage_clips_what_lies_far_out_and_nothing_else(examples: dict[str, Path], tmp_path: Path) -> None:
    import torch

    from pipeline.model import ModelRecord, fresh_model, load_model, save_model

    (tmp_path / "nets.py").write_text(NETS)
    source = {"factory": "nets.py:net"}
    module = fresh_model(source, tmp_path, tmp_path)
    weight = module.get_parameter("weight")
    with torch.no_grad():
        weight[0, 0] = 100 * weight.std()
    before = weight.detach().clone()
    record = ModelRecord(source, {"x": ("float32", (40,))}, classes=3, parameters=0, macs=0, trained=True)
    save_model(module, record, tmp_path / "model", config=None)
    (tmp_path / "out").mkdir()
    work = Work(tmp_path / "out", tmp_path, tmp_path, nullcontext, lambda _fraction, _text: None)
    stage = plugins.load("stages", f"{examples['pipeline/stages/clip_weights.py']}:ClipWeights")(deviations=6)
    stage(work, model=tmp_path / "model")
    after = load_model(tmp_path / "out", tmp_path).get_parameter("weight").detach()
    assert float(after[0, 0]) == pytest.approx(6 * float(before.std()))
    assert torch.equal(after.flatten()[1:], before.flatten()[1:])


def test_the_task_counts_the_k_likeliest(examples: dict[str, Path]) -> None:
    made = plugins.load("tasks", f"{examples['pipeline/tasks/image_top_k.py']}:ImageTopK")
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(200, 6)), rng.integers(0, 6, 200)
    scores = [made(k=k).score(outputs, labels) for k in range(1, 7)]
    assert np.array_equal(scores[0], ImageClassification().score(outputs, labels))
    assert all((more >= fewer).all() for fewer, more in pairwise(scores))
    assert (scores[-1] == 1).all()


def linear_package(folder: Path, weight: np.ndarray) -> ModelPackage:
    """float32 [batch, n] -> [batch, classes], one matrix product."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    names: list[Any] = ["batch", weight.shape[0]]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, names)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    return ModelPackage(
        folder=folder,
        graphs={"model": "model.onnx"},
        inputs=(TensorSpec("x", "float32", ("batch", weight.shape[0])),),
        outputs=(TensorSpec("logits", "float32", ("batch", weight.shape[1])),),
        dims={"batch": (1, 1, 256)},
        preprocessing={},
        precision="fp32",
        architecture="convolutional",
        macs=weight.size,
        parameters=weight.size,
    )


def test_the_target_compiles_what_its_runner_answers_with(examples: dict[str, Path], tmp_path: Path) -> None:
    from targets.device.runners import load_runner

    target = plugins.load("targets", f"{examples['targets/onnxruntime_plain.py']}:OnnxruntimePlain")()
    profile = replace(load_profile("host"), runtimes=(Runtime("onnxruntime-plain", ">=1.20,<2"),))
    weight = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    (tmp_path / "out").mkdir()
    package = linear_package(tmp_path, weight)
    assert target.capabilities(profile).executes_here
    assert "onnxruntime" in target.fingerprint()
    compiled = target.compile(package, profile, 1, tmp_path / "out")
    runner = load_runner(compiled.runner, compiled.folder, list(compiled.files), compiled.options)
    x = np.ones((2, 5), np.float32)
    np.testing.assert_allclose(runner.run({"x": x})["logits"], x @ weight, rtol=1e-5)
