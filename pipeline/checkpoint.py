"""Where a training stands, so that a killed one goes on: whole, or not there at all."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

NAME = "epoch.pt"
HASH_BYTES = hashlib.sha256().digest_size


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Keeps a state of tensors, numbers, texts, lists and dicts, behind its sha256.

    Written aside, synced and renamed: after a kill or a power cut there is the old one or the new one.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    new = folder / f"{NAME}.new"
    with new.open("wb") as f:
        f.write(hashlib.sha256(content).digest() + content)
        f.flush()
        os.fsync(f.fileno())
    new.replace(folder / NAME)


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state that was kept last; None where there is none, or where its bytes are not those that were written."""
    import torch

    try:
        found = (folder / NAME).read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(found[HASH_BYTES:]).digest() != found[:HASH_BYTES]:
        return None
    return torch.load(io.BytesIO(found[HASH_BYTES:]), weights_only=True)
