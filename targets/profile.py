"""What a device's hardware is. Budgets are the recipe's."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from calibration.errors import InputError

FOLDER = Path(__file__).with_name("profiles")
HOST = "host"
HOST_DEFAULT = "onnxruntime-cpu"

Mistake = tuple[tuple[str | int, ...], str]

ARCHITECTURES = ("x86_64", "aarch64")
PRECISIONS = ("int4", "int8", "fp8", "fp16", "bf16", "fp32")


@dataclass(frozen=True)
class Runtime:
    """A runtime that the device can use. `target` is the name of a file of targets/; `version` a PEP 440 range."""

    target: str
    version: str


@dataclass(frozen=True)
class DeviceProfile:
    """One device, one YAML file in targets/profiles/ named as the device.

    architecture: "x86_64" or "aarch64".
    isa: flags as Linux prints them in /proc/cpuinfo ("avx2", "avx512_vnni", "asimddp").
    cores: that a program can use. memory_mb, storage_mb: of 10^6 bytes; main memory as the kernel shows it.
    runtimes: the first is the default.
    precisions: those the hardware speeds up, best first.
    compute_capability: of an NVIDIA GPU, "8.9"; None where there is none.
    """

    name: str
    description: str
    architecture: str
    isa: tuple[str, ...]
    cores: int
    memory_mb: int
    storage_mb: int
    runtimes: tuple[Runtime, ...]
    precisions: tuple[str, ...]
    compute_capability: str | None = None


def profile_names() -> list[str]:
    """Every device that can be named: `host`, which is probed, and the files of targets/profiles/."""
    return [HOST, *sorted(path.stem for path in FOLDER.glob("*.yaml"))]


def load_profile(name: str, folder: Path | None = None) -> DeviceProfile:
    """The profile of a device by name; or, where `name` is a path to a .yaml file, relative to `folder`, from there.

    Raises InputError with near names for an unknown device, and with file:line:column for every mistake in a file.
    """
    from calibration.errors import near

    if name == HOST:
        from targets.device.probe import probe

        return _from_probe(probe())
    if name.endswith((".yaml", ".yml")):
        return read_profile((folder or Path()) / name)
    if name not in profile_names():
        next_step = "`edgewright devices` lists them; a profile of your own is named by its path, ./device.yaml"
        raise InputError(f"there is no device {name!r}{near(name, profile_names())}", next_step)
    return read_profile(FOLDER / f"{name}.yaml")


def read_profile(path: Path) -> DeviceProfile:
    """Reads one profile file; all its mistakes are told at once. `file.py:Name` targets are relative to the file."""
    from targets import plugins
    from targets.checking import check
    from targets.yaml_source import Problem, read_document

    problems: list[Problem] = []
    document = read_document(path, problems)
    profile = check(DeviceProfile, document.value, (), document, problems)
    if profile is None:
        document.refuse(problems)
    found = chain(_mistakes(profile), _runtime_mistakes(profile, path.parent))
    problems += [document.problem(key, message) for key, message in found]
    if problems:
        document.refuse(problems)
    runtimes = tuple(
        replace(r, target=str(path.parent.resolve() / r.target)) if plugins.user_file(r.target) else r
        for r in profile.runtimes
    )
    return replace(profile, runtimes=runtimes)


def _mistakes(profile: DeviceProfile) -> Iterator[Mistake]:
    """(place, what is wrong there) for what the types alone do not say."""
    from calibration.errors import near

    # It names a folder, beside index.html.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(?<!\.html)", profile.name):
        yield ("name",), f"a device's name has letters, digits, '.', '_' and '-' only, not {profile.name!r}"
    if profile.architecture not in ARCHITECTURES:
        known = near(profile.architecture, ARCHITECTURES)
        yield ("architecture",), f"there is no architecture {profile.architecture!r}{known}"
    for key in ("cores", "memory_mb", "storage_mb"):
        if getattr(profile, key) < 1:
            yield (key,), f"{key} must be at least 1"
    for key in ("runtimes", "precisions"):
        if not getattr(profile, key):
            yield (key,), f"{key} must name at least one"
    for i, precision in enumerate(profile.precisions):
        if precision not in PRECISIONS:
            yield ("precisions", i), f"there is no precision {precision!r}{near(precision, PRECISIONS)}"
    if profile.compute_capability is not None and not re.fullmatch(r"\d+\.\d", profile.compute_capability):
        yield ("compute_capability",), f"a compute capability is written as '8.9', not {profile.compute_capability!r}"


def _runtime_mistakes(profile: DeviceProfile, folder: Path) -> Iterator[Mistake]:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    from targets import plugins

    for i, runtime in enumerate(profile.runtimes):
        if not plugins.exists("targets", runtime.target, folder):
            yield ("runtimes", i, "target"), plugins.unknown("targets", runtime.target)[0]
        try:
            SpecifierSet(runtime.version)
        except InvalidSpecifier:
            yield ("runtimes", i, "version"), f"{runtime.version!r} is no version range such as '>=1.20,<2' (PEP 440)"


def _from_probe(facts: Mapping[str, Any]) -> DeviceProfile:
    found = [Runtime(str(r["target"]).replace("_", "-"), r["version"]) for r in facts["runtimes"]]
    runtimes = tuple(sorted(found, key=lambda runtime: runtime.target != HOST_DEFAULT))
    plain = {key: fact for key, fact in facts.items() if key not in ("isa", "precisions", "runtimes")}
    return DeviceProfile(**plain, isa=tuple(facts["isa"]), precisions=tuple(facts["precisions"]), runtimes=runtimes)


def profile_yaml(profile: DeviceProfile) -> str:
    """The profile as the text of a profile file: read_profile of it gives the same profile."""
    import yaml

    record = {key: value for key, value in asdict(profile).items() if value is not None}
    lists = {key: list(record[key]) for key in ("isa", "runtimes", "precisions")}
    return yaml.safe_dump(record | lists, sort_keys=False, width=120, default_flow_style=None, allow_unicode=True)
