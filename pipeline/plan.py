"""Recipe and profiles -> the graph of stages, each with its digest and why it must run."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

from calibration.errors import IntegrityError, UnsupportedError
from pipeline.files import FileHashes
from pipeline.history import History
from pipeline.recipe import Device, Recipe
from pipeline.roles import ARTIFACTS, file_keys, flatten, role_key, role_value
from pipeline.stage import Stage
from pipeline.store import Store
from targets.plugins import load, user_file
from targets.user_code import imported_files


@dataclass(frozen=True)
class Node:
    """One run of one stage.

    inputs: role -> the node whose artifact is handed in; values: role -> what is handed in as it is.
    key: all that the digest covers, flat: "config.epochs" -> "3", "input.data" -> a digest, "file.net.py" -> a sha256.
    """

    label: str
    stage: Stage
    inputs: Mapping[str, "Node"]
    values: Mapping[str, Any]
    key: Mapping[str, str]
    tools: Mapping[str, str]
    digest: str


@dataclass(frozen=True)
class Row:
    """What `edgewright plan` says of one stage of one device."""

    stage: str
    device: str
    digest: str
    cached: bool
    reason: str


@dataclass(frozen=True)
class Plan:
    """The nodes of every device, in the order they run; what two devices share is one node.

    refused: device -> why no chain could be planned for it.
    """

    recipe: Recipe
    chains: Mapping[str, tuple[Node, ...]]
    refused: Mapping[str, UnsupportedError]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Each node once, shared ones first: all devices advance together, stage by stage."""
        seen: dict[str, Node] = {}
        longest = max((len(c) for c in self.chains.values()), default=0)
        for position in range(longest):
            for chain in self.chains.values():
                if position < len(chain):
                    seen.setdefault(chain[position].digest, chain[position])
        return tuple(seen.values())

    def devices_of(self, node: Node) -> list[str]:
        """The devices that a node serves."""
        return [name for name, chain in self.chains.items() if any(n.digest == node.digest for n in chain)]

    def rows(self, store: Store) -> list[Row]:
        """One row per device and stage: cached, or why it must run."""
        history = History(store.root, self.recipe)
        standing: dict[str, str | None] = {}
        for node in self.nodes:
            standing[node.digest] = self._standing(node, store, standing)
        return [
            Row(
                node.label,
                device,
                node.digest,
                cached := standing[node.digest] is None,
                "" if cached else standing[node.digest] or history.difference(device, node.label, node.key),
            )
            for device, chain in self.chains.items()
            for node in chain
        ]

    @staticmethod
    def _standing(node: Node, store: Store, of_inputs: Mapping[str, str | None]) -> str | None:
        """None where the node's artifact is there, sound, and made from the inputs that are there; else why it is not.

        "" where it is just absent.
        """
        try:
            record = store.open(node.digest)
            if record is None:
                return ""
            for role, taken in node.inputs.items():
                if of_inputs[taken.digest] is not None:
                    return f"{taken.label} will be made again and may come out otherwise"
                if record.inputs.get(role) != store.contents(taken.digest):
                    return made_from_another(taken)
        except IntegrityError as error:
            return error.message
        return None


def made_from_another(taken: Node) -> str:
    """Why an artifact is made again whose input has come out otherwise than it was, under the same digest."""
    return f"{taken.label} was made again and came out otherwise"


def make_plan(recipe: Recipe, store: Store) -> Plan:
    """Plans every device of the recipe. Runs no user code and imports no heavy library.

    Raises InputError where a file that a digest covers is missing.
    """
    chains: dict[str, tuple[Node, ...]] = {}
    refused: dict[str, UnsupportedError] = {}
    shared: dict[str, Node] = {}
    for device in recipe.devices:
        try:
            chains[device.profile.name] = tuple(_Chain(recipe, device, store.hashes, shared).nodes())
        except UnsupportedError as error:
            refused[device.profile.name] = error
    return Plan(recipe, chains, refused)


