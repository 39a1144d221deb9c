"""An OpenVINO model as far as it can be looked into: its integers, and what lies between them."""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from calibration.errors import InputError
from targets.openvino_constants import SHAPING, step_of, values_of
from targets.openvino_integers import Fake, read_fake, readers_of

SOURCES = ("Parameter", "Constant", "Result")
MOVES = (*SHAPING, "Transpose")


class RuntimeModel:
    """An openvino.Model whose constants are folded, beside the model as it was."""

    def __init__(self, model: Any) -> None:
        from openvino.passes import ConstantFolding, Manager

        self.model = model
        self.folded = model.clone()
        manager = Manager()
        manager.register_pass(ConstantFolding())
        manager.run_passes(self.folded)

    @classmethod
    def read(cls, file: Path) -> "RuntimeModel":
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
            name: read_fake(node, self.constant)
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
            readers = [reader.get_type_name() for reader in readers_of(node)] if len(node.outputs()) == 1 else []
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

    def names_of(self, fake: Fake) -> list[str]:
        """What a FakeQuantize rounds: the names of the tensor, or that of the node which gives it."""
        return sorted(fake.sources) or [self.nodes[fake.op].input_value(0).get_node().get_friendly_name()]

    def constant(self, node: str, position: int) -> np.ndarray | None:
        """The values of an input; None where they depend on what the model is given."""
        # A node that is itself folded has no inputs any more.
        folded = node in self.constants and self.constants[node].get_type_name() != "Constant"
        return values_of((self.constants if folded else self.nodes)[node], position)

    def step(self, node: str, position: int) -> np.ndarray:
        """Of a constant input: the distance of neighbouring values, one for all or of its shape; 0 for floats."""
        source = self.nodes[node].input_value(position).get_node()
        while source.get_type_name() in (*SHAPING, "Convert"):
            source = source.input_value(0).get_node()
        step = step_of(source)
        values = self.constant(node, position)
        if step.size == 1 or values is None:
            return step.reshape(())
        return np.broadcast_to(step, source.output(0).get_partial_shape().to_shape()).reshape(values.shape)

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
