"""Places on a scale: in order, never off the drawing, whatever the figures."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.scale import around

FIGURES = st.floats(-1e6, 1e6)


@given(FIGURES, st.lists(FIGURES), st.floats(0.01, 100), FIGURES, FIGURES)
def test_places_keep_the_order_and_stay_on_the_scale(
    middle: float, values: list[float], reach: float, one: float, other: float
):
    scale = around(middle, values, reach)
    low, high = sorted((one, other))
    assert 2 <= scale.place(low) <= scale.place(high) <= 98
    assert scale.low <= middle <= scale.high
    assert scale.high - scale.low <= 2 * reach * (1 + 1e-6) + 1e-6


def test_a_figure_that_is_far_off_does_not_squeeze_the_rest():
    scale = around(0.0, [-1.0, 1.0, 1e9], reach=2.0)
    assert (scale.low, scale.high) == (-1.0, 2.0)
    assert scale.place(1e9) == 98
    assert scale.place(1.0) - scale.place(0.0) > 30


def test_figures_that_are_all_alike_stand_in_the_middle():
    assert around(1.0, [1.0, 1.0], reach=0.05).place(1.0) == 50
