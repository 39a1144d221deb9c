"""Which constant of an OpenVINO model stands for one of the ONNX graph that it was made from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from targets.openvino_graph import RuntimeModel

if TYPE_CHECKING:
    import onnx

PRODUCTS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")
# Operator and input of ONNX, any input where it is None -> which of OpenVINO's operators has the constant.
CONSTANTS: dict[tuple[str, int | None], tuple[str, ...]] = {
    **{(op, 1): PRODUCTS for op in ("Conv", "ConvTranspose", "MatMul", "Gemm")},
    **{(op, 2): ("Add",) for op in ("Conv", "ConvTranspose", "Gemm", "LayerNormalization")},
    ("LayerNormalization", 1): ("Multiply",),
    ("Gather", 0): ("Gather",),
    ("Add", None): ("Add",),
    ("Mul", None): ("Multiply",),
}


@dataclass
class SharedConstants:
    """Told by the names that OpenVINO's nodes and ports keep of ONNX nodes and tensors."""

    graph: RuntimeModel

    def find(self, node: "onnx.NodeProto", position: int, array: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Values and the steps between them of what stands for a constant of the reference, in its shape."""
        found = self._input(node, position)
        if found is None:
            return None
        values, step = found
        if values.size != array.size:
            return None
        matrix = node.op_type in ("MatMul", "Gemm") and array.ndim == 2 and position == 1
        if matrix and self._is_transposed(node):
            values, step = values.T, step.T if step.size > 1 else step
        return values.reshape(array.shape).astype(np.float64), _steps(step, array.shape)

    def _input(self, node: "onnx.NodeProto", position: int) -> tuple[np.ndarray, np.ndarray] | None:
        own = self._counterpart(node)
        kinds = CONSTANTS.get((node.op_type, position)) or CONSTANTS.get((node.op_type, None)) or ()
        if kinds == PRODUCTS:
            own = self._product(own)
        elif kinds == ("Multiply",) and node.op_type == "LayerNormalization" and own is not None:
            # Behind it the shift is added.
            own = own.input_value(0).get_node() if own.get_type_name() == "Add" else own
        if own is None or own.get_type_name() not in kinds:
            return None
        name = own.get_friendly_name()
        places = (0,) if kinds == ("Gather",) else range(len(own.inputs()))
        constants = [p for p in places if self.graph.constant(name, p) is not None]
        array = self.graph.constant(name, constants[0]) if len(constants) == 1 else None
        return None if array is None else (array, self.graph.step(name, constants[0]))

    def _counterpart(self, node: "onnx.NodeProto") -> Any:
        """What gives a node's result or, where the result has lost its name, has the node's; None where nothing has."""
        port = self.graph.named.get(node.output[0])
        found = port.get_node() if port is not None else self.graph.nodes.get(node.name)
        ends = {end: op for op, fake in self.graph.fakes.items() for end in fake.reads}
        if found is not None and (op := ends.get(found.get_friendly_name())):
            # The quantizer left the name to what reads the integers.
            return self.graph.nodes[op].input_value(0).get_node()
        return found

    def _product(self, node: Any) -> Any:
        """The product with weights to whose result a bias is added, if any, and which Gemm multiplies by its alpha."""
        while node is not None and node.get_type_name() not in PRODUCTS:
            arrays = [self.graph.constant(node.get_friendly_name(), p) for p in range(len(node.inputs()))]
            computed = [p for p, array in enumerate(arrays) if array is None]
            if node.get_type_name() not in ("Add", "Multiply") or len(computed) != 1 or len(arrays) != 2:
                return None
            factor = arrays[1 - computed[0]]
            if node.get_type_name() == "Multiply" and factor is not None and not (factor == 1).all():
                return None
            node = node.input_value(computed[0]).get_node()
        return node

    def _is_transposed(self, node: "onnx.NodeProto") -> bool:
        """Whether OpenVINO's product takes the matrix the other way round."""
        own = self._product(self._counterpart(node))
        theirs = bool(own.get_attributes().get("transpose_b", False))
        return theirs != any(a.name == "transB" and a.i for a in node.attribute)


def _steps(step: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Steps of an array for the same array in another shape: as few of them as there are."""
    if step.size == 1:
        return step.reshape(())
    whole = step.reshape(shape)
    for axis in range(whole.ndim):
        first = whole.take([0], axis=axis)
        whole = first if (whole == first).all() else whole
    return whole
