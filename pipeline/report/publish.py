"""Puts what a build made of one device where a person finds it: report.json, report.html and, if it may, bundle/."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.recipe import Device, Recipe
    from pipeline.run import Refused, StageRun
    from pipeline.store import Store

# Keys of validation.json that are not part of a report.
PRIVATE = ("golden", "baseline_macs")


def publish(
    recipe: "Recipe",
    device: "Device",
    runs: "Sequence[StageRun]",
    refused: "Sequence[tuple[str, Refused]]",
    store: "Store",
    folder: Path,
) -> dict[str, Any]:
    """Writes dist/RECIPE/DEVICE and returns the report. What stands there already and is the same is left as it is.

    A bundle of an earlier build goes when this one was refused: nothing unproven stays where a proven one is expected.
    Raises IntegrityError, and leaves what stands, where an artifact of the build is lost or another by now.
    """
    from pipeline.report.html import write_report

    bundle = next((store.path(run.node.digest) for run in runs if run.node.stage.gives == "bundle"), None)
    used = {run.node.digest: (run.node.label, run.record.contents) for run in runs}
    made = folder / ".bundle"
    shutil.rmtree(made, ignore_errors=True)
    with store.reading(used, f"{device.profile.name}'s report was made from it"):
        report = assemble(recipe, device, runs, refused[0] if refused else None, store)
        standing = read_standing(folder, report, bundle, store)
        if standing is not None:
            return standing
        folder.mkdir(parents=True, exist_ok=True)
        if bundle is not None:
            shutil.copytree(bundle / "payload", made / "payload")
    write_report(report, folder)
    shutil.rmtree(folder / "bundle", ignore_errors=True)
    if bundle is not None:
        (made / "evidence").mkdir()
        shutil.copyfile(folder / "report.json", made / "evidence" / "report.json")
        made.rename(folder / "bundle")
    return report


def read_standing(
    folder: Path, report: "Mapping[str, Any]", bundle: Path | None, store: "Store"
) -> dict[str, Any] | None:
    """The report that stands in the folder, if it and what is beside it are what this build would write.

    report: this build's. Which stages it found in the store, and why the others ran, may differ.
    """
    try:
        written = (folder / "report.json").read_text()
        standing = json.loads(written)
        same = _settled(standing) == _settled(report) and (folder / "report.html").exists()
        beside = folder / "bundle"
        same = same and beside.exists() == (bundle is not None)
        if same and bundle is not None:
            same = (beside / "evidence" / "report.json").read_text() == written
            same = same and store.hashes.tree(beside / "payload") == store.hashes.tree(bundle / "payload")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return standing if same else None


def _settled(report: "Mapping[str, Any]") -> str:
    """A report's text but for what two builds of the same artifacts may say otherwise; of that, whether it is sound."""
    kinds = {"cached": bool, "reason": str}
    stages = [stage | {key: isinstance(stage[key], kind) for key, kind in kinds.items()} for stage in report["stages"]]
    return json.dumps({**report, "stages": stages})


def assemble(
    recipe: "Recipe",
    device: "Device",
    runs: "Sequence[StageRun]",
    refusal: "tuple[str, Refused] | None",
    store: "Store",
) -> dict[str, Any]:
    """report.json of one device, from the artifacts of its stages."""
    from pipeline.report.record import Refusal, Rejected, Report, StageRecord

    measured: dict[str, Any] = {"verdict": "fail"}
    choice: dict[str, Any] = {"choice": None, "candidates": []}
    notes: list[str] = []
    for run in runs:
        artifact = store.path(run.node.digest)
        if "validation.json" in run.record.files:
            measured = json.loads((artifact / "validation.json").read_text())
        if "choice.json" in run.record.files:
            choice = json.loads((artifact / "choice.json").read_text())
        if "audit.json" in run.record.files:
            audit = json.loads((artifact / "audit.json").read_text("utf-8"))
            notes += [f"calibration: {note}" for note in audit["notes"]]
    known = {key: value for key, value in measured.items() if key not in PRIVATE}
    stages = tuple(
        StageRecord(
            r.node.label,
            r.node.digest,
            r.cached,
            r.reason,
            r.record.seconds,
            r.record.peak_memory_bytes,
            r.record.contents,
        )
        for r in runs
    )
    tried = [
        (c["chosen"], Rejected(c["name"], c["why"], {"precision": c["precision"], **c["figures"]}))
        for c in choice["candidates"]
    ]
    rejected = tuple(candidate for is_chosen, candidate in tried if not is_chosen)
    chosen = next((candidate for is_chosen, candidate in tried if is_chosen), None)
    tools = {name: version for run in runs for name, version in run.node.tools.items()}
    report = Report.from_json(
        {
            **known,
            "recipe": recipe.name,
            "device": device.profile.name,
            "target": device.target,
            "choice": choice["choice"],
            "sensitivities": choice.get("sensitivities", []),
            "clipping": choice.get("clipping"),
            "notes": [*notes, *(f"accuracy: {note}" for note in measured.get("notes", []))],
            "tools": dict(sorted(tools.items())),
        }
    )
    if refusal is not None:
        label, error = refusal
        report = replace(report, refusal=Refusal(label, error.message, error.next_step))
    return replace(report, stages=stages, rejected=rejected, chosen=chosen).to_json()
