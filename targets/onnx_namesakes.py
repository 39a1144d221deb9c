"""Which operator of an ONNX artifact is which of a float graph that another exporter named.

Everything else finds operators and tensors by name. Where names say nothing, an operator is the one of its type that
reads the same tensors, and of several the one whose weights are most alike; an operator behind what was not found is
known by its weights alone, or by being the only one with weights of this shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from targets.onnx_integers import PAIR, QuantizedGraph
from targets.onnx_matching import COMMUTATIVE, INTEGERS, RENAMED, SUFFIX
from targets.onnx_taps import float_names

if TYPE_CHECKING:
    import onnx

# What quantizers fold into a range, or leave out.
FOLDED = ("Relu", "Clip", "Identity")
# The cosine of weights and of what int8 makes of them is above 0.99; of other weights it is near 0.
ALIKE = 0.9
# Of weights before and after further training.
SOMEWHAT_ALIKE = 0.5
# Of an artifact's operators: a fault may have changed some, and small graphs have few names of their own.
MOST = 2 / 3
# In front of a name that means something else in the artifact.
FOREIGN = "A::"


@dataclass(frozen=True)
class Renamed:
    """A float graph under an artifact's names. names: what its tensors were called -> what they are called now.

    unknown: names of the artifact's operators on floats that were not found in it. alike: the share of the artifact's
    operators with weights whose weights are like those of what they were taken for; 1 where none has weights in Q/DQ
    pairs.
    """

    model: "onnx.ModelProto"
    names: Mapping[str, str]
    unknown: Sequence[str]
    alike: float


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
    found = _Namesakes(ours, theirs, by_name=share_names(reference, artifact))
    found.find()
    ports = {*ours.inputs, *ours.outputs}
    taken = {name.removesuffix(SUFFIX).removesuffix(INTEGERS) for name in (*theirs.producer, *theirs.arrays)}
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
    floats = float_names(artifact)
    computing = ((i, n) for i, n in enumerate(theirs.nodes) if n.op_type not in PAIR and floats & {*n.output})
    unknown = [node.name or node.output[0] for index, node in computing if index not in there]
    return Renamed(made, names, unknown, found.alike())


def _name(node: "onnx.NodeProto") -> str:
    return node.name.removesuffix(RENAMED)


@dataclass
class _Namesakes:
    """nodes: index of the reference's node -> of the artifact's. tensors: the reference's name -> the artifact's.

    by_name: names of operators are the reference's, though not those of tensors.
    """

    ours: QuantizedGraph
    theirs: QuantizedGraph
    by_name: bool
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

    def alike(self) -> float:
        """See Renamed."""
        weighted = [index for index, node in enumerate(self.theirs.nodes) if _weights(self.theirs, node)]
        like = {
            theirs: self._likeness(self.ours.nodes[ours], self.theirs.nodes[theirs])
            for ours, theirs in self.nodes.items()
        }
        return sum(like.get(index, 0.0) > SOMEWHAT_ALIKE for index in weighted) / len(weighted) if weighted else 1.0

    def _namesake(self, node: "onnx.NodeProto") -> int | None:
        able = [i for i, own in enumerate(self.ours.nodes) if i not in self.nodes and own.op_type == node.op_type]
        nodes, likeness = self.ours.nodes, {i: self._likeness(self.ours.nodes[i], node) for i in able}
        among = [i for i in able if self.by_name and nodes[i].name == _name(node)]
        among = among or [i for i in able if self._reads_the_same(nodes[i], node)]
        among = among or [i for i in able if self._reads_the_same(nodes[i], node, in_order=False)]
        among = among or [i for i in able if likeness[i] > ALIKE]
        among = among or self._only(able, node)
        # Weights that are alike decide; where none are, attributes.
        order = {i: (likeness[i] > ALIKE, _agree(nodes[i], node), likeness[i], -i) for i in among}
        return max(among, key=lambda i: order[i], default=None)

    def _only(self, able: list[int], node: "onnx.NodeProto") -> list[int]:
        """The one node that has weights of this shape where the artifact, too, has but one: wrong ones, then."""
        shapes = _shapes(self.theirs, node)
        there = set(self.nodes.values())
        others = [n for i, n in enumerate(self.theirs.nodes) if i not in there and n.op_type == node.op_type]
        fitting = [i for i in able if _shapes(self.ours, self.ours.nodes[i]) == shapes]
        unique = len(fitting) == 1 and sum(_shapes(self.theirs, other) == shapes for other in others) == 1
        return fitting if shapes and unique else []

    def _reads_the_same(self, own: "onnx.NodeProto", node: "onnx.NodeProto", *, in_order: bool = True) -> bool:
        read = [_place(self.theirs, name) for name in node.input]
        places = [_place(self.ours, name) for name in own.input]
        # What was not found is no tensor of the artifact's.
        wanted = [None if place is None else self.tensors.get(place, FOREIGN) for place in places]
        if in_order and node.op_type not in COMMUTATIVE:
            return wanted == read
        return sorted(filter(None, wanted)) == sorted(filter(None, read)) and len(wanted) == len(read)

    def _likeness(self, own: "onnx.NodeProto", node: "onnx.NodeProto") -> float:
        """The least cosine of the constants of two dimensions and more; 0 where there is none, or of other shapes."""
        found, theirs = [], _weights(self.theirs, node)
        for place, a in _weights(self.ours, own).items():
            b = theirs.get(place, np.zeros(()))
            norms = float(np.linalg.norm(a) * np.linalg.norm(b))
            found.append(float((a * b).sum() / norms) if a.shape == b.shape and norms else 0.0)
        return min(found, default=0.0)


def _weights(graph: QuantizedGraph, node: "onnx.NodeProto") -> dict[int, np.ndarray]:
    """Position -> constant of two dimensions and more, in float."""
    read = {place: graph.constants[name] for place, name in enumerate(node.input) if name in graph.constants}
    return {place: constant.values for place, constant in read.items() if constant.values.ndim > 1}


def _shapes(graph: QuantizedGraph, node: "onnx.NodeProto") -> dict[int, tuple[int, ...]]:
    return {place: values.shape for place, values in _weights(graph, node).items()}


def _agree(own: "onnx.NodeProto", node: "onnx.NodeProto") -> bool:
    """Whether attributes do not contradict each other: exporters leave out those that are defaults."""
    from onnx import helper

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
