import json
import math
import shutil
from contextlib import nullcontext
from pathlib import Path

import onnx
import pytest
import torch

from calibration.dataset import CalibrationSet
from calibration.errors import InputError
from pipeline.data import load_split
from pipeline.evaluate import answers
from pipeline.quantized_module import GAIN, QuantizedModule
from pipeline.recipe import Budget, Device, ModelSource, load_recipe
from pipeline.run import build
from pipeline.stage import Work
from pipeline.stages.calibrate import Calibrate
from pipeline.stages.export import Export
from pipeline.stages.load import Load
from pipeline.stages.qat import Qat
from pipeline.store import Store
from targets.onnx_float import FloatGraph
from targets.onnx_quantization import StaticScheme, dynamic, static
from targets.onnxruntime_cpu import OnnxruntimeCpu
from targets.profile import load_profile
from targets.target import ModelPackage
from tests.pipeline.tiny import write_project

HOST = Device(load_profile("host"), "onnxruntime-cpu", Budget())
TARGET = OnnxruntimeCpu()


@pytest.fixture(scope="module")
def made(tmp_path_factory, recipe_folder, task, data, teacher):
    """The float package, and what quantize would leave of its static and its dynamic route: name -> folder."""

    def work(name: str) -> Work:
        out = tmp_path_factory.mktemp(name)
        return Work(out, out, recipe_folder, nullcontext, lambda _fraction, _text: None)

    exported, chosen = work("package"), work("calibration")
    Export()(exported, task=task, data=data, model=teacher)
    Calibrate(samples=48)(chosen, task=task, data=data, calibration_source=None, tokenizer=None)
    package, calibration = ModelPackage.load(exported.out), CalibrationSet.load(chosen.out)
    able = TARGET.capabilities(HOST.profile)
    folders = {"float": exported.out}
    for candidate in (
        # Guarded, so that every processor computes what is trained.
        static("static", StaticScheme("uint8", guard="pairs"), FloatGraph(package, calibration), able),
        dynamic("dynamic", FloatGraph(package, calibration), able, "none"),
    ):
        folders[candidate.name] = tmp_path_factory.mktemp(candidate.name)
        candidate.make(folders[candidate.name])
    validation = load_split(data, "validation")
    accuracy = score(task, package, validation, tmp_path_factory.mktemp("compiled"))
    for name, folder in folders.items():
        floating = {"name": "float", "precision": "fp32", "chosen": name == "float", "why": "", "figures": {}}
        candidates = [floating | {"figures": {"accuracy": accuracy, "drop_points": 0.0}}]
        if name != "float":
            candidates.append({"name": name, "precision": "int8", "chosen": True, "why": "the fastest", "figures": {}})
        choice = {"schema": 1, "choice": "measured", "chosen": name, "candidates": candidates}
        (folder / "choice.json").write_text(json.dumps(choice))
    return folders


@pytest.fixture
def clipped(made, tmp_path) -> Path:
    """The static package with ranges of activations so narrow that most of what they should hold is clipped."""
    folder = tmp_path / "clipped"
    shutil.copytree(made["static"], folder)
    module = QuantizedModule(onnx.load(folder / "model.onnx"))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 0:
                parameter.add_(math.log(0.2) / GAIN)
    onnx.save(module.graph(), folder / "model.onnx")
    return folder


@pytest.fixture
def run(make_work, task, data, logits, teacher):
    def call(stage: Qat, package: Path, model: Path = teacher) -> tuple[ModelPackage, dict]:
        work = make_work("qat")
        stage(work, task=task, data=data, logits=logits, model=model, package=package, route=HOST)
        return ModelPackage.load(work.out), json.loads((work.out / "choice.json").read_text())

    return call


def score(task, package: ModelPackage, validation, folder: Path) -> float:
    folder.mkdir(exist_ok=True)
    compiled = TARGET.compile(package, HOST.profile, 1, folder)
    return float(task.score(answers(compiled, validation), validation.labels).mean())


def test_what_was_lost_is_won_back_and_the_runtime_executes_what_was_trained(run, clipped, task, data, tmp_path):
    package, choice = run(Qat(epochs=4, batch_size=16, learning_rate=2e-3), clipped)
    assert [c["name"] for c in choice["candidates"] if c["chosen"]] == ["static-trained"] == [choice["chosen"]]
    floating, _, trained = choice["candidates"]
    validation = load_split(data, "validation")
    lost = floating["figures"]["accuracy"] - score(task, ModelPackage.load(clipped), validation, tmp_path / "before")
    assert lost > 0.3
    assert trained["figures"]["accuracy"] == score(task, package, validation, tmp_path / "after")
    assert trained["figures"]["drop_points"] < 100 * 0.3 * lost
    assert trained["figures"]["fidelity_db"] > 30
    assert trained["figures"]["label_agreement"] >= 0.99
    assert package.notes[-1] == trained["why"]
    assert list(onnx.load(package.graph).graph.node) == list(onnx.load(clipped / "model.onnx").graph.node)


