"""Runs a plan: every stage that is not in the store, then each device's report and bundle."""

import errno
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from calibration.errors import EdgewrightError, InputError, IntegrityError
from pipeline import machine
from pipeline.history import History
from pipeline.plan import Node, Plan, made_from_another, make_plan
from pipeline.progress import BuildProgress
from pipeline.recipe import Recipe
from pipeline.report.html import write_index
from pipeline.report.publish import publish
from pipeline.stage import Work
from pipeline.store import ArtifactRecord, Store
from targets.device.errors import DeviceError
from targets.user_code import Running

# What a stage refuses with; the part that runs on devices has errors of its own, since it stands alone.
Refused = EdgewrightError | DeviceError
REFUSED = (EdgewrightError, DeviceError)

# Of the refusals of several devices, the exit code that tells the worst, worst first.
WORST_FIRST = (1, 4, 2, 5, 3, 0)


@dataclass(frozen=True)
class StageRun:
    """How a node came to be there: from the cache, or built now and why."""

    node: Node
    record: ArtifactRecord
    cached: bool
    reason: str


@dataclass(frozen=True)
class BuildResult:
    """exit_code of the worst device; reports as in report.json; folder: dist/RECIPE."""

    exit_code: int
    reports: list[dict[str, Any]]
    folder: Path


def build(recipe: Recipe, store: Store, out: Path, quiet: bool = False) -> BuildResult:
    """Builds a bundle for each device of the recipe, or a report that says why there is none, in out/RECIPE/DEVICE."""
    _refuse_expired(recipe)
    _make_writable(out / recipe.name)
    plan = make_plan(recipe, store)
    outcomes: dict[str, StageRun | Refused] = {}
    history = History(store.root, recipe)
    with BuildProgress(quiet) as progress:
        for node in plan.nodes:
            outcomes[node.digest] = _outcome(node, plan, store, outcomes, history, progress)
    reports: list[dict[str, Any]] = []
    codes = {0}
    for device in recipe.devices:
        name = device.profile.name
        chain = plan.chains.get(name, ())
        runs = [run for node in chain if isinstance(run := outcomes[node.digest], StageRun)]
        refused = [(node.label, error) for node in chain if isinstance(error := outcomes[node.digest], REFUSED)]
        if name in plan.refused:
            refused = [("plan", plan.refused[name])]
        codes |= {error.exit_code for _, error in refused}
        reports.append(publish(recipe, device, runs, refused, store, out / recipe.name / name))
    write_index(reports, out / recipe.name / "index.html")
    return BuildResult(next(code for code in WORST_FIRST if code in codes), reports, out / recipe.name)


def _refuse_expired(recipe: Recipe) -> None:
    """Raises InputError where every device would refuse the bundle for its age."""
    today = datetime.now(UTC).date().isoformat()
    if recipe.expires is not None and recipe.expires[:10] < today:
        raise InputError(f"{recipe.path}: expires: {recipe.expires} has passed", "give a date to come, or leave it out")


def _make_writable(folder: Path) -> None:
    """Raises OSError before the work, not after it, where its results could not be written."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _outcome(
    node: Node,
    plan: Plan,
    store: Store,
    outcomes: Mapping[str, StageRun | Refused],
    history: History,
    progress: BuildProgress,
) -> StageRun | Refused:
    """Runs one node, or carries on the refusal of an input; notes for later plans what was built from what."""
    for taken in node.inputs.values():
        if isinstance(refusal := outcomes[taken.digest], REFUSED):
            return refusal
    devices = plan.devices_of(node)
    reason = history.difference(devices[0], node.label, node.key)
    try:
        run = run_node(node, store, plan.recipe.folder, devices, reason, progress)
        for device in devices:
            history.remember(device, node.label, node.key)
        if not run.cached:
            with _FullDisk(store.root):
                history.save()
    except REFUSED as error:
        return error
    return run


def run_node(
    node: Node, store: Store, recipe_folder: Path, devices: list[str], reason: str, progress: BuildProgress
) -> StageRun:
    """The artifact of one node, hashed just now, or built. Raises EdgewrightError where the stage refuses.

    The artifacts of its inputs are there: IntegrityError where one is lost, or is another when the work is done. One
    that was made from others of the same digests is built again.
    """
    with store.lock(node.digest):
        inputs = {role: store.contents(taken.digest) for role, taken in node.inputs.items()}
        try:
            record = store.open(node.digest)
        except IntegrityError as damage:
            progress.say(f"{damage.message}: it is built again")
            store.discard(node.digest)
            record, reason = None, damage.message
        if record is not None and record.inputs != inputs:
            other = next(role for role in inputs if record.inputs.get(role) != inputs[role])
            store.discard(node.digest)
            record, reason = None, made_from_another(node.inputs[other])
        if record is not None:
            progress.cached()
            return StageRun(node, record, cached=True, reason="")
        progress.begin(node.label, devices, reason)
        start = time.monotonic()
        try:
            record = _work(node, inputs, store, recipe_folder, progress, start)
        except MemoryError as error:
            refusal = EdgewrightError(f"{node.label}: not enough memory: {error}", "free some")
            progress.end(time.monotonic() - start, refusal.message)
            raise refusal from error
        except REFUSED as error:
            progress.end(time.monotonic() - start, error.message)
            raise
        progress.end(time.monotonic() - start)
        return StageRun(node, record, cached=False, reason=reason)


def _work(
    node: Node, inputs: dict[str, str], store: Store, recipe_folder: Path, progress: BuildProgress, start: float
) -> ArtifactRecord:
    arguments = {role: store.path(taken.digest) for role, taken in node.inputs.items()} | dict(node.values)
    read = {taken.digest: (taken.label, inputs[role]) for role, taken in node.inputs.items()}
    with (
        machine.working(lambda: progress.say("waits for another build's stage, to measure alone")) as measuring,
        store.scratch(node.digest, inputs) as scratch,
        store.temporary(node.digest) as folder,
        _FullDisk(store.root),
        Running(node.label, recipe_folder),
    ):
        machine.reset_peak_memory()
        with store.reading(read, f"{node.label} worked on it"):
            node.stage(Work(folder, scratch, recipe_folder, measuring, progress.update, progress.say), **arguments)
        seconds, peak = time.monotonic() - start, machine.peak_memory_bytes()
        return store.publish(folder, node.label, node.digest, inputs, round(seconds, 3), peak, dict(node.tools))


class _FullDisk:
    """A context that turns whatever a full disk makes a library raise, each its own kind, into one clear error.

    It stands within those that clear up: after them there is space again.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, REFUSED):
            return
        said = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if said or shutil.disk_usage(self._root).free < 1 << 20:
            raise EdgewrightError(
                f"no space is left on the disk of the store {self._root}",
                "free some with `edgewright cache prune`, or set EDGEWRIGHT_STORE",
            ) from error
