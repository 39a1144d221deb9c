"""What a stage may raise, and what the build makes of it."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from calibration.errors import EdgewrightError, InputError, IntegrityError
from pipeline.plan import Node
from pipeline.progress import BuildProgress
from pipeline.run import run_node
from pipeline.stage import Work
from pipeline.store import Store
from targets import user_code

DIGEST = "ab" * 32


@dataclass(frozen=True)
class Raising:
    """Runs what it is handed."""

    takes: ClassVar = ("action",)
    gives: ClassVar = "model"
    distributions: ClassVar = ()
    revision: ClassVar = 1

    def __call__(self, work: Work, *, action: Callable[[], Any]) -> None:
        (work.out / "half").write_bytes(b"x")
        action()


def run(folder: Path, action: Callable[[], Any]) -> Store:
    store = Store(folder / "store")
    node = Node("distill", Raising(), {}, {"action": action}, {}, {}, DIGEST)
    with BuildProgress(quiet=True) as progress:
        run_node(node, store, folder, ["host"], "", progress)
    return store


@dataclass(frozen=True)
class Copying:
    """Gives what its input holds."""

    takes: ClassVar = ("model",)
    gives: ClassVar = "model"
    distributions: ClassVar = ()
    revision: ClassVar = 1

    def __call__(self, work: Work, *, model: Path) -> None:
        shutil.copyfile(model / "half", work.out / "half")


@dataclass(frozen=True)
class Measuring:
    """Gives the first of what it is handed, which differs from time to time."""

    takes: ClassVar = ("found",)
    gives: ClassVar = "model"
    distributions: ClassVar = ()
    revision: ClassVar = 1

    def __call__(self, work: Work, *, found: list[bytes]) -> None:
        (work.out / "half").write_bytes(found[0])


def test_what_was_made_from_another_artifact_of_the_same_digest_is_made_again(tmp_path: Path) -> None:
    found = [b"nncf", b"nncf", b"static"]
    store = Store(tmp_path)
    choice = Node("quantize", Measuring(), {}, {"found": found}, {}, {}, DIGEST)
    built = Node("compile", Copying(), {"model": choice}, {}, {}, {}, "cd" * 32)
    runs: list[tuple[bool, str]] = []
    with BuildProgress(quiet=True) as progress:
        while found:
            run_node(choice, store, tmp_path, ["host"], "", progress)
            run = run_node(built, store, tmp_path, ["host"], "never built", progress)
            assert (store.path(built.digest) / "half").read_bytes() == found.pop(0)
            runs.append((run.cached, run.reason))
            store.discard(choice.digest)
    assert runs == [(False, "never built"), (True, ""), (False, "quantize was made again and came out otherwise")]


@dataclass(frozen=True)
class Overtaken:
    """Copies its input; `meanwhile` is what another build does, before it reads or after."""

    takes: ClassVar = ("model", "meanwhile", "before")
    gives: ClassVar = "model"
    distributions: ClassVar = ()
    revision: ClassVar = 1

    def __call__(self, work: Work, *, model: Path, meanwhile: Callable[[], Any], before: bool) -> None:
        if before:
            meanwhile()
        shutil.copyfile(model / "half", work.out / "half")
        if not before:
            meanwhile()


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("remade", [False, True])
def test_what_was_made_while_an_input_was_made_again_or_removed_is_not_kept(
    tmp_path: Path, remade: bool, before: bool
) -> None:
    store, found = Store(tmp_path), [b"nncf"]
    choice = Node("quantize", Measuring(), {}, {"found": found}, {}, {}, DIGEST)

    def meanwhile() -> None:
        store.discard(DIGEST)
        found[0] = b"static"
        if remade:
            with BuildProgress(quiet=True) as theirs:
                run_node(choice, store, tmp_path, ["host"], "", theirs)

    values = {"meanwhile": meanwhile, "before": before}
    built = Node("compile", Overtaken(), {"model": choice}, values, {}, {}, "cd" * 32)
    with BuildProgress(quiet=True) as progress:
        run_node(choice, store, tmp_path, ["host"], "", progress)
        with pytest.raises(IntegrityError, match="quantize was made again, or removed, while compile worked on it"):
            run_node(built, store, tmp_path, ["host"], "", progress)
    assert store.record(built.digest) is None


def test_an_input_that_is_gone_is_said(tmp_path: Path) -> None:
    choice = Node("quantize", Copying(), {}, {}, {}, {}, DIGEST)
    built = Node("compile", Copying(), {"model": choice}, {}, {}, {}, "cd" * 32)
    with BuildProgress(quiet=True) as progress, pytest.raises(IntegrityError, match="removed while a build needed it"):
        run_node(built, Store(tmp_path), tmp_path, ["host"], "", progress)


def test_what_a_users_model_raises_in_any_stage_names_their_line(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def forward():\n    return {}['x']\n")
    forward = user_code.load("net.py:forward", tmp_path)
    with pytest.raises(InputError, match=r"net\.py:2: KeyError: 'x' \(while running distill\)"):
        run(tmp_path, forward)
    assert Store(tmp_path / "store").open(DIGEST) is None


def test_a_lack_of_memory_is_said(tmp_path: Path) -> None:
    def action() -> None:
        raise MemoryError("70 TiB")

    with pytest.raises(EdgewrightError, match="distill: not enough memory: 70 TiB"):
        run(tmp_path, action)


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    def action() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(EdgewrightError, match="no space is left on the disk of the store"):
        run(tmp_path, action)
    store = Store(tmp_path / "store")
    assert store.open(DIGEST) is None
    assert list((store.root / "temporary").iterdir()) == []


def test_an_error_of_ours_passes_unchanged(tmp_path: Path) -> None:
    def action() -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        run(tmp_path / "elsewhere", action)
