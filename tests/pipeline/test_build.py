"""Whole builds of a small project: what is rebuilt after which change, what a refusal leaves, what a kill leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.plan import make_plan
from pipeline.recipe import load_recipe
from pipeline.run import build
from pipeline.store import Store
from tests.pipeline.tiny import write_project

STAGES = [
    "prepare", "calibrate", "load teacher", "load student", "predict", "distill", "prune", "export teacher", "export",
    "quantize", "compile teacher", "compile float", "compile", "validate", "package",
]  # fmt: skip
EDGEWRIGHT = str(Path(sys.executable).with_name("edgewright"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project, a store in which it has been built, and dist/."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = write_project(folder / "project")
    result = build(load_recipe(recipe, run_user_code=True), Store(folder / "store"), folder / "dist", quiet=True)
    assert result.exit_code == 0, result.reports
    return folder


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    """A copy of the built project: its store too, so that a test may damage it. Files keep their times."""
    shutil.copytree(built, tmp_path / "copy")
    return tmp_path / "copy"


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [EDGEWRIGHT, *arguments],
        env={**os.environ, "EDGEWRIGHT_STORE": str(folder / "store")},
        cwd=folder / "project",
        capture_output=True,
        text=True,
        check=False,
    )


def uncached(folder: Path) -> dict[str, str]:
    """Stage -> reason, of the stages that a build would run."""
    recipe = load_recipe(folder / "project" / "tiny.yaml")
    store = Store(folder / "store")
    return {row.stage: row.reason for row in make_plan(recipe, store).rows(store) if not row.cached}


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.slow
def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built / "project", tmp_path / "project")
    done = run(tmp_path, "build", "tiny.yaml", "--out", "tiny.yaml")
    assert done.returncode == 1
    assert "tiny.yaml/tiny" in done.stderr
    assert "prepare" not in done.stderr
    assert Store(tmp_path / "store").ls() == []
    done = run(tmp_path, "build", "tiny.yaml", "--out", "")
    assert (done.returncode, "--out is the current folder" in done.stderr) == (2, True)
    edit(tmp_path / "project" / "tiny.yaml", "name: tiny\n", "name: tiny\nexpires: 2001-02-03\n")
    done = run(tmp_path, "build", "tiny.yaml")
    assert (done.returncode, "expires: 2001-02-03 has passed" in done.stderr) == (2, True)


@pytest.mark.slow
def test_a_terminal_that_lacks_characters_gets_their_codes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = run(project, "build", "tiny.yaml")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert "\\xd7" in done.stdout  # the multiplication sign of a ratio


def test_a_build_gives_a_proven_bundle_and_its_report(built: Path) -> None:
    device = built / "dist" / "tiny" / "host"
    report = json.loads((device / "report.json").read_text())
    assert report["schema"] == 1
    assert report["verdict"] == "pass"
    assert [stage["name"] for stage in report["stages"]] == STAGES
    assert report["accuracy"]["samples"] == 600
    assert len(report["slices"]) == 3
    assert (device / "report.html").stat().st_size > 1000
    manifest = json.loads((device / "bundle" / "payload" / "manifest.json").read_text())
    assert set(manifest["files"]) >= {"golden.npz", "device.pyz", "sbom.cdx.json", *manifest["model"]["files"]}
    assert run(built, "validate", str(device)).returncode == 0


def test_the_student_is_smaller_in_fact(built: Path) -> None:
    report = json.loads((built / "dist" / "tiny" / "host" / "report.json").read_text())
    assert report["artifact"]["size_bytes"] < report["baseline"]["size_bytes"] / 2


def test_nothing_changed_nothing_runs(project: Path) -> None:
    assert uncached(project) == {}
    dist = {path: path.stat().st_mtime_ns for path in (project / "dist").rglob("*")}
    result = run(project, "build", "tiny.yaml", "--out", "../dist")
    assert result.returncode == 0, result.stderr
    assert {path: path.stat().st_mtime_ns for path in (project / "dist").rglob("*")} == dist


def test_a_report_that_was_changed_by_hand_is_written_anew(project: Path) -> None:
    file = project / "dist" / "tiny" / "host" / "report.json"
    written = file.read_text()
    report = json.loads(written)
    report["accuracy"]["artifact"] = 0.9999
    file.write_text(json.dumps(report))
    result = run(project, "build", "tiny.yaml", "--out", "../dist", "--json")
    assert result.returncode == 0, result.stderr
    again, before = json.loads(file.read_text()), json.loads(written)
    assert again == json.loads(result.stdout)[0]
    assert again["accuracy"] == before["accuracy"]


STEAL = """
from dataclasses import dataclass
from json import loads
from pathlib import Path
from shutil import copytree, rmtree
from typing import ClassVar


