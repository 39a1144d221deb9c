"""What `edgewright diff` found: as JSON, as a table in the terminal, as a page."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.divergence import Difference, Kind, Layer
from pipeline.report.html import environment, write
from pipeline.report.plot import Box
from pipeline.report.text import number

if TYPE_CHECKING:
    from typing import IO

    from pipeline.diff import Artifact, Comparison

SCHEMA = 1
WIDTH = 110
# What is drawn at the upper edge: an exact result has no noise.
HIGHEST_DB, LOWEST_DB = 80.0, -20.0
NEXT_STEPS: Mapping[Kind, str] = {
    "scale": "take the scale from the calibrated range, and give the quantizer and its readers the same one",
    "zero point": "take the zero point from the calibrated range, and give the quantizer and its readers the same one",
    "layout": "see in which order the converter writes this tensor's axes and channels",
    "fusion": "compare what the converter or runtime fused here with the float graph",
    "saturation": "widen the range; where a kernel's sums overflow, build for a profile of that processor",
    "weights": "compare with the float model that B was made from; trained further, its weights are others",
    "values": "run B in another version of its runtime, or with its optimizations off",
}


def record(found: "Comparison") -> dict[str, Any]:
    """The comparison as JSON values, schema 1."""
    culprit = found.culprit
    return {
        "schema": SCHEMA,
        "a": _side(found.a),
        "b": _side(found.b),
        "samples": found.samples,
        "differs": found.differs,
        "first": None if culprit is None else asdict(culprit) | {"next_step": NEXT_STEPS[culprit.kind]},
        "answers": _figures(found.answers),
        "not_judged": list(found.unknown),
        "layers": [
            {
                "tensor": layer.tensor,
                "op": layer.op,
                "op_type": layer.op_type,
                "quantized": layer.quantized,
                "total": _figures(layer.total),
                "own": _figures(layer.own),
                "expected_db": None if layer.expected_db is None else round(layer.expected_db, 2),
                "findings": [asdict(finding) for finding in layer.findings],
            }
            for layer in found.layers
        ],
        "notes": list(found.notes),
    }


def _side(artifact: "Artifact") -> dict[str, str]:
    return {"artifact": str(artifact.given), "runner": artifact.runner, "on": artifact.on}


def _figures(found: Difference | None) -> dict[str, float | None] | None:
    """Infinity, which JSON has not, as null."""
    if found is None:
        return None
    return {name: value if math.isfinite(value) else None for name, value in asdict(found).items()}


def headline(found: "Comparison") -> str:
    """The answer in one line."""
    culprit, unknown = found.culprit, len(found.unknown)
    if found.unexplained:
        return f"the answers differ by more than int8 explains; {_not_found(unknown)}, which may be the reason"
    if culprit is None:
        left = f"; {_not_found(unknown)}" if unknown else ""
        return f"nothing that is judged differs by more than expected{left}"
    return f"first to differ by more than expected: {culprit.op} ({culprit.kind})"


def _not_found(operators: int) -> str:
    return f"{operators} operator{'s' if operators > 1 else ''} of B could not be found in A"


def print_divergence(found: "Comparison", file: "IO[str] | None" = None) -> None:
    """The verdict, a row for each tensor that was seen in both, and what limits what is said."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file, highlight=False, soft_wrap=False)
    if not console.is_terminal or console.width > WIDTH:
        console.width = WIDTH
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("tensor", overflow="fold")
    table.add_column("operator", overflow="fold")
    table.add_column("in B", overflow="fold")
    for heading in ("B against A\nSQNR, dB", "own\nSQNR, dB", "expected\ndB", "largest\nerror"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    first = next((layer for layer in found.layers if layer.findings), None)
    for layer in found.layers:
        marked = ", ".join(dict.fromkeys(finding.kind for finding in layer.findings))
        table.add_row(
            Text(layer.tensor),
            Text(f"{layer.op} {layer.op_type}"),
            layer.quantized or "float",
            _db(layer.total.sqnr_db if layer.total else None),
            _db(layer.own.sqnr_db if layer.own else None),
            _db(layer.expected_db),
            number(layer.total.max_error) if layer.total else "–",
            Text(marked, style="bold red" if layer is first else "red"),
        )
    console.print(table)
    console.print(Text(headline(found), style="red" if found.differs else "green"))
    if found.culprit is not None:
        console.print(Text(f"  tensor {found.culprit.tensor}: {found.culprit.why}"))
        console.print(Text(f"  next: {NEXT_STEPS[found.culprit.kind]}"))
    console.print(Text(f"outputs of B against A: {_db(found.answers.sqnr_db)} dB over {found.samples} samples"))
    for note in found.notes:
        console.print(Text(f"note: {note}"))


def _db(value: float | None) -> str:
    if value is None:
        return "–"
    return "exact" if value >= 300 else "none" if value <= -300 else f"{value:.1f}"


@dataclass(frozen=True)
class DivergencePlot:
    """SQNR over the tensors, in pixels. Lines are (x, y) of each tensor that has the figure; own: with its layer's
    number, what is said of it and whether it is at fault.
    """

    width: float
    height: float
    frame: Box
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    total: tuple[tuple[float, float], ...]
    expected: tuple[tuple[float, float], ...]
    own: tuple[tuple[float, float, str, bool], ...]


def layout(layers: tuple[Layer, ...], width: float, height: float) -> DivergencePlot:
    """Places the figures of each layer, in topological order from left to right, on a plot of this size."""
    frame = Box(46, 14, width - 14, height - 46)
    figures = [v for s in layers for v in (s.total and s.total.sqnr_db, s.own and s.own.sqnr_db) if v is not None]
    inside = [min(max(v, LOWEST_DB), HIGHEST_DB) for v in figures] or [0.0, HIGHEST_DB]
    low, high = 10 * math.floor(min(inside) / 10 - 0.2), 10 * math.ceil(max(inside) / 10 + 0.2)

    def at(index: int) -> float:
        return frame.left + (index + 0.5) / max(len(layers), 1) * (frame.right - frame.left)

    def scale(value: float) -> float:
        value = min(max(value, low), high)
        return frame.bottom - (value - low) / (high - low) * (frame.bottom - frame.top)

    every = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if len(layers) / s <= (frame.right - 40) / 40)
    own = [
        (at(i), scale(s.own.sqnr_db), f"{i + 1} {s.tensor}: {_db(s.own.sqnr_db)} dB", bool(s.findings))
        for i, s in enumerate(layers)
        if s.own is not None
    ]
    return DivergencePlot(
        width=width,
        height=height,
        frame=frame,
        x_ticks=tuple((at(i), str(i + 1)) for i in range(0, len(layers), every)),
        y_ticks=tuple((scale(v), str(v)) for v in range(low, high + 1, 10 if high - low <= 60 else 20)),
        total=tuple((at(i), scale(s.total.sqnr_db)) for i, s in enumerate(layers) if s.total is not None),
        expected=tuple((at(i), scale(s.expected_db)) for i, s in enumerate(layers) if s.expected_db is not None),
        own=tuple(own),
    )


def render(found: "Comparison") -> str:
    """The text of the page: one file, opened offline, without scripts."""
    return (
        environment()
        .get_template("divergence.html.j2")
        .render(
            found=found,
            a=found.a.given.name or str(found.a.given),
            b=found.b.given.name or str(found.b.given),
            headline=headline(found),
            next_step=NEXT_STEPS[found.culprit.kind] if found.culprit else "",
            plots=(layout(found.layers, 864, 400), layout(found.layers, 348, 330)) if found.layers else (),
            db=_db,
        )
    )


def write_page(found: "Comparison", path: Path) -> None:
    """Writes the page, whole or not at all."""
    write(path, render(found))
