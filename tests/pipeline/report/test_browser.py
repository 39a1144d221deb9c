"""report.html and index.html as a real browser lays them out: Debian's chromium, driven over its debugging pipe."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from calibration.divergence import Difference, Finding, Layer
from pipeline.diff import Artifact, Comparison
from pipeline.report.divergence import write_page
from pipeline.report.html import write_index, write_report
from tests.pipeline.report import layered

ROOT = Path(__file__).parents[3]
REPORTS = sorted((ROOT / "tests/fixtures/reports").glob("*.json"))
LAYERED = {f"layers-{make.__name__}": make for make in (layered.few, layered.many, layered.untimed)}
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--hide-scrollbars", "--remote-debugging-pipe"),
)
# Boxes of every visible line of text, of the marks of the visible plot, and of whatever sticks out of the page.
MEASURE = """
(() => {
  const box = (r) => [r.left, r.top, r.right, r.bottom];
  const shown = (e) => e.checkVisibility() && !e.closest("title") &&
    getComputedStyle(e.closest("thead") ?? e).clipPath == "none";
  const texts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.data.trim() || !shown(node.parentElement)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const r of range.getClientRects()) if (r.width > 0.5) texts.push({text: node.data.trim(), box: box(r)});
  }
  const plots = [...document.querySelectorAll("svg.plot")].filter((p) => p.checkVisibility());
  const points = plots.flatMap((p) => [...p.querySelectorAll("g.point")]);
  const cut = [...document.querySelectorAll("body *")].filter((e) => shown(e) && !(e instanceof SVGElement) &&
    e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0);
  return {
    page: document.documentElement.scrollWidth,
    texts,
    cut: cut.map((e) => e.outerHTML.slice(0, 200)),
    plots: plots.map((p) => box(p.getBoundingClientRect())),
    marks: points.map((p) => ({
      text: p.getAttribute("aria-label"), box: box(p.querySelector(".mark").getBoundingClientRect()),
    })),
    labels: plots.flatMap((p) => [...p.querySelectorAll("text.label")].map((t) => t.textContent)),
  };
})()
"""
# Texts whose contrast with what is behind them is below 4.5, as WCAG 2.2 (1.4.3) computes it.
CONTRAST = """
(() => {
  const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
  };
  const own = (e) => [...e.childNodes].some((n) => n.nodeType == 3 && n.data.trim());
  const visible = [...document.querySelectorAll("main *")].filter((e) => e.checkVisibility());
  const texts = visible.filter((e) => e instanceof SVGElement ? e.tagName == "text" : own(e));
  return texts.map((e) => {
    const style = getComputedStyle(e);
    const [a, b] = [light(e instanceof SVGElement ? style.fill : style.color), light(behind(e))];
    return {text: e.textContent.trim().slice(0, 60), ratio: (Math.max(a, b) + .05) / (Math.min(a, b) + .05)};
  }).filter((x) => x.ratio < 4.5);
})()
"""


# Of each region: the ends of its bar and the place of its dot, in pixels right of where there is no difference.
BARS = """
[...document.querySelectorAll("table.sensitivities tbody tr")].map((row) => {
  const [gain, speed] = row.querySelectorAll(".bar");
  const from = (e, bar) => e.getBoundingClientRect().left - bar.querySelector(".zero").getBoundingClientRect().left;
  const length = gain.querySelector(".length"), dot = speed.querySelector(".dot");
  const left = from(length, gain);
  return {bar: [left, left + length.getBoundingClientRect().width], dot: dot && from(dot, speed) + 5};
})
"""


class Browser:
    """A headless chromium with one page and the network off. Speaks the DevTools protocol over two pipes."""

    def __init__(self, program: str, folder: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_browser, from_browser)]
        script = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]} {ends[0]}<&- {ends[1]}>&-'
        command = ["bash", "-c", script, "bash", program, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        log = (folder.parent / "chromium.log").open("wb")
        self._process = subprocess.Popen(command, pass_fds=ends, stdout=log, stderr=log)
        log.close()
        for fd in (*ends, to_browser, from_browser):
            os.close(fd)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 20)
            assert part, f"chromium ended with {self._process.wait(10)}"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, width: int, scheme: str = "light") -> None:
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=page.as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._receive())

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"]["value"]

    def screenshot(self, file: Path) -> None:
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(picture["data"]))

    def close(self) -> None:
        self._session = None
        os.write(self._write, b'{"id": 0, "method": "Browser.close"}\0')
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    own = ROOT / ".tools/chromium/run"
    program = shutil.which("chromium") or (str(own) if own.exists() else None)
    if program is None:
        pytest.fail("chromium is not installed: scripts/get-chromium gets it")
    browser = Browser(program, tmp_path_factory.mktemp("chromium") / "profile")
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every sample's report.html, and the index over them."""
    folder = tmp_path_factory.mktemp("reports")
    reports = {file.stem: json.loads(file.read_text()) for file in REPORTS}
    for name, report in reports.items():
        write_report(report, folder / name)
    write_index(list(reports.values()), folder / "index.html")
    for name, make in LAYERED.items():
        write_report(make(), folder / name)
    write_page(divergence(), folder / "divergence.html")
    own = {name: folder / f"{name}.html" for name in ("index", "divergence")}
    return {name: folder / name / "report.html" for name in (*reports, *LAYERED)} | own


