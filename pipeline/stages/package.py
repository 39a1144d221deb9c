"""The bundle: what ships, complete and checkable on its own. Only where no gate fails."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from calibration.errors import BudgetError

if TYPE_CHECKING:
    from pipeline.recipe import Budget, Device
    from pipeline.stage import Work
    from targets.target import CompiledModel

# What the device judges with float models beside the artifact: the teacher, and the artifact's own network.
NEEDS_TRIAL = {"latency_ratio", "faster_than_float"}
NEEDS_OWN_FLOAT = {"faster_than_float"}
# Agreement that the golden answers must reach on the device. Integer kernels of different instruction sets differ in
# the last step of a requantization (26 to 34 dB between x86-64 and aarch64); float ones in the order of their sums.
GOLDEN = {
    "int8": {"min_sqnr_db": 20.0, "min_argmax_agreement": 0.9},
    "fp16": {"min_sqnr_db": 30.0, "min_argmax_agreement": 0.95},
    "fp32": {"min_sqnr_db": 50.0, "min_argmax_agreement": 0.99},
}


@dataclass(frozen=True)
class Package:
    """Gathers payload/: model files, golden answers, tokenizer, device part, SBOM, and the manifest with every sha256.

    The payload holds no time, no latency and no random id: the same artifact gives the same bytes.
    """

    takes: ClassVar = ("compiled", "compiled_baseline", "compiled_float", "validation", "device", "budget", "identity")
    gives: ClassVar = "bundle"
    distributions: ClassVar = ("cyclonedx-python-lib",)
    revision: ClassVar = 2

    def __call__(
        self,
        work: "Work",
        *,
        compiled: Path,
        compiled_baseline: Path,
        compiled_float: Path | None,
        validation: Path,
        device: "Device",
        budget: "Budget",
        identity: dict[str, Any],
    ) -> None:
        from pipeline.files import files_below, sha256
        from pipeline.sbom import write_sbom
        from targets.device_pyz import build_device_pyz
        from targets.target import CompiledModel

        record = json.loads((validation / "validation.json").read_text())
        refuse_unproven(record)
        artifact = CompiledModel.load(compiled)
        payload = work.out / "payload"
        payload.mkdir()
        for name in (*artifact.files, *artifact.assets):
            copy_into(compiled / name, payload / name)
        shutil.copyfile(validation / "golden.npz", payload / "golden.npz")
        pending = [{"name": g["name"], "limit": g["limit"]} for g in record["gates"] if g["verdict"] == "deferred"]
        trial = own_float = None
        wanted = {gate["name"] for gate in pending} if artifact.status == "ready" else set[str]()
        if NEEDS_TRIAL & wanted:
            trial = write_trial(CompiledModel.load(compiled_baseline), payload, "trial")
        if NEEDS_OWN_FLOAT & wanted and compiled_float is not None:
            own_float = write_trial(CompiledModel.load(compiled_float), payload, "own_float")
        build_device_pyz(payload / "device.pyz")
        write_sbom(identity, artifact, payload / "sbom.cdx.json")
        manifest = {
            "schema": 1,
            **identity,
            "device": device.profile.name,
            "target": device.target,
            "runner": artifact.runner,
            "requires": artifact.requires | limits(budget, payload),
            "inputs": [asdict(t) for t in artifact.inputs],
            "outputs": [asdict(t) for t in artifact.outputs],
            "preprocessing": artifact.preprocessing,
            "driver": artifact.driver,
            "model": {"files": artifact.files, "precision": artifact.precision},
            "options": artifact.options,
            "status": artifact.status,
            "pending_gates": pending,
            "golden": record["golden"] | GOLDEN[artifact.precision],
            "trial": trial,
            "own_float": own_float,
            "build": artifact.build,
            "notes": artifact.notes,
            "files": {name: sha256(payload / name) for name in sorted(files_below(payload))},
        }
        (payload / "manifest.json").write_text(json.dumps(manifest, indent=1))


def refuse_unproven(record: dict[str, Any]) -> None:
    """Raises BudgetError naming each gate that fails or stays inconclusive, and the nearest limit that would hold."""
    unmet = [gate for gate in record["gates"] if gate["verdict"] in ("fail", "inconclusive")]
    if unmet:
        words = [
            f"{g['name']} {g['limit']:g}: measured {g['measured']:.3g}, 95% bound {g['bound']:.3g} ({g['verdict']})"
            for g in unmet
        ]
        nearest = "; ".join(g["nearest"] for g in unmet if g["nearest"])
        raise BudgetError("the budget is not met: " + "; ".join(words), f"nearest: {nearest}")


def write_trial(model: "CompiledModel", payload: Path, folder: str) -> dict[str, Any]:
    """Puts a float model beside the artifact, for the gates that compare the two on the device."""
    for name in model.files:
        copy_into(model.folder / name, payload / folder / name)
    return {"runner": model.runner, "files": [f"{folder}/{name}" for name in model.files], "options": model.options}


def limits(budget: "Budget", payload: Path) -> dict[str, Any]:
    """What the device must have free: the memory the budget allows, and the payload's size on disk."""
    size = sum(f.stat().st_size for f in payload.rglob("*") if f.is_file())
    return {"disk_mb": max(1, round(size / 1e6)), "memory_mb": budget.peak_memory_mb}


def copy_into(source: Path, destination: Path) -> None:
    """Copies a file, making the folders above it."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)
