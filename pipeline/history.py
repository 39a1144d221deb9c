"""What each stage of a recipe was last built from: so that a plan can say what changed."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.recipe import Recipe


class History:
    """Device and stage -> the key of its last build, for one recipe, wherever it lies.

    Only for explanations: no decision rests on it.
    """

    def __init__(self, store_root: Path, recipe: Recipe) -> None:
        name = hashlib.sha256(f"{recipe.path.name}/{recipe.name}".encode()).hexdigest()[:32]
        self._file = store_root / "history" / f"{name}.json"
        try:
            self._keys: dict[str, dict[str, str]] = json.loads(self._file.read_text())
        except (FileNotFoundError, ValueError):
            self._keys = {}

    def difference(self, device: str, label: str, key: Mapping[str, str]) -> str:
        """Why a stage with this key is not cached, in the user's words."""
        last = self._keys.get(f"{device}/{label}")
        if last is None:
            return "never built"
        changed = sorted(name for name in last.keys() | key.keys() if last.get(name) != key.get(name))
        if not changed:
            return "its artifact is gone from the store"
        return "; ".join(_describe(name, last.get(name), key.get(name)) for name in changed[:3]) + (
            f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
        )

    def remember(self, device: str, label: str, key: Mapping[str, str]) -> None:
        """Notes that a device's stage now stands on this key."""
        self._keys[f"{device}/{label}"] = dict(key)

    def save(self) -> None:
        """Writes what has been remembered, whole or not at all."""
        temporary = self._file.with_suffix(f".{os.getpid()}")
        try:
            temporary.write_text(json.dumps(self._keys))
            temporary.rename(self._file)
        finally:
            temporary.unlink(missing_ok=True)


def _describe(name: str, before: str | None, now: str | None) -> str:
    if name.startswith("input."):
        return f"{name.removeprefix('input.')} will be rebuilt"
    if ".file." in name:
        return f"the contents of {name.partition('.file.')[2]} changed"
    if name == "revision":
        return f"edgewright's own code of this stage changed: revision {before or 'not set'} -> {now or 'not set'}"
    kind, _, what = name.partition(".")
    words = {"config": "", "tool": "version of "}.get(kind, f"{kind} ")
    return f"{words}{what} changed: {before or 'not set'} -> {now or 'not set'}"
