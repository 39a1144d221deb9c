"""YAML: plain values as YAML 1.2's core schema has them, each with its place; whatever else is refused."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import InputError
from targets.yaml_source import read_document

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(-1e9, 1e9)
    | st.text("aé: #-'\"[]{}", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("yaml") / "file.yaml"


def read(file, text):
    file.write_text(text)
    problems = []
    return read_document(file, problems), problems


@given(value=PLAIN)
def test_json_is_yaml_and_reads_as_itself(file, value):
    document, problems = read(file, json.dumps(value))
    assert (document.value, problems) == (value, [])


@given(value=PLAIN)
def test_a_value_stands_where_it_is_said_to_stand(file, value):
    document, _ = read(file, yaml.safe_dump(value, allow_unicode=True, default_flow_style=False))
    for way, (line, column) in document.keys.items():
        assert document.lines[line - 1][column - 1 :].lstrip("'\"").startswith(str(way[-1]))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("no", "no"), ("on", "on"), ("true", True), ("2030-01-31", "2030-01-31"), ("1:30", "1:30"),
        ("010", 10), ("~", None), ("0x10", "0x10"), ("", None), ("5.", 5.0), ('"5"', "5"), ("<<", "<<"),
    ],
)  # fmt: skip
def test_scalars_of_the_core_schema(file, text, value):
    document, problems = read(file, text)
    assert (document.value, problems) == (value, [])
    assert type(document.value) is type(value)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb: {c: 2, c: 3}", (2, 11), "'c' stands here a second time (first in line 2)"),
        ("a: !!python/object/apply:os.system [x]", (1, 4), None),
        ("a: !!python/name:os.system x", (1, 4), "the tag"),
        ("a: !mine x", (1, 4), "the tag '!mine'"),
        ("1: x", (1, 1), "in quotes"),
        ("? [a]\n: x", (1, 3), "in quotes"),
        ("a: &x [*x]", (1, 4), "repeats what it is part of"),
    ],
)
def test_what_is_not_plain_is_a_problem(file, text, place, words):
    document, problems = read(file, text)
    if words is None:
        # The tag of a sequence is not read at all: the value is the plain list.
        assert document.value == {"a": ["x"]}
        return
    assert [(p.line, p.column) for p in problems] == [place]
    assert words in problems[0].message


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\ta: 1", "a: 1\n---\nb: 2", "a: \x01", "*x", "a: '", "[" * 5000])
def test_what_is_not_yaml_is_refused(file, text):
    with pytest.raises(InputError, match=r"file\.yaml"):
        read(file, text)


def test_aliases_cannot_blow_up(file):
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    _, problems = read(file, bomb)
    assert any("too many values" in problem.message for problem in problems)


def test_not_text(file):
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_document(file, [])
