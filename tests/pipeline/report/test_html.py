"""report.html and index.html as text: complete, escaped, self-contained, written whole."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from calibration.errors import InputError
from pipeline.report.html import render, write_index, write_report
from tests.pipeline.report import layered

ROOT = Path(__file__).parents[3]
REPORTS = {f.stem: json.loads(f.read_text()) for f in sorted((ROOT / "tests/fixtures/reports").glob("*.json"))}
VOID = {"meta", "link", "br", "wbr", "line", "rect", "circle", "path"}


class Nesting(HTMLParser):
    """Fails where a tag is closed that is not the last one opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] != ["style"] else ""


def read(page: str) -> str:
    """The page's text. Its tags must nest."""
    parser = Nesting()
    parser.feed(page)
    assert parser.open == []
    return " ".join(parser.text.split())


def rows(page: str, table: str) -> list[list[str]]:
    """The cells of the body of a table that has this class; none where there is no such table."""
    found = re.search(rf'<table class="[^"]*\b{table}\b[^"]*">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    lines = re.findall(r"<tr\b.*?</tr>", found[1], re.DOTALL) if found else []
    return [[read(cell) for cell in re.findall(r"<t[hd]\b.*?</t[hd]>", line, re.DOTALL)] for line in lines]


@pytest.mark.parametrize("name", REPORTS)
def test_the_page_is_self_contained(name: str):
    page = render(REPORTS[name])
    read(page)
    assert not re.search(r"(https?:)?//\w", page)
    assert not re.search(r"<script|<img|<iframe|@import|url\(", page)
    assert re.findall(r'(?:href|src)="([^"]*)"', page) == ["data:,"]


def test_a_pass_shows_everything():
    report = REPORTS["fashion-host"]
    shown = read(render(report))
    assert "Pass: every gate holds" in shown
    for part in (
        "AMD EPYC 9B14",
        "avx512_vnni",
        "onnxruntime 1.31.1",
        "0.139 ms",
        "12.4× as fast",
        "3.12× as fast as itself in float",
        "98.4 kB",
    ):
        assert part in shown
    for named in report["slices"] + report["gates"] + report["stages"]:
        assert named["name"] in shown
    for tried in report["rejected"]:
        assert tried["candidate"] in shown
        assert tried["why"] in shown
    for name, version in report["tools"].items():
        assert f"{name} {version}" in shown


def test_what_only_imitated_the_artifact_did_not_execute_it():
    report = REPORTS["fashion-host"]
    assert "98.4 kB: executed here" in read(render(report))
    shown = read(render(report | {"executed_on": report["executed_on"] | {"emulated": True}}))
    assert "98.4 kB: answered for here by an imitation of the device's arithmetic" in shown


def test_what_takes_more_is_not_said_to_take_less():
    report = REPORTS["fashion-host"]
    shown = read(render(report | {"ratios": report["ratios"] | {"size": 0.5, "peak_memory": 0.8}}))
    assert "2.00× larger" in shown
    assert "1.25× more" in shown


def test_notes_on_calibration_are_shown():
    notes = ["calibration: no sample is <b>"]
    assert "Note on calibration: no sample is <b>." in read(render(REPORTS["fashion-host"] | {"notes": notes}))


def test_what_was_deferred_is_said():
    shown = read(render(REPORTS["fashion-rtx-4060"]))
    assert "Pass so far, 4 gates left to the device" in shown
    assert "compiled, never executed here" in shown
    assert "nowhere yet" in shown
    assert "Accuracy against latency" not in shown


def test_a_refusal_says_what_to_do():
    shown = read(render(REPORTS["fashion-refused"]))
    assert "Refused: no bundle was made" in shown
    assert REPORTS["fashion-refused"]["refusal"]["reason"] in shown
    assert "What to do: give the limits that can be met" in shown
    assert "shipped" not in shown.replace("not shipped", "")


def test_unresolved_slices_say_how_many_samples_they_need():
    shown = read(render(REPORTS["spam-host"]))
    needed = [s["samples_needed"] for s in REPORTS["spam-host"]["slices"] if s["verdict"] == "unresolved"]
    assert needed
    for samples in needed:
        assert f"needs {samples} samples" in shown


INT8_COSTS, CLIPPING = "What each layer's int8 costs", "What a processor without VNNI would clip"


@pytest.mark.parametrize("name", REPORTS)
def test_no_word_of_layers_where_none_was_looked_into(name: str):
    shown = read(render(REPORTS[name] | {"sensitivities": [], "clipping": None}))
    assert INT8_COSTS not in shown
    assert CLIPPING not in shown


@pytest.mark.parametrize("make", [layered.few, layered.many])
def test_each_region_is_shown_in_graph_order(make: Callable[[], dict[str, Any]]):
    report = make()
    page = render(report)
    cells = rows(page, "sensitivities")
    assert [row[0] for row in cells] == [s["region"] for s in report["sensitivities"]]
    for s, (_, gain, _, speed, _, ships) in zip(report["sensitivities"], cells, strict=True):
        assert float(gain.removesuffix(" dB").replace("−", "-")) == pytest.approx(s["noise_db"], abs=0.0501)
        ratio = s["ratio"]
        assert speed == (f"{ratio['value']:.3f}× {ratio['low95']:.3f}–{ratio['high95']:.3f}" if ratio else "–")
        assert ships == {0: "int8", 1: "mixed", 2: "float"}[len(s["in_float"])]
    counts = [sum(len(s["in_float"]) == nodes for s in report["sensitivities"]) for nodes in (2, 1)]
    assert (
        f"Shipped as float: {counts[0]} of {len(cells)}{f', in part {counts[1]} more' if counts[1] else ''};"
        in read(page)
    )


def test_speed_has_no_columns_where_no_region_was_timed():
    page = render(layered.untimed())
    assert "None was timed here." in read(page)
    assert {len(row) for row in rows(page, "sensitivities")} == {4}


def test_layers_that_can_clip_are_shown_and_the_others_counted():
    report = layered.few()
    page = render(report)
    layers = [layer for layer in report["clipping"]["layers"] if layer["channels"] > 0]
    shown = read(page)
    assert [row[0] for row in rows(page, "clipping")] == [layer["node"] for layer in layers]
    assert rows(page, "clipping")[0][1:] == ["100%", "20.0%", "90.0%", "3.0 dB"]
    assert f"{len(layers)} of its 5 layers could clip, 1 cannot" in shown
    assert "sums of two int8 products are clipped to 16 bits" in shown
    assert "would give accuracy 71.25%, 23.17 points below float" in shown
    assert "as it ships, it gives accuracy 94.21%, 0.21 points below float" in shown

    figures = {"node": "conv", "channels": 0.5, "clipped": 1e-9, "changed": 0.0, "sqnr_db": None}
    page = render(report | {"clipping": report["clipping"] | {"unguarded": {}, "layers": [figures]}})
    assert rows(page, "clipping") == [["conv", "50.0%", "<0.01%", "0%", "–"]]
    assert "would give" not in read(page)


def test_where_no_layer_can_clip_there_is_no_table():
    page = render(layered.untimed())
    assert "none of its 12 layers could clip" in read(page)
    assert rows(page, "clipping") == []


HOSTILE = '</style></title><script>alert("1")</script>&amp;{{ 7 * 7 }}'


def poisoned(value: Any) -> Any:
    """Every text of a report that is not one of a fixed set, replaced."""
    fixed = {
        "pass",
        "fail",
        "ok",
        "unresolved",
        "harmed",
        "deferred",
        "inconclusive",
        "ready",
        "built",
        "measured",
        "rule",
    }
    if isinstance(value, dict):
        return {(HOSTILE if key in REPORTS["fashion-host"]["tools"] else key): poisoned(v) for key, v in value.items()}
    if isinstance(value, list):
        return [poisoned(v) for v in value]
    return HOSTILE if isinstance(value, str) and value not in fixed else value


@pytest.mark.parametrize("report", [*REPORTS.values(), layered.few()], ids=[*REPORTS, "layers"])
def test_texts_from_outside_are_escaped(report: dict[str, Any], tmp_path: Path):
    report = poisoned(report)
    write_index([report], tmp_path / "index.html")
    for page in (render(report), (tmp_path / "index.html").read_text()):
        assert "<script" not in page
        assert HOSTILE in " ".join(read(page).split())


def test_a_report_with_nothing_known():
    bare = {"schema": 1, "recipe": "r", "device": "d", "target": "t", "verdict": "fail"}
    refusal = {"stage": "plan", "reason": "no runtime", "next_step": ""}
    assert "no runtime" in read(render(bare | {"refusal": refusal}))
    assert "Failed: no bundle was made" in read(render(bare))


def test_files_are_written_whole(tmp_path: Path):
    report = REPORTS["fashion-host"]
    folder = tmp_path / "dist" / "host"
    write_report(report, folder)
    assert json.loads((folder / "report.json").read_text()) == report
    assert (folder / "report.html").read_text() == render(report)
    assert {f.name for f in folder.iterdir()} == {"report.json", "report.html"}

    with pytest.raises(InputError):
        write_report(report | {"verdict": "perhaps"}, folder)
    assert json.loads((folder / "report.json").read_text()) == report


def test_the_index_keeps_the_devices_of_earlier_builds(tmp_path: Path):
    first, second, *_ = (r | {"device": name} for name, r in REPORTS.items())
    for report in (first, second):
        write_report(report, tmp_path / report["device"])
    for name, content in (("damaged", "{"), ("newer", json.dumps(second | {"schema": 99})), ("list", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(content)
    write_index([first], tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    links = re.findall(r'href="([^"]+)/report.html"', page)
    assert links == [first["device"], second["device"]]
    assert read(page).count("of an earlier build") == 1
    write_index([first, second], tmp_path / "index.html")
    assert "of an earlier build" not in read((tmp_path / "index.html").read_text())


def test_the_index_links_every_report(tmp_path: Path):
    reports = [r | {"device": name} for name, r in REPORTS.items()]
    write_index(reports, tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    shown = read(page)
    for report in reports:
        assert f'href="{report["device"]}/report.html"' in page
        assert report["target"] in shown
    assert "left to the device: Accuracy drop" in shown
