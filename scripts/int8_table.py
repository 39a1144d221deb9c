"""The table of the int8 bench, and what it comes to: geometric means, the best of all peers, drops of accuracy.

int8_table.py [--places] [CODE] prints the tables that were measured, by that code or any, as Markdown: a line for each
artifact, or for each place ours and the best peer.
"""

import json
import math
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from int8_artifacts import OURS, WORK

FP32 = "fp32"
# A peer that loses more is no choice that anyone would make.
USABLE_DROP = 1.0
Row = Mapping[str, Any]
COLUMNS = ("model", "runtime", "threads", "tool", "scheme", "drop", "size", "p50 against fp32", "CPU s", "lines")

PLACES = (*COLUMNS[:3], *COLUMNS[4:8], "best peer", "its p50", "ours against it")


def geometric_mean(values: Iterable[float]) -> float | None:
    """None of none."""
    logs = [math.log(value) for value in values]
    return math.exp(statistics.fmean(logs)) if logs else None


def works(row: Row) -> bool:
    """Whether there is an artifact and the runtime ran it."""
    return not row["error"] and "p50_ms" in row


def cells(rows: Iterable[Row]) -> dict[tuple[str, str, int], list[Row]]:
    """Rows by model, runtime and threads: what was timed side by side."""
    found: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["model"], row["runtime"], row["threads"]), []).append(row)
    return found


def ours_of(rows: Sequence[Row]) -> Row | None:
    """Our artifact of a cell; None where there is none."""
    return next((row for row in rows if row["tool"] == OURS and works(row)), None)


def peers_of(rows: Sequence[Row], most_drop: float | None = None) -> list[Row]:
    """What peers made of a cell's model, that runs and costs no more than `most_drop` points."""
    return [
        row
        for row in rows
        if row["tool"] not in (OURS, FP32) and works(row) and (most_drop is None or row["drop_points"] <= most_drop)
    ]


def speed_against(rows: Iterable[Row], peer: str, runtime: str) -> list[float]:
    """p50 of the peer's artifact over ours, wherever both run, on a runtime."""
    return [
        row["p50_ms"] / mine["p50_ms"]
        for (_, where, _), cell in cells(rows).items()
        if where == runtime and (mine := ours_of(cell))
        for row in peers_of(cell)
        if row["tool"] == peer
    ]


def speed_against_oracle(rows: Iterable[Row], most_drop: float | None) -> dict[tuple[str, str, int], float]:
    """p50 of the fastest of all peers over ours, by cell. most_drop: of accuracy, of the peers that count."""
    return {
        key: min(row["p50_ms"] for row in rivals) / mine["p50_ms"]
        for key, cell in cells(rows).items()
        if (mine := ours_of(cell)) and (rivals := peers_of(cell, most_drop))
    }


def slower_than_fp32(rows: Iterable[Row]) -> list[Row]:
    """Our artifacts that are slower beyond doubt."""
    return [row for row in rows if row["tool"] == OURS and works(row) and row["to_fp32"]["high95"] < 1]


def cells_of_row(row: Row) -> tuple[str, ...]:
    """A row of the table, as text."""
    start = (row["model"], row["runtime"], str(row["threads"]), row["tool"])
    end = (f"{row['cpu_seconds']:.0f}" if row["cpu_seconds"] else "", str(row["lines"] or ""))
    if not works(row):
        return (*start, row["scheme"], "", "", f"fails: {row['error']}", *end)
    ratio = row["to_fp32"]
    return (
        *start,
        row["scheme"] + (" (float)" if row["tool"] == OURS and row["precision"] == FP32 else ""),
        f"{row['drop_points']:+.2f}",
        f"{row['size_bytes'] / 1e6:.2f} MB",
        f"{ratio['value']:.2f}x ({ratio['low95']:.2f} to {ratio['high95']:.2f})",
        *end,
    )


def markdown(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(text.replace('|', '/') for text in row)} |" for row in rows)


def places(rows: Iterable[Row]) -> Iterator[tuple[str, ...]]:
    """Of each model, runtime and number of threads: ours, the fastest peer that holds the accuracy, and ours to it."""
    for key, cell in cells(rows).items():
        mine = ours_of(cell)
        if mine is None:
            continue
        best = min(peers_of(cell, USABLE_DROP), key=lambda row: row["p50_ms"], default=None)
        rival = ("none holds it", "", "")
        if best is not None:
            ratio = best["ours_to_it"]
            reach = f"{ratio['value']:.3f}x ({ratio['low95']:.3f} to {ratio['high95']:.3f})"
            rival = (best["tool"], f"{best['to_fp32']['value']:.2f}x", reach)
        yield (*map(str, key), *cells_of_row(mine)[4:8], *rival)


def plain(rows: Iterable[Row]) -> str:
    """The same for a terminal, in columns."""
    table = [COLUMNS, *(cells_of_row(row) for row in rows)]
    widths = [
        max(len(line[i]) for line in table if i != 7 or not line[i].startswith("fails")) for i in range(len(COLUMNS))
    ]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def stored(code: str = "*") -> list[Row]:
    """All rows that were measured with this code, or with any."""
    return [row for path in sorted((WORK / "tables").glob(f"*-{code}.json")) for row in json.loads(path.read_text())]


def main(arguments: Sequence[str]) -> None:
    codes = [argument for argument in arguments if argument != "--places"]
    rows = stored(*codes[:1])
    if "--places" in arguments:
        print(markdown(PLACES, places(rows)))
    else:
        print(markdown(COLUMNS, map(cells_of_row, rows)))


if __name__ == "__main__":
    main(sys.argv[1:])
