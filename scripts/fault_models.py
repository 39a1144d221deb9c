"""The models that faults are planted in: float graphs, their int8 artifacts, samples and answers."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from calibration.dataset import CalibrationSet
from targets.device.tensors import tensors
from targets.int8_kernels import clips_here
from targets.onnx_bias import corrected
from targets.onnx_equalization import equalized
from targets.onnx_float import FloatGraph
from targets.onnx_quantization import PRODUCTS_AND_TABLES, StaticScheme, static
from targets.onnx_reference import float_reference
from targets.onnx_smoothing import smoothed
from targets.target import Capabilities, ModelPackage
from targets.transport.qemu import emulator

MODELS = ("residual", "depthwise", "transformer")
# Which of them is quantized after what change.
CHANGED = {"residual": "equalized", "depthwise": "bias corrected", "outliers": "smoothed"}
TRANSFORMERS = ("transformer", "outliers")
SAMPLES = 4
SIDE = 28
# Of the weights of an artifact in which nothing is to be found: a processor without VNNI clips sums of full int8.
GUARD = "pairs" if clips_here() else "none"

Feeds = list[dict[str, np.ndarray]]


@cache
def graph_of(name: str) -> onnx.ModelProto:
    """The float graph of a model, by the project's own exporter."""
    import torch

    from pipeline.exporters import export_module
    from pipeline.onnx_graph import conform, read_graph

    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_module(network(name), {"pixel_values": torch.zeros(2, 1, SIDE, SIDE)}, file)
        graph = read_graph(file)
    conform(graph, {"pixel_values": ("float32", (1, SIDE, SIDE))}, name)
    return graph


def network(name: str) -> Any:
    """The demo's teacher with its trained weights; the other two are as torch initializes them."""
    if name == "residual":
        import fashion
        from safetensors.torch import load_file

        teacher = fashion.teacher()
        teacher.load_state_dict(load_file(Path(fashion.__file__).parent / "teacher.safetensors"))
        return teacher
    import small_networks

    made = {"depthwise": small_networks.depthwise, "transformer": small_networks.transformer}
    return made.get(name, small_networks.transformer_with_outliers)()


@cache
def artifact_of(name: str, *, changed: bool = False, guard: str = GUARD) -> onnx.ModelProto:
    return quantized(change(name) if changed else graph_of(name), name, guard)


def change(name: str) -> onnx.ModelProto:
    """The float graph as CHANGED says."""
    graph, samples = float_reference(graph_of(name)), list(calibration().feeds(16))
    how = CHANGED[name]
    if how == "equalized":
        made = equalized(graph)
    elif how == "smoothed":
        made = smoothed(graph, samples)
    else:
        made = corrected(graph, quantized(graph, name, GUARD), samples)
    if made is None:
        raise RuntimeError(f"{name} cannot be {how}")
    return made


def quantized(graph: onnx.ModelProto, name: str, guard: Any) -> onnx.ModelProto:
    """The graph with Q/DQ pairs as the ONNX Runtime target places them."""
    from pipeline.onnx_graph import specs

    with TemporaryDirectory() as scratch:
        folder, made = Path(scratch) / "float", Path(scratch) / "int8"
        folder.mkdir()
        made.mkdir()
        onnx.save(graph, folder / "model.onnx")
        package = ModelPackage(
            folder=folder,
            graphs={"model": "model.onnx"},
            inputs=specs(graph.graph.input),
            outputs=specs(graph.graph.output),
            dims={"batch": (1, 1, 256)},
            preprocessing={},
            precision="fp32",
            architecture="transformer" if name in TRANSFORMERS else "convolutional",
            macs=1,
            parameters=1,
        )
        operators = PRODUCTS_AND_TABLES if name in TRANSFORMERS else None
        able = Capabilities(
            executes_here=True,
            answers_here=True,
            why_not="",
            status="ready",
            precisions=("int8",),
            opset=20,
            ir_version=10,
        )
        scheme = StaticScheme("uint8", operators, guard=guard)
        package = static("static", scheme, FloatGraph(package, calibration()), able, "mse").as_it_is().make(made)
        return onnx.load(package.graph)


def pictures(samples: int, seed: int) -> np.ndarray:
    """Coarse patterns with some noise, [samples, 1, SIDE, SIDE] float32."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(samples, 1, SIDE // 4, SIDE // 4)).repeat(4, axis=2).repeat(4, axis=3)
    return (coarse + 0.3 * rng.normal(size=(samples, 1, SIDE, SIDE))).astype(np.float32)


def calibration() -> CalibrationSet:
    ids = tuple(f"{i:064x}" for i in range(64))
    return CalibrationSet({"pixel_values": pictures(64, 0)}, ids, np.arange(64) % 10, seed=0)


def feeds() -> Feeds:
    return [{"pixel_values": picture[None]} for picture in pictures(SAMPLES, 1)]


def answers(model: onnx.ModelProto, processor: str | None = None) -> np.ndarray:
    """The logits of the feeds: in ONNX Runtime here, or on an emulated processor."""
    if processor is not None:
        with TemporaryDirectory() as folder:
            onnx.save(model, Path(folder) / "model.onnx")
            runs = tensors(
                "onnxruntime_cpu", Path(folder), ["model.onnx"], {"threads": 1}, feeds(), emulation(processor)
            )
        return np.concatenate([run["logits"] for run in runs])
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([np.asarray(session.run(["logits"], feed)[0]) for feed in feeds()])


def emulation(processor: str | None) -> list[str]:
    """The command before a program that is to run on a processor; empty for this one."""
    return [] if processor is None else emulator(processor)
