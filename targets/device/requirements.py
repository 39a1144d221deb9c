"""Can this device run the bundle? What it needs against what is here."""

from __future__ import annotations

import datetime as dt
import re
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from targets.device import probe
from targets.device.drivers import driver_names
from targets.device.errors import BundleError
from targets.device.preprocess import preprocess_kinds
from targets.device.runners import runner_class, runner_names
from targets.device.versions import in_range, installed_version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from targets.device.manifest import Manifest

REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(.*)")


@dataclass(frozen=True)
class Check:
    """verdict: pass, fail, or pending where it cannot be told here. detail: what was found. next_step: if it fails."""

    name: str
    verdict: str
    detail: str
    next_step: str = ""


def check_requirements(manifest: Manifest, payload: Path) -> list[Check]:
    """One check a requirement, none left out after a failure, so that all that is missing is known at once.

    Raises BundleError where a version range or the expiry cannot be read.
    """
    return [
        *_processor(manifest),
        *_memory_and_disk(manifest, payload),
        *_software(manifest),
        *_build(manifest),
    ]


def check_expiry(manifest: Manifest, today: dt.date) -> Check:
    """Raises BundleError where the bundle is past its date, or the date cannot be read. The day itself still counts."""
    if manifest.expires is None:
        return Check("expires", "pass", "never")
    try:
        last = dt.date.fromisoformat(manifest.expires[:10])
    except ValueError as e:
        raise BundleError(
            f"manifest.json: expires: {manifest.expires!r} is not a date", "build the bundle again"
        ) from e
    if today > last:
        raise BundleError(
            f"the bundle expired on {last} (the clock here says {today})", "install a newer version of it"
        )
    return Check("expires", "pass", str(last))


def _verdict(name: str, holds: bool, detail: str, next_step: str) -> Check:
    return Check(name, "pass", detail) if holds else Check(name, "fail", detail, next_step)


def _processor(manifest: Manifest) -> Iterator[Check]:
    want, have = manifest.requires.architecture, probe.architecture()
    yield _verdict(
        "architecture", want == have, f"needs {want}, this is {have}", f"use the bundle that was built for {have}"
    )
    if want != have or not manifest.requires.isa:
        return
    flags = set(probe.isa())
    if not flags and probe.emulated():
        yield Check("isa", "pending", "an emulated processor's flags cannot be read")
        return
    missing = [flag for flag in manifest.requires.isa if flag not in flags]
    detail = f"lacks {', '.join(missing)}" if missing else ", ".join(manifest.requires.isa)
    yield _verdict("isa", not missing, detail, "build for a profile without those flags")


def _memory_and_disk(manifest: Manifest, payload: Path) -> Iterator[Check]:
    memory_mb = probe.memory_bytes() / probe.MB
    detail = f"needs {manifest.requires.memory_mb:.0f} MB, this device has {memory_mb:.0f} MB"
    yield _verdict("memory", memory_mb >= manifest.requires.memory_mb, detail, "use a smaller model or a larger device")
    # The bundle is already here: what it takes up counts towards what it needs.
    own = sum((payload / path).stat().st_size for path in manifest.files)
    disk_mb = (shutil.disk_usage(payload).free + own) / probe.MB
    detail = f"needs {manifest.requires.disk_mb:.0f} MB, there are {disk_mb:.0f} MB"
    yield _verdict("disk", disk_mb >= manifest.requires.disk_mb, detail, "free some disk space")


def _software(manifest: Manifest) -> Iterator[Check]:
    for name, version_range in sorted(manifest.requires.runtime.items()):
        yield _installed(f"runtime {name}", name, version_range)
    for requirement in manifest.requires.python_packages:
        match = REQUIREMENT.fullmatch(requirement)
        if match is None:
            raise BundleError(f"manifest.json: requires.python_packages: {requirement!r} is not a requirement", "")
        yield _installed(f"package {match[1]}", match[1], match[2])
    if find_spec("numpy") is None:
        yield Check("package numpy", "fail", "numpy is not installed", "pip install numpy")
    for name, wanted, known in (
        ("preprocessing", manifest.preprocessing.get("kind"), preprocess_kinds()),
        ("driver", manifest.driver, driver_names()),
    ):
        if wanted is not None and wanted not in known:
            detail = f"{name} {wanted!r} is not known here; this version has {', '.join(known)}"
            yield Check(name, "fail", detail, "install a newer device.pyz")
    for runner in dict.fromkeys([manifest.runner, *(model.runner for model in manifest.float_models)]):
        if runner not in runner_names():
            detail = f"runner {runner} is not known here; this version has {', '.join(runner_names())}"
            yield Check("runner", "fail", detail, "use a device.pyz that has it, on a device with that runtime")
        elif find_spec(runner_class(runner).module) is None:
            distribution = runner_class(runner).distribution
            yield Check("runner", "fail", f"{distribution} is not installed", f"pip install {distribution}")


def _installed(check: str, distribution: str, version_range: str) -> Check:
    version = installed_version(distribution)
    wanted = f"{distribution}{version_range}"
    if version is None:
        return Check(check, "fail", f"{wanted} is not installed", f"pip install '{wanted}'")
    try:
        holds = in_range(version, version_range)
    except ValueError as e:
        raise BundleError(f"manifest.json: requires: {distribution}: {e}", "build the bundle again") from e
    return _verdict(check, holds, f"needs {wanted}, {version} is installed", f"pip install '{wanted}'")


def _build(manifest: Manifest) -> Iterator[Check]:
    """What is compiled on the device must be compiled before it can be validated, and by hand: a validation runs no
    command that a bundle names.
    """
    if manifest.status != "deferred_build":
        return
    command = (manifest.build or {}).get("command")
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
        raise BundleError("manifest.json: build.command: expected a list of words", "build the bundle again")
    line = " ".join(command)
    if shutil.which(command[0]) is None:
        yield Check("build", "fail", f"{command[0]} is not installed", f"install it, then run: {line}")
    else:
        yield Check("build", "fail", "not compiled for this device yet", f"run: {line}")
