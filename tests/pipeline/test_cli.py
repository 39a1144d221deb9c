"""The program as a user meets it: exit codes, what stands on which stream, and never a traceback."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = "import sys; sys.argv[0] = 'edgewright'; from pipeline.cli import main; main()"


@pytest.fixture
def run(tmp_path, repository):
    """Runs the program in an empty folder, with a store of its own."""

    def _run(*arguments: str, code: str = PROGRAM, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(repository), "EDGEWRIGHT_STORE": str(tmp_path / "store")} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stdout
        if "--verbose" not in arguments:
            assert "Traceback" not in done.stderr
        return done

    return _run


def test_help_names_every_verb(run):
    done = run("--help")
    assert done.returncode == 0
    for verb in ("build", "plan", "devices", "validate", "inspect", "diff", "cache"):
        assert f"\n  {verb} " in done.stdout


def test_the_command_line_imports_typer_alone(run):
    code = (
        "import sys, pipeline.cli\n"
        "print(*{'torch', 'numpy', 'onnx', 'yaml', 'rich', 'pydantic', 'jinja2'} & set(sys.modules))"
    )
    assert run(code=code).stdout.strip() == ""
    code = (
        "import sys; before = set(sys.modules); from pipeline import build, plan\n"
        "print(*{name for name in set(sys.modules) - before if name.partition('.')[0] not in sys.stdlib_module_names})"
    )
    assert run(code=code).stdout.split() == ["pipeline"]


@pytest.mark.parametrize("verb", ["build", "plan", "devices", "validate", "inspect", "diff", "cache ls", "cache prune"])
def test_every_verb_takes_the_common_options(run, verb):
    told = run(*verb.split(), "--help").stdout
    assert all(option in told for option in ("--json", "--verbose", "--offline"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["build"], 2, "Missing argument"),
        (["biuld"], 2, "biuld"),
        (["build", "--colour", "x.yaml"], 2, "--colour"),
        (["build", "no.yaml"], 2, "there is no recipe no.yaml"),
        (["plan", "no.yaml"], 2, "there is no recipe no.yaml"),
        (["devices", "raspbery-pi-5"], 2, "did you mean 'raspberry-pi-5'"),
        (["devices", "./gone.yaml"], 2, "gone.yaml: no such file"),
        (["devices", "intel-nuc", "--probe"], 2, "--probe"),
        (["inspect", "gone"], 2, "gone"),
        (["inspect", "empty"], 4, "payload"),
        (["validate", "gone"], 2, "gone"),
        (["validate", "empty", "--on", "moon"], 2, "'moon'"),
        (["cache", "prune", "--keep-days", "-1"], 2, "keep-days"),
    ],
)
def test_a_wrong_call_has_its_code_and_says_why(run, tmp_path, arguments, code, words):
    (tmp_path / "empty").mkdir()
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stdout == ""


def test_a_recipe_error_as_json(run, tmp_path):
    (tmp_path / "bad.yaml").write_text("task: image-classification\ntask: x\n")
    done = run("plan", "bad.yaml", "--json")
    record = json.loads(done.stdout)
    assert record["exit_code"] == done.returncode == 2
    assert "bad.yaml:2:1: 'task' stands here a second time" in record["error"]
    assert "bad.yaml:2:1: " in done.stderr


def test_verbose_shows_where_an_error_came_from(run):
    assert "Traceback" in run("devices", "nothing", "--verbose").stderr


def test_devices(run):
    listed = run("devices").stdout
    for name in ("host", "intel-nuc", "raspberry-pi-5", "rtx-4060", "jetson-orin-nano"):
        assert f"\n{name} " in listed
    records = json.loads(run("devices", "--json").stdout)
    assert {record["name"] for record in records} >= {"host", "intel-nuc"}


def test_a_probed_profile_can_be_used_at_once(run, tmp_path):
    (tmp_path / "here.yaml").write_text(run("devices", "--probe").stdout)
    here = json.loads(run("devices", "./here.yaml", "--json").stdout)
    assert here == json.loads(run("devices", "host", "--json").stdout)


def write_bundle(folder):
    """The smallest bundle that says all a manifest must say."""
    payload = folder / "bundle" / "payload"
    payload.mkdir(parents=True)
    (payload / "model.onnx").write_bytes(b"a model")
    tensor = {"name": "x", "dtype": "float32", "shape": ["batch", 2]}
    manifest = {
        "schema": 1, "name": "small", "version": 1, "expires": None, "device": "board", "target": "onnxruntime-cpu",
        "runner": "onnxruntime_cpu", "inputs": [tensor], "outputs": [tensor], "preprocessing": {}, "driver": "single",
        "requires": {"architecture": "aarch64", "isa": [], "runtime": {}, "python_packages": []},
        "model": {"files": ["model.onnx"], "precision": "int8"}, "options": {"threads": 1}, "status": "ready",
        "pending_gates": [{"name": "latency_p99_ms", "limit": 20}],
        "files": {"model.onnx": hashlib.sha256(b"a model").hexdigest()},
    }  # fmt: skip
    (payload / "manifest.json").write_text(json.dumps(manifest))
    return payload


def test_a_bundle_is_inspected(run, tmp_path):
    payload = write_bundle(tmp_path / "board")
    record = json.loads(run("inspect", "board", "--json").stdout)
    assert (record["device"], record["status"]) == ("board", "ready")
    assert record["size_bytes"] == sum(file.stat().st_size for file in payload.iterdir())
    told = run("inspect", "board/bundle")
    assert told.returncode == 0
    assert "latency_p99_ms" in told.stdout
    (payload / "model.onnx").write_bytes(b"b model")
    spoilt = run("inspect", "board")
    assert spoilt.returncode == 4
    assert "model.onnx" in spoilt.stderr


def test_a_report_in_a_bundle_that_cannot_be_read(run, tmp_path):
    evidence = write_bundle(tmp_path / "board").parent / "evidence"
    evidence.mkdir()
    (evidence / "report.json").write_text("{")
    done = run("inspect", "board")
    assert done.returncode == 4
    assert "report.json" in done.stderr


def test_the_store_is_listed_and_pruned(run, tmp_path):
    assert json.loads(run("cache", "ls", "--json").stdout) == []
    assert "0 artifacts" in run("cache", "ls").stderr
    assert json.loads(run("cache", "prune", "--json").stdout) == []
    assert "removed 0" in run("cache", "prune", "--keep-days", "0").stdout


def test_a_store_of_an_unknown_user(run):
    done = run("cache", "ls", EDGEWRIGHT_STORE="~nobodyatall/store")
    assert (done.returncode, "~nobodyatall/store names no folder" in done.stderr) == (2, True)


def test_a_store_that_cannot_be_made(run, tmp_path):
    (tmp_path / "file").touch()
    done = run("cache", "ls", EDGEWRIGHT_STORE=str(tmp_path / "file" / "store"))
    assert done.returncode == 1
    assert "file/store" in done.stderr


@pytest.mark.parametrize(
    ("what", "words"),
    [("sys.platform = 'darwin'", "Linux"), ("sys.version_info = (3, 14, 0)", "3.11 to 3.13")],
)
def test_a_system_it_does_not_work_on(run, what, words):
    done = run("devices", code=f"import sys; from pipeline.cli import main; {what}; main()")
    assert done.returncode == 5
    assert words in done.stderr
    assert "docker run" in done.stderr


def test_it_runs_as_a_module_too(run):
    assert (
        run("no-such-verb", code="import runpy; runpy.run_module('pipeline.cli', run_name='__main__')").returncode == 2
    )


def test_telemetry_is_off_before_any_library_is_there(run):
    code = (
        "import os; from pipeline.telemetry import switch_off; switch_off(offline=True)\n"
        "try:\n    import openvino_telemetry\n    print('there')\nexcept ImportError:\n    print('off')\n"
        "names = 'NNCF_CI', 'ORT_DISABLE_TELEMETRY', 'HF_HUB_DISABLE_TELEMETRY', 'HF_HUB_OFFLINE'\n"
        "print(*(os.environ[name] for name in names))"
    )
    assert run(code=code, NNCF_CI="", ORT_DISABLE_TELEMETRY="").stdout.split() == ["off", "1", "1", "1", "1"]


def test_ctrl_c_says_that_the_next_run_goes_on(tmp_path, repository):
    path = tmp_path / "devices.yaml"
    os.mkfifo(path)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "devices", str(path)],
        env=os.environ | {"PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Opening the pipe waits for the program to open its end: it is then in the middle of its work.
    with process, path.open("w"):
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.splitlines() == [
        "edgewright: interrupted; what is done is kept, and the same command goes on from there"
    ]


def test_the_public_functions_stay_functions():
    import pipeline.plan  # pyright: ignore[reportUnusedImport]
    from pipeline import build, plan

    assert callable(plan)
    assert callable(build)
    assert pipeline.plan is plan  # pyright: ignore[reportUnnecessaryComparison]


RECIPE = """\
task: image-classification
data: {source: pictures.npz}
teacher: {factory: net.py:teacher, weights: teacher.safetensors}
stages: [quantize]
devices: [host, intel-nuc]
"""


def test_a_plan_runs_nothing_and_says_why(run, tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "net.py").write_text("raise SystemExit('it was run')\ndef teacher(): ...\n")
    for name in ("pictures.npz", "teacher.safetensors"):
        (tmp_path / name).touch()
    rows = json.loads(run("plan", "recipe.yaml", "--json").stdout)
    assert {tuple(row) for row in rows} == {("stage", "device", "digest", "cached", "reason")}
    assert {row["device"] for row in rows} == {"host", "intel-nuc"}
    assert not any(row["cached"] for row in rows)
    shared = [row["digest"] for row in rows if row["stage"] == "prepare"]
    assert shared[0] == shared[1]
    told = run("plan", "recipe.yaml").stdout
    assert "\nprepare" in told
    assert "host, intel-nuc" in told
    assert "never built" in told
    only = json.loads(run("plan", "recipe.yaml", "--device", "raspberry-pi-5", "--json").stdout)
    assert {row["device"] for row in only} == {"raspberry-pi-5"}