@pytest.mark.parametrize(
    ("name", "words"),
    [("static", "calibration costs"), ("dynamic", "has no form that can be trained"), ("float", "not int8")],
)
def test_what_needs_no_training_or_cannot_have_it_goes_on_as_it_is(run, made, name, words):
    package, choice = run(Qat(min_drop=50), made[name])
    assert package.graph.read_bytes() == (made[name] / "model.onnx").read_bytes()
    assert words in package.notes[-1]
    [chosen] = (c for c in choice["candidates"] if c["chosen"])
    assert chosen["name"] == choice["chosen"] == name
    assert words in chosen["why"]


def test_a_training_that_wins_nothing_is_not_kept(run, clipped):
    package, choice = run(Qat(epochs=1, learning_rate=1e-12), clipped)
    assert package.graph.read_bytes() == (clipped / "model.onnx").read_bytes()
    assert choice["chosen"] == "static"
    assert choice["candidates"][-1]["name"] == "static-trained"
    assert "no better" in choice["candidates"][-1]["why"]


def test_what_the_runtime_does_not_execute_as_trained_is_not_kept(run, clipped, monkeypatch):
    monkeypatch.setattr("pipeline.quantization_aware_training.LEAST_FIDELITY_DB", 1000.0)
    package, choice = run(Qat(epochs=4, batch_size=16, learning_rate=2e-3), clipped)
    assert package.graph.read_bytes() == (clipped / "model.onnx").read_bytes()
    assert "the runtime computes something else" in choice["candidates"][-1]["why"]


@pytest.mark.parametrize(("allowed", "chosen"), [(90.0, "static-trained"), (-90.0, "float")])
def test_a_faster_package_ships_if_it_comes_within_what_is_allowed(run, made, clipped, tmp_path, allowed, chosen):
    folder = tmp_path / "quantized"
    shutil.copytree(made["float"], folder)
    shutil.copytree(clipped, folder / "trainable")
    record = json.loads((folder / "choice.json").read_text())
    (folder / "choice.json").write_text(json.dumps(record | {"trainable": {"name": "static", "max_drop": allowed}}))
    package, choice = run(Qat(epochs=1, batch_size=16, learning_rate=2e-3), folder)
    assert choice["chosen"] == chosen
    assert package.precision == ("int8" if chosen == "static-trained" else "fp32")


def test_a_model_that_exists_only_as_onnx_is_refused(run, made, make_work, task, data, recipe_folder):
    shutil.copy(made["float"] / "model.onnx", recipe_folder / "only.onnx")
    work = make_work("load")
    Load()(work, task=task, source_model=ModelSource(onnx="only.onnx"), data=data, teacher=None)
    with pytest.raises(InputError, match="exists only as ONNX"):
        run(Qat(), made["static"], work.out)


@pytest.mark.parametrize("setting", [{"min_drop": -1.0}, {"min_drop": math.nan}, {"epochs": 0}, {"temperature": 0.0}])
def test_settings_that_make_no_sense_are_refused_by_name(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        Qat(**setting)


@pytest.mark.slow
def test_a_build_with_it(tmp_path):
    recipe = write_project(tmp_path)
    stages = "{quantize: {max_drop: 100, seconds: 0.3}}, {qat: {min_drop: 0, epochs: 1}}, {calibrate: {samples: 48}}"
    text = recipe.read_text()
    start, end = text.index("student:"), text.index("budget:")
    recipe.write_text(
        f"{text[:start]}stages: [{stages}, {{validate: {{seconds: 0.3, max_seconds: 0.3}}}}]\n{text[end:]}"
    )
    result = build(load_recipe(recipe, run_user_code=True), Store(tmp_path / "store"), tmp_path / "dist", quiet=True)
    [report] = result.reports
    assert result.exit_code == 0, report
    stages = [stage["name"] for stage in report["stages"]]
    assert stages.index("predict") < stages.index("quantize") < stages.index("qat") < stages.index("compile")
    assert "trained: " in report["chosen"]["why"]
