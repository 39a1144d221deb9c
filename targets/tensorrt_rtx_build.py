"""Builds one TensorRT-RTX engine: `python -P tensorrt_rtx_build.py REQUEST`, one JSON object on the last line printed.

A program of its own: engines of one graph are the same bytes from process to process, not within one. It imports
nothing of ours, so that it can run by its path.

REQUEST: a JSON file {"onnx", "engine", "compute_capability": "8.9", "shapes": {input: [min, opt, max]}}.
Answer: {"engine_bytes": n}, or {"refused": why, "nodes": [names]}.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

# The module tells a type checker nothing of what is in it.
trt: Any = import_module("tensorrt_rtx")


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Parses, builds and writes the engine; an answer as above."""
    capability = "SM" + request["compute_capability"].replace(".", "")
    known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    if capability not in known:
        return refusal(f"it knows no {capability}, only {', '.join(known)}")
    logger = Log()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    model = Path(request["onnx"]).read_bytes()
    if not parser.parse(model):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        nodes = [f"{e.node_name()} ({e.node_operator()})" for e in errors]
        return refusal("; ".join(e.desc() for e in errors), nodes)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0):
        return refusal(f"it builds no engines for {capability}")
    profile = builder.create_optimization_profile()
    for name, (smallest, optimal, largest) in request["shapes"].items():
        profile.set_shape(name, smallest, optimal, largest)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return refusal("; ".join(logger.errors[-3:]) or "the build gave no engine and no reason")
    Path(request["engine"]).write_bytes(bytes(engine))
    return {"engine_bytes": engine.nbytes}


def refusal(why: str, nodes: list[str] | None = None) -> dict[str, Any]:
    """The answer where no engine can be built."""
    return {"refused": why, "nodes": nodes or []}


class Log(trt.ILogger):  # pyright: ignore[reportUntypedBaseClass]
    """Keeps what the library says is wrong, and prints nothing."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, msg: str) -> None:
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(msg)


if __name__ == "__main__":
    print(json.dumps(build(json.loads(Path(sys.argv[1]).read_text()))))  # noqa: T201 - the answer
