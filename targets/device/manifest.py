"""manifest.json, schema 1: what a bundle is, needs and promises. Keys that this version does not know are ignored."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from targets.device.errors import BundleError, UnsuitedError
from targets.device.record import Record

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 1
FILE = "manifest.json"
MAX_BYTES = 16_000_000
STATUSES = ("ready", "built", "deferred_build")
NEXT_STEP = "copy the bundle again, or build it again"


@dataclass(frozen=True)
class TensorSpec:
    """A model input or output. `shape` holds ints and names of symbolic dimensions."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Requirements:
    """isa: flags as in /proc/cpuinfo. runtime: distribution -> PEP 440 range. memory_mb, disk_mb: of 10^6 bytes.

    python_packages: names, each with a range where it matters ("numpy>=1.24").
    """

    architecture: str
    isa: tuple[str, ...]
    runtime: dict[str, str]
    memory_mb: float
    disk_mb: float
    python_packages: tuple[str, ...]


@dataclass(frozen=True)
class Gate:
    """A limit that is judged on the device."""

    name: str
    limit: float


@dataclass(frozen=True)
class Golden:
    """How near the answers on the device must be to those in golden.npz; None where that is not judged."""

    samples: int
    min_sqnr_db: float | None
    min_argmax_agreement: float | None


@dataclass(frozen=True)
class Trial:
    """A float model that the artifact must beat on the device. `files` are relative to payload/."""

    runner: str
    files: tuple[str, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """A checked manifest: every path in it is a file that `files` names, relative to payload/, with its sha256."""

    name: str
    version: int
    expires: str | None
    device: str
    target: str
    runner: str
    requires: Requirements
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: dict[str, Any]
    driver: str
    model_files: tuple[str, ...]
    precision: str
    options: dict[str, Any]
    status: str
    pending_gates: tuple[Gate, ...]
    golden: Golden | None
    trial: Trial | None
    own_float: Trial | None
    build: dict[str, Any] | None
    files: dict[str, str]

    @property
    def float_models(self) -> list[Trial]:
        """What the artifact is timed against here."""
        return [model for model in (self.trial, self.own_float) if model is not None]


def read_manifest(payload: Path) -> Manifest:
    """payload/manifest.json, checked.

    Raises BundleError naming the file and key where it is missing, unreadable, not JSON, or a key is missing or wrong;
    UnsuitedError where a newer version wrote it.
    """
    file = payload / FILE
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as f:
            raw = f.read(MAX_BYTES + 1)
    except OSError as e:
        raise BundleError(f"{file}: cannot be read: {e.strerror}", NEXT_STEP) from e
    if len(raw) > MAX_BYTES:
        raise BundleError(f"{file}: larger than {MAX_BYTES} bytes", NEXT_STEP)
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        raise BundleError(f"{file}: not valid JSON: {e}", NEXT_STEP) from e
    return parse_manifest(value)


def parse_manifest(value: object) -> Manifest:
    """The checked form of a decoded manifest.json; raises as read_manifest does."""
    top = Record(value, FILE)
    schema = top.integer("schema", minimum=1)
    if schema > SCHEMA:
        raise UnsuitedError(f"{FILE}: schema {schema}; this version reads up to {SCHEMA}", "install a newer device.pyz")
    model, files = top.record("model"), top.record("files").all_texts()
    for path, digest in files.items():
        _check_path(path)
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise BundleError(f"{FILE}: files.{path}: {digest!r} is not a sha256", NEXT_STEP)
    manifest = Manifest(
        name=top.text("name"),
        version=top.integer("version", minimum=0),
        expires=top.text("expires", None),
        device=top.text("device"),
        target=top.text("target"),
        runner=top.text("runner"),
        requires=_requirements(top.record("requires")),
        inputs=_specs(top, "inputs"),
        outputs=_specs(top, "outputs"),
        preprocessing=top.mapping("preprocessing"),
        driver=top.text("driver"),
        model_files=model.texts("files"),
        precision=model.text("precision"),
        options=top.mapping("options"),
        status=top.text("status"),
        pending_gates=tuple(Gate(g.text("name"), g.number("limit")) for g in top.records("pending_gates")),
        golden=_golden(top),
        trial=_trial(top, "trial"),
        own_float=_trial(top, "own_float"),
        build=top.mapping("build", None),
        files=files,
    )
    if manifest.status not in STATUSES:
        raise BundleError(f"{FILE}: status: {manifest.status!r} is not one of {', '.join(STATUSES)}", NEXT_STEP)
    named = [*manifest.model_files, *(file for model in manifest.float_models for file in model.files)]
    for path in [*named, *(["golden.npz"] if manifest.golden else [])]:
        if path not in files:
            raise BundleError(f"{FILE}: {path} is used but not listed in files", NEXT_STEP)
    if manifest.own_float and not manifest.trial:
        raise BundleError(f"{FILE}: own_float: there is no trial beside it", NEXT_STEP)
    if not manifest.model_files:
        raise BundleError(f"{FILE}: model.files: names no file", NEXT_STEP)
    return manifest


def _requirements(r: Record) -> Requirements:
    return Requirements(
        architecture=r.text("architecture"),
        isa=r.texts("isa"),
        runtime=r.record("runtime").all_texts(),
        memory_mb=r.number("memory_mb", 0.0),
        disk_mb=r.number("disk_mb", 0.0),
        python_packages=r.texts("python_packages"),
    )


def _specs(top: Record, key: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(s.text("name"), s.text("dtype"), s.shape("shape")) for s in top.records(key))


def _golden(top: Record) -> Golden | None:
    if not top.mapping("golden", None):
        return None
    golden = top.record("golden")
    return Golden(
        samples=golden.integer("samples", minimum=1),
        min_sqnr_db=golden.number("min_sqnr_db", None),
        min_argmax_agreement=golden.number("min_argmax_agreement", None),
    )


def _trial(top: Record, key: str) -> Trial | None:
    if not top.mapping(key, None):
        return None
    trial = top.record(key)
    if not trial.texts("files"):
        raise BundleError(f"{FILE}: {key}.files: names no file", NEXT_STEP)
    return Trial(trial.text("runner"), trial.texts("files"), trial.mapping("options"))


def _check_path(path: str) -> None:
    """Raises BundleError unless the path is relative, of plain parts, and stays inside the payload."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or not path.isprintable() or path == FILE:
        raise BundleError(f"{FILE}: files: {path!r} is not a plain path inside the payload", "do not use this bundle")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may take a different one of two equal keys."""
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError(f"a key occurs twice among {', '.join(sorted(key for key, _ in pairs))[:200]}")
    return record


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