@dataclass(frozen=True)
class Steal:
    lost: str = "predict"
    takes: ClassVar = ("model",)
    gives: ClassVar = "model"
    distributions: ClassVar = ()
    revision: ClassVar = 1

    def __call__(self, work, *, model):
        copytree(model, work.out, dirs_exist_ok=True)
        (work.out / "artifact.json").unlink()
        for record in model.parent.glob("*/artifact.json"):
            if loads(record.read_text())["stage"] == self.lost:
                rmtree(record.parent)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "said"),
    [("prune", "while steal.py:Steal worked on it"), ("predict", "while host's report was made from it")],
)
def test_what_is_lost_while_a_build_needs_it_is_said_and_what_stands_stays(project: Path, lost: str, said: str) -> None:
    (project / "project" / "steal.py").write_text(STEAL)
    edit(project / "project" / "tiny.yaml", "  - quantize", f"  - steal.py:Steal: {{lost: {lost}}}\n  - quantize")
    standing = {path: path.read_bytes() for path in (project / "dist" / "tiny" / "host").rglob("*") if path.is_file()}
    result = run(project, "build", "tiny.yaml", "--fast", "--out", "../dist")
    assert result.returncode == 4, result.stderr
    assert f"{lost} was made again, or removed, {said}" in result.stderr
    assert "Traceback" not in result.stderr
    assert {path: path.read_bytes() for path in standing} == standing


def test_a_clone_under_another_path_finds_everything_cached(project: Path) -> None:
    (project / "project").rename(project / "elsewhere")
    recipe = load_recipe(project / "elsewhere" / "tiny.yaml")
    store = Store(project / "store")
    assert all(row.cached for row in make_plan(recipe, store).rows(store))


def test_a_change_of_calibration_images_rebuilds_from_calibrate_on(project: Path) -> None:
    file = project / "project" / "calibration.npz"
    arrays = dict(np.load(file))
    arrays["image"][0, 0, 0, 0] ^= 1
    np.savez(file, **arrays)
    assert list(uncached(project)) == ["calibrate", "quantize", "compile", "validate", "package"]
    assert "calibration.npz" in uncached(project)["calibrate"]


def test_a_change_of_a_script_that_the_model_imports_rebuilds_all_that_rests_on_the_models(project: Path) -> None:
    edit(project / "project" / "layers.py", "nn.MaxPool2d(2)", "nn.AvgPool2d(2)")
    assert list(uncached(project)) == [s for s in STAGES if s not in ("prepare", "calibrate")]
    assert "layers.py" in uncached(project)["load teacher"]


def test_a_change_of_a_file_that_a_factory_reads_rebuilds_its_model(project: Path) -> None:
    edit(project / "project" / "tiny.yaml", "models.py:student}", "models.py:student, files: [width.txt]}")

    def digests(width: str) -> dict[str, str]:
        (project / "project" / "width.txt").write_text(width)
        store = Store(project / "store")
        rows = make_plan(load_recipe(project / "project" / "tiny.yaml"), store).rows(store)
        return {row.stage: row.digest for row in rows}

    narrow, wide = digests("8"), digests("64")
    assert {stage for stage in narrow if narrow[stage] != wide[stage]} == set(STAGES) - {
        "prepare", "calibrate", "load teacher", "predict", "export teacher", "compile teacher",
    }  # fmt: skip


def test_a_change_of_the_evaluator_rebuilds_validate_and_package(project: Path) -> None:
    edit(project / "project" / "tiny.yaml", "seconds: 1,", "seconds: 0.5,")
    assert list(uncached(project)) == ["validate", "package"]
    assert "seconds" in uncached(project)["validate"]


