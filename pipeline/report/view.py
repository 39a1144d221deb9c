"""What the page shows of a report, worked out: sentences, bars as percentages of their scale, the plot's points."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.gates import UNITS, Gate, SliceResult
from pipeline.report import clipping, sensitivities, text
from pipeline.report.models import known, note_on, points_of, unit_of
from pipeline.report.plot import Plot, layout
from pipeline.report.record import Latency, Rejected, Report
from pipeline.report.scale import Bar, around

STATUS = {
    "ready": "executed here",
    "built": "compiled, never executed here",
    "deferred_build": "to be compiled on the device by what the bundle carries",
    None: "not built",
}
CHOICE = {
    "measured": "chosen by timing it on this machine",
    "rule": "chosen by the target's rule for this device: it could not be timed here",
    "measured_on_device": "chosen by what the device itself reported",
    None: "nothing was chosen",
}
GATES = {
    "accuracy_drop": "Accuracy drop",
    "worst_slice_drop": "Worst slice's drop",
    "faster_than_float": "Faster than float32",
    "latency_ratio": "Times faster",
    "size_ratio": "Times smaller",
    "size_mb": "Size",
    "latency_p50_ms": "Latency, median",
    "latency_p99_ms": "Latency, p99",
    "peak_memory_mb": "Peak memory",
}
AT_LEAST = {"faster_than_float", "latency_ratio", "size_ratio"}


@dataclass(frozen=True)
class Tile:
    """One of the figures at the top."""

    title: str
    value: str
    detail: str


@dataclass(frozen=True)
class Page:
    """What the template shows beside the report itself; positions and shares are in percent."""

    verdict: str
    headline: str
    sentences: tuple[str, ...]
    tiles: tuple[Tile, ...]
    gates: tuple[dict[str, str], ...]
    pending: tuple[str, ...]
    plots: tuple[Plot, ...]
    plot_note: str
    unit: str
    slices: tuple[tuple[SliceResult, Bar], ...]
    slice_zero: float
    slice_limit: float | None
    limit_points: float | None
    latency: "LatencyView | None"
    tried: tuple[dict[str, str], ...]
    sensitivities: sensitivities.View | None
    clipping: clipping.View | None
    stages: tuple[tuple[Any, float], ...]
    ran_seconds: float
    where: tuple[tuple[str, str], ...]
    cost: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class LatencyView:
    """Rows of (name, latency, positions of p50, p90 and p99 in percent) and the ticks of their logarithmic axis."""

    rows: tuple[tuple[str, Latency, tuple[float, float, float]], ...]
    ticks: tuple[tuple[float, str], ...]


def page(r: Report) -> Page:
    """Everything the template needs beside the report."""
    slices, zero, limit, limit_points = _slices(r)
    points = list(points_of(r))
    plots = (layout(points, 864, 400), layout(points, 348, 330)) if points else ()
    return Page(
        verdict=_banner(r),
        headline=_headline(r),
        sentences=tuple(_sentences(r)),
        tiles=tuple(_tiles(r)),
        gates=tuple(gate_row(g) for g in r.gates),
        pending=tuple(GATES.get(name, name) for name in r.pending_gates),
        plots=plots,
        plot_note=note_on(plots[0] if plots else None),
        unit=unit_of(r.accuracy),
        slices=slices,
        slice_zero=zero,
        slice_limit=limit,
        limit_points=limit_points,
        latency=_latency(r),
        tried=tuple(_tried(t, r) for t in ((r.chosen,) if r.chosen else ()) + r.rejected),
        sensitivities=sensitivities.view(r.sensitivities),
        clipping=clipping.view(r),
        stages=tuple((s, 100 * s.seconds / max(1e-9, max((t.seconds for t in r.stages), default=0))) for s in r.stages),
        ran_seconds=sum(s.seconds for s in r.stages if not s.cached),
        where=tuple(_where(r)),
        cost=tuple(_cost(r)),
    )


def row(r: Report, *, earlier: bool = False) -> dict[str, str]:
    """One device in the index. earlier: the report is not of the build that writes the index."""
    latency = r.ratios.latency_p50 if r.ratios else None
    artifact = r.artifact
    return {
        "device": r.device,
        "target": r.target,
        "earlier": "of an earlier build" if earlier else "",
        "status": r.status or "refused",
        "verdict": "refused" if r.refusal else r.verdict,
        "accuracy": text.metric(r.accuracy.artifact, r.accuracy.unit) if r.accuracy else "",
        "drop": f"{text.points(-r.accuracy.drop_points.value)} points" if r.accuracy else "",
        "ratio": text.ratio(latency.value) if latency else "",
        "interval": f"{text.number(latency.low95)} to {text.number(latency.high95)}" if latency else "",
        "size": text.size(artifact.size_bytes) if artifact else "",
        "memory": text.size(artifact.peak_memory_bytes) if artifact and artifact.peak_memory_bytes else "",
        "note": r.refusal.reason if r.refusal else ", ".join(GATES.get(g, g) for g in r.pending_gates),
    }


def _banner(r: Report) -> str:
    if r.refusal:
        return "refused"
    return "pending" if r.verdict == "pass" and r.pending_gates else r.verdict


def _headline(r: Report) -> str:
    if r.refusal:
        return "Refused: no bundle was made"
    if r.verdict != "pass":
        return "Failed: no bundle was made" if r.verdict == "fail" else "Inconclusive: no bundle was made"
    waiting = len(r.pending_gates)
    judged = len(r.gates) - waiting
    if waiting:
        gates = f"{waiting} gate{'s' if waiting > 1 else ''} left to the device"
        return f"Nothing judged here, {gates}" if not judged else f"Pass so far, {gates}"
    return "Pass: every gate holds" if r.gates else "Pass: no gate was set"


def _sentences(r: Report) -> Iterator[str]:
    if r.artifact and not r.refusal:
        imitated = r.executed_on is not None and r.executed_on.emulated
        how = "answered for here by an imitation of the device's arithmetic" if imitated else STATUS[r.status]
        yield f"Ships {r.artifact.precision}, {text.size(r.artifact.size_bytes)}: {how}."
        yield f"It was {CHOICE[r.choice]}." if r.choice else "There was no choice to make."


def _tiles(r: Report) -> Iterator[Tile]:
    latency = r.artifact.latency_ms if r.artifact else None
    ratio = r.ratios.latency_p50 if r.ratios else None
    if latency and ratio:
        interval = f"{text.number(ratio.low95)} to {text.number(ratio.high95)}"
        own = r.ratios.latency_p50_to_float if r.ratios else None
        beside = f"; {text.ratio(own.value)} as fast as itself in float" if own else ""
        how = f"{text.ratio(ratio.value)} as fast ({interval}){beside}"
        yield Tile("Latency, median", text.milliseconds(latency.p50), how)
    elif r.artifact:
        yield Tile("Latency, median", "–", "not timed here")
    if r.accuracy:
        drop = r.accuracy.drop_points
        how = f"{abs(drop.value):.2f} points {'below' if drop.value >= 0 else 'above'} the teacher"
        worst = f"at most {drop.upper95:.2f} below" if drop.upper95 > 0 else "proven not to be below"
        yield Tile(r.accuracy.metric.capitalize(), text.metric(r.accuracy.artifact, r.accuracy.unit), f"{how}; {worst}")
    elif r.artifact:
        yield Tile("Accuracy", "–", "not executed here")
    if r.artifact:
        smaller = r.ratios.size if r.ratios else None
        yield Tile("Size", text.size(r.artifact.size_bytes), _less(smaller, "smaller", "larger") if smaller else "")
        memory = r.artifact.peak_memory_bytes
        less = r.ratios.peak_memory if r.ratios else None
        detail = _less(less, "less", "more") if less else "" if memory else "not measured here"
        yield Tile("Peak memory", text.size(memory) if memory else "–", detail)


def _less(ratio: float, less: str, more: str) -> str:
    """A ratio above 1 as how much less, one below as how much more."""
    return f"{text.ratio(ratio)} {less}" if ratio >= 1 else f"{text.ratio(1 / ratio)} {more}"


def gate_row(g: Gate) -> dict[str, str]:
    """A gate as table cells."""
    unit = UNITS.get(g.name, "")
    joint = "" if unit == "×" else " "

    def show(value: float | None) -> str:
        if value is None:
            return "–"
        return f"{value:.2f} points" if unit == "points" else f"{text.number(value)}{joint}{unit}"

    return {
        "name": g.name,
        "title": GATES.get(g.name, g.name),
        "limit": f"{'at least' if g.name in AT_LEAST else 'at most'} {g.limit:g}{joint}{unit}",
        "measured": show(g.measured),
        "bound": show(g.bound),
        "verdict": g.verdict,
        "nearest": g.nearest,
    }


def _slices(r: Report) -> tuple[tuple[tuple[SliceResult, Bar], ...], float, float | None, float | None]:
    """Each slice with its interval on one scale in points, zero's and the limit's place on it, and the limit."""
    limit = next((g.limit for g in r.gates if g.name == "worst_slice_drop"), None)
    if not r.slices:
        return (), 0.0, None, limit
    reach = max(2 * (limit or 0.0), 1.5 * max(abs(s.drop_points) for s in r.slices), 1.0)
    scale = around(0.0, [v for s in r.slices for v in (s.lower95, s.upper95)] + [limit or 0.0], reach)
    rows = tuple((s, scale.bar(s.lower95, s.drop_points, s.upper95)) for s in r.slices)
    return rows, scale.place(0.0), None if limit is None else scale.place(limit), limit


def _latency(r: Report) -> LatencyView | None:
    named = [("Baseline", r.baseline.latency_ms if r.baseline else None)]
    named.append(("Artifact", r.artifact.latency_ms if r.artifact else None))
    known = [(name, latency) for name, latency in named if latency]
    if not known:
        return None
    reached = [v for _, latency in known for v in (latency.p50, latency.p99)]
    low, high = math.log10(min(reached)) - 0.08, math.log10(max(reached)) + 0.08

    def place(value: float) -> float:
        return round(100 * (math.log10(value) - low) / (high - low), 2)

    values = [s * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for s in (1, 2, 5)]
    ticks = tuple((place(v), f"{v:g}") for v in values if low <= math.log10(v) <= high)
    rows = tuple((name, lat, (place(lat.p50), place(lat.p90), place(lat.p99))) for name, lat in known)
    return LatencyView(rows, ticks)


def _tried(tried: Rejected, r: Report) -> dict[str, str]:
    figures, accuracy = tried.figures, r.accuracy
    latency, score = known(figures, "latency_ms"), known(figures, "accuracy")
    drop, size = known(figures, "drop_points"), known(figures, "size_bytes")
    ratio = figures.get("ratio_to_float")
    faster = known(ratio, "value") if isinstance(ratio, Mapping) else known(figures, "ratio_to_float")
    return {
        "candidate": tried.candidate,
        "why": tried.why,
        "fate": "rejected" if tried is not r.chosen else "built" if r.refusal else "ships",
        "latency": "–" if latency is None else text.milliseconds(latency),
        "ratio": "–" if faster is None else text.ratio(faster),
        "accuracy": "–" if score is None else text.metric(score, accuracy.unit if accuracy else ""),
        "drop": "–" if drop is None else f"{drop:.2f}",
        "size": "–" if size is None else text.size(size),
    }


def _where(r: Report) -> Iterator[tuple[str, str]]:
    on = r.executed_on
    if on is None:
        yield "Executed", "nowhere yet: what follows from running it is left to the device"
        return
    yield "Processor", on.cpu
    yield "Instruction sets", ", ".join(on.isa) or "–"
    yield "Runtime", f"{on.runtime} {on.version}"
    yield "Threads", str(on.threads)
    yield "Emulated", "yes: answers only, no time is reported" if on.emulated else "no"
    if r.baseline:
        yield "Baseline", r.baseline.what


def _cost(r: Report) -> Iterator[tuple[str, str]]:
    """Of one inference; only what was counted."""
    if r.cost.macs is not None:
        yield "Multiply-accumulates", text.count(r.cost.macs)
    if r.cost.bytes_moved is not None:
        yield "Bytes moved", text.size(r.cost.bytes_moved)
    if r.cost.instructions is not None:
        yield "Instructions", text.count(r.cost.instructions)
    if r.cost.cpu_seconds_per_inference is not None:
        yield "CPU time", text.milliseconds(1000 * r.cost.cpu_seconds_per_inference)
    if r.artifact and r.artifact.load_ms is not None:
        yield "Load time", text.milliseconds(r.artifact.load_ms)
    method = str(r.energy.get("method", "none"))
    yield "Energy", "neither measured nor modelled" if method == "none" else method
    for name, value in r.energy.items():
        if name != "method":
            yield f"Energy, {name}", str(value)
