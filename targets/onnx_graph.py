"""ONNX graphs, fitted to the runtime that will read them."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.errors import UnsupportedError
from targets.target import ModelPackage

if TYPE_CHECKING:
    import onnx

DEFAULT_DOMAINS = ("", "ai.onnx")
FILE = "model.onnx"
SESSION_ERRORS = ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException")
# Of an initializer with more values none is a shape, or anything else that shapes depend on.
MOST_OF_SHAPE = 1024


def read_graph(package: ModelPackage) -> "onnx.ModelProto":
    """The graph with its weights. Raises UnsupportedError where the package is in another runtime's format."""
    import onnx

    if package.graph.suffix != ".onnx":
        raise UnsupportedError(
            f"{package.graph.name} is not an ONNX file: it was quantized for another runtime",
            "build for this target from the float model",
        )
    return onnx.load(package.graph)


def inferred(graph: "onnx.ModelProto") -> "onnx.GraphProto":
    """The graph with types and shapes inferred, without the values of its weights: only they are long in the copying.

    Raises what onnx.shape_inference raises.
    """
    import onnx

    own = graph.graph
    bare = onnx.GraphProto(
        name=own.name,
        node=own.node,
        input=own.input,
        output=own.output,
        value_info=own.value_info,
        sparse_initializer=own.sparse_initializer,
    )
    for tensor in own.initializer:
        if math.prod(tensor.dims) > MOST_OF_SHAPE:
            bare.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        else:
            bare.initializer.append(tensor)
    model = onnx.ModelProto(
        ir_version=graph.ir_version, opset_import=graph.opset_import, functions=graph.functions, graph=bare
    )
    return onnx.shape_inference.infer_shapes(model).graph


def fit(graph: "onnx.ModelProto", opset: int, ir_version: int) -> "onnx.ModelProto":
    """The graph for a runtime that reads up to this opset and IR version, without notes; the rest is left as it is.

    Declarations of operator sets that no node uses are dropped: an old runtime refuses those it does not know.
    Raises UnsupportedError naming the operator that has no older form.
    """
    import onnx
    from onnx import version_converter

    used = {node.domain or "" for node in graph.graph.node} | {f.domain for f in graph.functions} | {""}
    kept = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in graph.opset_import}
    del graph.opset_import[:]
    graph.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in sorted(kept.items()) if d in used)
    if kept[""] > opset:
        try:
            graph = version_converter.convert_version(graph, opset)
        except (RuntimeError, version_converter.ConvertError) as error:
            raise UnsupportedError(
                f"the model uses opset {kept['']} and has no form in opset {opset}, the newest that the oldest runtime "
                f"of the device reads: {error}",
                "raise the lower end of the runtime's version range in the profile",
            ) from error
    graph.ir_version = min(graph.ir_version, ir_version)
    return _without_notes(graph)


def _without_notes(graph: "onnx.ModelProto") -> "onnx.ModelProto":
    """Takes away what exporters note of where nodes came from: a third of a small file, and paths of this machine."""
    for part in (
        *graph.graph.node,
        *graph.graph.input,
        *graph.graph.output,
        *graph.graph.initializer,
        graph.graph,
        graph,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.graph.value_info[:]
    return graph


def foreign_nodes(graph: "onnx.ModelProto") -> list[str]:
    """Each node that is not of the ONNX standard, as "name (domain.Operator)"."""
    return [f"{n.name} ({n.domain}.{n.op_type})" for n in graph.graph.node if n.domain not in DEFAULT_DOMAINS]


def write_package(package: ModelPackage, graph: "onnx.ModelProto", folder: Path, precision: str) -> ModelPackage:
    """The package with another graph in place of its own, saved in a folder with its assets."""
    import onnx

    onnx.save(graph, folder / FILE)
    return write_derived(package, folder, precision, FILE, ())


def write_derived(
    package: ModelPackage, folder: Path, precision: str, graph: str, external_data: tuple[str, ...]
) -> ModelPackage:
    """Saves a package whose graph files are in the folder already: the rest is as in `package`."""
    assets = replace(package, graphs={}, external_data=()).copy_to(folder)
    derived = replace(assets, precision=precision, graphs={"model": graph}, external_data=external_data)
    derived.save()
    return derived


def session_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises for a graph that it does not take: there is no base class of them."""
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return tuple(getattr(state, name) for name in SESSION_ERRORS)


@contextmanager
def refusing(route: str) -> Generator[None]:
    """Turns what a quantization tool raises for a graph it cannot take into UnsupportedError.

    The tools check little and fail anywhere, so what they raise says only that the route does not go.
    """
    import onnx

    tools = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, *session_errors())
    general = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
    try:
        yield
    except (*tools, *general) as error:
        raise UnsupportedError(f"{route} cannot take this model: {type(error).__name__}: {error}") from error
