"""Where artifacts are kept: a folder each, named by the digest of all that made it, published by one rename."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibration.errors import InputError, IntegrityError
from pipeline.files import FileHashes, files_below, sha256

RECORD = "artifact.json"
SCHEMA = 2


class OtherVersionError(IntegrityError):
    """An artifact's record was written by another version of edgewright."""


@dataclass(frozen=True)
class ArtifactRecord:
    """What is known of an artifact besides its files: kept beside them as artifact.json.

    files: relative name -> sha256. inputs: role -> `contents` of the artifact it was made from. A digest covers the
    digests of inputs, not what they hold: a stage that measures can come out otherwise when it is made again.
    """

    stage: str
    digest: str
    files: dict[str, str]
    inputs: dict[str, str]
    seconds: float
    peak_memory_bytes: int
    tools: dict[str, str]
    schema: int = SCHEMA

    @property
    def contents(self) -> str:
        """sha256 of the names and bytes of all files."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()


def _sealed(record: ArtifactRecord) -> dict[str, Any]:
    """The record as it is written, with its own sha256."""
    content = asdict(record)
    return content | {"sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


class Store:
    """A folder of artifacts, safe for several builds at once.

    Laws: an artifact is either there whole or not at all; what `open` returns has just been hashed and is what was
    published; a killed build leaves nothing that a later one could mistake for an artifact.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        for name in ("artifacts", "locks", "scratch", "temporary", "history"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.hashes = FileHashes(self.root / "hashes.sqlite")

    @classmethod
    def default(cls) -> "Store":
        """The store at $EDGEWRIGHT_STORE, else ~/.cache/edgewright."""
        named = os.environ.get("EDGEWRIGHT_STORE") or "~/.cache/edgewright"
        try:
            return cls(Path(named).expanduser())
        except RuntimeError as error:
            raise InputError(f"EDGEWRIGHT_STORE: {named} names no folder: {error}", "give it a path") from error

    def path(self, digest: str) -> Path:
        return self.root / "artifacts" / digest

    def record(self, digest: str) -> ArtifactRecord | None:
        """What is known of an artifact, without hashing its files; None where there is none."""
        try:
            content = json.loads((self.path(digest) / RECORD).read_text())
            if content["schema"] != SCHEMA:
                raise OtherVersionError(f"the cache entry {digest[:12]} was written by another version of edgewright")
            record = ArtifactRecord(**{key: content[key] for key in ArtifactRecord.__dataclass_fields__})
            sound = content == _sealed(record)
        except FileNotFoundError as error:
            if self.path(digest).exists():
                raise IntegrityError(f"the cache entry {digest[:12]} is damaged: {RECORD} is missing") from error
            return None
        except (ValueError, KeyError, TypeError, RecursionError, NotADirectoryError, IsADirectoryError) as error:
            raise IntegrityError(f"the cache entry {digest[:12]} is damaged: {RECORD} cannot be read") from error
        if not sound:
            raise IntegrityError(f"the cache entry {digest[:12]} is damaged: {RECORD} has changed")
        return record

    def open(self, digest: str) -> ArtifactRecord | None:
        """The record of an artifact whose every file has just been hashed; None where there is none.

        It counts as used now, for `prune`: by a build, and by a plan too, since what is planned is built next.
        Raises IntegrityError naming the file that is missing, surplus or changed.
        """
        record = self.record(digest)
        if record is None:
            return None
        folder = self.path(digest)
        present = {name for name in files_below(folder) if name != RECORD}
        for name in sorted(present ^ record.files.keys()):
            raise IntegrityError(
                f"the cache entry {digest[:12]} ({record.stage}) is damaged: {name} is missing or surplus"
            )
        for name, expected in record.files.items():
            if sha256(folder / name) != expected:
                raise IntegrityError(f"the cache entry {digest[:12]} ({record.stage}) is damaged: {name} has changed")
        os.utime(folder)
        return record

    def contents(self, digest: str) -> str:
        """What an artifact holds, as its record has it. Raises IntegrityError where there is none."""
        record = self.record(digest)
        if record is None:
            raise IntegrityError(f"the cache entry {digest[:12]} was removed while a build needed it", "build again")
        return record.contents

    @contextmanager
    def reading(self, artifacts: Mapping[str, tuple[str, str]], meanwhile: str) -> Generator[None]:
        """Raises IntegrityError at its end where an artifact that is read within is no longer what it was.

        artifacts: digest -> label and `contents`. meanwhile: who reads them. Another build may make one again, or prune
        it, at any time: what was made of it is then not to be kept, and what that made the reader raise says nothing.
        """
        try:
            yield
        finally:
            for digest, (label, contents) in artifacts.items():
                record = self.record(digest)
                if record is None or record.contents != contents:
                    raise IntegrityError(f"{label} was made again, or removed, while {meanwhile}", "build again")

    def publish(
        self,
        folder: Path,
        stage: str,
        digest: str,
        inputs: dict[str, str],
        seconds: float,
        peak: int,
        tools: dict[str, str],
    ) -> ArtifactRecord:
        """Makes a filled folder of `temporary` the artifact `digest`. The caller holds the digest's lock."""
        files = {name: sha256(folder / name) for name in sorted(files_below(folder))}
        record = ArtifactRecord(stage, digest, files, inputs, seconds, peak, tools)
        (folder / RECORD).write_text(json.dumps(_sealed(record), indent=1))
        folder.rename(self.path(digest))
        return record

    def discard(self, digest: str) -> None:
        """Removes an artifact, in one step as others see it."""
        doomed = Path(tempfile.mkdtemp(dir=self.root / "temporary"))
        self.path(digest).rename(doomed / "artifact")
        shutil.rmtree(doomed)

    @contextmanager
    def lock(self, digest: str) -> Generator[None]:
        """Held by the one build that works on a digest; the kernel frees it when that build dies."""
        with (self.root / "locks" / digest).open("w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            yield

    @contextmanager
    def temporary(self, digest: str) -> Generator[Path]:
        """An empty folder for the work on a digest; what an earlier, killed work left is cleared first."""
        folder = self.root / "temporary" / digest
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def scratch(self, digest: str, inputs: Mapping[str, str]) -> Generator[Path]:
        """A folder that stays when the work on a digest fails or is killed, and goes when it is done.

        inputs: as in the artifact's record. What was kept of work on others is cleared first: a training must not go on
        from a checkpoint of another model.
        """
        kept = self.root / "scratch" / digest
        folder = kept / hashlib.sha256(json.dumps(dict(inputs), sort_keys=True).encode()).hexdigest()
        if kept.exists() and not folder.exists():
            shutil.rmtree(kept)
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(kept)
        yield folder
        shutil.rmtree(kept)

    def ls(self) -> list[dict[str, object]]:
        """Every artifact: digest, stage, size_bytes, unused_days since a build or plan used it; the longest first."""
        rows: list[dict[str, object]] = []
        folders = [path for path in (self.root / "artifacts").iterdir() if path.is_dir()]
        for folder in sorted(folders, key=lambda p: p.stat().st_mtime):
            try:
                record = self.record(folder.name)
                stage = record.stage if record else "unknown"
            except OtherVersionError:
                stage = "other version"
            except IntegrityError:
                stage = "damaged"
            size = sum((folder / name).stat().st_size for name in files_below(folder))
            unused_days = (time.time() - folder.stat().st_mtime) / 86_400
            rows.append(
                {
                    "digest": folder.name,
                    "stage": stage,
                    "size_bytes": size,
                    "unused_days": round(unused_days, 2),
                }
            )
        return rows

    def prune(self, keep_days: float) -> list[str]:
        """Removes artifacts and checkpoints that nothing has used for `keep_days`; returns their digests.

        One that another build works on is left alone.
        """
        removed: list[str] = []
        limit = time.time() - keep_days * 86_400
        for kind in ("artifacts", "scratch"):
            for folder in (self.root / kind).iterdir():
                with (self.root / "locks" / folder.name).open("w") as f:
                    try:
                        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    # Asked under the lock: a build that had it may have used the artifact, or be done with the scratch.
                    if not folder.exists() or folder.stat().st_mtime > limit:
                        continue
                    if kind == "artifacts":
                        self.discard(folder.name)
                    else:
                        shutil.rmtree(folder)
                    removed.append(folder.name)
        return removed
