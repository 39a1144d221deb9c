"""The store's laws: whole or not at all, hashed on every read, safe for several builds."""

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from calibration.errors import EdgewrightError, IntegrityError
from pipeline.store import Store

DIGEST = "ab" * 32
INPUTS = {"model": "cd" * 32}


def put(store: Store, digest: str = DIGEST, **files: bytes) -> Path:
    with store.lock(digest), store.temporary(digest) as folder:
        (folder / "deep").mkdir()
        for name, content in (files or {"a.bin": b"one", "deep/b.bin": b"two"}).items():
            (folder / name).write_bytes(content)
        store.publish(folder, "distill", digest, INPUTS, 1.5, 1000, {"torch": "2"})
    return store.path(digest)


def test_an_artifact_is_what_was_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.open(DIGEST) is None
    folder = put(store)
    record = store.open(DIGEST)
    assert record is not None
    assert record.stage == "distill"
    assert set(record.files) == {"a.bin", "deep/b.bin"}
    assert (folder / "deep/b.bin").read_bytes() == b"two"


@pytest.mark.parametrize("name", ["a.bin", "deep/b.bin", "artifact.json"])
def test_every_flipped_bit_is_found_though_size_and_mtime_stay(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    path = put(store) / name
    stat, content = path.stat(), path.read_bytes()
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with pytest.raises(IntegrityError, match=name.rpartition("/")[2]):
            store.open(DIGEST)
    store.discard(DIGEST)
    assert store.open(DIGEST) is None


def test_an_artifact_without_its_record_is_damaged_and_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = put(store)
    (folder / "artifact.json").unlink()
    with pytest.raises(IntegrityError, match=r"artifact\.json is missing"):
        store.open(DIGEST)
    assert [row["stage"] for row in store.ls()] == ["damaged"]
    store.discard(DIGEST)
    put(store)
    assert store.open(DIGEST) is not None


@pytest.mark.parametrize("content", ["", "[", "[" * 100_000, "[]", "3", '{"schema": 2}'])
def test_a_record_that_is_none_is_damaged(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    (put(store) / "artifact.json").write_text(content)
    (tmp_path / "artifacts" / "stray").touch()
    with pytest.raises(IntegrityError, match=r"artifact\.json"):
        store.open(DIGEST)
    assert [row["stage"] for row in store.ls()] == ["damaged"]


def test_a_record_that_is_a_folder_is_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = put(store)
    (folder / "artifact.json").unlink()
    (folder / "artifact.json").mkdir()
    with pytest.raises(IntegrityError, match=r"damaged: artifact\.json cannot be read"):
        store.open(DIGEST)
    assert [row["stage"] for row in store.ls()] == ["damaged"]
    store.discard(DIGEST)
    put(store)
    assert store.open(DIGEST) is not None


def test_the_record_of_another_version_is_said_to_be_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (put(store) / "artifact.json").write_text('{"schema": 1, "stage": "distill"}')
    with pytest.raises(IntegrityError, match="written by another version of edgewright"):
        store.open(DIGEST)
    assert [row["stage"] for row in store.ls()] == ["other version"]


def test_contents_are_of_names_and_bytes_and_of_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, a=b"one")
    put(store, "cd" * 32, a=b"one")
    put(store, "ef" * 32, b=b"one")
    assert store.contents(DIGEST) == store.contents("cd" * 32) != store.contents("ef" * 32)
    with pytest.raises(IntegrityError, match="removed while a build needed it"):
        store.contents("01" * 32)


@pytest.mark.parametrize("change", ["missing", "surplus"])
def test_missing_and_surplus_files_are_found(tmp_path: Path, change: str) -> None:
    store = Store(tmp_path)
    folder = put(store)
    if change == "missing":
        (folder / "a.bin").unlink()
    else:
        (folder / "c.bin").touch()
    with pytest.raises(IntegrityError, match=r"[ac]\.bin is missing or surplus"):
        store.open(DIGEST)


def work_and_die(root: Path) -> None:
    store = Store(root)
    with store.lock(DIGEST), store.temporary(DIGEST) as folder, store.scratch(DIGEST, INPUTS) as scratch:
        (folder / "half").write_bytes(b"x")
        (scratch / "epoch-1").write_bytes(b"kept")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_build_leaves_its_checkpoints_and_nothing_that_looks_like_an_artifact(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=work_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = Store(tmp_path)
    assert store.open(DIGEST) is None
    with store.lock(DIGEST), store.temporary(DIGEST) as folder, store.scratch(DIGEST, INPUTS) as scratch:
        assert list(folder.iterdir()) == []
        assert (scratch / "epoch-1").read_bytes() == b"kept"
    assert not (tmp_path / "scratch" / DIGEST).exists()


def fail_after_an_epoch(store: Store, digest: str, inputs: dict[str, str]) -> list[str]:
    """What the work found in its scratch, where it then left a checkpoint."""
    found: list[str] = []
    with suppress(EdgewrightError), store.scratch(digest, inputs) as scratch:
        found += [path.name for path in scratch.iterdir()]
        (scratch / "epoch.pt").write_bytes(b"weights")
        raise EdgewrightError("the disk is full")
    return found


def test_checkpoints_of_work_on_other_inputs_are_cleared(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert fail_after_an_epoch(store, DIGEST, INPUTS) == []
    assert fail_after_an_epoch(store, DIGEST, INPUTS) == ["epoch.pt"]
    assert fail_after_an_epoch(store, DIGEST, {"model": "ef" * 32}) == []
    assert fail_after_an_epoch(store, DIGEST, INPUTS) == []
    assert len(list((tmp_path / "scratch" / DIGEST).iterdir())) == 1


@pytest.mark.parametrize("ends", [None, FileNotFoundError("model.onnx")])
@pytest.mark.parametrize("remade", [False, True])
def test_what_was_read_of_an_artifact_that_is_lost_is_refused_however_it_ended(
    tmp_path: Path, remade: bool, ends: Exception | None
) -> None:
    store = Store(tmp_path)
    put(store)
    used = {DIGEST: ("distill", store.contents(DIGEST))}
    with store.reading(used, "validate worked on it"):
        pass
    refused = pytest.raises(IntegrityError, match=r"^distill was made again, or removed, while validate worked on it$")
    with refused, store.reading(used, "validate worked on it"):
        store.discard(DIGEST)
        if remade:
            put(store, a=b"another")
        if ends is not None:
            raise ends


def hold(root: Path, ready: Path) -> None:
    with Store(root).lock(DIGEST):
        ready.touch()
        time.sleep(0.5)
        put_inside(Store(root))


def put_inside(store: Store) -> None:
    with store.temporary(DIGEST) as folder:
        (folder / "a.bin").write_bytes(b"theirs")
        store.publish(folder, "distill", DIGEST, {}, 0, 0, {})


def test_a_second_build_waits_and_finds_what_the_first_made(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path / "store", ready))
    process.start()
    while not ready.exists():
        time.sleep(0.01)
    store = Store(tmp_path / "store")
    with store.lock(DIGEST):
        assert store.open(DIGEST) is not None
        assert (store.path(DIGEST) / "a.bin").read_bytes() == b"theirs"
    process.join()


def test_pruning_takes_what_is_old_and_leaves_what_is_worked_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old, young, busy = "aa" * 32, "bb" * 32, "cc" * 32
    for digest in (old, young, busy):
        put(store, digest)
    for digest in (old, busy):
        os.utime(store.path(digest), (0, 0))
    with store.lock(busy):
        assert store.prune(keep_days=1) == [old]
    assert {row["digest"] for row in store.ls()} == {young, busy}


def test_what_is_used_is_kept_however_long_ago_it_was_made(tmp_path: Path) -> None:
    store = Store(tmp_path)
    used, unused = "aa" * 32, "bb" * 32
    for digest in (used, unused):
        put(store, digest)
        fail_after_an_epoch(store, digest, INPUTS)
        for kind in ("artifacts", "scratch"):
            os.utime(tmp_path / kind / digest, (0, 0))
    assert store.open(used) is not None
    fail_after_an_epoch(store, used, INPUTS)
    rows = store.ls()
    assert [row["digest"] for row in rows] == [unused, used]
    assert [row["unused_days"] for row in rows][1] == 0
    assert store.prune(keep_days=1) == [unused, unused]
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == [used]


def test_the_memory_of_hashes_follows_the_contents(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    file = tmp_path / "data.csv"
    seen: set[str] = set()
    for content in (b"one", b"two", b"three"):
        file.write_bytes(content)
        seen.add(store.hashes.tree(file))
    assert len(seen) == 3
    os.utime(file, (1, 1))
    first = store.hashes.file(file)
    assert store.hashes.file(file) == first
    file.write_bytes(b"other")
    assert store.hashes.file(file) != first


@pytest.mark.parametrize("damage", [b"no database at all", b"SQLite format 3\0" + bytes(4080)])
def test_a_damaged_memory_of_hashes_is_begun_anew(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "data.csv"
    file.write_bytes(b"one")
    os.utime(file, (1, 1))
    first = Store(tmp_path / "store").hashes.file(file)
    (tmp_path / "store" / "hashes.sqlite").write_bytes(damage)
    assert Store(tmp_path / "store").hashes.file(file) == first


def test_a_memory_of_hashes_that_is_damaged_while_it_is_used_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_bytes(b"one")
    os.utime(file, (1, 1))
    store = Store(tmp_path / "store")
    first = store.hashes.file(file)
    (tmp_path / "store" / "hashes.sqlite").write_bytes(b"no database at all" * 1000)
    assert store.hashes.file(file) == first


def test_a_memory_of_hashes_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    (tmp_path / "store" / "hashes.sqlite").mkdir(parents=True)
    with pytest.raises(EdgewrightError, match=r"hashes\.sqlite: unable to open"):
        Store(tmp_path / "store")


def test_a_folder_digest_covers_names_and_contents_but_no_hidden_files(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    folder = tmp_path / "data"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "1.png").write_bytes(b"1")
    first = store.hashes.tree(folder)
    (folder / ".DS_Store").write_bytes(b"noise")
    assert store.hashes.tree(folder) == first
    (folder / "cat" / "1.png").rename(folder / "cat" / "2.png")
    assert store.hashes.tree(folder) != first
