"""Bundles made by hand: small, valid, and easy to spoil."""

import hashlib
import json
import platform
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from targets.device_pyz import build_device_pyz

SIZE = 8
CLASSES = 4
SAMPLES = 6


def layers(depth: int, width: int, seed: int = 0) -> list[np.ndarray]:
    """Weights of `depth` hidden layers of `width` and a head: [in, out] float32 each."""
    rng = np.random.default_rng(seed)
    sizes = [SIZE * SIZE, *[width] * depth, CLASSES]
    return [(rng.normal(size=s) / np.sqrt(s[0])).astype(np.float32) for s in pairwise(sizes)]


def answer(weights: list[np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """What the model says, in numpy: pixels [N, 1, SIZE, SIZE] -> logits [N, CLASSES]."""
    x = pixels.reshape(len(pixels), -1)
    for w in weights[:-1]:
        x = np.maximum(x @ w, 0)
    return x @ weights[-1]


def write_model(file: Path, weights: list[np.ndarray], *, opset: int = 17, ir_version: int = 8) -> None:
    """The same as ONNX: pixel_values [batch, 1, SIZE, SIZE] -> logits [batch, CLASSES]."""
    nodes = [helper.make_node("Flatten", ["pixel_values"], ["x0"])]
    for i in range(len(weights) - 1):
        nodes += [
            helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"y{i}"]),
            helper.make_node("Relu", [f"y{i}"], [f"x{i + 1}"]),
        ]
    last = len(weights) - 1
    nodes.append(helper.make_node("MatMul", [f"x{last}", f"w{last}"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, file)


def make_bundle(folder: Path, *, trial: bool = False, **changes: Any) -> Path:
    """A valid bundle for this machine in `folder`/bundle; returns that folder.

    trial: carries a float model several times as slow. changes: keys of manifest.json that get another value.
    """
    payload = folder / "bundle" / "payload"
    payload.mkdir(parents=True)
    (folder / "bundle" / "evidence").mkdir()
    weights = layers(depth=2, width=128)
    write_model(payload / "model.onnx", weights)
    if trial:
        write_model(payload / "trial" / "model.onnx", layers(depth=4, width=384))
    pixels = np.random.default_rng(1).normal(size=(SAMPLES, 1, SIZE, SIZE)).astype(np.float32)
    arrays: dict[str, Any] = {"input.pixel_values": pixels, "output.logits": answer(weights, pixels)}
    np.savez(payload / "golden.npz", **arrays)
    (payload / "sbom.cdx.json").write_text("{}")
    build_device_pyz(payload / "device.pyz")
    options = {"threads": 1, "optimization": "all"}
    manifest = {
        "schema": 1,
        "name": "tiny",
        "version": 3,
        "expires": None,
        "device": "host",
        "target": "onnxruntime_cpu",
        "runner": "onnxruntime_cpu",
        "requires": {
            "architecture": platform.machine(),
            "isa": [],
            "runtime": {"onnxruntime": ">=1.17,<2"},
            "memory_mb": 16,
            "disk_mb": 1,
            "python_packages": ["numpy", "onnxruntime"],
        },
        "inputs": [{"name": "pixel_values", "dtype": "float32", "shape": ["batch", 1, SIZE, SIZE]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", CLASSES]}],
        "preprocessing": {
            "kind": "image",
            "input": "pixel_values",
            "column": "image",
            "size": [SIZE, SIZE],
            "channels": 1,
            "mean": [0.5],
            "std": [0.25],
            "layout": "NCHW",
        },
        "driver": "single",
        "model": {"files": ["model.onnx"], "precision": "fp32"},
        "options": options,
        "status": "ready",
        "pending_gates": [],
        "golden": {"samples": SAMPLES, "min_sqnr_db": 50.0, "min_argmax_agreement": 0.99},
        "trial": {"runner": "onnxruntime_cpu", "files": ["trial/model.onnx"], "options": options} if trial else None,
        "build": None,
        "files": {},
    }
    (payload / "manifest.json").write_text(json.dumps(manifest | changes))
    seal(payload)
    return payload.parent


def seal(payload: Path) -> None:
    """Makes the manifest agree with the files that are there now."""
    files = {
        f.relative_to(payload).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(payload.rglob("*"))
        if f.is_file() and f.name != "manifest.json"
    }
    edit_manifest(payload, lambda manifest: manifest | {"files": files})


def edit_manifest(payload: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Rewrites manifest.json as `change` of it."""
    file = payload / "manifest.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
