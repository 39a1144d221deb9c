"""What a bundle says of itself, once its files are found to be what its manifest says."""

import json
from pathlib import Path
from typing import Any

from calibration.errors import IntegrityError
from targets.device.verify import find_payload, verify


def inspect_bundle(bundle: Path) -> dict[str, Any]:
    """The manifest's contents, the payload's digest and size, and the verdict of the build. Runs nothing of the bundle.

    Raises DeviceError as targets/device/verify.py does, IntegrityError where the evidence cannot be read.
    """
    payload = find_payload(bundle)
    _, digest = verify(payload)
    manifest = json.loads((payload / "manifest.json").read_text(encoding="utf-8"))
    size_bytes = sum(file.stat().st_size for file in payload.rglob("*") if file.is_file())
    found = {"payload": str(payload), "digest": digest, "size_bytes": size_bytes} | manifest
    evidence = payload.parent / "evidence" / "report.json"
    if evidence.exists():
        try:
            report = json.loads(evidence.read_text(encoding="utf-8"))
            found["built"] = {key: report[key] for key in ("verdict", "choice", "gates")}
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{evidence}: is not a report: {error}", "copy the bundle again") from error
    return found
