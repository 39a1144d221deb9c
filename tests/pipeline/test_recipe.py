"""Recipes: what is read is what stands there; every mistake is told, all at once, each with its place."""

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import InputError
from pipeline.recipe import Budget, load_recipe

STAGES = """\
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

Path(__file__).with_name("was-run").touch()

@dataclass(frozen=True)
class Shrink:
    takes: ClassVar[tuple[str, ...]] = ("model",)
    gives: ClassVar[str] = "model"
    distributions: ClassVar[tuple[str, ...]] = ()
    revision: ClassVar[int] = 1
    epochs: int = 3
    rate: float = 0.1

@dataclass(frozen=True)
class Round:
    takes: ClassVar[tuple[str, ...]] = ("package",)
    gives: ClassVar[str] = "package"
    distributions: ClassVar[tuple[str, ...]] = ()
    revision: ClassVar[int] = 1

@dataclass(frozen=True)
class Odd:
    takes: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[str] = "weather"
    distributions: ClassVar[tuple[str, ...]] = ()
    revision: ClassVar[int] = 1

class Mine:
    pass
"""
BOARD = """\
name: board
description: A board
architecture: aarch64
isa: [asimd]
cores: 4
memory_mb: 1000
storage_mb: 8000
runtimes: [{target: "stages.py:Mine", version: ">=1,<2"}]
precisions: [fp32]
"""
GOOD = """\
name: small
version: 2
expires: 2030-01-31
task: {image-classification: {mean: [0.3]}}
data: {source: pictures, missing: drop, seed: 7}
teacher: {factory: net.py:teacher, weights: teacher.safetensors}
student: {factory: net.py:student}
stages:
  - stages.py:Shrink: {epochs: 5}
  - stages.py:Shrink
  - stages.py:Round
budget: {accuracy_drop: 1.5, latency_ratio: 3}
devices: [board.yaml]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "stages.py").write_text(STAGES)
    (tmp_path / "board.yaml").write_text(BOARD)
    (tmp_path / "net.py").write_text("import torch\ndef teacher(): ...\ndef student(): ...\n")
    (tmp_path / "pictures").mkdir()
    for name in ("teacher.safetensors", "teacher.pt", "teacher.onnx"):
        (tmp_path / name).touch()
    return tmp_path


def load(folder: Path, text: str = GOOD, **arguments):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path, **arguments)


def refusal(folder: Path, text: str, **arguments) -> str:
    with pytest.raises(InputError) as error:
        load(folder, text, **arguments)
    assert error.value.exit_code == 2
    return error.value.message.replace(f"{folder}/", "")


def test_a_recipe(folder):
    recipe = load(folder)
    assert (recipe.name, recipe.version, recipe.expires) == ("small", 2, "2030-01-31")
    assert recipe.folder == folder
    assert recipe.task_name == "image-classification"
    assert asdict(recipe.task)["mean"] == (0.3,)  # pyright: ignore[reportArgumentType]
    assert (recipe.data.source, recipe.data.missing, recipe.data.seed) == ("pictures", "drop", 7)
    assert recipe.teacher.weights == "teacher.safetensors"
    assert [name for name, _ in recipe.stages] == ["stages.py:Shrink", "stages.py:Shrink", "stages.py:Round"]
    assert [vars(stage)["epochs"] for _, stage in recipe.stages[:2]] == [5, 3]
    (device,) = recipe.devices
    assert (device.name, device.threads) == ("board", 1)
    assert device.target == f"{folder.resolve()}/stages.py:Mine"
    assert device.budget == Budget(accuracy_drop=1.5, latency_ratio=3)


def test_the_users_code_is_run_only_where_that_is_asked_for(folder):
    plain = load(folder)
    assert not (folder / "was-run").exists()
    run = load(folder, run_user_code=True)
    assert (folder / "was-run").exists()
    assert [vars(stage) for _, stage in plain.stages] == [vars(stage) for _, stage in run.stages]
    assert [file.name for file in run.user_files] == ["net.py", "stages.py"]


def test_a_devices_budget_is_laid_over_the_recipes(folder):
    text = GOOD.replace("[board.yaml]", "[{name: board.yaml, threads: 2, budget: {latency_ratio: 6, size_mb: 1}}]")
    (device,) = load(folder, text).devices
    assert device.budget == Budget(accuracy_drop=1.5, latency_ratio=6, size_mb=1)
    assert device.threads == 2


def test_what_is_left_out_has_its_default(folder):
    text = "\n".join(line for line in GOOD.splitlines() if line.startswith(("data", "teacher", "task", "devices")))
    recipe = load(folder, text)
    assert (recipe.name, recipe.version, recipe.expires, recipe.student, recipe.stages) == ("recipe", 1, None, None, ())
    assert recipe.devices[0].budget == Budget()


def test_what_trains_a_quantized_model_needs_one_and_a_model_that_can_be_trained(folder):
    lines = [line for line in GOOD.splitlines() if line.startswith(("data", "task", "devices"))]
    of_torch, of_onnx = (
        "teacher: {factory: net.py:teacher, weights: teacher.safetensors}",
        "teacher: {onnx: teacher.onnx}",
    )
    stages = [name for name, _ in load(folder, "\n".join([*lines, of_torch, "stages: [quantize, qat]"])).stages]
    assert stages == ["quantize", "qat"]
    for order in ("[qat]", "[qat, quantize]"):
        assert "put 'quantize' before it" in refusal(folder, "\n".join([*lines, of_torch, f"stages: {order}"]))
    message = refusal(folder, "\n".join([*lines, of_onnx, "stages: [quantize, qat]"]))
    assert "'qat' needs a model that can be trained; this one comes as ONNX (teacher.onnx)" in message


def test_devices_are_chosen_and_added(folder):
    recipe = load(folder, devices=["host", "board"])
    assert [device.name for device in recipe.devices] == ["host", "board"]
    assert recipe.devices[0].budget == recipe.devices[1].budget
    with pytest.raises(InputError, match="did you mean 'board'"):
        load(folder, devices=["bord"])


@pytest.mark.parametrize(
    ("was", "now", "place", "words"),
    [
        ("version: 2", "versoin: 2", "2:1", "did you mean 'version'"),
        ("version: 2", "version: two", "2:10", 'version must be a valid integer, not "two"'),
        ("version: 2", "version: 0", "2:10", "at least 1"),
        ("2030-01-31", "next year", "3:10", "a date such as"),
        ("name: small", "name: ../small", "1:7", "letters, digits"),
        ("name: small", "name: 7", "1:7", "put it in quotes"),
        ("name: small", f"name: {'x' * 300}", "1:7", "at most 100 characters"),
        ("image-classification:", "image-clasification:", "4:8", "did you mean 'image-classification'"),
        ("mean:", "maen:", "4:31", "did you mean 'mean'"),
        ("[0.3]", "0.3", "4:37", "mean must be a valid"),
        ("[0.3]", "[0.3, 0.4]", "4:37", "mean"),
        ("mean: [0.3]", "classes: [a, a, b]", "4:40", "at least two different names"),
        ("mean: [0.3]", "classes: [a]", "4:40", "at least two different names"),
        ("source: pictures", "source: picture", "5:16", "did you mean 'pictures'"),
        ("source: pictures", "sauce: pictures", "5:8", "did you mean 'source'"),
        ("source: pictures", "sauce: pictures", "5:7", "the key 'source' is missing"),
        ("missing: drop", "missing: dorp", "5:35", "missing must be 'drop'|missing must be 'refuse'"),
        ("seed: 7", "seed: -3", "5:47", "seed: -3 is not from 0"),
        ("seed: 7", "test_share: 1.5", "5:53", "above 0 and below 1"),
        ("seed: 7", "files: [here.bin]", "5:49", "there is no file or folder here.bin"),
        ("net.py:teacher", "net.py:techer", "6:20", "did you mean 'teacher'"),
        ("net.py:teacher", "nett.py:teacher", "6:20", "nett.py"),
        ("net.py:teacher", "net.py", "6:20", "must name a function"),
        ("teacher.safetensors", "teacher.safetensor", "6:45", "did you mean 'teacher.safetensors'"),
        ("teacher.safetensors", "teacher.pt", "6:45", "allow_pickle"),
        (", weights: teacher.safetensors", "", "6:10", "untrained"),
        ("{factory: net.py:student}", "{}", "7:10", "and none is given"),
        ("{factory: net.py:student}", "{factory: net.py:student, onnx: teacher.onnx}", "7:10", "not factory and onnx"),
        (
            "{factory: net.py:student}",
            "{factory: net.py:student, files: [here.txt]}",
            "7:44",
            "no file or folder here.txt",
        ),
        ("{factory: net.py:student}", "{keep_layers: [2, 1]}", "7:24", "ascending"),
        ("{factory: net.py:student}", "{onnx: teacher.onnx}", "9:5", "comes as ONNX"),
        ("{factory: net.py:student}", "{folder: pictures}", "7:19", "config.json"),
        ("{factory: net.py:student}", "net.py:student", "7:10", "this must be keys with values"),
        (
            "stages.py:Shrink: {epochs: 5}",
            f"distill: {{seed: {2**70}}}",
            "9:21",
            "seed: 1180591620717411303424 is more",
        ),
        ("stages.py:Shrink: {epochs: 5}", "distill: {epochs: 9999999999}", "9:23", "epochs: 9999999999 is more than"),
        ("{epochs: 5}", "{epoch: 5}", "9:24", "did you mean 'epochs'"),
        ("{epochs: 5}", '{epochs: "5"}', "9:32", 'epochs must be a valid integer, not "5"'),
        ("{epochs: 5}", "{rate: fast}", "9:30", "rate must be a valid number"),
        ("stages.py:Shrink: {", "stages.py:Shrunk: {", "9:5", "defines no class 'Shrunk'"),
        ("  - stages.py:Round", "  - distil", "11:5", "there is no stage 'distil'"),
        ("  - stages.py:Round", "  - stages.py:Odd", "11:5", "neither a model nor a package"),
        ("  - stages.py:Round", "  - stages.py:Round\n  - stages.py:Round", "12:5", "a second time"),
        ("  - stages.py:Round", "  - stages.py:Round\n  - stages.py:Shrink", "12:5", "needs a model"),
        ("  - stages.py:Round", "  - export", "11:5", "always runs"),
        ("{epochs: 5}", "\n    epochs: 5", "10:5", "indent it further"),
        ("  - stages.py:Round", "  - [a]", "11:5", "a stage is a name"),
        ("accuracy_drop: 1.5", "accuracy_drop: 0", "12:25", "above 0"),
        ("accuracy_drop: 1.5", "accuracy_drop: -1", "12:25", "above 0"),
        ("accuracy_drop: 1.5", "accuracy_drop: 1e999", "12:25", "above 0"),
        ("accuracy_drop", "acuracy_drop", "12:10", "did you mean 'accuracy_drop'"),
        ("[board.yaml]", "[]", "13:10", "at least one"),
        ("[board.yaml]", "[intel-nuk]", "13:11", "did you mean 'intel-nuc'"),
        ("[board.yaml]", "[bored.yaml]", "13:11", "bored.yaml: no such file"),
        ("[board.yaml]", "[{name: board.yaml, threads: 5}]", "13:39", "from 1 to the 4 cores"),
        ("[board.yaml]", "[{name: board.yaml, target: openvino}]", "13:38", "names no runtime 'openvino'"),
        ("[board.yaml]", "[{nam: board.yaml}]", "13:12", "did you mean 'name'"),
        ("[board.yaml]", "[{name: board.yaml, budget: {size_mb: big}}]", "13:48", "size_mb must be a valid number"),
        ("[board.yaml]", "[board.yaml, board.yaml]", "13:23", "a second time"),
        ("[board.yaml]", "[board.yaml]\nname: other", "14:1", "'name' stands here a second time (first in line 1)"),
        ("task:", "tasks:", "1:1", "the key 'task' is missing"),
    ],
)
def test_a_mistake_is_told_with_its_place(folder, was, now, place, words):
    assert was in GOOD
    told = refusal(folder, GOOD.replace(was, now, 1))
    lines = [line for line in told.splitlines() if line.startswith(f"recipe.yaml:{place}: ")]
    assert any(word in line for line in lines for word in words.split("|")), told


def test_every_mistake_is_told_at_once_in_order_with_its_line(folder):
    text = GOOD.replace("version: 2", "version: two").replace("pictures", "no").replace("epochs", "epoch")
    told = refusal(folder, text.replace("board.yaml", "bord.yaml")).splitlines()
    heads = [line.split(": ")[0] for line in told if line.startswith("recipe.yaml")]
    assert heads == ["recipe.yaml:2:10", "recipe.yaml:5:16", "recipe.yaml:9:24", "recipe.yaml:13:11"]
    assert told[1:3] == ["    version: two", "             ^"]


def test_distilling_needs_a_student(folder):
    text = GOOD.replace("student: {factory: net.py:student}\n", "").replace("stages.py:Shrink: {epochs: 5}", "distill")
    assert "recipe.yaml:8:5: 'distill' teaches a student, and the recipe has no `student`" in refusal(folder, text)


def test_a_mistake_in_a_profile_is_told_with_both_places(folder):
    (folder / "board.yaml").write_text(BOARD.replace("cores: 4", "core: 4"))
    told = refusal(folder, GOOD)
    assert "recipe.yaml:13:11: board.yaml:1:1: the key 'cores' is missing" in told
    assert "board.yaml:5:1: unknown key 'core'" in told


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b", "a: [", "name: x\n\tb: 1"])
def test_what_is_no_recipe_at_all(folder, text):
    assert refusal(folder, text).startswith("recipe.yaml:")


def test_a_recipe_that_is_not_there(folder):
    load(folder)
    with pytest.raises(InputError, match=r"did you mean 'recipe\.yaml'"):
        load_recipe(folder / "recipie.yaml")


@given(data=st.data())
def test_no_cut_of_a_recipe_makes_anything_but_a_recipe_or_a_refusal(tmp_path_factory, data):
    """Whatever stands in the file, the reader either reads it or says in its own words what is wrong."""
    folder = tmp_path_factory.getbasetemp() / "cut"
    if not folder.exists():
        folder.mkdir()
        for name, text in (("stages.py", STAGES), ("board.yaml", BOARD), ("net.py", "def teacher(): ...\n")):
            (folder / name).write_text(text)
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(start + 20, len(GOOD))))
    put = data.draw(st.text("{}[]:,-'\"&*!|>#%@ \n\tab1.", max_size=4))
    told = refusal(folder, GOOD[:start] + put + GOOD[end:])
    assert told


def test_reading_a_recipe_imports_no_heavy_library(folder):
    load(folder)
    code = (
        "import sys\nfrom pathlib import Path\nfrom pipeline.recipe import load_recipe\n"
        "load_recipe(Path(sys.argv[1]))\n"
        "print(*{'torch', 'onnx', 'onnxruntime', 'nncf', 'openvino', 'transformers', 'rich'} & set(sys.modules))"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, str(folder / "recipe.yaml")]
    done = subprocess.run(command, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_recipe_reads_the_same_twice(folder):
    assert repr(load(folder)) == repr(load(folder))