class _Chain:
    """The stages of one device, bound one after the other: each takes roles and gives one."""

    def __init__(self, recipe: Recipe, device: Device, hashes: FileHashes, shared: dict[str, Node]) -> None:
        self.recipe, self.device, self.hashes, self.shared = recipe, device, hashes, shared
        self.configured = dict(recipe.stages)
        self.roles: dict[str, Node] = {}
        self.order: list[Node] = []
        self.target = load("targets", device.target, recipe.folder)()

    def nodes(self) -> list[Node]:
        recipe = self.recipe
        middle = [(name, stage) for name, stage in recipe.stages if stage.gives in ("model", "package")]
        on_model = [(name, stage) for name, stage in middle if stage.gives == "model"]
        on_package = [(name, stage) for name, stage in middle if stage.gives == "package"]
        self.bind("prepare")
        # Early, though it is needed late: samples that cannot set ranges are refused before anything is trained.
        if any("calibration" in stage.takes for _, stage in on_package):
            self.bind("calibrate")
        self.bind("load", "load teacher", gives="teacher", source_model=recipe.teacher)
        if recipe.student is not None:
            self.bind("load", "load student", gives="model", source_model=recipe.student)
        else:
            self.roles["model"] = self.roles["teacher"]
        if any("logits" in stage.takes for _, stage in middle):
            self.bind("predict")
        for name, stage in on_model:
            self.bind(name, stage=stage)
        self.bind("export", "export teacher", gives="baseline", model=self.roles["teacher"])
        self.bind("export")
        in_float = self.roles["package"]
        for name, stage in on_package:
            self.bind(name, stage=stage)
        self.bind("compile", "compile teacher", gives="compiled_baseline", package=self.roles["baseline"])
        if in_float not in (self.roles["package"], self.roles["baseline"]):
            # What int8 has to be faster than is the student's own float, not the teacher's.
            self.bind("compile", "compile float", gives="compiled_float", package=in_float)
        for name in ("compile", "validate", "package"):
            self.bind(name)
        return self.order

    def bind(self, name: str, label: str = "", stage: Stage | None = None, gives: str = "", **given: Any) -> None:
        """Makes the node of one stage from the roles it takes, and lets it take its own role."""
        stage = stage or self.configured.get(name) or cast("Stage", load("stages", name)())
        inputs: dict[str, Node] = {}
        values: dict[str, Any] = {}
        key = {"stage": name, "revision": str(stage.revision)}
        key |= flatten("config", asdict(stage))  # pyright: ignore[reportArgumentType]
        for role in stage.takes:
            taken = given.get(role, self.roles.get(role))
            if isinstance(taken, Node):
                inputs[role] = taken
                key[f"input.{role}"] = taken.digest
            elif role in ARTIFACTS:
                values[role] = None
            else:
                values[role] = given[role] if role in given else role_value(role, self.recipe, self.device, self.target)
                key |= role_key(role, values[role], self.recipe, self.target, self.hashes)
        tools = versions(stage.distributions)
        code = [name]
        if "task" in stage.takes:
            code.append(self.recipe.task_name)
            tools |= versions(self.recipe.task.distributions)
        if {"device", "route"} & set(stage.takes):
            code.append(self.device.target)
            tools |= self.target.fingerprint()
        for file, _ in filter(None, (user_file(c, self.recipe.folder) for c in code)):
            key |= file_keys("code", imported_files(file), self.recipe.folder, self.hashes)
        key |= flatten("tool", tools)
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        node = self.shared.setdefault(digest, Node(label or name, stage, inputs, values, key, tools, digest))
        self.roles[gives or stage.gives] = node
        # Without a student the teacher is exported as what the others are held against and as what is built.
        if all(node.digest != before.digest for before in self.order):
            self.order.append(node)


@cache
def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError as error:
        raise UnsupportedError(f"{distribution} is not installed", f"pip install {distribution}") from error


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Distribution -> installed version, from package metadata: nothing is imported.

    Raises UnsupportedError naming the one that is not installed.
    """
    return {name: _version(name) for name in distributions}
