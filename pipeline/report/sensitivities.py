"""What each layer gains and costs in int8: on the page, and in the table of `edgewright build --explain`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report import clipping, text
from pipeline.report.record import Report, Sensitivity
from pipeline.report.scale import Bar, around

WIDTH = 100


@dataclass(frozen=True)
class Row:
    """A region of the network. Intervals are in percent of their chart's width.

    gain: the bar from no difference to what its answers gain in float. speed, bounds, interval: None where not timed.
    """

    region: str
    gain: str
    gain_bar: Bar
    speed: str | None
    bounds: str
    interval: Bar | None
    ships_as: str


@dataclass(frozen=True)
class View:
    """The regions in the graph's order, and where "no difference" is on both charts.

    timed: whether any was; in_float, mixed: how many ship as float, altogether or in part.
    """

    rows: tuple[Row, ...]
    no_gain: float
    same_speed: float
    timed: bool
    in_float: int
    mixed: int


def view(found: Sequence[Sensitivity]) -> View | None:
    """What the page shows of the sensitivities; None where there are none."""
    if not found:
        return None
    gains = [s.noise_db for s in found]
    gain = around(0.0, gains, max(0.5, *(abs(value) for value in gains)))
    ratios = [s.ratio for s in found if s.ratio]
    farthest = max((abs(ratio.value - 1.0) for ratio in ratios), default=0.0)
    speed = around(1.0, [v for r in ratios for v in (r.low95, r.high95)], max(1.5 * farthest, 0.05))

    def row(s: Sensitivity) -> Row:
        ends = sorted((0.0, s.noise_db))
        return Row(
            region=s.region,
            gain=text.gain_db(s.noise_db),
            gain_bar=gain.bar(ends[0], s.noise_db, ends[1]),
            speed=f"{s.ratio.value:.3f}×" if s.ratio else None,
            bounds=f"{s.ratio.low95:.3f}–{s.ratio.high95:.3f}" if s.ratio else "",
            interval=speed.bar(s.ratio.low95, s.ratio.value, s.ratio.high95) if s.ratio else None,
            ships_as=s.ships_as,
        )

    return View(
        rows=tuple(row(s) for s in found),
        no_gain=gain.place(0.0),
        same_speed=speed.place(1.0),
        timed=bool(ratios),
        in_float=sum(s.ships_as == "float" for s in found),
        mixed=sum(s.ships_as == "mixed" for s in found),
    )


def print_sensitivities(reports: Iterable[Mapping[str, Any]]) -> None:
    """Prints a table for each device, or why there is none, and what the device's processor would clip."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    for record in reports:
        report = Report.from_json(record)
        if report.sensitivities:
            title = Text(f"{report.device}: one layer in float")
            table = Table("layer", "answers in float", "speed in float", "ships as", title=title)
            for found in report.sensitivities:
                table.add_row(Text(found.region), text.gain_db(found.noise_db), speed(found), found.ships_as)
            console.print(table)
        else:
            console.print(f"{report.device}: {_missing(report)}", markup=False)
        clipping.print_clipping(report, console)


def _missing(report: Report) -> str:
    """Why a report has no sensitivities."""
    if report.refusal is not None:
        return f"refused at {report.refusal.stage}: there is nothing to explain"
    if report.chosen is None:
        return "there is no quantize stage to explain"
    if report.artifact is not None and report.artifact.precision == "fp32":
        return "float ships, so that no layer of it is int8"
    return "no layer was looked into; raise quantize.seconds, if its routes have layers"


def speed(found: Sensitivity) -> str:
    """Time without over time with the layer in float, with its interval; a dash where nothing could be timed."""
    ratio = found.ratio
    return "–" if ratio is None else f"{ratio.value:.3f}x ({ratio.low95:.3f}–{ratio.high95:.3f})"
