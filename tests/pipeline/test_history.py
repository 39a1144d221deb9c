from pathlib import Path

import pytest

from pipeline.history import History
from pipeline.recipe import load_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "fashion.yaml"

KEY = {"stage": "quantize", "revision": "4", "config.seconds": "90.0", "tool.onnx": "1.21", "input.package": "ab12"}


@pytest.fixture
def history(tmp_path):
    (tmp_path / "history").mkdir()
    found = History(tmp_path, load_recipe(RECIPE))
    found.remember("host", "quantize", KEY)
    return found


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"revision": "5"}, "edgewright's own code of this stage changed: revision 4 -> 5"),
        ({"config.seconds": "30.0"}, "seconds changed: 90.0 -> 30.0"),
        ({"tool.onnx": "1.22"}, "version of onnx changed: 1.21 -> 1.22"),
        ({"input.package": "cd34"}, "package will be rebuilt"),
        ({}, "its artifact is gone from the store"),
    ],
)
def test_it_says_what_changed_since_the_last_build(history, change, why):
    assert history.difference("host", "quantize", KEY | change) == why


def test_what_is_saved_is_known_to_the_next(history, tmp_path):
    history.save()
    assert (
        History(tmp_path, load_recipe(RECIPE))
        .difference("host", "quantize", KEY | {"revision": "5"})
        .endswith("4 -> 5")
    )


def test_another_device_was_never_built(history):
    assert history.difference("raspberry-pi-5", "quantize", KEY) == "never built"
