"""OpenVINO models whose inner tensors can be seen, or given."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from targets.openvino_graph import RuntimeModel

GIVEN, MEANT = "given::", "meant::"


def tapped(graph: RuntimeModel) -> Any:
    """The model with the values that its integers stand for, and `floats`, as further results GIVEN + node's name.

    No kernel changes: what it writes is read once more.
    """
    made = graph.model.clone()
    nodes = {node.get_friendly_name(): node for node in made.get_ordered_ops()}
    ports = {fake.op: nodes[next(iter(fake.reads))].output(0) for fake in graph.fakes.values()}
    ports |= {name: nodes[name].output(0) for name in graph.floats}
    for op, port in ports.items():
        port.get_tensor().add_names({GIVEN + op})
    made.add_outputs(list(ports.values()))
    return made


def aliases(graph: RuntimeModel) -> dict[str, list[str]]:
    """GIVEN + node -> names of results of the model that are the same tensor."""
    ends = {op: next(iter(fake.reads)) for op, fake in graph.fakes.items()} | {name: name for name in graph.floats}
    return {GIVEN + op: sorted(graph.nodes[end].output(0).get_names()) for op, end in ends.items()}


def cut(graph: RuntimeModel) -> Any:
    """The model apart at the FakeQuantize nodes of its activations and at `floats`: what these give is given, as
    GIVEN + node's name.

    What they should have given, before it is rounded, is MEANT + node's name. Without integers to start from,
    nothing is computed in integers.
    """
    import openvino
    from openvino import opset13

    made: Any = graph.folded.clone()
    nodes = {node.get_friendly_name(): node for node in made.get_ordered_ops()}
    ends = {op: list(fake.reads) for op, fake in graph.fakes.items()} | {name: [name] for name in graph.floats}
    # Before anything stands apart.
    computed = {name: nodes[name].output(0) for name in graph.floats}
    integers = {end for fake in graph.fakes.values() for end in fake.reads}
    kept = [r for r in made.get_results() if r.input_value(0).get_node().get_friendly_name() not in integers]
    for op, names in ends.items():
        given = opset13.parameter(nodes[names[0]].output(0).get_partial_shape(), np.float32, name=GIVEN + op)
        given.output(0).get_tensor().set_names({GIVEN + op})
        for end in names:
            for reader in nodes[end].output(0).get_target_inputs():
                if reader.get_node().get_type_name() != "Result":
                    reader.replace_source_output(given.output(0))
    results: list[Any] = []
    for op, port in ({op: nodes[op].input_value(0) for op in graph.fakes} | computed).items():
        port.get_tensor().add_names({MEANT + op})
        results.append(opset13.result(port))
    results += kept
    found = _behind(results)
    parameters = [node for node in found if node.get_type_name() == "Parameter"]
    model: Any = openvino.Model
    return model(results, parameters, "cut")


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
