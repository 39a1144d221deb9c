"""docs/recipes.md states every key there is, with the default it has, and no other."""

import re
from dataclasses import MISSING, fields

import pytest
import yaml

from pipeline.recipe import Budget, DataSource, ModelSource
from pipeline.recipe_reader import REQUIRED, TOP_KEYS, DeviceEntry
from targets import plugins
from targets.profile import DeviceProfile

PLACES = {
    "data": DataSource,
    "teacher` and `student": ModelSource,
    "budget": Budget,
    "A profile": DeviceProfile,
}
NAMED = [(kind, name) for kind in ("stages", "tasks") for name in plugins.names(kind)]


@pytest.fixture(scope="module")
def tables(repository):
    """Heading -> {key: what it is when left out}."""
    found: dict[str, dict[str, str]] = {}
    for section in re.split(r"^##+ ", (repository / "docs" / "recipes.md").read_text(), flags=re.MULTILINE)[1:]:
        heading = section.splitlines()[0].strip("`")
        rows = re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|", section, re.MULTILINE)
        assert len(dict(rows)) == len(rows), heading
        found[heading] = dict(rows)
    return found


def stated(default: object) -> str:
    if default is MISSING:
        return "required"
    value = list(default) if isinstance(default, tuple) else default
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def check(kind: type, table: dict[str, str]) -> None:
    keys = [f for f in fields(kind) if f.init]
    expected = {f.name: stated(f.default if f.default_factory is MISSING else f.default_factory()) for f in keys}
    assert table == expected


@pytest.mark.parametrize(("heading", "kind"), PLACES.items())
def test_a_part_of_the_recipe(tables, heading, kind):
    check(kind, tables[heading])


@pytest.mark.parametrize(("kind", "name"), NAMED)
def test_a_stage_or_task(tables, kind, name):
    loaded = plugins.load(kind, name)
    if fields(loaded) or kind == "tasks":
        check(loaded, tables[name])


def test_no_heading_is_about_something_that_is_not_there(tables):
    known = {*PLACES, "Top level", "task", "stages", "devices", *(name for _, name in NAMED)}
    assert set(tables) <= known


def test_the_top_level(tables):
    assert tuple(tables["Top level"]) == TOP_KEYS
    assert {key for key, default in tables["Top level"].items() if default == "required"} == set(REQUIRED)


def test_a_device(tables):
    assert set(tables["devices"]) == {*(f.name for f in fields(DeviceEntry)), "budget"}
    assert tables["devices"]["threads"] == str(DeviceEntry("x").threads)
