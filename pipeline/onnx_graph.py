"""ONNX files as a build takes them in and gives them on: one form of names, shapes and versions, and nothing local."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calibration.errors import InputError
from targets.target import TensorSpec

if TYPE_CHECKING:
    import onnx
    import onnxruntime

# What the oldest runtimes of the profiles read.
OPSET = 20
IR_VERSION = 10
FIRST_WITH_WEIGHTS_APART = 4


def read_graph(path: Path) -> "onnx.ModelProto":
    """An ONNX file, its weights inside. Raises InputError where it is missing, damaged, or holds NaN or infinity."""
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise InputError(f"{path}: no such model file", "check the path; it is relative to the recipe")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, FileNotFoundError) as error:
        raise InputError(
            f"{path} is not a valid ONNX model: {str(error).splitlines()[0]}", "export it again"
        ) from error
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{path}: NaN or infinity in {tensor.name}", "export it from weights that are finite")
    return model


def conform(model: "onnx.ModelProto", inputs: Mapping[str, tuple[str, tuple[int, ...]]], where: str) -> int | None:
    """Gives a graph, in place, these input names and shapes with a free first axis "batch", and the output "logits".

    Returns the number of samples that the graph was declared for; None where that was free.

    inputs: name -> (dtype, shape of one sample). A graph with one input takes whatever name; of several, the names must
    agree. Raises InputError where they do not, where it has not one output, or where its opset is too new.
    """
    import onnx

    weights = {t.name for t in model.graph.initializer}
    ports = [i for i in model.graph.input if i.name not in weights]
    if len(ports) < len(model.graph.input):
        # IR 3 wants weights among the inputs; there they could be fed otherwise, and cannot be folded.
        del model.graph.input[:]
        model.graph.input.extend(ports)
        model.ir_version = max(model.ir_version, FIRST_WITH_WEIGHTS_APART)
        ports = list(model.graph.input)
    if len(ports) == len(inputs) == 1:
        rename(model, ports[0].name, next(iter(inputs)))
    elif {p.name for p in ports} != set(inputs):
        raise InputError(
            f"{where} has the inputs {', '.join(p.name for p in ports)}; the task gives {', '.join(inputs)}",
            "export the model with these inputs alone",
        )
    if len(model.graph.output) != 1:
        raise InputError(
            f"{where} has {len(model.graph.output)} outputs: {', '.join(o.name for o in model.graph.output)}",
            "export the model with the logits alone",
        )
    rename(model, model.graph.output[0].name, "logits")
    fixed = [axis.dim_value for port in ports for axis in port.type.tensor_type.shape.dim[:1] if axis.dim_value]
    for port in ports:
        dtype, shape = inputs[port.name]
        found = onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type).name
        if found != dtype:
            raise InputError(
                f"{where}: input {port.name} is {found}; the task gives {dtype}", "export it with that dtype"
            )
        _refuse_other_size(port, shape, where)
        _set_shape(port, ["batch", *shape])
    dims = model.graph.output[0].type.tensor_type.shape.dim
    _set_shape(model.graph.output[0], ["batch", *(d.dim_value or d.dim_param for d in list(dims)[1:])])
    del model.graph.value_info[:]
    _strip(model)
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset > OPSET:
        raise InputError(f"{where} is of opset {opset}", f"export it with opset_version={OPSET} or lower")
    model.ir_version = min(model.ir_version, IR_VERSION)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(
            f"{where}: types or shapes in it contradict each other: {str(error).strip().splitlines()[-1]}",
            "export it again",
        ) from error
    answer = model.graph.output[0].type.tensor_type.elem_type
    if answer not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
        kind = onnx.TensorProto.DataType.Name(answer).lower()
        raise InputError(f"{where}: its output is {kind}", "export it with the logits, in float32, as its output")
    return fixed[0] if fixed else None


def _refuse_other_size(port: "onnx.ValueInfoProto", shape: Sequence[int], where: str) -> None:
    """Raises InputError where the graph was exported for samples of another size than the task gives."""
    declared = [d.dim_value or d.dim_param or "?" for d in port.type.tensor_type.shape.dim]
    if not port.type.tensor_type.HasField("shape"):
        return
    fits = [isinstance(axis, str) or axis == size for axis, size in zip(declared[1:], shape, strict=False)]
    if len(declared) != 1 + len(shape) or not all(fits):
        raise InputError(
            f"{where}: input {port.name} is [{', '.join(map(str, declared))}]; the task gives"
            f" [batch, {', '.join(map(str, shape))}]",
            "set the task's size or length to the model's, or export the model with these axes free",
        )


def specs(ports: "Iterable[onnx.ValueInfoProto]") -> tuple[TensorSpec, ...]:
    """Inputs or outputs of a graph as TensorSpecs."""
    import onnx

    return tuple(
        TensorSpec(
            port.name,
            onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type).name,
            tuple(d.dim_value or d.dim_param for d in port.type.tensor_type.shape.dim),
        )
        for port in ports
    )


def session(path: Path, threads: int = 1, where: str = "") -> "onnxruntime.InferenceSession":
    """An ONNX Runtime session on the CPU that prints nothing. Raises InputError where the runtime refuses the model.

    where: the file as the user knows it, if that is another.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    with _refusals(where or str(path), str(path)):
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_graph(opened: "onnxruntime.InferenceSession", feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    """The output "logits". Raises InputError where the model cannot be run on these inputs."""
    with _refusals("the model"):
        return np.asarray(opened.run(["logits"], dict(feeds))[0])


def architecture_of(model: "onnx.ModelProto") -> str:
    """A ModelPackage's architecture, by the operators of the graph."""
    if _has_attention(model):
        return "transformer"
    recurrent = any(node.op_type in ("LSTM", "GRU", "RNN") for node in model.graph.node)
    return "recurrent" if recurrent else "convolutional"


def _has_attention(model: "onnx.ModelProto") -> bool:
    """Whether the graph multiplies two computed matrices, as attention does and other networks do not."""
    constant = {t.name for t in model.graph.initializer} | {""}
    for node in model.graph.node:
        if all(name in constant for name in node.input):
            constant |= set(node.output)
        elif node.op_type in ("MatMul", "Einsum") and not any(name in constant for name in node.input):
            return True
    return False


def count_parameters(model: "onnx.ModelProto") -> int:
    """Elements of the floating-point initializers."""
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type in floats)


