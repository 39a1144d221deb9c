"""Names -> classes: ours, installed ones, the user's; and what is said of names that stand for nothing."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from calibration.errors import InputError
from targets import plugins
from targets.outline import outline

STAGE = """\
from __future__ import annotations
from dataclasses import dataclass, field
from typing import ClassVar, Literal

@dataclass(frozen=True)
class Shrink:
    '''Makes it smaller.'''
    takes: ClassVar[tuple[str, ...]] = ("model",)
    gives: ClassVar = "model"
    distributions: ClassVar[tuple[str, ...]] = ()
    revision: ClassVar[int] = 2
    epochs: int = 3
    rate: float | None = None
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1, 2)
    names: list[str] = field(default_factory=list)

    def __call__(self, work, *, model):
        pass
"""


@pytest.mark.parametrize("kind", ["targets", "stages", "tasks"])
def test_every_name_there_is_loads(kind):
    found = plugins.names(kind)
    assert found
    for name in found:
        assert plugins.exists(kind, name)
        loaded = plugins.load(kind, name)
        assert loaded.__name__ == "".join(part.capitalize() for part in name.split("-"))
        assert loaded.__module__ == f"{plugins.PACKAGES[kind]}.{name.replace('-', '_')}"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("targets", "target"),  # the protocol
        ("targets", "profile"),  # a module that is no target
        ("targets", "onnxruntime_cpu"),
        ("stages", "../run"),
        ("stages", ""),
        ("tasks", "ImageClassification"),
    ],
)
def test_what_is_not_a_name(kind, name):
    assert not plugins.exists(kind, name)
    with pytest.raises(InputError, match="there is no"):
        plugins.load(kind, name)


def test_near_names():
    with pytest.raises(InputError, match="did you mean 'image-classification'") as error:
        plugins.load("tasks", "image-clasification")
    assert error.value.exit_code == 2


def test_a_class_of_the_users_file(tmp_path):
    (tmp_path / "mine.py").write_text("import beside\nclass Mine:\n    value = beside.VALUE\n")
    (tmp_path / "beside.py").write_text("VALUE = 7\n")
    loaded = plugins.load("stages", "mine.py:Mine", tmp_path)
    assert loaded.value == 7
    assert plugins.load("stages", "mine.py:Mine", tmp_path) is loaded
    assert "mine" not in sys.modules
    with pytest.raises(InputError, match="did you mean 'Mine'"):
        plugins.load("stages", "mine.py:Mime", tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_module_anywhere", "no_such_module_anywhere"),
        ("1 / 0", "division by zero"),
        ("def f(:", "invalid syntax"),
    ],
)
def test_a_users_file_that_fails(tmp_path, text, words):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        plugins.load("stages", "broken.py:Mine", tmp_path)
    assert "broken.py" in error.value.message


def test_an_entry_point_of_an_installed_distribution(tmp_path):
    (tmp_path / "theirs.py").write_text("class Quick:\n    pass\n")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgewright.stages]\nquick = theirs:Quick\ngone = theirs:Gone\n")
    code = (
        "from targets import plugins\n"
        "print(plugins.load('stages', 'quick').__module__, plugins.exists('stages', 'quick'), end=' ')\n"
        "print('quick' in plugins.names('stages'))\n"
        "from calibration.errors import InputError\n"
        "try: plugins.load('stages', 'gone')\n"
        "except InputError as error: print(error.message)"
    )
    root = Path(plugins.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{root}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first == "theirs True True"
    assert "theirs:Gone" in second


def test_an_outline_has_what_the_class_has_and_runs_nothing(tmp_path):
    file = tmp_path / "stages.py"
    file.write_text(STAGE + "\nraise SystemExit('it was run')\n")
    read = outline(file, "Shrink")
    assert (read.takes, read.gives, read.distributions, read.revision) == (("model",), "model", (), 2)
    instance = read(epochs=5)
    assert (instance.epochs, instance.rate, instance.kind, instance.sizes, instance.names) == (5, None, "a", (1, 2), [])
    file.write_text(STAGE)
    real = plugins.load("stages", "stages.py:Shrink", tmp_path)
    assert repr(real(epochs=5)) == repr(instance).replace("types.", "")
    assert not hasattr(real(), "__dict__") or real() == real()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("    seed: int = import_me()\n", "this value"),
        ("    seed: 'numpy.ndarray' = 1\n", "this type"),
        ("    seed: list = field(default_factory=make)\n", "this default"),
    ],
)
def test_an_outline_says_what_only_running_would_tell(tmp_path, line, words):
    file = tmp_path / "stages.py"
    file.write_text(STAGE.replace("    epochs: int = 3\n", line))
    with pytest.raises(InputError, match=words) as error:
        outline(file, "Shrink")
    assert "stages.py:12: " in error.value.message
    file.write_text(STAGE.replace("class Shrink:", "class Shrink(Base):"))
    with pytest.raises(InputError, match="what the class inherits"):
        outline(file, "Shrink")


def test_no_name_of_ours_imports_a_heavy_library():
    names = {kind: plugins.names(kind) for kind in plugins.PACKAGES}
    code = (
        "import sys; from targets import plugins\n"
        f"for kind, found in {names!r}.items():\n"
        "    for name in found: plugins.load(kind, name)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'nncf', 'openvino', 'transformers', 'tensorrt_rtx'}\n"
        "print(*heavy & set(sys.modules))"
    )
    root = import_module("targets").__path__[0] + "/.."
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
