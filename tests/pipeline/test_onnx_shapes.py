import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from pipeline.exporters import export_module
from pipeline.onnx_graph import conform, read_graph
from pipeline.onnx_shapes import BATCHES, settled
from targets.onnx_ranges import open_session

TOKENS, WIDTH, HEADS = 6, 16, 4
RNG = np.random.default_rng(0)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(-1, TOKENS, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).reshape(-1, TOKENS, WIDTH).mean(1)


class Recurrent(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer(WIDTH, WIDTH, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0].mean(1)


def feed(samples):
    return {"x": RNG.normal(size=(samples, TOKENS, WIDTH)).astype(np.float32)}


def exported(module, folder):
    torch.manual_seed(0)
    export_module(module, {"x": torch.from_numpy(feed(2)["x"])}, folder / "model.onnx")
    graph = read_graph(folder / "model.onnx")
    conform(graph, {"x": ("float32", (TOKENS, WIDTH))}, "model.onnx")
    return graph


def answers(graph, given):
    return open_session(graph, []).run(["logits"], given)[0]


def operators(graph):
    return [node.op_type for node in graph.graph.node]


@pytest.mark.parametrize(
    ("module", "gone"),
    [(Attention, "Slice"), (lambda: Recurrent(nn.GRU), "Expand"), (lambda: Recurrent(nn.LSTM), "Expand")],
)
def test_what_depends_on_shapes_alone_is_worked_out_once(tmp_path, module, gone):
    graph = exported(module(), tmp_path)
    assert "Shape" in operators(graph)
    found = settled(graph, [feed(size) for size in BATCHES])
    onnx.checker.check_model(found, full_check=True)
    assert operators(found).count(gone) < operators(graph).count(gone)
    assert len(found.graph.node) < len(graph.graph.node)
    for samples in (1, 4, 7):
        given = feed(samples)
        assert answers(found, given) == pytest.approx(answers(graph, given), abs=1e-5)


def test_the_keys_of_attention_are_transposed_at_once(tmp_path):
    graph = exported(Attention(), tmp_path)
    found = settled(graph, [feed(size) for size in BATCHES])
    assert operators(graph).count("Reshape") - operators(found).count("Reshape") == 2
    perms = [list(node.attribute[0].ints) for node in found.graph.node if node.op_type == "Transpose"]
    assert [0, 1, 3, 2] in perms


def graph_of(nodes, constants=()):
    port = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            [helper.make_node(op, inputs, outputs, **attributes) for op, inputs, outputs, attributes in nodes],
            "net",
            [port("x", TensorProto.FLOAT, ["batch", TOKENS, WIDTH])],
            [port("logits", TensorProto.FLOAT, ["batch", None])],
            [numpy_helper.from_array(np.array(value), name) for name, value in dict(constants).items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


SHAPE = ("Shape", ["x"], ["shape"], {})
FLAT = ("Reshape", ["y", "flat"], ["logits"], {})
LAST = {"flat": np.int64([0, -1]), "many": np.int64([32]), "one": np.int64([1]), "none": np.int64([0])}


def test_where_the_batch_is_not_the_first_axis_it_is_found_too():
    graph = graph_of(
        [
            ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}),
            ("Shape", ["t"], ["shape"], {}),
            ("Reshape", ["t", "shape"], ["s"], {"allowzero": 1}),
            ("Transpose", ["s"], ["y"], {"perm": [1, 0, 2]}),
            FLAT,
        ],
        LAST,
    )
    found = settled(graph, [feed(size) for size in BATCHES])
    assert "Shape" not in operators(found)
    targets = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in found.graph.initializer}
    assert [TOKENS, -1, WIDTH] in targets.values()


def test_chains_that_share_a_reshape_are_both_transposed_at_once():
    swap = ("Transpose", {"perm": [0, 2, 1]})
    three = np.int64([-1, TOKENS, WIDTH])
    graph = graph_of(
        [
            ("Reshape", ["x", "split"], ["s"], {}),
            ("Reshape", ["s", "three"], ["a"], {}),
            (swap[0], ["a"], ["b"], swap[1]),
            ("Reshape", ["b", "swapped"], ["c"], {}),
            ("Reshape", ["c", "back"], ["d"], {}),
            (swap[0], ["d"], ["e"], swap[1]),
            ("Reshape", ["e", "split"], ["y"], {}),
            FLAT,
        ],
        LAST
        | {"split": np.int64([-1, 1, TOKENS, WIDTH]), "three": three}
        | {"swapped": np.int64([-1, 1, WIDTH, TOKENS]), "back": np.int64([-1, WIDTH, TOKENS])},
    )
    found = settled(graph, [feed(size) for size in BATCHES])
    assert operators(found).count("Reshape") == 2
    given = feed(7)
    assert answers(found, given) == pytest.approx(answers(graph, given))


@pytest.mark.parametrize(
    "nodes",
    [
        # As large as the batch, and of a value that changes with it.
        [
            SHAPE,
            ("Slice", ["shape", "none", "one"], ["batch"], {}),
            ("Cast", ["batch"], ["share"], {"to": 1}),
            ("Mul", ["x", "share"], ["y"], {}),
            FLAT,
        ],
        # The same for all the batches that are tried, and another for larger ones.
        [
            SHAPE,
            ("Slice", ["shape", "none", "one"], ["batch"], {}),
            ("Div", ["batch", "many"], ["blocks"], {}),
            ("Cast", ["blocks"], ["share"], {"to": 1}),
            ("Add", ["x", "share"], ["y"], {}),
            FLAT,
        ],
        # Cut off where the batch is larger than that.
        [
            SHAPE,
            ("Slice", ["shape", "none", "one"], ["batch"], {}),
            ("Slice", ["x", "none", "batch", "one"], ["y"], {}),
            FLAT,
        ],
        # Of as many values as are above zero.
        [SHAPE, ("NonZero", ["x"], ["where"], {}), ("Reshape", ["x", "shape"], ["y"], {}), FLAT],
    ],
)
def test_what_may_change_stays(nodes):
    graph = graph_of(nodes, LAST)
    found = settled(graph, [feed(size) for size in BATCHES])
    assert "Shape" in operators(found)
    given = feed(40)
    assert answers(found, given) == pytest.approx(answers(graph, given))
