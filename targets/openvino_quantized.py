"""What an OpenVINO model computes in integers: its FakeQuantize nodes, read, looked at, and cut apart."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from calibration.errors import InputError
from calibration.quantization import QuantizationParameters, QuantizationScheme

TYPES = {256: ("uint8", 8), 255: ("int8", 8), 65536: ("uint16", 16), 65535: ("int16", 16)}
# Of a step: a zero that is farther from an integer is not one of the integers' values.
ZERO_TOLERANCE = 0.02
# What shapes a constant and leaves its values.
SOURCES = ("Parameter", "Constant", "Result")
MOVES = ("Reshape", "Unsqueeze", "Squeeze", "Transpose")
SHAPING = ("Reshape", "Unsqueeze", "Squeeze")
GIVEN, MEANT = "given::", "meant::"


@dataclass(frozen=True)
class Fake:
    """A FakeQuantize node of an activation.

    op: its name. sources: names of the tensor that it rounds. how: the parameters of its integers; None where they are
    of a type that is not known. reads: name of the node that gives the values of the integers, itself or, where they
    are multiplied apart, a Multiply -> by which parameters. axis: of scales, where there are several.
    """

    op: str
    sources: frozenset[str]
    how: QuantizationParameters | None
    reads: Mapping[str, QuantizationParameters | None]
    axis: int | None

    @property
    def known(self) -> bool:
        """Whether the integers can be told from the values."""
        return self.how is not None and None not in self.reads.values()


class OpenvinoGraph:
    """An openvino.Model whose constants are folded, beside the model as it was."""

    def __init__(self, model: Any) -> None:
        from openvino.passes import ConstantFolding, Manager

        self.model = model
        self.folded = model.clone()
        manager = Manager()
        manager.register_pass(ConstantFolding())
        manager.run_passes(self.folded)

    @classmethod
    def read(cls, file: Path) -> "OpenvinoGraph":
        """Raises InputError where OpenVINO cannot read the file, or its weights beside it."""
        from openvino import Core

        try:
            return cls(Core().read_model(file))
        except RuntimeError as error:
            raise InputError(
                f"{file}: OpenVINO cannot read it: {error}", "give .xml with its .bin beside it"
            ) from error

    @cached_property
    def nodes(self) -> dict[str, Any]:
        """Name -> node, in topological order."""
        return {node.get_friendly_name(): node for node in self.model.get_ordered_ops()}

    @cached_property
    def constants(self) -> dict[str, Any]:
        """Name -> node, with what can be computed beforehand as Constants."""
        return {node.get_friendly_name(): node for node in self.folded.get_ordered_ops()}

    @cached_property
    def named(self) -> dict[str, Any]:
        """Name of a tensor -> the port that gives it."""
        giving = [node for node in self.nodes.values() if node.get_type_name() != "Result"]
        return {name: port for node in giving for port in node.outputs() for name in port.get_names()}

    @cached_property
    def fakes(self) -> dict[str, Fake]:
        """Name -> FakeQuantize of an activation, in topological order."""
        return {
            name: self._fake(node)
            for name, node in self.nodes.items()
            if node.get_type_name() == "FakeQuantize" and self.constant(name, 0) is None
        }

    @cached_property
    def floats(self) -> list[str]:
        """Names of the nodes whose results are float, read more than once and not only to be rounded.

        A kernel has to write these out whoever looks.
        """
        found: list[str] = []
        for name, node in self.nodes.items():
            readers = [reader.get_type_name() for reader in _readers(node)] if len(node.outputs()) == 1 else []
            readers = [reader for reader in readers if reader not in ("ShapeOf", "Result")]
            kept = len(readers) > 1 and set(readers) != {"FakeQuantize"} and node.get_type_name() not in SOURCES
            if kept and node.output(0).get_names() and str(node.output(0).get_element_type().get_type_name()) == "f32":
                found.append(name)
        ends = {end for fake in self.fakes.values() for end in fake.reads}
        return [name for name in found if name not in ends and not self._is_constant(name)]

    @property
    def outputs(self) -> list[str]:
        """One name of each of the model's results that are not the values of integers."""
        ends = {end for fake in self.fakes.values() for end in fake.reads}
        names = [min(port.get_names()) for port in self.model.outputs if port.get_names()]
        return [name for name in names if self.named[name].get_node().get_friendly_name() not in ends]

    def aliases(self) -> dict[str, list[str]]:
        """GIVEN + node -> names of results of the model that are the same tensor."""
        ends = {op: next(iter(fake.reads)) for op, fake in self.fakes.items()} | {name: name for name in self.floats}
        return {GIVEN + op: sorted(self.nodes[end].output(0).get_names()) for op, end in ends.items()}

    def names_of(self, fake: Fake) -> list[str]:
        """What a FakeQuantize rounds: the names of the tensor, or that of the node which gives it."""
        return sorted(fake.sources) or [self.nodes[fake.op].input_value(0).get_node().get_friendly_name()]

    def constant(self, node: str, position: int) -> np.ndarray | None:
        """The values of an input; None where they depend on what the model is given."""
        # A node that is itself folded has no inputs any more.
        folded = node in self.constants and self.constants[node].get_type_name() != "Constant"
        return _values((self.constants if folded else self.nodes)[node], position)

    def step(self, node: str, position: int) -> np.ndarray:
        """Of a constant input: the distance of neighbouring values, one for all or of its shape; 0 for floats."""
        source = self.nodes[node].input_value(position).get_node()
        while source.get_type_name() in (*SHAPING, "Convert"):
            source = source.input_value(0).get_node()
        step = _step(source)
        values = self.constant(node, position)
        if step.size == 1 or values is None:
            return step.reshape(())
        return np.broadcast_to(step, source.output(0).get_partial_shape().to_shape()).reshape(values.shape)

    def tapped(self) -> Any:
        """The model with the values that its integers stand for, and `floats`, as further results GIVEN + node's name.

        No kernel changes: what it writes is read once more.
        """
        made = self.model.clone()
        nodes = {node.get_friendly_name(): node for node in made.get_ordered_ops()}
        ports = {fake.op: nodes[next(iter(fake.reads))].output(0) for fake in self.fakes.values()}
        ports |= {name: nodes[name].output(0) for name in self.floats}
        for op, port in ports.items():
            port.get_tensor().add_names({GIVEN + op})
        made.add_outputs(list(ports.values()))
        return made

    def cut(self) -> Any:
        """The model apart at the FakeQuantize nodes of its activations and at `floats`: what these give is given, as
        GIVEN + node's name.

        What they should have given, before it is rounded, is MEANT + node's name. Without integers to start from,
        nothing is computed in integers.
        """
        import openvino
        from openvino import opset13

        made: Any = self.folded.clone()
        nodes = {node.get_friendly_name(): node for node in made.get_ordered_ops()}
        ends = {op: list(fake.reads) for op, fake in self.fakes.items()} | {name: [name] for name in self.floats}
        # Before anything stands apart.
        computed = {name: nodes[name].output(0) for name in self.floats}
        integers = {end for fake in self.fakes.values() for end in fake.reads}
        kept = [r for r in made.get_results() if r.input_value(0).get_node().get_friendly_name() not in integers]
        for op, names in ends.items():
            given = opset13.parameter(nodes[names[0]].output(0).get_partial_shape(), np.float32, name=GIVEN + op)
            given.output(0).get_tensor().set_names({GIVEN + op})
            for end in names:
                for reader in nodes[end].output(0).get_target_inputs():
                    if reader.get_node().get_type_name() != "Result":
                        reader.replace_source_output(given.output(0))
        results: list[Any] = []
        for op, port in ({op: nodes[op].input_value(0) for op in self.fakes} | computed).items():
            port.get_tensor().add_names({MEANT + op})
            results.append(opset13.result(port))
        results += kept
        found = _behind(results)
        parameters = [node for node in found if node.get_type_name() == "Parameter"]
        model: Any = openvino.Model
        return model(results, parameters, "cut")

    def before(self, node: str, stops: Collection[str]) -> set[str]:
        """The nodes that a node computes its result from, back to those of `stops`, which are among them."""
        found: set[str] = set()
        pending = [self.nodes[node]]
        while pending:
            for port in pending.pop().inputs():
                current = port.get_source_output().get_node()
                name = current.get_friendly_name()
                if name not in found:
                    found.add(name)
                    pending += [] if name in stops else [current]
        return found

    @cached_property
    def blurred(self) -> set[str]:
        """FakeQuantize nodes, `floats` and nodes of `outputs` behind products that OpenVINO may compute otherwise than
        the graph says: where only the weights are integers, it rounds the activations as they come.
        """
        ends = {end for fake in self.fakes.values() for end in fake.reads}
        rounding: set[str] = set()
        for name, node in self.nodes.items():
            weights = [p for p in (0, 1) if node.get_type_name() == "MatMul" and self.constant(name, p) is not None]
            if len(weights) == 1 and self.step(name, weights[0]).all():
                source = node.input_value(1 - weights[0]).get_node()
                while source.get_type_name() in MOVES:
                    source = source.input_value(0).get_node()
                rounding |= {name} - ({name} if source.get_friendly_name() in ends else set())
        results = [self.named[name].get_node().get_friendly_name() for name in self.outputs]
        looked_at = [*self.fakes, *self.floats, *results]
        return {name for name in looked_at if ({name} | self.before(name, {*ends, *self.floats})) & rounding}

    def _is_constant(self, name: str) -> bool:
        folded = self.constants.get(name)
        return folded is None or folded.get_type_name() == "Constant"

    def _fake(self, node: Any) -> Fake:
        name = node.get_friendly_name()
        sources = frozenset(node.input_value(0).get_names())
        ends = [self.constant(name, position) for position in (1, 2, 3, 4)]
        low_in, high_in, low, high = (np.nan if array is None else array.astype(np.float64) for array in ends)
        levels = node.get_attributes()["levels"]
        reads: dict[str, QuantizationParameters | None] = {}
        for chain in _dequantizing(node):
            zero, scale = np.zeros(()), np.ones(())
            for reader in chain:
                other = self.constant(reader.get_friendly_name(), 1) if reader.get_type_name() != "Convert" else None
                if other is not None and reader.get_type_name() == "Subtract":
                    zero = other.astype(np.float64)
                elif other is not None:
                    scale = other.astype(np.float64)
            end = (chain or [node])[-1].get_friendly_name()
            # Without what multiplies them, integers are no values.
            values = bool(chain) or (np.array_equal(low, low_in) and np.array_equal(high, high_in))
            reads[end] = _parameters((low - zero) * scale, (high - zero) * scale, levels) if values else None
        how = _parameters(np.asarray(low_in), np.asarray(high_in), levels)
        several = how is not None and how.scale.size > 1
        rank = len(node.output(0).get_partial_shape())
        return Fake(name, sources, how, reads, rank + _axis(ends) if several else None)


