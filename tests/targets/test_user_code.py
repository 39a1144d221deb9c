import sys
from pathlib import Path

import pytest

from calibration.errors import InputError
from targets.user_code import Running, call, imported_files, load


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


def test_a_function_is_loaded_under_a_private_name(tmp_path):
    write(
        tmp_path, json="def answer():\n    return 42 if __file__.endswith('json.py') else 0\n"
    )  # the name of a module of the standard library
    assert call("json.py:answer", tmp_path) == 42
    assert "decoder" in dir(sys.modules.get("json") or __import__("json"))


def test_a_file_is_run_once_and_again_when_it_changes(tmp_path):
    write(tmp_path, once="import random\nvalue = random.random()\n")
    first = load("once.py:value", tmp_path)
    assert load("once.py:value", tmp_path) == first
    write(tmp_path, once="import random\nvalue = 2 + random.random()\n")
    assert load("once.py:value", tmp_path) > 2


def test_neighbours_are_imported_and_found_without_running(tmp_path):
    write(
        tmp_path,
        main_a1=(
            "import helper_a1\nfrom package_a1 import part\n"
            "def f():\n    import lazy_a1\n    return helper_a1.x + part.y\n"
        ),
        helper_a1="import json\nx = 1\n",
        lazy_a1="raise SystemExit\n",
        unrelated="raise SystemExit\n",
    )
    (tmp_path / "package_a1").mkdir()
    write(tmp_path / "package_a1", __init__="", part="from . import deep\nfrom .deep import z\ny = z\n", deep="z = 2\n")
    names = {p.relative_to(tmp_path).as_posix() for p in imported_files(tmp_path / "main_a1.py")}
    assert names == {
        "main_a1.py",
        "helper_a1.py",
        "lazy_a1.py",
        "package_a1/__init__.py",
        "package_a1/part.py",
        "package_a1/deep.py",
    }
    assert load("main_a1.py:part", tmp_path).y == 2


def test_imports_in_a_ring_end(tmp_path):
    write(tmp_path, ring_a="import ring_b\n", ring_b="import ring_a\n")
    assert len(imported_files(tmp_path / "ring_a.py")) == 2


def test_an_error_names_the_users_last_line(tmp_path):
    write(tmp_path, fails_a2="import inner_a2\n\ndef f():\n    return inner_a2.g(0)\n")
    write(tmp_path, inner_a2="\ndef g(x):\n    return 1 / x\n")
    with pytest.raises(InputError, match=r"inner_a2\.py:3: ZeroDivisionError: .* \(while running fails_a2\.py:f\)"):
        call("fails_a2.py:f", tmp_path)


def test_an_error_while_the_file_is_run_names_the_line(tmp_path):
    write(tmp_path, broken_a3="x = 1\ny = x.missing\n")
    for _ in range(2):  # a module that failed is not remembered
        with pytest.raises(InputError, match=r"broken_a3\.py:2: AttributeError"):
            load("broken_a3.py:y", tmp_path)


def test_an_error_of_ours_passes_unchanged(tmp_path):
    with pytest.raises(KeyError), Running("x", tmp_path):
        raise KeyError("not the user's")


def test_an_interruption_is_not_the_users_error(tmp_path):
    write(tmp_path, interrupted="def f():\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        call("interrupted.py:f", tmp_path)


@pytest.mark.parametrize("ours", ["pipeline", "targets", "calibration"])
def test_a_neighbour_with_a_name_of_ours_is_refused(tmp_path, ours):
    write(tmp_path, user=f"import {ours}\n", **{ours: ""})
    with pytest.raises(InputError, match=f"{ours}.*is taken by edgewright"):
        imported_files(tmp_path / "user.py")


def test_a_neighbour_that_an_installed_module_hides_is_refused(tmp_path):
    write(tmp_path, hidden_a4="import yaml\n\ndef f():\n    return yaml\n", yaml="mine = True\n")
    with pytest.raises(InputError, match=r"yaml\.py.*is already"):
        load("hidden_a4.py:f", tmp_path)


@pytest.mark.parametrize(
    ("reference", "text", "message"),
    [
        ("absent.py:f", None, "there is no file"),
        ("syntax.py:f", "def f(:\n", r"syntax\.py:1: this is not Python"),
        ("names.py:g", "def f(): ...\n", "has no 'g' .there are: f"),
        ("names.py", "def f(): ...\n", "does not name a function"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path, reference, text, message):
    if text:
        (tmp_path / reference.partition(":")[0]).write_text(text)
    with pytest.raises(InputError, match=message):
        load(reference, tmp_path)


def test_a_function_that_needs_arguments_is_refused(tmp_path):
    (tmp_path / "net.py").write_text("def small(width, depth=2, *rest, **more):\n    return width\n")
    with pytest.raises(InputError, match=r"net\.py:small needs arguments \(width\)"):
        call("net.py:small", tmp_path)


def test_a_users_exit_is_an_error_too(tmp_path):
    (tmp_path / "net.py").write_text("def small():\n    raise SystemExit(0)\n")
    with pytest.raises(InputError, match=r"net\.py:2: SystemExit: 0"):
        call("net.py:small", tmp_path)


def test_what_is_installed_below_a_users_folder_is_not_theirs(tmp_path):
    package = tmp_path / ".venv" / "lib" / "site-packages"
    package.mkdir(parents=True)
    (package / "net.py").write_text("def small():\n    return {}[1]\n")
    small = load("net.py:small", package)
    with pytest.raises(KeyError), Running("x", tmp_path):
        small()
