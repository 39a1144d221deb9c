"""The models on the plot: the teacher, what was tried, what ships."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.report import text
from pipeline.report.plot import Kind, Plot, Point
from pipeline.report.record import Accuracy, Report


def unit_of(accuracy: Accuracy | None) -> str:
    """The unit on the accuracy axis: a fraction is shown in percent."""
    if accuracy is None:
        return "%"
    return "%" if accuracy.unit in text.FRACTIONS else accuracy.unit


def _percent(value: float, accuracy: Accuracy) -> float:
    return 100 * value if accuracy.unit in text.FRACTIONS else value


def points_of(r: Report) -> Iterator[Point]:
    """The teacher, what was tried, what ships; those whose latency and accuracy are known."""
    accuracy = r.accuracy
    if accuracy is None:
        return

    def point(name: str, kind: Kind, latency: float, score: float, **more: Any) -> Point:
        title = f"{name}: {text.milliseconds(latency)}, {text.metric(score, accuracy.unit)}"
        shown: dict[str, Any] = {"title": title, **more}
        return Point(name, kind, latency, _percent(score, accuracy), **shown)

    baseline = r.baseline.latency_ms if r.baseline else None
    artifact = r.artifact.latency_ms if r.artifact else None
    if baseline:
        yield point("teacher fp32", "teacher", baseline.p50, accuracy.teacher)
    for tried in r.rejected:
        latency, score = known(tried.figures, "latency_ms"), known(tried.figures, "accuracy")
        if latency and score is not None:
            scored = f"{text.metric(score, accuracy.unit)} on {samples(tried.figures)}"
            title = f"{tried.candidate}: {text.milliseconds(latency)}, {scored}"
            yield point(tried.candidate, "candidate", latency, score + _other_samples(r, accuracy), title=title)
    if r.artifact and artifact:
        ratio = r.ratios.latency_p50 if r.ratios else None
        yield point(
            f"{'shipped' if not r.refusal else 'built'}: {r.artifact.precision}",
            "artifact",
            artifact.p50,
            accuracy.artifact,
            latency_bounds_ms=(baseline.p50 / ratio.high95, baseline.p50 / ratio.low95) if baseline and ratio else None,
            accuracy_low=_percent(accuracy.teacher, accuracy) - accuracy.drop_points.upper95,
        )


def _other_samples(r: Report, accuracy: Accuracy) -> float:
    """What turns an accuracy on the validation samples into one that compares with those on the test samples.

    The validation samples are easier: the teacher has seen them. What ships was scored on both, so it is the measure.
    """
    score = known(r.chosen.figures, "accuracy") if r.chosen else None
    return 0.0 if score is None else accuracy.artifact - score


def samples(figures: Mapping[str, Any]) -> str:
    """What the accuracy of something that was tried is of."""
    count = known(figures, "samples")
    return "validation samples" if count is None else f"{count:,.0f} validation samples"


def known(figures: Mapping[str, Any], key: str) -> float | None:
    """A finite number among the figures, or None."""
    value = figures.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def note_on(plot: Plot | None) -> str:
    """The caption: how to read the plot, or why there is none."""
    if plot is None:
        return "The artifact was not timed on this machine, so there is no latency to plot."
    note = "Up and to the left is better. Bars are 95% bounds."
    if any(mark.below for mark in plot.marks):
        note += " A mark on the lower axis belongs far below it."
    if any(mark.point.kind == "candidate" for mark in plot.marks):
        note += " Hollow marks were scored on the validation samples and are drawn as far from what ships as there."
    return note