def _values(node: Any, position: int) -> np.ndarray | None:
    """Of an input that is a constant, which may be reshaped, converted or rounded behind it."""
    source = node.input_value(position).get_node()
    kind = source.get_type_name()
    if kind == "Constant":
        return np.asarray(source.get_data())
    if kind in (*SHAPING, "Convert"):
        found = _values(source, 0)
        shape = source.output(0).get_partial_shape()
        return found.reshape(shape.to_shape()) if found is not None and shape.is_static else found
    if kind != "FakeQuantize":
        return None
    x, *ends = (_values(source, i) for i in range(5))
    if x is None or any(end is None for end in ends):
        return None
    low_in, high_in, low, high = (np.asarray(end, np.float64) for end in ends)
    levels = source.get_attributes()["levels"]
    steps = np.rint((np.clip(x, low_in, high_in) - low_in) / (high_in - low_in) * (levels - 1))
    return steps / (levels - 1) * (high - low) + low


def _step(node: Any) -> np.ndarray:
    """The distance of neighbouring values of what a node gives, broadcast to its shape: of FakeQuantize, of a product
    with integers; else 0.
    """
    if node.get_type_name() == "FakeQuantize":
        low, high = (_values(node, p) for p in (3, 4))
        if low is not None and high is not None:
            return (high.astype(np.float64) - low) / (node.get_attributes()["levels"] - 1)
    integers = node.get_type_name() == "Multiply" and node.input_value(0).get_node().get_type_name()
    scale = _values(node, 1) if integers in ("Convert", "Subtract") else None
    # NNCF gives a scale the sign that spares the largest weight from clipping.
    if scale is None:
        return np.zeros(())
    # A scale in float16 is itself rounded: of a weight of 127 steps by a sixteenth of one.
    return np.abs(scale.astype(np.float64)) * (9 / 8 if scale.dtype == np.float16 else 1)


