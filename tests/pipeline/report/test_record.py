"""report.json: what is written is what is read, and what is not a report is refused by its key."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import InputError
from pipeline.report.record import Artifact, Latency, Report, dumps
from tests.pipeline.report import layered

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "tests/fixtures/reports").glob("*.json"))
KEYS = [
    *("schema", "recipe", "device", "target", "status", "verdict", "choice", "executed_on", "baseline", "artifact"),
    *("ratios", "accuracy", "measures", "slices", "churn", "gates", "energy", "cost", "stages", "rejected", "tools"),
    *("chosen", "refusal", "sensitivities", "clipping", "notes"),
]


def load(name: str) -> dict[str, Any]:
    return json.loads((ROOT / f"tests/fixtures/reports/{name}.json").read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_round_trip(file: Path):
    record = json.loads(file.read_text())
    report = Report.from_json(record)
    assert report.to_json() == record
    assert list(record) == KEYS


def test_unknown_keys_are_ignored():
    record = load("fashion-host")
    later = record | {"weather": "mild", "accuracy": record["accuracy"] | {"mood": 1}}
    assert Report.from_json(later).to_json() == record


def test_what_is_not_known_is_null():
    report = Report(recipe="r", device="d", target="t", verdict="fail").to_json()
    assert [key for key in KEYS if report[key] is None] == [
        *(
            "status",
            "choice",
            "executed_on",
            "baseline",
            "artifact",
            "ratios",
            "accuracy",
            "churn",
            "chosen",
            "refusal",
        ),
        "clipping",
    ]
    assert Report.from_json(report).to_json() == report


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("accuracy", "teacher"), "high", "accuracy.teacher: expected a number, found 'high'"),
        (("gates", 1, "verdict"), "maybe", "gates[1].verdict: expected pass or fail or inconclusive or deferred"),
        (("artifact", "size_bytes"), True, "artifact.size_bytes: expected a whole number, found True"),
        (("stages",), {}, "stages: expected a list"),
        (("tools",), [], "tools: expected an object"),
        (("baseline",), 3, "baseline: expected an object"),
        (("schema",), 2, "schema: 2 is not one that is read here"),
        (("ratios", "size"), float("nan"), "ratios.size: nan"),
    ],
)
def test_a_bad_value_is_named(path: tuple[Any, ...], value: object, message: str):
    record: Any = load("fashion-host")
    at = record
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(InputError) as refused:
        Report.from_json(record, "old/report.json")
    assert refused.value.message.startswith(f"old/report.json: {message}")
    assert refused.value.next_step


def test_a_missing_key_is_named():
    record = load("fashion-host")
    del record["accuracy"]["samples"]
    with pytest.raises(InputError, match=r"accuracy\.samples is missing"):
        Report.from_json(record)


def test_infinities_are_never_written():
    with pytest.raises(InputError, match=r"artifact\.load_ms: inf"):
        Report("r", "d", "t", "pass", artifact=Artifact("fp32", 1, load_ms=float("inf")))
    with pytest.raises(ValueError, match="JSON"):
        dumps({"value": float("nan")})


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 10**9))
def test_numbers_survive(p50: float, p90: float, p99: float, n: int):
    report = Report("r", "d", "t", "pass", artifact=Artifact("fp32", n, latency_ms=Latency(p50, p90, p99, n)))
    assert Report.from_json(json.loads(dumps(report.to_json()))) == report


def test_every_field_is_documented():
    text = (ROOT / "docs/report.md").read_text()

    def names(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {n for key, v in value.items() if key not in {"tools", "figures"} for n in names(v)}
        return {n for v in value for n in names(v)} if isinstance(value, list) else set()

    known = {name for file in FILES for name in names(json.loads(file.read_text()))}
    known -= set(load("fashion-host")["tools"])
    assert [name for name in sorted(known) if f"`{name}`" not in text and f".{name}`" not in text] == []


def test_sensitivities_are_printed_for_each_layer(capsys):
    from pipeline.report.sensitivities import print_sensitivities

    record = load("fashion-host")
    known = {"region": "conv1", "nodes": ["conv1"], "noise_db": 1.25, "in_float": ["conv1"]}
    record["sensitivities"] = [known | {"ratio": {"value": 1.1, "low95": 1.05, "high95": 1.2}}, known | {"ratio": None}]
    plain: dict[str, Any] = load("fashion-host") | {"sensitivities": []}
    in_float = plain | {"artifact": plain["artifact"] | {"precision": "fp32"}}
    print_sensitivities([record, load("fashion-refused"), plain, in_float, plain | {"chosen": None}])
    said = capsys.readouterr().out
    assert "conv1" in said
    assert "+1.2 dB" in said
    assert "1.100x (1.050–1.200)" in said
    assert said.count("no layer was looked into; raise quantize.seconds") == 1
    for why in ("refused at package", "float ships, so that no layer of it is int8", "there is no quantize stage"):
        assert said.count(why) == 1


def test_what_would_be_clipped_is_printed_where_something_is(capsys):
    from pipeline.report.sensitivities import print_sensitivities

    record = layered.few()
    record["clipping"]["layers"][0]["node"] = "[bold]/layers.0/MatMul"
    print_sensitivities([record])
    said = capsys.readouterr().out
    assert "[bold]/layers.0/MatMul" in said
    assert "90.0%" in said
    assert "4 of its 5 layers could clip, 1 cannot" in " ".join(said.split())

    print_sensitivities([record | {"clipping": None}])
    assert "clip" not in capsys.readouterr().out
