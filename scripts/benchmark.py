"""What every bench is made of: cells that give rows, kept by the digest of the code and inputs that they depend on."""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgewright-bench"
CODE = ("calibration", "targets", "pipeline", "recipes", "scripts", "pyproject.toml", "constraints.txt")


@dataclass(frozen=True)
class Row:
    """One figure. low95, high95: the interval around `value`, where it has one. how: measured, stored, not measured."""

    figure: str
    bar: str
    value: float | None = None
    low95: float | None = None
    high95: float | None = None
    holds: bool = False
    how: str = "not measured"


@dataclass(frozen=True)
class Figure:
    """What a table asks for: at least, or at most, `limit`."""

    name: str
    at_least: bool
    limit: float
    unit: str = ""

    @property
    def bar(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}{self.unit}"

    def row(self, value: float | None, low95: float | None = None, high95: float | None = None, how: str = "") -> Row:
        """The bar is held against the value itself; the interval stands beside it. No value: it does not hold."""
        if value is None:
            return Row(self.name, self.bar, how=how or "the report does not have it")
        holds = value >= self.limit if self.at_least else value <= self.limit
        return Row(self.name, self.bar, round(value, 4), low95, high95, holds, how or "measured")


@dataclass(frozen=True)
class Cell:
    """Figures that are measured together, one row each, in the same order.

    fits_quick: whether measuring now takes minutes at most.
    """

    name: str
    figures: tuple[Figure, ...]
    measure: Callable[[], Sequence[Row]]
    fits_quick: Callable[[], bool] = lambda: False


def code_digest() -> str:
    """sha256 over the contents of all that a figure can depend on in this repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *CODE],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    h = hashlib.sha256()
    for name in sorted(name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()):
        h.update(f"{name}\0{hashlib.sha256((ROOT / name).read_bytes()).hexdigest()}\n".encode())
    return h.hexdigest()[:16]


def cpu_seconds(command: Sequence[str], **environment: str) -> float:
    """User and system time of a command and all its children. Exits with its output where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(command, **environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in the repository. Exit code 3, a gate that does not hold, is a result and not a failure."""
    variables = os.environ | environment
    result = subprocess.run(command, check=False, cwd=ROOT, env=variables, capture_output=True, text=True)
    if result.returncode not in (0, 3):
        sys.exit(
            f"{' '.join(command)}: exit status {result.returncode}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
        )
    return result


def rows_of(cell: Cell, digest: str, *, quick: bool, fresh: bool) -> Sequence[Row]:
    """Of a cell: measured now, as stored, or without a value."""
    path = KEPT / f"{cell.name}-{digest}.json"
    if path.exists() and not fresh:
        return [replace(Row(**record), how="stored") for record in json.loads(path.read_text())]
    if quick and not cell.fits_quick():
        return [Row(figure.name, figure.bar) for figure in cell.figures]
    rows = cell.measure()
    KEPT.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps([asdict(row) for row in rows]))
    unfinished.replace(path)
    return rows


def main(name: str, cells: Sequence[Cell]) -> None:
    """The command line of a bench."""
    parser = argparse.ArgumentParser(prog=f"bench {name}")
    parser.add_argument("--quick", action="store_true", help="measure only what takes minutes")
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored for this code")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    digest = code_digest()
    rows: list[dict[str, Any]] = []
    print(f"{'figure':<58}{'bar':>12}{'value':>10}{'95% interval':>20}  holds  how", flush=True)
    for cell in cells:
        for row in rows_of(cell, digest, quick=arguments.quick, fresh=arguments.fresh):
            rows.append(asdict(row))
            value = "-" if row.value is None else f"{row.value:g}"
            interval = "" if row.low95 is None or row.high95 is None else f"{row.low95:.3g} to {row.high95:.3g}"
            print(
                f"{row.figure:<58}{row.bar:>12}{value:>10}{interval:>20}  {'yes' if row.holds else 'NO':<5}  {row.how}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
