"""What a processor without VNNI would clip: on the page, and in the tables of `edgewright build --explain`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.report import text
from pipeline.report.models import known
from pipeline.report.record import Clipping, ClippingLayer, Report

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Row:
    """A layer that some input can clip, its figures as they are shown."""

    node: str
    channels: str
    clipped: str
    changed: str
    sqnr: str


@dataclass(frozen=True)
class View:
    """words: what is clipped and its price; count: how many layers can clip; and a row for each of these."""

    words: str
    count: str
    rows: tuple[Row, ...]


def view(r: Report) -> View | None:
    """What is shown of the clipping; None where the device clips nothing, or it is not known what."""
    if r.clipping is None:
        return None
    layers = r.clipping.layers
    able = [layer for layer in layers if layer.channels > 0]
    words = f"The device's processor has no VNNI: {r.clipping.what}. {_price(r, r.clipping)}"
    return View(words.rstrip(), _count(len(able), len(layers)), tuple(_row(layer) for layer in able))


def _price(r: Report, found: Clipping) -> str:
    """Its answers without the guard and with it; empty where the former are not known."""
    figures = r.chosen.figures if r.chosen else {}
    without = _answers(r, found.unguarded.get("accuracy"), found.unguarded.get("drop_points"))
    guarded = _answers(r, known(figures, "accuracy"), known(figures, "drop_points"))
    if not without:
        return ""
    ships = "was built" if r.refusal else "ships"
    said = f"Made without regard to that, the route that {ships} would give {without}, on validation samples"
    return f"{said}; as it {ships}, it gives {guarded}." if guarded else f"{said}."


def _answers(r: Report, score: float | None, drop: float | None) -> str:
    """Such as "accuracy 71.20%, 12.40 points below float"; empty where neither is known."""
    metric, unit = (r.accuracy.metric, r.accuracy.unit) if r.accuracy else ("accuracy", "")
    parts = [] if score is None else [f"{metric} {text.metric(score, unit)}"]
    if drop is not None:
        parts.append(f"{abs(drop):.2f} points {'below' if drop >= 0 else 'above'} float")
    return ", ".join(parts)


def _count(able: int, layers: int) -> str:
    if not able:
        return f"Even without the guard, none of its {layers} layers could clip."
    said = f"Without the guard, {able} of its {layers} layers could clip"
    return f"{said}, {layers - able} cannot, whatever the input." if able < layers else f"{said}."


def _row(layer: ClippingLayer) -> Row:
    return Row(
        node=layer.node,
        channels=text.share(layer.channels),
        clipped=text.share(layer.clipped),
        changed=text.share(layer.changed),
        sqnr="–" if layer.sqnr_db is None else text.decibels(layer.sqnr_db),
    )


def print_clipping(report: Report, console: "Console") -> None:
    """Prints the words and the table; nothing where there is no clipping."""
    from rich.table import Table
    from rich.text import Text

    found = view(report)
    if found is None:
        return
    console.print(Text(f"{report.device}: {found.words} {found.count}"))
    if found.rows:
        table = Table("layer", title=Text(f"{report.device}: what would be clipped, unguarded"))
        for heading in ("channels", "sums clipped", "outputs changed", "SQNR"):
            table.add_column(heading, justify="right")
        for row in found.rows:
            table.add_row(Text(row.node), row.channels, row.clipped, row.changed, row.sqnr)
        console.print(table)