def divergence() -> Comparison:
    """Two dozen tensors, of which one differs by more than expected, one is exact and one has no counterpart."""
    layers: list[Layer] = []
    for i in range(24):
        total = Difference(45.0 - i, 0.01 * i, 0.001 * i)
        finding = Finding("saturation", f"node_Conv_{i}", f"relu_{i}", "2.68% of the kernel's integers are wrong")
        own = None if i == 3 else Difference(300.0 if i == 5 else 18.0 if i == 11 else 38.0 - i % 3, 0.1, 0.01)
        layers.append(
            Layer(
                tensor=f"blocks.{i}.residual.activation_with_a_long_name",
                op=f"node_Conv_{i}",
                op_type="Conv",
                quantized="uint8 × 0.01489, zero 140",
                total=None if i == 3 else total,
                own=own,
                expected_db=None if i == 5 else 38.0 - i % 3,
                findings=(finding,) if i == 11 else (),
            )
        )
    sides = [Artifact(Path(name), "onnxruntime_cpu", Path(), (name,), {}, ()) for name in ("float.onnx", "int8.onnx")]
    note = "looking into B changed its answers (55.8 dB)"
    return Comparison(sides[0], sides[1], 8, tuple(layers), Difference(21.8, 0.9, 0.1), (note,))


def overlap(a: list[float], b: list[float]) -> bool:
    """Whether two boxes share more than a pixel's edge."""
    return min(a[2], b[2]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 3


NAMES = [*(file.stem for file in REPORTS), *LAYERED, "index", "divergence"]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("width", [1280, 780, 375])
@pytest.mark.parametrize("name", NAMES)
def test_page_lays_out(browser: Browser, pages: dict[str, Path], name: str, width: int):
    browser.open(pages[name], width)
    seen = browser.evaluate(MEASURE)
    if folder := os.environ.get("REPORT_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"{name}-{width}.png")

    assert seen["page"] <= width, "the page scrolls sideways"
    assert seen["cut"] == []
    assert [t for t in seen["texts"] if t["box"][0] < 0 or t["box"][2] > width] == []
    texts = seen["texts"]
    assert len(texts) > 20
    clashes = [(a, b) for i, a in enumerate(texts) for b in texts[:i] if overlap(a["box"], b["box"])]
    assert clashes == []
    assert [(t, m) for t in texts for m in seen["marks"] if overlap(t["box"], m["box"])] == []


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("file", REPORTS, ids=lambda file: file.stem)
def test_plot_shows_every_model(browser: Browser, pages: dict[str, Path], file: Path, width: int):
    report = json.loads(file.read_text())
    figures = [r["figures"] for r in report["rejected"]]
    tried = sum("latency_ms" in f and "accuracy" in f for f in figures)
    expected = tried + 2 if report["executed_on"] else 0

    browser.open(pages[file.stem], width)
    seen = browser.evaluate(MEASURE)
    assert len(seen["plots"]) == (1 if expected else 0), "one plot for the width there is"
    assert len(seen["marks"]) == expected
    assert len(seen["labels"]) == expected, "every mark has its name beside it"
    for mark in seen["marks"]:
        left, top, right, bottom = seen["plots"][0]
        assert left < mark["box"][0] < mark["box"][2] < right
        assert top < mark["box"][1] < mark["box"][3] < bottom


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("make", [layered.few, layered.many])
def test_bars_of_layers_are_on_their_side_of_no_difference(
    browser: Browser, pages: dict[str, Path], make: Callable[[], dict[str, Any]], width: int
):
    browser.open(pages[f"layers-{make.__name__}"], width)
    regions = make()["sensitivities"]
    drawn = browser.evaluate(BARS)
    assert len(drawn) == len(regions)
    for s, at in zip(regions, drawn, strict=True):
        if abs(s["noise_db"]) > 0.1:
            middle = sum(at["bar"]) / 2
            assert (middle > 0) == (s["noise_db"] > 0)
            assert min(map(abs, at["bar"])) < 3, "it starts where there is no difference"
        assert (at["dot"] is None) == (s["ratio"] is None)
        if s["ratio"] and abs(s["ratio"]["value"] - 1) > 0.01:
            assert (at["dot"] > 0) == (s["ratio"]["value"] > 1)
    by_gain = sorted(zip([s["noise_db"] for s in regions], drawn, strict=True), key=lambda pair: pair[0])
    assert by_gain[-1][1]["bar"][1] == max(at["bar"][1] for at in drawn)


@pytest.mark.parametrize("name", NAMES)
def test_page_asks_for_nothing(browser: Browser, pages: dict[str, Path], name: str):
    browser.open(pages[name], 1280)
    browser.evaluate("1")
    complaints = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert [e for e in browser.events if e.get("method") in complaints] == []
    asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [pages[name].as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_text_is_legible(browser: Browser, pages: dict[str, Path], name: str, scheme: str):
    browser.open(pages[name], 1280, scheme)
    if folder := os.environ.get("REPORT_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"{name}-{scheme}.png")
    assert browser.evaluate(CONTRAST) == []
    page = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (page == "rgb(20, 22, 25)") == (scheme == "dark")


def test_page_prints(browser: Browser, pages: dict[str, Path]):
    browser.open(pages["fashion-host"], 1280, "dark")
    pdf = base64.b64decode(browser.call("Page.printToPDF", printBackground=False)["data"])
    assert pdf.startswith(b"%PDF")
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate(CONTRAST) == []
