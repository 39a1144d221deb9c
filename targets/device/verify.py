"""Is the payload what its manifest claims: these files, these bytes, nothing else?"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from typing import TYPE_CHECKING

from targets.device.errors import BundleError, CallError
from targets.device.manifest import FILE, Manifest, read_manifest

if TYPE_CHECKING:
    from pathlib import Path

CHUNK_BYTES = 1 << 20
SHOWN = 10


def find_payload(bundle: Path) -> Path:
    """The payload of a bundle, given as its folder or the folder that contains it as bundle/.

    Raises CallError where there is no such folder, BundleError where it holds no payload.
    """
    if not bundle.is_dir():
        kind = "not a folder" if bundle.exists() else "no such folder"
        raise CallError(f"{bundle}: {kind}", "give the folder that holds payload/, or the one above it")
    for folder in (bundle, bundle / "bundle"):
        payload = folder / "payload"
        if payload.is_symlink():
            raise BundleError(f"{payload}: a symbolic link", "do not use this bundle")
        if payload.is_dir():
            return payload
    raise BundleError(f"{bundle}: holds no payload/", "give the folder that holds payload/, or copy the bundle again")


def verify(payload: Path) -> tuple[Manifest, str]:
    """The manifest and the payload's digest, once every file is found to be what the manifest says.

    Refused with BundleError: a file that is missing, extra, unreadable or changed; a symbolic link, a hard link to a
    file outside, or anything that is not a plain file or folder.
    """
    manifest = read_manifest(payload)
    present = _plain_files(payload)
    problems = [f"{path}: missing" for path in sorted(manifest.files.keys() - present.keys())]
    problems += [f"{path}: not in the manifest" for path in sorted(present.keys() - manifest.files.keys() - {FILE})]
    digests: dict[str, str] = {}
    for path in sorted(present):
        digests[path] = _sha256(payload / path)
        if path in manifest.files and digests[path] != manifest.files[path]:
            problems.append(f"{path}: its bytes are not those of the manifest")
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise BundleError(
            f"{payload}: {'; '.join(problems[:SHOWN] + more)}", "copy the bundle again; do not use this one"
        )
    return manifest, payload_digest(digests)


def payload_digest(digests: dict[str, str]) -> str:
    """One sha256 for a payload: over the lines "<sha256>  <path>" of all its files, manifest.json among them, in order
    of the paths' bytes, as `sha256sum` prints them.
    """
    lines = sorted((path.encode("utf-8", "surrogateescape"), digest) for path, digest in digests.items())
    h = hashlib.sha256()
    for path, digest in lines:
        h.update(digest.encode() + b"  " + path + b"\n")
    return h.hexdigest()


def _plain_files(payload: Path) -> dict[str, os.stat_result]:
    """Relative path -> stat of every file under the payload. Raises BundleError where something is not a plain file."""
    found: dict[str, os.stat_result] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(payload / folder) as entries:
                for entry in entries:
                    path, status = f"{folder}{entry.name}", entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        folders.append(f"{path}/")
                    elif stat.S_ISREG(status.st_mode):
                        found[path] = status
                    else:
                        raise BundleError(
                            f"{payload}: {path!r} is a link or device, not a file", "do not use this bundle"
                        )
        except OSError as e:
            raise BundleError(f"{payload / folder}: cannot be read: {e.strerror}", "mend its permissions") from e
    inside = Counter((status.st_dev, status.st_ino) for status in found.values())
    for path, status in found.items():
        if status.st_nlink > inside[status.st_dev, status.st_ino]:
            raise BundleError(
                f"{payload}: {path!r} is hard-linked to a file outside the payload", "copy the bundle without its links"
            )
    return found


def _sha256(file: Path) -> str:
    h = hashlib.sha256()
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb") as f:
            for chunk in iter(lambda: f.read(CHUNK_BYTES), b""):
                h.update(chunk)
    except OSError as e:
        raise BundleError(
            f"{file}: cannot be read: {e.strerror}", "mend its permissions, or copy the bundle again"
        ) from e
    return h.hexdigest()
