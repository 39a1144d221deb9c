"""An OpenVINO model as the ONNX graph that it was made from, with Q/DQ pairs where it computes in integers.

Only what can be told from names is taken over: OpenVINO keeps those of ONNX tensors at the ports that give them.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.quantization import QuantizationParameters
from targets.onnx_integers import QuantizedGraph
from targets.onnx_matching import SUFFIX
from targets.onnx_taps import float_names
from targets.openvino_graph import RuntimeModel
from targets.openvino_integers import Fake
from targets.openvino_shared_constants import SharedConstants

if TYPE_CHECKING:
    import onnx

WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
# Of a step: how far weights lie from integers, by float32 alone.
WHOLE = 0.02


@dataclass
class Translation:
    """model: the graph. keys: FakeQuantize -> name of its integers there, of those that have a place in it. floats:
    node of RuntimeModel.floats -> name of its result there. unknown: names of nodes whose results are not what the
    graph says. steps: constant of the reference -> distances of neighbouring values, where the graph has it in float.
    """

    model: "onnx.ModelProto"
    keys: dict[str, str] = field(default_factory=dict[str, str])
    floats: dict[str, str] = field(default_factory=dict[str, str])
    unknown: set[str] = field(default_factory=set[str])
    steps: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])


def as_onnx(reference: "onnx.ModelProto", graph: RuntimeModel, blurred: Collection[str] = ()) -> Translation:
    """reference: float graph as `float_reference` gives it, of which B's nodes keep the tensors' names. blurred: nodes
    whose results are not what the graph says.
    """
    return _Translator(reference, graph, blurred).translate()


class _Translator:
    def __init__(self, reference: "onnx.ModelProto", graph: RuntimeModel, blurred: Collection[str]) -> None:
        import onnx

        self.reference = QuantizedGraph(reference)
        self.graph = graph
        self.blurred = blurred
        self.constants = SharedConstants(graph)
        model = onnx.ModelProto()
        model.CopyFrom(reference)
        del model.graph.value_info[:]
        self.found = Translation(model)
        self.readers: list[onnx.NodeProto] = []
        self.computed = float_names(reference) | {n for n in self.reference.inputs if n not in self.reference.arrays}

    def translate(self) -> Translation:
        model = self.found.model
        self._take_constants()
        pairs: dict[str, list[onnx.NodeProto]] = {}
        for name in self.graph.floats:
            tensor = self._tensor(self.graph.nodes[name].output(0).get_names())
            if tensor in self.reference.producer:
                self.found.floats[name] = tensor
        for fake in self.graph.fakes.values():
            place = self._place(fake)
            if place is None:
                continue
            tensor, factor = place
            nodes = list(self._pair(fake, tensor, factor))
            pairs.setdefault(tensor, []).extend(nodes)
            self.found.keys[fake.op] = f"{fake.op}::integers"
        self._mark_unknown()
        nodes = list(model.graph.node)
        ordered = [*self.readers, *(n for name in self.reference.inputs for n in pairs.get(name, []))]
        for node in nodes:
            ordered += [node, *(n for name in node.output for n in pairs.get(name, []))]
        # The nodes lie in the list that is emptied.
        copies = [_copy(node) for node in ordered]
        del model.graph.node[:]
        model.graph.node.extend(copies)
        return self.found

    def _place(self, fake: Fake) -> tuple[str, np.ndarray | None] | None:
        """The tensor of the reference that is quantized, and what it is multiplied with before."""
        if not fake.known:
            return None
        if (tensor := self._tensor(fake.sources)) is not None:
            return tensor, None
        # SmoothQuant's factor, which stands in weights behind it.
        source = self.graph.nodes[fake.op].input_value(0).get_node()
        factor = self.graph.constant(source.get_friendly_name(), 1) if source.get_type_name() == "Multiply" else None
        tensor = None if factor is None else self._tensor(source.input_value(0).get_names())
        return None if tensor is None else (tensor, factor)

    def _tensor(self, names: Collection[str]) -> str | None:
        """The tensor of the reference that has one of these names; of several, which differ in shape, the last."""
        plain = {name.removesuffix(SUFFIX) for name in names}
        known = sorted((set(names) | plain) & self.computed, key=lambda name: self.reference.producer.get(name, -1))
        return known[-1] if known else None

    def _pair(self, fake: Fake, tensor: str, factor: np.ndarray | None) -> "Iterator[onnx.NodeProto]":
        """The nodes that quantize a tensor; its readers are given what they read of them."""
        from onnx import helper

        graph = self.found.model.graph
        source = tensor
        if factor is not None:
            source = self.graph.nodes[fake.op].input_value(0).get_node().get_friendly_name()
            self._initializer(f"{source}::factor", factor.astype(np.float32))
            yield helper.make_node("Mul", [tensor, f"{source}::factor"], [source], source)
        key = f"{fake.op}::integers"
        yield self._node("QuantizeLinear", source, fake.op, fake.how, fake.axis, key)
        for end, how in fake.reads.items():
            read, name = f"{end}::values", end if end != fake.op else f"{end}::reader"
            yield self._node("DequantizeLinear", key, name, how, fake.axis, read)
            reached = set(self._reached(end))
            for node in graph.node:
                if tensor in node.input and reached & set(self._kept(node)):
                    node.input[:] = [read if n == tensor else n for n in node.input]

    def _reached(self, end: str) -> Iterator[str]:
        """The first tensors of the reference behind a node."""
        pending, seen = [self.graph.nodes[end]], set[str]()
        while pending:
            for port in pending.pop().output(0).get_target_inputs():
                node = port.get_node()
                names = {name for out in node.outputs() for name in out.get_names()} & self.computed
                yield from names
                if not names and node.get_friendly_name() not in seen and node.outputs():
                    seen.add(node.get_friendly_name())
                    pending.append(node)

    def _kept(self, node: "onnx.NodeProto") -> Iterator[str]:
        """The first tensors at or behind a node of the reference that have their names in the OpenVINO model."""
        pending, seen = list(node.output), set[str]()
        while pending:
            name = pending.pop()
            if name in self.graph.named or name in self.reference.outputs:
                yield name
            elif name not in seen:
                seen.add(name)
                consumers = self.reference.consumers.get(name, [])
                pending += [n for index in consumers for n in self.reference.nodes[index].output]

    def _take_constants(self) -> None:
        """Weights and biases as they stand in the OpenVINO model."""
        for node in self.found.model.graph.node:
            for position, name in enumerate(node.input):
                array = self.reference.arrays.get(name)
                if array is None or array.dtype.kind != "f":
                    continue
                own = self.constants.find(node, position, array)
                if own is not None:
                    node.input[position] = self._stored(f"{node.name}::{position}", name, *own)
                elif (position, node.op_type) == (0, "Gather") or (position == 1 and node.op_type in WEIGHTED):
                    self.found.unknown.add(node.name)

    def _stored(self, name: str, stands_for: str, values: np.ndarray, step: np.ndarray) -> str:
        """An initializer for a constant, with a DequantizeLinear where it stands in integers."""
        from onnx import helper

        integers = np.rint(values / np.where(step > 0, step, 1.0))
        along_one = step.size == max(step.shape, default=1)
        if not along_one or not (step > 0).all() or np.abs(values / step - integers).max(initial=0.0) > WHOLE:
            self._initializer(name, values.astype(np.float32))
            self.found.steps[stands_for] = step
            return name
        kind = np.int8 if np.abs(integers + 0.5).max(initial=0.0) < 128 else np.int32
        axis = int(np.argmax(step.shape)) if step.size > 1 else 0
        self._initializer(f"{name}::integers", integers.astype(kind))
        scale = step.astype(np.float32).reshape((-1,) if step.size > 1 else ())
        self._initializer(f"{name}::scale", scale)
        self._initializer(f"{name}::zero", np.zeros(scale.shape, kind))
        inputs = [f"{name}::integers", f"{name}::scale", f"{name}::zero"]
        self.readers.append(helper.make_node("DequantizeLinear", inputs, [name], f"{name}::reader", axis=axis))
        return name

    def _mark_unknown(self) -> None:
        """Nodes behind a FakeQuantize that has no place in the graph, or behind what the graph does not say."""
        graph, found = self.graph, self.found
        ends = {end: op for op, fake in graph.fakes.items() for end in fake.reads}
        stops = {*ends, *found.floats}
        lost = {end for end, op in ends.items() if op not in found.keys}

        def is_unknown(node: str) -> bool:
            return node in self.blurred or bool((graph.before(node, stops) | {node}) & lost)

        found.unknown |= {op for op in found.keys if is_unknown(op)}
        results = found.floats | {graph.named[name].get_node().get_friendly_name(): name for name in graph.outputs}
        for node, tensor in results.items():
            if tensor in self.reference.producer and is_unknown(node):
                found.unknown.add(self.reference.nodes[self.reference.producer[tensor]].name)

    def _node(
        self, op_type: str, source: str, name: str, how: QuantizationParameters | None, axis: int | None, result: str
    ) -> "onnx.NodeProto":
        from onnx import helper

        if how is None:
            raise ValueError(f"{name}: its integers are of an unknown type")
        kind = np.dtype(f"{'' if how.scheme.signed else 'u'}int{how.scheme.bits}")
        shape = () if how.scale.size == 1 else (-1,)
        self._initializer(f"{name}::scale", how.scale.reshape(shape))
        self._initializer(f"{name}::zero", how.zero_point.astype(kind).reshape(shape))
        node = helper.make_node(op_type, [source, f"{name}::scale", f"{name}::zero"], [result], name)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        return node

    def _initializer(self, name: str, array: np.ndarray) -> None:
        from onnx import numpy_helper

        self.found.model.graph.initializer.append(numpy_helper.from_array(array, name))


def _copy(node: Any) -> Any:
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