def test_another_version_of_a_tool_rebuilds_what_that_tool_makes(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = sys.modules[make_plan.__module__]
    installed = plan._version
    monkeypatch.setattr(plan, "_version", lambda name: "99" if name == "torch-pruning" else installed(name))
    stages = list(uncached(project))
    assert stages[0] == "prune"
    assert "distill" not in stages
    assert "99" in uncached(project)["prune"]


def test_a_flipped_bit_in_the_store_is_found_rebuilt_and_said(project: Path) -> None:
    recipe = load_recipe(project / "project" / "tiny.yaml")
    chain = make_plan(recipe, Store(project / "store")).chains["host"]
    compiled = next(node for node in chain if node.label == "compile")
    file = next((project / "store" / "artifacts" / compiled.digest).glob("*.onnx"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert list(uncached(project)) == ["compile", "validate", "package"]
    assert uncached(project)["package"] == "compile will be made again and may come out otherwise"
    result = run(project, "build", "tiny.yaml", "--out", "../dist")
    assert result.returncode == 0, result.stderr
    assert file.name in result.stderr
    assert uncached(project) == {}


def discard(folder: Path, *labels: str) -> None:
    """Loses the artifacts of some stages, as `cache prune` does."""
    store = Store(folder / "store")
    for node in make_plan(load_recipe(folder / "project" / "tiny.yaml"), store).nodes:
        if node.label in labels:
            store.discard(node.digest)


def rerun(folder: Path) -> dict[str, str]:
    """Stage -> reason, of the stages that a build has run."""
    result = run(folder, "build", "tiny.yaml", "--json", "--out", "../again")
    assert result.returncode == 0, result.stderr
    assert uncached(folder) == {}
    return {stage["name"]: stage["reason"] for stage in json.loads(result.stdout)[0]["stages"] if not stage["cached"]}


def test_what_rests_on_a_measurement_that_is_made_again_is_made_again(project: Path) -> None:
    discard(project, "quantize")
    assert uncached(project)["quantize"] == "its artifact is gone from the store"
    made = rerun(project)
    assert list(made) == ["quantize", "compile", "validate", "package"]
    assert made["compile"] == "quantize was made again and came out otherwise"


def test_what_computes_gives_the_same_again_and_what_rests_on_it_stays(project: Path) -> None:
    lost = set(STAGES) - {"distill", "prune", "quantize", "validate", "package"}
    discard(project, *lost)
    assert rerun(project).keys() == lost


def test_a_budget_that_cannot_be_met_writes_the_report_and_no_bundle(project: Path) -> None:
    edit(project / "project" / "tiny.yaml", "size_mb: 1", "size_mb: 0.0001")
    before = {row["digest"] for row in Store(project / "store").ls()}
    result = run(project, "build", "tiny.yaml", "--out", "../dist")
    assert result.returncode == 3
    assert "size_mb" in result.stdout + result.stderr
    device = project / "dist" / "tiny" / "host"
    report = json.loads((device / "report.json").read_text())
    assert report["verdict"] == "fail"
    assert "size_mb" in report["refusal"]["next_step"]
    assert not (device / "bundle").exists()
    assert before <= {row["digest"] for row in Store(project / "store").ls()}


def test_what_the_audit_found_worth_knowing_is_told_and_reported(project: Path) -> None:
    edit(project / "project" / "tiny.yaml", "samples: 48", "samples: 100")
    result = run(project, "build", "tiny.yaml", "--fast", "--out", "../dist")
    assert result.returncode == 0, result.stderr
    note = "there are 60 samples, 100 were asked for: what none of them reaches may be clipped"
    assert result.stdout.count(note) == 1
    device = project / "dist" / "tiny" / "host"
    assert json.loads((device / "report.json").read_text())["notes"] == [f"calibration: {note}"]
    assert note in (device / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_was_stopped_goes_on_from_the_last_stage(project: Path, how: signal.Signals) -> None:
    edit(project / "project" / "tiny.yaml", "epochs: 2", "epochs: 60")
    command = [EDGEWRIGHT, "build", "tiny.yaml", "--out", "../dist"]
    environment = {**os.environ, "EDGEWRIGHT_STORE": str(project / "store")}
    process = subprocess.Popen(command, cwd=project / "project", env=environment, stderr=subprocess.PIPE)
    scratch = project / "store" / "scratch"
    deadline = time.monotonic() + 120
    while not any(f.stat().st_size for f in scratch.rglob("*") if f.is_file()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(how)
    said = process.communicate()[1].decode()
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "interrupted" in said
        assert "Traceback" not in said
        assert list((project / "store" / "temporary").iterdir()) == []
    assert next(iter(uncached(project))) == "distill"
    assert list(scratch.iterdir())
    result = run(project, "build", "tiny.yaml", "--out", "../dist")
    assert result.returncode == 0, result.stderr
    assert uncached(project) == {}
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_two_builds_at_once_on_one_store_do_the_work_once(project: Path) -> None:
    shutil.rmtree(project / "store")
    command = [EDGEWRIGHT, "build", "tiny.yaml", "--json", "--out"]
    environment = {**os.environ, "EDGEWRIGHT_STORE": str(project / "store")}
    processes = [
        subprocess.Popen(
            [*command, f"../dist{i}"],
            cwd=project / "project",
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]
    reports: list[Any] = [json.loads(process.communicate()[0])[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    made = [sum(not stage["cached"] for stage in report["stages"]) for report in reports]
    assert sum(made) == len(STAGES)
    payloads = [project / f"dist{i}" / "tiny" / "host" / "bundle" / "payload" / "manifest.json" for i in range(2)]
    assert payloads[0].read_bytes() == payloads[1].read_bytes()
