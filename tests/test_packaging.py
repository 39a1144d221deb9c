"""What is released and installed: the wheel, the pins, what the command line and the device part import."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Not pydantic: typer imports it, where it is installed, for a call that takes arguments.
HEAVY = {"torch", "onnx", "onnxruntime", "nncf", "openvino", "transformers", "optimum", "numpy", "datasets"}
# What runs on a device has these, and the runtime of its runner.
DEVICE_HAS = {"numpy", "cryptography"}
BUILD_ONLY = {"torch", "onnx", "nncf", "transformers", "optimum", "pydantic", "typer", "rich", "yaml"}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_every_dependency_has_a_pin_in_its_range(project: dict[str, Any], pins: dict[str, str]) -> None:
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *extras["rtx"], *extras["datasets"], *extras["test"]]
    requirements = [Requirement(text) for text in named]
    for requirement in requirements:
        if requirement.name == project["name"]:
            continue
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(pin), f"{requirement} does not admit {pin}"
        assert requirement.specifier, f"{requirement} has no lower bound"


def test_pins_name_versions_and_no_place(repository: Path, pins: dict[str, str]) -> None:
    assert pins["torch"] == "2.13.0"
    for line in (repository / "constraints.txt").read_text().splitlines()[1:]:
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9a-z.]+", line), line


def test_the_command_is_a_function(project: dict[str, Any]) -> None:
    module, _, name = project["scripts"]["edgewright"].partition(":")
    code = f"import inspect, {module} as m; assert inspect.isfunction(m.{name})"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("arguments", [["--help"], ["devices"], ["cache", "ls"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    result = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    imported = {name.split(".")[0] for name in re.findall(r"^import time:.*\|\s+(\S+)$", result.stderr, re.MULTILINE)}
    assert "typer" in imported
    assert not imported & HEAVY


def imports(tree: ast.AST) -> set[str]:
    """Every module that a file imports, anywhere in it, by its whole name."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_ours(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] in ("pipeline", "targets", "calibration")


def test_the_device_part_needs_nothing_that_a_device_has_not(repository: Path) -> None:
    folder = repository / "targets/device"
    for path in folder.rglob("*.py"):
        modules = imports(ast.parse(path.read_text(), feature_version=(3, 9)))
        ours = {module for module in modules if is_ours(module)}
        assert all(module.startswith("targets.device") for module in ours), f"{path} imports {ours}"
        others = {module.split(".")[0] for module in modules - ours} - sys.stdlib_module_names - DEVICE_HAS
        allowed_runtime = path.parent.name == "runners" or path.name == "probe.py"
        assert not others & BUILD_ONLY, f"{path} imports {others & BUILD_ONLY}"
        assert allowed_runtime or not others, f"{path} imports {others}"


@pytest.mark.slow
def test_what_would_be_released_holds(repository: Path) -> None:
    command = [sys.executable, str(repository / "scripts/release_check.py")]
    result = subprocess.run(command, check=False, cwd=repository, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
