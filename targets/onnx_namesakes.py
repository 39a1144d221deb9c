"""Which operator of an ONNX artifact is which of a float graph that another exporter named.

Everything else finds operators and tensors by name. Where names say nothing, an operator is the one of its type that
reads the same tensors, and of several the one whose weights are most alike; an operator behind what was not found is
known by its weights alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from targets.onnx_integers import PAIR, QuantizedGraph
from targets.onnx_matching import COMMUTATIVE, RENAMED, SUFFIX

if TYPE_CHECKING:
    import onnx

# What quantizers fold into a range, or leave out.
FOLDED = ("Relu", "Clip", "Identity")
# The cosine of weights and of what int8 makes of them is above 0.99; of other weights it is near 0.
ALIKE = 0.9
# Of an artifact's operators: a fault may have changed some, and small graphs have few names of their own.
MOST = 2 / 3
# In front of a name that means something else in the artifact.
FOREIGN = "A::"


@dataclass(frozen=True)
class Renamed:
    """A float graph under an artifact's names. names: what its tensors were called -> what they are called now.

    unknown: names of the artifact's operators that were not found in it.
    """

    model: "onnx.ModelProto"
    names: Mapping[str, str]
    unknown: Sequence[str]


def share_names(reference: "onnx.ModelProto", artifact: "onnx.ModelProto") -> bool:
    """Whether most of the artifact's operators, of the types that both have, have the reference's names and tensors."""
    types = {node.op_type for node in reference.graph.node}
    known = {(node.name, node.op_type) for node in reference.graph.node}
    made = {name for node in reference.graph.node for name in node.output}
    own = [node for node in artifact.graph.node if node.op_type in types]
    same = [(_name(node), node.op_type) in known and node.output[0].removesuffix(SUFFIX) in made for node in own]
    return sum(same) >= MOST * len(own)


def renamed(reference: "onnx.ModelProto", artifact: "onnx.ModelProto") -> Renamed:
    """A float graph under the names of an artifact of it. Inputs and outputs have the same names already."""
    import onnx

    ours, theirs = QuantizedGraph(reference), QuantizedGraph(artifact)
    found = _Namesakes(ours, theirs)
    found.find()
    ports = {*ours.inputs, *ours.outputs}
    taken = {name.removesuffix(SUFFIX) for name in (*theirs.producer, *theirs.arrays)}
    names = {name: FOREIGN + name for name in (*ours.producer, *ours.arrays) if name in taken - ports}
    names |= {own: name for own, name in found.tensors.items() if own not in ports}
    nodes = {_name(node) for node in theirs.nodes}
    made = onnx.ModelProto()
    made.CopyFrom(reference)
    for index, node in enumerate(made.graph.node):
        if index in found.nodes:
            node.name = _name(theirs.nodes[found.nodes[index]])
        elif node.name in nodes:
            node.name = FOREIGN + node.name
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in made.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    del made.graph.value_info[:]
    there = set(found.nodes.values())
    computing = ((i, n) for i, n in enumerate(theirs.nodes) if n.op_type not in (*PAIR, "Constant"))
    return Renamed(made, names, [node.name or node.output[0] for index, node in computing if index not in there])


def _name(node: "onnx.NodeProto") -> str:
    return node.name.removesuffix(RENAMED)


@dataclass
class _Namesakes:
    """nodes: index of the reference's node -> of the artifact's. tensors: the reference's name -> the artifact's."""

    ours: QuantizedGraph
    theirs: QuantizedGraph
    nodes: dict[int, int] = field(default_factory=dict[int, int])
    tensors: dict[str, str] = field(default_factory=dict[str, str])

    def find(self) -> None:
        self.tensors.update({name: name for name in self.ours.inputs})
        for index, node in enumerate(self.theirs.nodes):
            if node.op_type in PAIR:
                continue
            own = self._namesake(node)
            if own is None:
                continue
            self.nodes[own] = index
            for name, other in zip(self.ours.nodes[own].output, node.output, strict=False):
                self.tensors[name] = other.removesuffix(SUFFIX)
        for index, node in enumerate(self.ours.nodes):
            source = (*node.input, "")[0]
            alone = len(self.ours.consumers.get(source, [])) == 1 and source not in self.ours.inputs
            if node.op_type in FOLDED and index not in self.nodes and source in self.tensors and alone:
                # The operator before it does its work, and what that gives is what this one gave.
                self.tensors[node.output[0]] = self.tensors.pop(source)

    def _namesake(self, node: "onnx.NodeProto") -> int | None:
        able = [i for i, own in enumerate(self.ours.nodes) if i not in self.nodes and _could_be(own, node)]
        here = [i for i in able if self._reads_the_same(self.ours.nodes[i], node)]
        likeness = {i: self._likeness(self.ours.nodes[i], node) for i in here or able}
        best = max(likeness, key=lambda i: (likeness[i], -i), default=None)
        return best if here or (best is not None and likeness[best] > ALIKE) else None

    def _reads_the_same(self, own: "onnx.NodeProto", node: "onnx.NodeProto") -> bool:
        read = [_place(self.theirs, name) for name in node.input]
        places = [_place(self.ours, name) for name in own.input]
        # What was not found is no tensor of the artifact's.
        wanted = [None if place is None else self.tensors.get(place, FOREIGN) for place in places]
        return wanted == read or (node.op_type in COMMUTATIVE and wanted[::-1] == read)

    def _likeness(self, own: "onnx.NodeProto", node: "onnx.NodeProto") -> float:
        """The least cosine of the constants of two dimensions and more; 0 where there is none, or of other shapes."""
        return min(self._cosines(own, node), default=0.0)

    def _cosines(self, own: "onnx.NodeProto", node: "onnx.NodeProto") -> Iterator[float]:
        for name, other in zip(own.input, node.input, strict=True):
            a, b = self.ours.constants.get(name), self.theirs.constants.get(other)
            if a is None or b is None or a.values.ndim < 2:
                continue
            norms = float(np.linalg.norm(a.values) * np.linalg.norm(b.values))
            yield float((a.values * b.values).sum() / norms) if a.values.shape == b.values.shape and norms else 0.0


def _could_be(own: "onnx.NodeProto", node: "onnx.NodeProto") -> bool:
    """Of one type, with attributes that do not contradict each other: exporters leave out those that are defaults."""
    from onnx import helper

    if own.op_type != node.op_type or len(own.input) != len(node.input):
        return False
    a, b = ({x.name: helper.get_attribute_value(x) for x in each.attribute} for each in (own, node))
    return all(a[name] == b[name] for name in a.keys() & b.keys())


def _place(graph: QuantizedGraph, name: str) -> str | None:
    """The tensor that is read, before it is quantized or goes through what may be folded; None of constants."""
    if not name or name in graph.arrays or name in graph.constants:
        return None
    while True:
        index = graph.producer.get(name)
        if name in graph.reads:
            name = graph.reads[name][0].source
        elif index is not None and graph.nodes[index].op_type in FOLDED:
            name = graph.nodes[index].input[0]
        else:
            return name.removesuffix(SUFFIX)
