"""What the TensorRT targets share: ONNX whose precision stands in the graph, as strongly typed networks want it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.errors import UnsupportedError
from targets.onnx_float import FloatGraph
from targets.onnx_graph import FILE, fit, foreign_nodes, read_graph
from targets.onnx_quantization import StaticScheme, half_precision, static
from targets.onnx_regions import PRODUCTS
from targets.target import Candidate, Capabilities, CompiledModel, ModelPackage

if TYPE_CHECKING:
    from calibration.dataset import CalibrationSet

PRECISIONS = ("int8", "fp16", "fp32")
# Read by the parser of TensorRT 10.3 (JetPack 6) and of everything later.
OPSET, IR_VERSION = 20, 10
EXPLICIT = StaticScheme("int8", PRODUCTS, symmetric=True, explicit=True, float_outputs=PRODUCTS)

Shapes = dict[str, tuple[list[int], list[int], list[int]]]


def explicit_candidates(
    package: ModelPackage, calibration: "CalibrationSet", able: Capabilities
) -> Sequence[Candidate]:
    """int8 Q/DQ pairs with zero point 0 and per-channel weights, and float16, which a transformer takes better."""
    int8 = static("explicit-s8s8", EXPLICIT, FloatGraph(package, calibration), able)
    half = half_precision("half", package, able)
    return (half, int8) if package.architecture == "transformer" else (int8, half)


def write_standard_graph(package: ModelPackage, out: Path) -> Path:
    """Writes the graph for the parser. Raises UnsupportedError naming the nodes that are not of the ONNX standard."""
    import onnx

    graph = fit(read_graph(package), OPSET, IR_VERSION)
    if foreign := foreign_nodes(graph):
        raise UnsupportedError(
            f"TensorRT takes only operators of the ONNX standard; {package.graph.name} has {', '.join(foreign[:5])}",
            "export the model without them",
        )
    onnx.save(graph, out / FILE)
    return out / FILE


def input_shapes(package: ModelPackage) -> Shapes:
    """Input name -> its (smallest, optimal, largest) shape, of the package's symbolic dimensions."""

    def at(index: int, shape: tuple[int | str, ...]) -> list[int]:
        return [d if isinstance(d, int) else package.dims[d][index] for d in shape]

    return {spec.name: (at(0, spec.shape), at(1, spec.shape), at(2, spec.shape)) for spec in package.inputs}


def simulated(package: ModelPackage, target: str, out: Path) -> CompiledModel:
    """The same graph for ONNX Runtime on this CPU, unoptimized: Q/DQ pairs round as the engine's kernels do, and the
    arithmetic between them is float.
    """
    write_standard_graph(package, out)
    return CompiledModel.of(
        package,
        out,
        target=target,
        runner="onnxruntime_cpu",
        files=(FILE,),
        status="ready",
        options={"threads": 1, "optimization": "none"},
        requires={},
        notes=("a simulation in ONNX Runtime: it stands for the answers, not for the speed",),
    )
