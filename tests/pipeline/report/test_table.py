"""The table in the terminal and in a pipe."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.report import text
from pipeline.report.table import print_table

ROOT = Path(__file__).parents[3]
REPORTS = {f.stem: json.loads(f.read_text()) for f in sorted((ROOT / "tests/fixtures/reports").glob("*.json"))}


def printed(*reports: dict[str, Any]) -> str:
    out = io.StringIO()
    print_table(reports, [Path("dist") / r["recipe"] / r["device"] / "report.html" for r in reports], file=out)
    return out.getvalue()


def test_fits_100_columns_and_has_no_colours_in_a_pipe():
    wide = REPORTS["fashion-rtx-4060"] | {"device": "jetson-orin-nano", "status": "deferred_build"}
    shown = printed(*REPORTS.values(), wide)
    assert "\x1b" not in shown
    table = shown.split(" refused at ")[0]
    assert max(len(line) for line in table.splitlines()) <= 100


def test_shows_every_figure():
    shown = printed(REPORTS["fashion-host"])
    r = REPORTS["fashion-host"]
    for part in (
        *("host", "onnxruntime-cpu", "ready", "pass"),
        text.metric(r["accuracy"]["artifact"], "fraction"),
        f"{r['accuracy']['drop_points']['value']:.2f} (≤ {r['accuracy']['drop_points']['upper95']:.2f})",
        *("12.4×", "12.1–12.7", "98.4 kB", "5.42 MB", "dist/fashion/host/report.html"),
    ):
        assert part in shown


def test_pending_gates_are_named():
    shown = printed(REPORTS["fashion-rtx-4060"])
    for name in ("accuracy_drop", "worst_slice_drop", "faster_than_float", "latency_ratio"):
        assert name in shown
    assert "built" in shown


def test_a_refusal_is_told_in_full():
    shown = " ".join(printed(REPORTS["fashion-refused"]).split())
    refusal = REPORTS["fashion-refused"]["refusal"]
    assert refusal["reason"] in shown
    assert refusal["next_step"] in shown
    assert "refused" in shown


def test_a_model_that_stays_float_says_why_and_one_that_does_not_says_nothing():
    int8 = REPORTS["fashion-host"]
    chosen = int8["chosen"] | {"candidate": "float", "why": "no route to fewer bits [of 3] is faster"}
    shown = printed(int8 | {"chosen": chosen}, REPORTS["spam-host"], int8 | {"chosen": None})
    assert "host stays float: no route to fewer bits [of 3] is faster" in shown
    assert shown.count("stays float") == 1


def test_a_report_with_nothing_known():
    unknown = ("status", "choice", "executed_on", "baseline", "artifact", "ratios", "accuracy", "churn")
    bare = dict.fromkeys(unknown) | {"recipe": "r", "device": "[red]d", "target": "t", "verdict": "fail", "gates": []}
    refusal = {"stage": "plan", "reason": "there is no [bold]such[/bold] runtime", "next_step": ""}
    shown = printed(bare | {"refusal": refusal})
    assert "[red]d" in shown
    assert refusal["reason"] in shown


def test_importing_it_is_cheap():
    heavy = ("rich", "numpy", "jinja2", "torch")
    code = f"import pipeline.report.table, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.number(0.000412), "0.000412"),
        (text.number(12.43), "12.4"),
        (text.number(9.999), "10.0"),
        (text.number(999.6), "1000"),
        (text.number(10000.0), "10000"),
        (text.number(0.0), "0"),
        (text.size(98_412), "98.4 kB"),
        (text.size(999_900), "1.00 MB"),
        (text.size(512), "512 B"),
        (text.count(73_000_000), "73.0 M"),
        (text.seconds(0.42), "0.420 s"),
        (text.seconds(245), "4 min 05 s"),
        (text.seconds(59.99), "60.0 s"),
        (text.seconds(3720), "1 h 02 min"),
        (text.metric(0.9263, "fraction"), "92.63%"),
        (text.metric(92.63, "%"), "92.63%"),
        (text.metric(17.2, "perplexity"), "17.2 perplexity"),
        (text.points(-0.8), "−0.80"),
    ],
)
def test_figures_as_text(shown: str, expected: str):
    assert shown == expected
