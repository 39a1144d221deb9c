"""The plot's layout: nothing overlaps, nothing is lost, and places keep the order of the figures."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.plot import CHARACTER_PX, FONT_PX, Box, Label, Plot, Point, layout

NAMES = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=40)


@st.composite
def points(draw: st.DrawFn) -> list[Point]:
    tried = draw(st.lists(st.tuples(NAMES, st.floats(1e-3, 1e3), st.floats(0, 100)), max_size=14))
    latency, accuracy = draw(st.floats(1e-3, 1e3)), draw(st.floats(50, 100))
    ships = Point("shipped", "artifact", latency, accuracy, (0.97 * latency, 1.04 * latency), accuracy - 0.7)
    teacher = Point("teacher", "teacher", draw(st.floats(1e-3, 1e3)), draw(st.floats(50, 100)))
    return [teacher, *(Point(n, "candidate", x, y) for n, x, y in tried), ships]


def box_of(label: Label) -> Box:
    width = CHARACTER_PX * len(label.text)
    left = label.x - width if label.ends else label.x
    return Box(left, label.y - FONT_PX * 0.7, left + width, label.y + FONT_PX * 0.7)


@settings(max_examples=60, deadline=None)
@given(points(), st.sampled_from([(864.0, 400.0), (348.0, 330.0)]))
def test_labels_are_clear_of_each_other_and_of_marks(drawn: list[Point], size: tuple[float, float]):
    plot = layout(drawn, *size)
    boxes = [box_of(label) for label in plot.labels]
    marks = [Box(m.x - 6, m.y - 6, m.x + 6, m.y + 6) for m in plot.marks]
    assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert not [1 for a in boxes for b in marks if a.overlaps(b)]
    assert all(box.inside(plot.frame) for box in boxes)


@settings(max_examples=40, deadline=None)
@given(points())
def test_every_model_is_inside_the_frame(drawn: list[Point]):
    plot = layout(drawn, 864, 400)
    assert [m.point for m in plot.marks] == drawn
    for m in plot.marks:
        assert plot.frame.left <= m.x <= plot.frame.right
        assert plot.frame.top <= m.y <= plot.frame.bottom


@settings(max_examples=40, deadline=None)
@given(points())
def test_places_keep_the_order_of_figures(drawn: list[Point]):
    marks = layout(drawn, 864, 400).marks
    for a in marks:
        for b in marks:
            assert (a.point.latency_ms < b.point.latency_ms) <= (a.x <= b.x)
            if not (a.below or b.below):
                assert (a.point.accuracy < b.point.accuracy) <= (a.y >= b.y)


def ticks(plot: Plot) -> tuple[list[str], list[str]]:
    return [label for _, label in plot.x_ticks], [label for _, label in plot.y_ticks]


def test_a_broken_model_does_not_flatten_the_rest():
    good = [Point("teacher", "teacher", 1.7, 93.5), Point("shipped", "artifact", 0.14, 92.7)]
    plot = layout([*good, Point("broken", "candidate", 0.3, 10.0)], 864, 400)
    assert [m.below for m in plot.marks] == [False, False, True]
    assert "broken (below)" in [label.text for label in plot.labels]
    assert abs(plot.marks[0].y - plot.marks[1].y) > 100


def test_ticks_are_round():
    plot = layout([Point("t", "teacher", 1.7, 93.5), Point("a", "artifact", 0.14, 92.7)], 864, 400)
    assert ticks(plot) == (["0.2", "0.5", "1", "2"], ["92.6", "92.8", "93.0", "93.2", "93.4", "93.6"])
    lone = layout([Point("t", "teacher", 1.0, 93.5)], 348, 330)
    assert len(lone.x_ticks) >= 1
    assert len(lone.y_ticks) >= 2
