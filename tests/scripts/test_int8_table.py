"""What the int8 bench makes of its rows: no runtime is needed for it."""

import math
import statistics

import int8_table as table
import pytest
from hypothesis import given
from hypothesis import strategies as st

positive = st.floats(min_value=1e-3, max_value=1e3)


def row(tool, p50_ms, *, model="net", runtime="openvino", threads=1, drop=0.0, high95=2.0, error="", precision="int8"):
    return {
        "model": model,
        "runtime": runtime,
        "threads": threads,
        "tool": tool,
        "scheme": "static",
        "precision": precision,
        "error": error,
        "cpu_seconds": 3.2,
        "lines": 12,
        "size_bytes": 1_500_000,
        "drop_points": drop,
        "p50_ms": p50_ms,
        "to_fp32": {"value": 1.5, "low95": 1.0, "high95": high95},
        "ours_to_it": {"value": p50_ms, "low95": p50_ms, "high95": p50_ms},
    }


@given(st.lists(positive, min_size=1))
def test_the_geometric_mean_lies_within_and_inverts(values):
    mean = table.geometric_mean(values)
    inverse = table.geometric_mean([1 / value for value in values])
    assert mean is not None
    assert inverse is not None
    assert min(values) * (1 - 1e-9) <= mean <= max(values) * (1 + 1e-9)
    assert math.isclose(inverse * mean, 1, rel_tol=1e-9)
    assert math.isclose(mean, statistics.geometric_mean(values), rel_tol=1e-9)


def test_of_nothing_there_is_no_mean():
    assert table.geometric_mean([]) is None


@given(st.lists(positive, min_size=1, max_size=5), positive)
def test_no_single_peer_is_faster_than_the_oracle(peers, ours):
    rows = [row("fp32", 9.0, precision="fp32"), row("edgewright", ours)]
    rows += [row(f"peer{i}", p50) for i, p50 in enumerate(peers)]
    (oracle,) = table.speed_against_oracle(rows, None).values()
    against = [table.speed_against(rows, f"peer{i}", "openvino")[0] for i in range(len(peers))]
    assert oracle == min(against)
    assert oracle == min(peers) / ours


def test_a_broken_peer_counts_alone_and_not_for_the_oracle_that_holds_accuracy():
    rows = [row("edgewright", 1.0), row("nncf", 2.0, drop=0.2), row("olive", 0.5, drop=40.0)]
    assert table.speed_against(rows, "olive", "openvino") == [0.5]
    assert table.speed_against_oracle(rows, None) == {("net", "openvino", 1): 0.5}
    assert table.speed_against_oracle(rows, table.USABLE_DROP) == {("net", "openvino", 1): 2.0}


def test_what_failed_is_compared_with_nothing():
    rows = [row("edgewright", 1.0), row("nncf", 0.1, error="ValueError: no")]
    assert table.speed_against(rows, "nncf", "openvino") == []
    assert table.speed_against_oracle(rows, None) == {}
    missing = [row("edgewright", 1.0, error="ValueError: no"), row("nncf", 0.1)]
    assert table.speed_against(missing, "nncf", "openvino") == []


def test_only_what_was_timed_side_by_side_is_compared():
    rows = [row("edgewright", 1.0, threads=1), row("nncf", 3.0, threads=1)]
    rows += [row("edgewright", 1.0, threads=2), row("nncf", 5.0, threads=2)]
    rows += [row("edgewright", 1.0, runtime="onnxruntime-cpu"), row("nncf", 7.0, runtime="onnxruntime-cpu")]
    assert table.speed_against(rows, "nncf", "openvino") == [3.0, 5.0]
    assert table.speed_against(rows, "nncf", "onnxruntime-cpu") == [7.0]


def test_slower_is_what_is_slower_beyond_doubt():
    rows = [row("edgewright", 1.0, high95=0.99), row("edgewright", 1.0, high95=1.01, threads=2)]
    rows.append(row("nncf", 1.0, high95=0.5))
    assert table.slower_than_fp32(rows) == rows[:1]


def test_the_table_shows_every_row_and_why_one_failed():
    rows = [row("edgewright", 1.0), row("nncf", 2.0, error="ValueError: a | b")]
    lines = table.markdown(table.COLUMNS, map(table.cells_of_row, rows)).splitlines()
    assert len(lines) == 2 + len(rows)
    assert {line.count("|") for line in lines} == {len(table.COLUMNS) + 1}
    assert "fails: ValueError: a / b" in lines[-1]
    assert "1.50x (1.00 to 2.00)" in lines[2]
    shown = table.plain(rows).splitlines()
    assert len(shown) == 1 + len(rows)
    assert shown[1].index("edgewright") == shown[2].index("nncf")


def test_each_place_has_the_best_peer_that_holds_the_accuracy():
    rows = [row("edgewright", 1.0), row("nncf", 2.0), row("optimum", 3.0), row("olive", 0.5, drop=40.0)]
    rows += [row("edgewright", 1.0, threads=2), row("olive", 0.5, drop=40.0, threads=2)]
    first, second = table.places(rows)
    assert len(first) == len(second) == len(table.PLACES)
    assert first[-3:] == ("nncf", "1.50x", "2.000x (2.000 to 2.000)")
    assert second[-3:] == ("none holds it", "", "")


def test_a_model_that_ships_in_float_says_so():
    assert "(float)" in " ".join(table.cells_of_row(row("edgewright", 1.0, precision="fp32")))


@pytest.mark.parametrize("tool", ["fp32", "edgewright"])
def test_neither_fp32_nor_ours_is_a_peer(tool):
    assert table.peers_of([row(tool, 1.0)]) == []
