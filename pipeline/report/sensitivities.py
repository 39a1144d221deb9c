"""The table of `edgewright build --explain`: what each layer gains and costs in int8."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.report.record import Report, Sensitivity


def print_sensitivities(reports: Iterable[Mapping[str, Any]]) -> None:
    """Prints a table for each device, or why there is none."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for record in reports:
        report = Report.from_json(record)
        if not report.sensitivities:
            console.print(
                f"{report.device}: no layer was looked into; raise quantize.seconds, if its routes have layers"
            )
            continue
        table = Table(
            "layer", "answers in float", "speed in float", "ships as", title=f"{report.device}: one layer in float"
        )
        for found in report.sensitivities:
            table.add_row(
                found.region, f"{found.noise_db:+.1f} dB", speed(found), "float" if found.in_float else "int8"
            )
        console.print(table)


def speed(found: Sensitivity) -> str:
    """Time without over time with the layer in float, with its interval; a dash where nothing could be timed."""
    ratio = found.ratio
    return "–" if ratio is None else f"{ratio.value:.3f}x ({ratio.low95:.3f}–{ratio.high95:.3f})"
