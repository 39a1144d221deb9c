"""What a build made of each device, as a table in the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.report import text

if TYPE_CHECKING:
    from typing import IO

    from rich.text import Text

WIDTH = 100
# What the quantize stage calls the model as it came.
FLOAT = "float"
STYLES = {"pass": "green", "fail": "red", "refused": "red", "inconclusive": "yellow"}


def print_table(
    reports: Sequence[Mapping[str, Any]], html_paths: Sequence[Path], file: "IO[str] | None" = None
) -> None:
    """Prints one row a device, then why any was refused or stayed float, what to know of the samples, and where the
    reports are.

    reports: as in report.json; html_paths: of the report.html of each. Never wider than 100 columns; into a pipe it is
    100 wide, without colours.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=file, highlight=False, soft_wrap=False)
    if not console.is_terminal or console.width > WIDTH:
        console.width = WIDTH
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), leading=1)
    table.add_column("device\ntarget", no_wrap=True)
    table.add_column("verdict\nstatus", no_wrap=True)
    for heading in ("accuracy\ndrop (95%)", "p50 ratio\n(95%)", "size\nratio", "peak\nmemory"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("pending gates")
    for report in reports:
        table.add_row(*_row(report))
    console.print(table)
    for report in reports:
        if report.get("refusal"):
            console.print(_refusal(report))
        elif (report.get("chosen") or {}).get("candidate") == FLOAT:
            why = report["chosen"]["why"]
            console.print(f"{report['device']} stays float: {why}", soft_wrap=True, markup=False)
    for note in dict.fromkeys(note for report in reports for note in report.get("notes", ())):
        console.print(f"note on {note}", soft_wrap=True, markup=False)
    for report, path in zip(reports, html_paths, strict=True):
        console.print(f"{report['device']}: {path}", soft_wrap=True, markup=False)


def _row(r: Mapping[str, Any]) -> "list[Text]":
    from rich.text import Text

    verdict = "refused" if r.get("refusal") else str(r["verdict"])
    status = "" if r.get("refusal") else str(r["status"])
    pending = [gate["name"] for gate in r["gates"] if gate["verdict"] == "deferred"]
    return [
        Text.assemble((r["device"], "bold"), "\n", (r["target"], "dim")),
        Text.assemble((verdict, STYLES.get(verdict, "")), "\n", (status, "dim")),
        Text(_accuracy(r["accuracy"])),
        Text(_latency(r)),
        Text(_size(r)),
        Text(_memory(r)),
        Text(", ".join(pending) or "–"),
    ]


def _accuracy(accuracy: Mapping[str, Any] | None) -> str:
    if accuracy is None:
        return "–"
    drop = accuracy["drop_points"]
    value = text.metric(accuracy["artifact"], accuracy["unit"])
    return f"{value}\n{drop['value']:.2f} (≤ {drop['upper95']:.2f})".replace("-", "−")


def _latency(r: Mapping[str, Any]) -> str:
    ratio = (r["ratios"] or {}).get("latency_p50")
    if ratio is None:
        return "–"
    return f"{text.ratio(ratio['value'])}\n{text.number(ratio['low95'])}–{text.number(ratio['high95'])}"


def _size(r: Mapping[str, Any]) -> str:
    if r["artifact"] is None:
        return "–"
    ratio = (r["ratios"] or {}).get("size")
    return f"{text.size(r['artifact']['size_bytes'])}\n{text.ratio(ratio) if ratio else ''}"


def _memory(r: Mapping[str, Any]) -> str:
    memory = (r["artifact"] or {}).get("peak_memory_bytes")
    return text.size(memory) if memory else "–"


def _refusal(r: Mapping[str, Any]) -> "Text":
    from rich.text import Text

    refusal = r["refusal"]
    next_step = f"\n  {refusal['next_step']}" if refusal["next_step"] else ""
    return Text.assemble((r["device"], "bold"), f" refused at {refusal['stage']}: {refusal['reason']}{next_step}")
