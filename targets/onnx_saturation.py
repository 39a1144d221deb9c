"""A quantized ONNX graph that computes, on any CPU, what ONNX Runtime computes on an x86-64 CPU without VNNI.

Each product that such a CPU sums in pairs (targets/onnx_products.py) is replaced by an exact one, less what clipping
takes away (calibration/saturation.py): the sum, over the pairs whose weights are large enough to clip at all, of what
exceeds 16 bits. It is all standard ONNX, so whatever runs a graph runs this one, at a few times the cost.

The graph must be run unoptimized (runner option {"optimization": "none"}): it is the optimized one already.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from targets.onnx_clipped_sums import COUNTS, Surgery
from targets.onnx_products import optimized, products

if TYPE_CHECKING:
    import onnx

RUN = {"optimization": "none"}


@dataclass(frozen=True)
class SaturatingLayer:
    """What clipping does to one layer on some samples.

    node: its name in the optimized graph; weights: of its weights, empty where they are computed.
    channels: share of the output channels that some input can clip.
    clipped: share of the sums of two products that were clipped.
    changed: share of the layer's outputs that are other than they would be, its inputs being the same.
    sqnr_db: of these outputs, against those without clipping; infinite where none was changed.
    """

    node: str
    weights: str
    channels: float
    clipped: float
    changed: float
    sqnr_db: float


def without_vnni(
    graph: "onnx.ModelProto", layers: Collection[str] | None = None, *, counting: bool = False
) -> "onnx.ModelProto":
    """The graph that gives, run unoptimized, a CPU's answers that has AVX2 and no VNNI.

    layers: names of the nodes, in the optimized graph, that clip; None for all. With none it gives the exact answers.
    counting: with an output more for each of them, NAME/clipping, float32 [6] of COUNTS.
    Raises UnsupportedError naming a node of which it is not known how it sums.
    """
    import onnx

    model = optimized(graph)
    found = {product.node: product for product in products(model)}
    surgery = Surgery(model)
    for index, node in enumerate(model.graph.node):
        product = found.get(index)
        if product is None:
            surgery.nodes.append(node)
        else:
            surgery.replace(node, product, clips=layers is None or product.name in layers, counting=counting)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(surgery.nodes)
    model.graph.initializer.extend(surgery.constants)
    model.graph.output.extend(surgery.counts)
    _drop_unread(model.graph)
    default = next(o for o in model.opset_import if o.domain in ("", "ai.onnx"))
    # Of the operators used here, ReduceSum takes its axes, and Clip integers, from 13 on.
    if default.version < 13:
        model = onnx.version_converter.convert_version(model, 13)
    return model


def saturating_layers(graph: "onnx.ModelProto", feeds: Iterable[Mapping[str, np.ndarray]]) -> list[SaturatingLayer]:
    """What clipping does to each layer that is summed in pairs, in the graph's order; empty where there is none.

    feeds: the samples, as the model takes them.
    """
    import onnxruntime

    found = products(optimized(graph))
    if not found:
        return []
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    counting = without_vnni(graph, counting=True).SerializeToString()
    session = onnxruntime.InferenceSession(counting, options, providers=["CPUExecutionProvider"])
    names = [f"{product.name}/clipping" for product in found]
    totals = np.zeros((len(found), len(COUNTS)))
    for feed in feeds:
        counted: Any = session.run(names, dict(feed))
        totals += np.asarray(counted, np.float64)
    layers: list[SaturatingLayer] = []
    for product, row in zip(found, totals, strict=True):
        clipped, pairs, changed, outputs, noise, signal = row
        channels = float(product.can_clip.mean())
        sqnr = 10 * np.log10(max(signal, 1e-30) / noise) if noise else np.inf
        layers.append(
            SaturatingLayer(
                product.name,
                product.w if product.weights is not None else "",
                channels,
                float(clipped / pairs) if pairs else 0.0,
                float(changed / outputs) if outputs else 0.0,
                float(sqnr),
            )
        )
    return layers


def _drop_unread(graph: "onnx.GraphProto") -> None:
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
