"""int8 against its peers: the same fp32 models, calibration samples and threads for every tool.

Every artifact of a model is timed in one process, in turn, by the same version of the runtime with the same options.
The whole table is printed, losses and failures too; it is kept in ~/.cache/edgewright-bench/int8/tables, and
scripts/int8_table.py prints it as Markdown.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import int8_table as table
from bench_models.catalogue import MODELS, BenchModel
from benchmark import ROOT, Cell, Figure, Row, code_digest, main
from int8_artifacts import PEER_TOOLS, RUNNERS, WORK, Artifact, by_peer, ours

THREADS = (1, 2)
SECONDS = 12.0
# --quick begins no further cell after so long; one takes some minutes.
QUICK_SECONDS = 480.0
STARTED = time.monotonic()


CODE = code_digest()


def tables_of(model: BenchModel, runtime: str) -> Path:
    return WORK / "tables" / f"{model.name}-{runtime}-{CODE}.json"


def measure_model(model: BenchModel, runtime: str) -> list[dict[str, Any]]:
    """The table's rows of one model and runtime, kept for the summary."""
    if not model.onnx.is_file():
        subprocess.run([sys.executable, ROOT / "scripts/train_bench_models.py", model.name], check=True)
    peers = [by_peer(peer, model, runtime) for peer in PEER_TOOLS]
    reference = Artifact(table.FP32, str(model.folder), (model.onnx.name,), precision="fp32")
    rows: list[dict[str, Any]] = []
    for threads in THREADS:
        artifacts = [reference, ours(model, runtime, threads, CODE), *peers]
        spec, out = WORK / "spec.json", WORK / "rows.json"
        record = {"model": model.name, "runtime": runtime, "threads": threads, "seconds": SECONDS}
        spec.write_text(json.dumps(record | {"artifacts": [asdict(artifact) for artifact in artifacts]}))
        subprocess.run([sys.executable, ROOT / "scripts/int8_measure.py", spec, out], check=True)
        rows += json.loads(out.read_text())
    kept = tables_of(model, runtime)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(rows, indent=1))
    print(table.plain(rows), flush=True)
    return rows


def all_rows() -> list[Any]:
    """Of every model and runtime, measured where they are not kept."""
    rows: list[Any] = []
    for model in MODELS:
        for runtime in RUNNERS:
            kept = tables_of(model, runtime)
            rows += json.loads(kept.read_text()) if kept.is_file() else measure_model(model, runtime)
    return rows


def model_cell(model: BenchModel, runtime: str) -> Cell:
    slower = Figure(f"{model.name}, {runtime}: slower than fp32", at_least=False, limit=0)
    oracle = Figure(f"{model.name}, {runtime}: p50 against the best peer", at_least=True, limit=0.97, unit="x")
    drop = Figure(f"{model.name}, {runtime}: accuracy drop", at_least=False, limit=1.0, unit=" points")

    def measure() -> list[Row]:
        rows = measure_model(model, runtime)
        mine = [row for row in rows if row["tool"] == table.OURS and table.works(row)]
        held = table.speed_against_oracle(rows, table.USABLE_DROP)
        against = held or table.speed_against_oracle(rows, None)
        return [
            slower.row(len(table.slower_than_fp32(rows)) if mine else None),
            oracle.row(min(against.values(), default=None), how="" if held else "measured, no peer holds the accuracy"),
            drop.row(max((row["drop_points"] for row in mine), default=None)),
        ]

    return Cell(
        f"int8-{model.name}-{runtime}",
        (slower, oracle, drop),
        measure,
        lambda: time.monotonic() - STARTED < QUICK_SECONDS,
    )


SLOWER = Figure("artifacts slower than fp32 at 95% confidence", at_least=False, limit=0)
MISSING = Figure("models that ours makes no artifact of", at_least=False, limit=0)
AGAINST = {
    (peer.name, runtime): Figure(f"p50 against {peer.name}, {runtime}", at_least=True, limit=1.25, unit="x")
    for runtime in RUNNERS
    for peer in PEER_TOOLS
}
ORACLE = {
    (drop, kind): Figure(f"p50 against the best of {which}, {kind}", at_least=True, limit=limit, unit="x")
    for drop, which in ((table.USABLE_DROP, "the peers that hold accuracy"), (None, "all peers"))
    for kind, limit in (("mean", 1.05), ("least", 0.97))
}
DROPS = (
    Figure("accuracy drop without training, median", at_least=False, limit=0.3, unit=" points"),
    Figure("accuracy drop without training, worst", at_least=False, limit=1.0, unit=" points"),
)


def head_to_head() -> list[Row]:
    """Over all models, runtimes and numbers of threads. Means are geometric."""
    import statistics

    rows = all_rows()
    mine = [row for row in rows if row["tool"] == table.OURS]
    drops = [row["drop_points"] for row in mine if table.works(row)]
    found = [SLOWER.row(len(table.slower_than_fp32(rows))), MISSING.row(sum(not table.works(row) for row in mine))]
    for (peer, runtime), figure in AGAINST.items():
        found.append(
            figure.row(
                table.geometric_mean(table.speed_against(rows, peer, runtime)), how=why_none(rows, peer, runtime)
            )
        )
    for (drop, kind), figure in ORACLE.items():
        speeds = list(table.speed_against_oracle(rows, drop).values())
        found.append(figure.row(table.geometric_mean(speeds) if kind == "mean" else min(speeds, default=None)))
    return [*found, DROPS[0].row(statistics.median(drops) if drops else None), DROPS[1].row(max(drops, default=None))]


def why_none(rows: Sequence[table.Row], peer: str, runtime: str) -> str:
    """How many models the peer's figure is of, where it does not make all."""
    tried = [row for row in rows if row["tool"] == peer and row["runtime"] == runtime]
    done = sum(table.works(row) for row in tried)
    return "" if done == len(tried) else f"measured, {done} of {len(tried)} run"


def all_are_kept() -> bool:
    return all(tables_of(model, runtime).is_file() for model in MODELS for runtime in RUNNERS)


# Further cells of this bench are added here: each measures on its own, and none needs another's.
CELLS = (
    *(model_cell(model, runtime) for model in MODELS for runtime in RUNNERS),
    Cell(
        "int8-head-to-head", (SLOWER, MISSING, *AGAINST.values(), *ORACLE.values(), *DROPS), head_to_head, all_are_kept
    ),
)

if __name__ == "__main__":
    main("int8", CELLS)
