"""What each tool makes of a bench model: by its own script in its own environment, or by `edgewright build`."""

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from bench_models.catalogue import BenchModel
from benchmark import KEPT, ROOT
from peer_environments import PEERS, NotInstalledError, python, requirements

WORK = KEPT / "int8"
OURS = "edgewright"
RUNNERS = {"onnxruntime-cpu": "onnxruntime_cpu", "openvino": "openvino"}
# A tool that takes longer is said to have failed.
LONGEST_SECONDS = 1800
STAGES_OF_OURS = "stages: [quantize: {dtype: int8}]"


@dataclass(frozen=True)
class Artifact:
    """files: below folder, the one that is loaded first. options: of the runner; the bench's own where there are none.

    scheme: what the tool says it did. cpu_seconds: of the command that made it, with all its children. lines: what a
    user of that tool writes, without blank lines and comments. error: why there is no artifact; empty where there is.
    """

    tool: str
    folder: str = ""
    files: tuple[str, ...] = ()
    precision: str = "int8"
    scheme: str = ""
    cpu_seconds: float = 0.0
    lines: int = 0
    error: str = ""
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def size_bytes(self) -> int:
        return sum((Path(self.folder) / file).stat().st_size for file in self.files)


@dataclass(frozen=True)
class Peer:
    """A tool and the scripts that a user of it would write: for static ranges, and for transformers and recurrent nets,
    where its documentation advises dynamic ones. openvino: the script for that runtime; without one the ONNX file
    that the other makes is given to it.
    """

    name: str
    environment: str
    static: str
    dynamic: str
    openvino: str | None = None

    def script(self, architecture: str, runtime: str) -> Path:
        if runtime == "openvino" and self.openvino:
            return PEERS / self.openvino
        return PEERS / (self.static if architecture == "convolutional" else self.dynamic)


PEER_TOOLS = (
    Peer("onnxruntime", "onnxruntime", "onnxruntime_static.py", "onnxruntime_dynamic.py"),
    Peer("nncf", "nncf", "nncf_onnx.py", "nncf_onnx.py", "nncf_openvino.py"),
    Peer("olive", "olive", "olive_static.py", "olive_dynamic.py"),
    Peer("optimum", "optimum", "optimum_static.py", "optimum_dynamic.py"),
    Peer("neural-compressor", "neural_compressor", "neural_compressor_static.py", "neural_compressor_dynamic.py"),
)


def lines_of(text: str) -> int:
    """Lines that are neither blank nor a comment."""
    return sum(bool(re.match(r"\s*[^\s#]", line)) for line in text.splitlines())


def last_line(text: str) -> str:
    """Of what a failed command said; an exception that goes on over several lines is cut after its first."""
    said = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in said if re.match(r"[\w.]*(Error|Exception|Failure|Exit)\b", line)]
    return (raised or said or ["it said nothing"])[-1][:300]


def by_peer(peer: Peer, model: BenchModel, runtime: str) -> Artifact:
    """What a peer makes; kept by the digest of its script, its versions, the model and the calibration samples."""
    script = peer.script(model.architecture, runtime)
    calibration = model.data.folder / "calibration.npz"
    h = hashlib.sha256()
    for file in (script, requirements(peer.environment), model.onnx, calibration):
        h.update(hashlib.sha256(file.read_bytes()).digest())
    folder = WORK / "peers" / f"{model.name}-{script.stem}-{h.hexdigest()[:12]}"
    record = folder / "artifact.json"
    if record.is_file():
        return read_artifact(record)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    lines = lines_of(script.read_text())
    try:
        interpreter = python(peer.environment)
    except NotInstalledError as error:
        return Artifact(peer.name, lines=lines, error=f"cannot be installed: {error}")
    command = [
        str(interpreter),
        str(script),
        str(model.onnx),
        str(calibration),
        str(folder / "out"),
        model.architecture,
    ]
    code, said, seconds = timed(command, folder)
    made = sorted(file.name for file in (folder / "out").iterdir() if file.suffix in (".onnx", ".xml"))
    beside = sorted(
        file.name for file in (folder / "out").iterdir() if file.suffix == ".bin" or ".onnx_data" in file.name
    )
    artifact = Artifact(
        peer.name, str(folder / "out"), (*made[:1], *beside), scheme=script.stem, cpu_seconds=seconds, lines=lines
    )
    if code or not made:
        artifact = Artifact(peer.name, cpu_seconds=seconds, lines=lines, scheme=script.stem, error=last_line(said))
    return keep(record, artifact)


def ours(model: BenchModel, runtime: str, threads: int, code: str) -> Artifact:
    """What `edgewright build` makes for this machine of the model's recipe with the stage `quantize` and no more.

    code: digest of this repository's code; what one code made is not taken for what another makes.
    """
    folder = WORK / "ours" / f"{model.name}-{runtime}-{threads}-{code}"
    record = folder / "artifact.json"
    if record.is_file():
        return read_artifact(record)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    base = (model.folder / "recipe.yaml").read_text()
    device = {"name": "host", "target": runtime, "threads": threads}
    recipe = model.folder / f"int8-{runtime}-{threads}.yaml"
    recipe.write_text(f"{base}{STAGES_OF_OURS}\n{yaml.safe_dump({'devices': [device]}, default_flow_style=None)}")
    start = "import sys; from pipeline.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "build", str(recipe), "--out", str(folder / "dist")]
    variables = {"EDGEWRIGHT_STORE": str(KEPT / "store"), "PYTHONPATH": str(ROOT)}
    code_, said, seconds = timed(command, folder, variables)
    found = folder / "dist" / model.name / "host"
    lines = lines_of(flow(yaml.safe_load(recipe.read_text())))
    if code_ or not (found / "bundle").is_dir():
        return Artifact(OURS, cpu_seconds=seconds, lines=lines, error=last_line(said))
    manifest = json.loads((found / "bundle/payload/manifest.json").read_text())
    report = json.loads((found / "report.json").read_text())
    artifact = Artifact(
        OURS,
        str(found / "bundle/payload"),
        tuple(manifest["model"]["files"]),
        manifest["model"]["precision"],
        report["chosen"]["candidate"],
        seconds,
        lines,
        options=manifest["options"],
    )
    return keep(record, artifact)


def flow(recipe: dict[str, Any]) -> str:
    """A recipe as one writes it by hand: a line for each key at the top."""
    return "".join(yaml.safe_dump({key: value}, default_flow_style=None, width=10_000) for key, value in recipe.items())


def timed(command: Sequence[str], folder: Path, variables: dict[str, str] | None = None) -> tuple[int, str, float]:
    """(exit status, what it said, CPU seconds with all children) of a command, run in a folder."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        result = subprocess.run(
            command,
            check=False,
            cwd=folder,
            env=os.environ | {"NNCF_CI": "1", "OLIVE_DISABLE_TELEMETRY": "1"} | (variables or {}),
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
        )
        code, said = result.returncode, result.stdout + result.stderr
    except subprocess.TimeoutExpired:
        code, said = 1, f"TimeoutError: more than {LONGEST_SECONDS} s"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return code, said, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def keep(record: Path, artifact: Artifact) -> Artifact:
    """Writes it down beside its files, so that it is not made again."""
    unfinished = record.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(asdict(artifact), indent=1))
    unfinished.replace(record)
    return artifact


def read_artifact(record: Path) -> Artifact:
    fields = json.loads(record.read_text())
    return Artifact(**fields | {"files": tuple(fields["files"])})
