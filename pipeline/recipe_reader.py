"""A recipe's YAML -> Recipe. Every mistake is found before any is told."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from calibration.errors import InputError, near
from pipeline import recipe_paths
from pipeline.recipe import Budget, DataSource, Device, ModelSource, Recipe
from targets import plugins
from targets.checking import check
from targets.outline import outline
from targets.profile import DeviceProfile, load_profile, profile_names
from targets.yaml_source import Key, Problem, read_document

if TYPE_CHECKING:
    from pipeline.stage import Stage

T = TypeVar("T")

TOP_KEYS = ("name", "version", "expires", "task", "data", "teacher", "student", "stages", "budget", "devices")
REQUIRED = ("task", "data", "teacher", "devices")

# The plan puts these where they belong; a recipe names one only to change its settings.
ALWAYS_RUN = ("prepare", "load", "predict", "export", "calibrate", "compile", "validate", "package")
# It names a folder.
LONGEST_NAME = 100


@dataclass(frozen=True)
class Header:
    """The plain keys of a recipe."""

    name: str
    version: int = 1
    expires: str | None = None


@dataclass(frozen=True)
class DeviceEntry:
    """One of `devices:`, without its budget."""

    name: str
    target: str | None = None
    threads: int = 1


class RecipeReader:
    """Reads one recipe file; `problems` gathers what is wrong with it."""

    def __init__(self, path: Path, run_user_code: bool) -> None:
        self.path, self.folder, self.run_user_code = path, path.parent, run_user_code
        self.problems: list[Problem] = []
        if not path.is_file() and path.parent.is_dir():
            beside = sorted(p.name for p in path.parent.glob("*.y*ml"))
            raise InputError(f"there is no recipe {path}{near(path.name, beside)}", "give a recipe file's path")
        self.document = read_document(path, self.problems)

    def read(self, only: Sequence[str] | None) -> Recipe:
        """The recipe, for the devices in `only` where that is given. Raises InputError with every problem."""
        top = self.document.value
        if not isinstance(top, dict):
            problem = self.document.problem((), f"a recipe is keys with values: {', '.join(TOP_KEYS)}")
            self.document.refuse([*self.problems, problem])
        for key in top:
            if key not in TOP_KEYS:
                self.add((key,), f"unknown key {key!r}{near(key, TOP_KEYS)}", on_key=True)
        for key in REQUIRED:
            if key not in top:
                self.add((), f"the key {key!r} is missing")
        header = self.header(top)
        task_name, task = self.task(top["task"]) if "task" in top else ("", None)
        data = self.part(DataSource, "data")
        teacher, student = self.part(ModelSource, "teacher"), self.part(ModelSource, "student")
        stages = self.stages(top.get("stages"))
        devices = self.devices(top.get("devices"), self.budget(top.get("budget"), ("budget",)), only)
        for at, message in recipe_paths.mistakes(self.folder, data, teacher, student):
            self.add(at, message)
        self.agreement(teacher, student, stages)
        if self.problems or header is None or data is None or teacher is None or task is None:
            self.document.refuse(self.problems)
        middle = tuple((name, stage) for _, name, stage in stages)
        return Recipe(
            path=self.path, folder=self.folder, name=header.name, version=header.version, expires=header.expires,
            task_name=task_name, task=task, data=data, teacher=teacher, student=student, stages=middle, devices=devices,
        )  # fmt: skip

    def add(self, at: Key, message: str, on_key: bool = False) -> None:
        self.problems.append(self.document.problem(at, message, on_key))

    def part(self, kind: type[T], key: str) -> T | None:
        """A part of the recipe that is a dataclass; None where it is absent, or wrong."""
        value = self.document.value.get(key)
        absent = value is None and (key not in self.document.value or key not in REQUIRED)
        return None if absent else check(kind, value, (key,), self.document, self.problems)

    def header(self, top: dict[str, Any]) -> Header | None:
        given = {"name": self.path.stem} | {key: top[key] for key in ("name", "version", "expires") if key in top}
        header = check(Header, given, (), self.document, self.problems)
        if header is None:
            return None
        if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]*", header.name):
            self.add(("name",), f"a name has letters, digits, '.', '_' and '-' only, not {header.name!r}")
        if len(header.name) > LONGEST_NAME:
            self.add(("name",), f"a name has at most {LONGEST_NAME} characters, not {len(header.name)}")
        if header.version < 1:
            self.add(("version",), "version must be at least 1, and higher with each release")
        try:
            datetime.fromisoformat(header.expires or "2000-01-01")
        except ValueError:
            self.add(("expires",), f"expires must be a date such as 2030-01-31, not {header.expires!r}")
        return header

    def task(self, entry: Any) -> tuple[str, Any]:
        named = self.named(entry, ("task",), "a task")
        return ("", None) if named is None else (named[0], self.instance("tasks", *named))

    def named(self, entry: Any, at: Key, what: str) -> tuple[str, dict[str, Any], Key] | None:
        """`name` or `{name: {key: value}}` -> (name, settings, where the settings stand)."""
        if isinstance(entry, str):
            return entry, {}, at
        if isinstance(entry, dict) and len(entry) == 1:
            [(name, settings)] = entry.items()
            return str(name), {} if settings is None else settings, (*at, name)
        if isinstance(entry, dict) and next(iter(entry.values()), True) is None:
            first, *rest = entry
            message = f"this belongs to {first!r}: indent it further, or write {first}: {{...}}"
            self.add((*at, rest[0]), message, on_key=True)
        else:
            self.add(at, f"{what} is a name, or one name with its settings as in {{name: {{key: value}}}}")
        return None

    def instance(self, kind: plugins.Kind, name: str, settings: Any, at: Key) -> Any:
        """The dataclass that a name stands for, with these settings; None where a problem was added."""
        try:
            own = plugins.user_file(name, self.folder)
            found = plugins.load(kind, name, self.folder) if own is None or self.run_user_code else outline(*own)
        except InputError as error:
            self.add(at, error.message, on_key=at in self.document.keys and isinstance(at[-1], str) and at[-1] == name)
            return None
        return check(found, settings, at, self.document, self.problems)

    def stages(self, entries: Any) -> list[tuple[Key, str, "Stage"]]:
        if entries is not None and not isinstance(entries, list):
            self.add(("stages",), "stages must be a list, as in [{distill: {epochs: 3}}, quantize]")
        read: list[tuple[Key, str, Stage]] = []
        for i, entry in enumerate(entries if isinstance(entries, list) else []):
            named = self.named(entry, ("stages", i), "a stage")
            if named is None:
                continue
            name, at = named[0], ("stages", i)
            stage = self.instance("stages", *named)
            if stage is None:
                continue
            if name in ALWAYS_RUN and not fields(stage):
                self.add(at, f"{name!r} always runs and has no settings: leave it out")
            elif name not in ALWAYS_RUN and getattr(stage, "gives", None) not in ("model", "package"):
                self.add(at, f"{name!r} gives neither a model nor a package, so it has no place among the stages")
            elif any(name == before for _, before, _ in read) and (name in ALWAYS_RUN or stage.gives != "model"):
                self.add(at, f"{name!r} stands here a second time, and it runs once")
            read.append((at, name, stage))
        return read

    def budget(self, value: Any, at: Key) -> Budget:
        budget = Budget() if value is None else check(Budget, value, at, self.document, self.problems) or Budget()
        for key, limit in asdict(budget).items():
            if limit is not None and not (limit > 0 and isfinite(limit)):
                self.add((*at, key), f"{key} must be above 0")
        return budget

    def devices(self, entries: Any, budget: Budget, only: Sequence[str] | None) -> tuple[Device, ...]:
        if entries is not None and (not isinstance(entries, list) or not entries):
            self.add(("devices",), "devices must be a list of at least one, as in [host, raspberry-pi-5]")
        read: list[Device] = []
        for i, entry in enumerate(entries if isinstance(entries, list) else []):
            device = self.device(entry, ("devices", i), budget)
            if device is not None and device.name in [known.name for known in read]:
                again = f"the device {device.name!r} stands here a second time"
                self.add(("devices", i), f"{again}: give it a recipe of its own, with another name")
            elif device is not None:
                read.append(device)
        if only and not self.problems:
            read = [self.chosen(name, read, budget) for name in dict.fromkeys(only)]
        return tuple(read)

    def device(self, entry: Any, at: Key, budget: Budget) -> Device | None:
        record = {"name": entry} if isinstance(entry, str) else entry
        if isinstance(record, dict) and "budget" in record:
            own = self.budget(record["budget"], (*at, "budget"))
            budget = replace(budget, **{key: limit for key, limit in asdict(own).items() if limit is not None})
            record = {key: value for key, value in record.items() if key != "budget"}
        asked = check(DeviceEntry, record, at, self.document, self.problems)
        if asked is None:
            return None
        try:
            profile = load_profile(asked.name, self.folder)
        except InputError as error:
            self.add((*at, "name"), error.message)
            return None
        if not 1 <= asked.threads <= profile.cores:
            self.add((*at, "threads"), f"threads must be from 1 to the {profile.cores} cores of {profile.name}")
        known = [runtime.target for runtime in profile.runtimes]
        own_target = asked.target and plugins.user_file(asked.target, self.folder)
        target = str(own_target[0].resolve()) + f":{own_target[1]}" if own_target else asked.target or known[0]
        if target not in known:
            hint = near(target, known)
            self.add((*at, "target"), f"the profile of {profile.name} names no runtime {asked.target!r}{hint}")
        return Device(profile, target, budget, asked.threads)

    @staticmethod
    def chosen(name: str, read: Sequence[Device], budget: Budget) -> Device:
        """The device that `--device NAME` asks for: one of the recipe's, else any profile, with the recipe's budget."""
        for device in read:
            if device.name == name:
                return device
        if not name.endswith((".yaml", ".yml")) and name not in profile_names():
            known = dict.fromkeys([*(d.name for d in read), *profile_names()])
            raise InputError(f"there is no device {name!r}{near(name, known)}", "correct --device")
        profile: DeviceProfile = load_profile(name)
        return Device(profile, profile.runtimes[0].target, budget)

    def agreement(
        self, teacher: ModelSource | None, student: ModelSource | None, stages: list[tuple[Key, str, "Stage"]]
    ) -> None:
        """What the parts of a recipe must agree on."""
        source = student or teacher
        packaged = ""
        for at, name, stage in stages:
            if name in ALWAYS_RUN:
                continue
            if stage.gives == "package":
                packaged = name
            elif packaged:
                self.add(at, f"{name!r} needs a model, and {packaged!r} before it gives an ONNX package: put it first")
            if getattr(stage, "needs_student", False) and student is None:
                self.add(at, f"{name!r} teaches a student, and the recipe has no `student`")
            follows = getattr(stage, "follows", None)
            if follows is not None and follows not in [before for before_at, before, _ in stages if before_at < at]:
                self.add(at, f"{name!r} goes on from {follows!r}: put {follows!r} before it")
            trains = stage.gives == "model" or getattr(stage, "needs_torch", False)
            if trains and source is not None and source.onnx is not None:
                self.add(at, f"{name!r} needs a model that can be trained; this one comes as ONNX ({source.onnx})")
