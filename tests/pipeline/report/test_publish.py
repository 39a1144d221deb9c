"""What a build puts where a person finds it: of its own artifacts, and left alone only where it is just that."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from calibration.errors import BudgetError, IntegrityError
from pipeline.plan import Node
from pipeline.recipe import Budget, DataSource, Device, ModelSource, Recipe
from pipeline.report.publish import publish
from pipeline.run import Refused, StageRun
from pipeline.stages.package import Package
from pipeline.stages.quantize import Quantize
from pipeline.stages.validate import Validate
from pipeline.store import Store
from pipeline.tasks.image_classification import ImageClassification
from targets.profile import load_profile

CHOICE = {
    "choice": "measured",
    "candidates": [{"chosen": True, "name": "static", "why": "fastest", "precision": "int8", "figures": {}}],
}
STAGES = (
    ("quantize", Quantize(), "aa" * 32, {"choice.json": json.dumps(CHOICE)}),
    ("validate", Validate(), "bb" * 32, {"validation.json": json.dumps({"verdict": "pass"})}),
    ("package", Package(), "cc" * 32, {"payload/model.onnx": "weights", "payload/manifest.json": "{}"}),
)


def put(store: Store, label: str, digest: str, files: dict[str, str]) -> None:
    with store.lock(digest), store.temporary(digest) as folder:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content)
        store.publish(folder, label, digest, {}, 1.5, 1000, {})


class World:
    """A store in which a build has just used three artifacts, and the folder that it writes."""

    def __init__(self, root: Path) -> None:
        self.store, self.folder = Store(root / "store"), root / "dist"
        self.device = Device(load_profile("host"), "onnxruntime-cpu", Budget())
        data, teacher = DataSource("pictures"), ModelSource(onnx="teacher.onnx")
        task = ImageClassification()
        self.recipe = Recipe(
            root / "tiny.yaml", root, "tiny", 1, None, "image-classification", task, data, teacher, None, (),
            (self.device,),
        )  # fmt: skip
        for label, _, digest, files in STAGES:
            put(self.store, label, digest, files)
        self.runs = [self.run(*stage[:3], cached=False) for stage in STAGES]

    def run(self, label: str, stage: Any, digest: str, cached: bool) -> StageRun:
        record = self.store.open(digest)
        assert record is not None
        node = Node(label, stage, {}, {}, {}, {}, digest)
        return StageRun(node, record, cached, "" if cached else "never built")

    def publish(self, runs: Sequence[StageRun] = (), refused: Sequence[tuple[str, Refused]] = ()) -> dict[str, Any]:
        return publish(self.recipe, self.device, runs or self.runs, refused, self.store, self.folder)

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}

    def times(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (self.folder, *self.folder.rglob("*"))}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_report_evidence_and_payload_are_written(world: World) -> None:
    report = world.publish()
    assert (report["verdict"], report["choice"], report["chosen"]["candidate"]) == ("pass", "measured", "static")
    files = world.files()
    assert json.loads(files["report.json"]) == report
    assert files["bundle/evidence/report.json"] == files["report.json"]
    assert files["bundle/payload/model.onnx"] == b"weights"


def test_what_stands_stays_though_a_later_build_found_all_cached(world: World) -> None:
    report, times = world.publish(), world.times()
    assert world.publish([world.run(*stage[:3], cached=True) for stage in STAGES]) == report
    assert world.times() == times


SPOILS: dict[str, Callable[[Path], object]] = {
    "figure": lambda folder: edit(folder / "report.json", "measured", "rule"),
    "surplus": lambda folder: edit(folder / "report.json", '"verdict"', '"mood": 1, "verdict"'),
    "type": lambda folder: edit(folder / "report.json", '"cached": false', '"cached": "no"'),
    "page": lambda folder: (folder / "report.html").unlink(),
    "evidence gone": lambda folder: (folder / "bundle" / "evidence" / "report.json").unlink(),
    "evidence edited": lambda folder: edit(folder / "bundle" / "evidence" / "report.json", "measured", "rule"),
    "payload": lambda folder: edit(folder / "bundle" / "payload" / "model.onnx", "weights", "others!"),
    "bundle": lambda folder: shutil.rmtree(folder / "bundle"),
}


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_what_was_changed_by_hand_is_written_anew(world: World, spoil: Callable[[Path], object]) -> None:
    report, files = world.publish(), world.files()
    spoil(world.folder)
    assert world.files() != files
    assert world.publish() == report
    assert world.files() == files


def test_a_refused_build_leaves_no_bundle_and_says_the_same_again(world: World) -> None:
    world.publish()
    refused = [("package", BudgetError("too large", "raise size_mb"))]
    report = world.publish(world.runs[:2], refused)
    assert report["refusal"] == {"stage": "package", "reason": "too large", "next_step": "raise size_mb"}
    assert set(world.files()) == {"report.json", "report.html"}
    times = world.times()
    assert world.publish(world.runs[:2], refused) == report
    assert world.times() == times


@pytest.mark.parametrize("remade", [False, True])
@pytest.mark.parametrize("place", range(3))
def test_an_artifact_that_is_lost_or_another_by_now_gives_no_report(world: World, place: int, remade: bool) -> None:
    world.publish()
    files = world.files()
    edit(world.folder / "report.json", "measured", "rule")
    spoilt = world.files()
    label, _, digest, _ = STAGES[place]
    world.store.discard(digest)
    if remade:
        put(world.store, label, digest, {"payload/model.onnx": "others"})
    with pytest.raises(IntegrityError, match=f"^{label} was made again, or removed, while host's report") as refusal:
        world.publish()
    assert (refusal.value.exit_code, refusal.value.next_step) == (4, "build again")
    assert {name: content for name, content in world.files().items() if name in files} == spoilt