def _dequantizing(node: Any) -> list[list[Any]]:
    """What makes values of a FakeQuantize's integers, for each reader: Convert, Convert, Subtract if any, Multiply.

    One empty list where the FakeQuantize gives values itself.
    """
    chains: list[list[Any]] = []
    pending = [[reader] for reader in _readers(node) if reader.get_type_name() == "Convert"]
    if len(pending) != len(_readers(node)):
        return [[]]
    while pending:
        chain = pending.pop(0)
        kind = chain[-1].get_type_name()
        if kind == "Multiply":
            chains.append(chain)
        elif kind in ("Convert", "Subtract"):
            pending += [[*chain, reader] for reader in _readers(chain[-1])]
        else:
            return [[]]
    return chains or [[]]


def _readers(node: Any) -> list[Any]:
    return [port.get_node() for port in node.output(0).get_target_inputs()]


def _parameters(low: np.ndarray, high: np.ndarray, levels: int) -> QuantizationParameters | None:
    """None where the integers are not of a known type, or zero is none of their values."""
    if levels not in TYPES or not np.isfinite(high - low).all():
        return None
    name, bits = TYPES[levels]
    scale = (high - low).reshape(-1) / (levels - 1)
    if not (scale > 0).all():
        return None
    signed = name.startswith("int")
    zero = -low.reshape(-1) / scale
    whole = np.rint(zero)
    middle = 2 ** (bits - 1)
    if np.abs(zero - whole).max() > ZERO_TOLERANCE:
        return None
    if signed:
        return QuantizationParameters(
            QuantizationScheme(bits, signed=True, symmetric=True),
            scale.astype(np.float32),
            (whole - (middle - 1)).astype(np.int32),
        )
    if (whole == middle).all():
        scheme, whole = QuantizationScheme(bits, signed=True), whole - middle
    else:
        scheme = QuantizationScheme(bits)
    return QuantizationParameters(scheme, scale.astype(np.float32), whole.astype(np.int32))


def _axis(ends: Sequence[np.ndarray | None]) -> int:
    """Counted from the end: of the dimensions of the limits, the one that is not 1."""
    widest = max((np.asarray(array) for array in ends), key=lambda array: array.size)
    return int(np.argmax(widest.shape)) - widest.ndim


def _behind(results: Sequence[Any]) -> list[Any]:
    """All nodes that results are computed from."""
    found: dict[str, Any] = {}
    pending = list(results)
    while pending:
        node = pending.pop()
        for port in node.inputs():
            source = port.get_source_output().get_node()
            if source.get_friendly_name() not in found:
                found[source.get_friendly_name()] = source
                pending.append(source)
    return list(found.values())
