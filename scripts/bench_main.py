"""The main job's figures: the recipes' bundles for this machine, what a build costs, and what a user has to write."""

import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark import KEPT, ROOT, Cell, Figure, Row, cpu_seconds, main, run
from release_check import PACKAGES, build_wheel, top_level

EDGEWRIGHT = str(ROOT / ".venv/bin/edgewright")
DIST = ROOT / "dist"


def recipe(name: str) -> str:
    return f"recipes/{name}.yaml"


def is_built(name: str) -> bool:
    """Whether every stage of a recipe is in the store, so that a build takes seconds."""
    command = [EDGEWRIGHT, "plan", recipe(name), "--json"]
    planned = json.loads(subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True).stdout)
    # An object is an error, such as data that was not fetched; a device that is refused has the one row "plan".
    return isinstance(planned, list) and all(row["cached"] or row["stage"] == "plan" for row in planned)


def reports(name: str) -> list[dict[str, Any]]:
    """Builds a recipe for its devices, what is in the store from there, and reads the reports."""
    if name == "spam":
        run(["scripts/fetch-data", "spam"])
        if not (ROOT / "recipes/spam/teacher").exists():
            run(["scripts/train-teacher", "spam"])
    run([EDGEWRIGHT, "build", recipe(name), "--out", str(DIST)])
    return [json.loads(path.read_text()) for path in sorted((DIST / name).glob("*/report.json"))]


def host_figures(name: str, ratio: Figure, drop: Figure, slower: Figure, teacher: Figure | None) -> list[Row]:
    """Latency ratio and accuracy drop of the recipe's host bundle, and the bundles of any device slower than fp32."""
    how = "stored" if is_built(name) else "measured"
    found = reports(name)
    host = next(report for report in found if report["device"] == "host")
    p50 = (host.get("ratios") or {}).get("latency_p50") or {}
    accuracy = host.get("accuracy") or {}
    points = accuracy.get("drop_points") or {}
    shipped = [report for report in found if (DIST / name / report["device"] / "bundle").exists()]
    ratios = [(report.get("ratios") or {}).get("latency_p50") or {} for report in shipped]
    rows = [
        ratio.row(p50.get("value"), p50.get("low95"), p50.get("high95"), how),
        drop.row(points.get("value"), None, points.get("upper95"), how),
        slower.row(sum(r.get("value", 1) < 1 for r in ratios), how=how),
    ]
    return [*rows, teacher.row(accuracy.get("teacher"), how=how)] if teacher else rows


def recipe_cell(name: str, ratio: float, teacher: float | None) -> Cell:
    figures = (
        Figure(f"{name}, host bundle: p50 against the fp32 teacher", at_least=True, limit=ratio, unit="x"),
        Figure(f"{name}, host bundle: accuracy drop", at_least=False, limit=1.0, unit=" points"),
        Figure(f"{name}: bundles slower than fp32", at_least=False, limit=0),
    )
    accuracy = None if teacher is None else Figure(f"{name}: teacher accuracy", at_least=True, limit=teacher)
    return Cell(
        name,
        (*figures, accuracy) if accuracy else figures,
        lambda: host_figures(name, *figures, accuracy),
        lambda: is_built(name),
    )


AGAIN = (
    Figure("demo again, nothing changed", at_least=False, limit=2.0, unit=" CPU s"),
    Figure("demo again: imports of torch", at_least=False, limit=0),
)


def demo_again() -> list[Row]:
    """scripts/demo once to be sure that nothing is left to do, then timed, then with its imports listed."""
    run(["scripts/demo"])
    seconds = sorted(cpu_seconds(["scripts/demo"]) for _ in range(3))
    listed = run(["scripts/demo"], PYTHONPROFILEIMPORTTIME="1").stderr
    imports = re.findall(r"^import time:.*\|\s+torch$", listed, re.MULTILINE)
    if "pipeline.cli" not in listed:
        sys.exit("demo again: no import was listed, so nothing can be said of torch")
    return [AGAIN[0].row(statistics.median(seconds), seconds[0], seconds[-1]), AGAIN[1].row(len(imports))]


HELP = Figure("edgewright --help", at_least=False, limit=0.6, unit=" CPU s")


def help_seconds() -> list[Row]:
    seconds = sorted(cpu_seconds([EDGEWRIGHT, "--help"]) for _ in range(7))
    return [HELP.row(statistics.median(seconds), seconds[0], seconds[-1])]


FIVE = (
    Figure("five devices against one, CPU time of a build", at_least=False, limit=1.6, unit="x"),
    Figure("demo from nothing, after the installation", at_least=False, limit=480, unit=" s"),
)


def five_against_one() -> list[Row]:
    """Two builds of the demo, each into a store of its own with nothing in it."""
    seconds: dict[str, float] = {}
    wall: dict[str, float] = {}
    for name, devices in (("five", ()), ("one", ("--device", "host"))):
        folder = KEPT / f"store-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        command = [EDGEWRIGHT, "build", recipe("fashion"), "--out", str(folder / "dist"), *devices]
        start = time.monotonic()
        seconds[name] = cpu_seconds(command, EDGEWRIGHT_STORE=str(folder / "store"))
        wall[name] = time.monotonic() - start
        shutil.rmtree(folder)
    return [FIVE[0].row(seconds["five"] / seconds["one"]), FIVE[1].row(wall["five"])]


MACS = Figure("the student's multiply-accumulates over the teacher's", at_least=False, limit=0.25)


def student_macs() -> list[Row]:
    """Of the demo's student as the recipe has it, before anything is pruned from it."""
    import torch

    from pipeline.model import count_macs

    sys.path.append(str(ROOT / "recipes"))
    import fashion

    inputs = {"pixel_values": torch.zeros(1, 1, 28, 28)}
    return [MACS.row(count_macs(fashion.student(), inputs) / count_macs(fashion.teacher(), inputs))]


WHEEL = Figure("names at the wheel's top level that are not the packages", at_least=False, limit=0)


def wheel_names() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return [WHEEL.row(len(top_level(build_wheel(Path(folder))) ^ PACKAGES))]


LINES = Figure("lines of YAML of the longest recipe", at_least=False, limit=15)


def recipe_lines() -> list[Row]:
    """Lines of the recipes here that are neither blank nor comments: a user's own needs no more."""
    texts = [path.read_text() for path in (ROOT / "recipes").glob("*.yaml")]
    counts = [sum(bool(re.match(r"\s*[^\s#]", line)) for line in text.splitlines()) for text in texts]
    return [LINES.row(max(counts, default=None))]


def always() -> bool:
    return True


def quick_cell(figure: Figure, measure: Callable[[], Sequence[Row]]) -> Cell:
    return Cell(measure.__name__, (figure,), measure, always)


CELLS = (
    recipe_cell("fashion", ratio=8, teacher=None),
    recipe_cell("spam", ratio=10, teacher=0.975),
    Cell("demo_again", AGAIN, demo_again, lambda: is_built("fashion")),
    quick_cell(HELP, help_seconds),
    Cell("five_against_one", FIVE, five_against_one),
    quick_cell(MACS, student_macs),
    quick_cell(WHEEL, wheel_names),
    quick_cell(LINES, recipe_lines),
)

if __name__ == "__main__":
    main("main", CELLS)
