"""Content digests of files and folders, remembered while a file's identity stays the same."""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from calibration.errors import EdgewrightError

# A file changed within this time of being hashed could change again without its mtime showing it.
SETTLED_NS = 2_000_000_000


def sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, read now."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class FileHashes:
    """sha256 of files that belong to the user, remembered in an SQLite file by path, inode, size and mtime.

    Hashing a data set takes seconds and is needed on every run; asking its mtimes does not. A damaged file is begun
    anew. Raises EdgewrightError where it cannot be read or written.
    """

    def __init__(self, database: Path) -> None:
        database.parent.mkdir(parents=True, exist_ok=True)
        self._file = database
        self._connect()

    def _connect(self) -> None:
        try:
            self._db = sqlite3.connect(self._file, timeout=30, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise _unusable(self._file, error) from error
        self._execute(
            "create table if not exists hashes "
            "(path text primary key, inode integer, size integer, mtime_ns integer, sha256 text)"
        )

    def _execute(self, statement: str, *values: str | int) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise _unusable(self._file, error) from error
        self._db.close()
        self._file.unlink(missing_ok=True)
        self._connect()
        return self._db.execute(statement, values)

    def file(self, path: Path) -> str:
        """Hex sha256 of one file."""
        path = path.resolve()
        stat = path.stat()
        identity = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        row = self._execute("select inode, size, mtime_ns, sha256 from hashes where path = ?", str(path)).fetchone()
        if row is not None and row[:3] == identity:
            return str(row[3])
        digest = sha256(path)
        if time.time_ns() - stat.st_mtime_ns > SETTLED_NS:
            self._execute("insert or replace into hashes values (?, ?, ?, ?, ?)", str(path), *identity, digest)
        return digest

    def tree(self, path: Path) -> str:
        """Digest of a file, or of every file below a folder with its relative name. Hidden files do not count."""
        if path.is_file():
            return self.file(path)
        h = hashlib.sha256()
        for name in sorted(files_below(path)):
            h.update(f"{name}\0{self.file(path / name)}\n".encode())
        return h.hexdigest()


def _unusable(file: Path, error: sqlite3.Error) -> EdgewrightError:
    return EdgewrightError(f"{file}: {error}", "mend its permissions or the disk, or set EDGEWRIGHT_STORE")


def files_below(folder: Path) -> Iterable[str]:
    """Relative names of the files below a folder, in no order, hidden ones left out. A linked folder counts once."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(parent))
        visible = [f for f in folders if not f.startswith(".")]
        folders[:] = [f for f in visible if os.path.realpath(f"{parent}/{f}") not in seen]
        for name in names:
            if not name.startswith("."):
                yield os.path.relpath(f"{parent}/{name}", folder)