def count_macs(model: "onnx.ModelProto") -> int:
    """Multiply-accumulates of convolutions and matrix products for one sample, by ONNX shape inference."""
    import onnx

    one = onnx.ModelProto()
    one.CopyFrom(model)
    for port in [*one.graph.input, *one.graph.output]:
        _set_shape(port, [1, *(d.dim_value or d.dim_param for d in list(port.type.tensor_type.shape.dim)[1:])])
    graph = onnx.shape_inference.infer_shapes(one, data_prop=True).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    total = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN"):
            continue
        first, weight, out = (shapes.get(n, ()) for n in (node.input[0], node.input[1], node.output[0]))
        match node.op_type:
            case "Conv":
                total += int(np.prod(out) * np.prod(weight[1:]))
            case "ConvTranspose":
                total += int(np.prod(first) * np.prod(weight[1:]))
            case "MatMul":
                total += int(np.prod(out) * (first[-1] if first else 0))
            case "LSTM" | "GRU" | "RNN":
                # At each step all weights of the input and of the state, of every direction.
                total += int(np.prod(first[:2]) * (np.prod(weight) + np.prod(shapes.get(node.input[2], ()))))
            case _:
                total += int(np.prod(weight) * (out[0] if out else 0))
    return total


def rename(model: "onnx.ModelProto", old: str, new: str) -> None:
    """Gives a value another name wherever it is made or read; a value that had the new name before gets a third."""
    if old == new:
        return
    names = {old: new, new: f"{new}_before"}
    graph = model.graph
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    for value in [*graph.input, *graph.output, *graph.initializer, *graph.value_info]:
        value.name = names.get(value.name, value.name)


def _set_shape(port: "onnx.ValueInfoProto", shape: Sequence[int | str]) -> None:
    dims = port.type.tensor_type.shape
    del dims.dim[:]
    for size in shape:
        if isinstance(size, int):
            dims.dim.add().dim_value = size
        else:
            dims.dim.add().dim_param = size


def _strip(model: "onnx.ModelProto") -> None:
    """Exporters write stack traces with the paths of the machine into the graph: they are no part of the model."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


@contextmanager
def _refusals(what: str, path: str = "") -> Generator[None]:
    """Says in one line what ONNX Runtime refuses; path: what it calls the file."""
    import importlib

    runtime = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    refusals = (
        runtime.Fail,
        runtime.InvalidArgument,
        runtime.InvalidGraph,
        runtime.InvalidProtobuf,
        runtime.NotImplemented,
        runtime.RuntimeException,
    )
    try:
        yield
    except refusals as error:
        said = str(error).splitlines()[0]
        said = said.replace(path, "it") if path else said
        unknown = "is not a registered function" in said
        step = "replace the operator by ONNX's own" if unknown else "export it again, with a free batch axis"
        raise InputError(f"{what}: ONNX Runtime: {said}", step) from error
