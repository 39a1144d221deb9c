import pytest
import torch
from torch import nn

from calibration.errors import InputError, IntegrityError
from pipeline.edits import apply_edit, channels_edit, layers_edit, structure
from pipeline.exporters import export_module
from pipeline.model import ModelRecord, count_macs, count_parameters, load_model, macs_by_module, run_model, save_model
from pipeline.onnx_graph import conform, read_graph
from pipeline.onnx_graph import count_macs as graph_macs


class Stack(nn.Module):
    def __init__(self, layers=4):
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(layers))

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = ModelRecord(
        source={"factory": "a.py:b"},
        inputs={"y": ("float32", (1, 2, 3)), "x": ("int64", ())},
        classes=4,
        parameters=5,
        macs=6,
        trained=True,
        edits=({"kind": "keep_layers", "stack": "layers", "layers": [0]},),
        history=({"stage": "distill", "threads": 2},),
    )
    record.save(tmp_path)
    assert ModelRecord.load(tmp_path) == record
    assert list(ModelRecord.load(tmp_path).inputs) == ["y", "x"]


def test_a_saved_model_is_loaded_with_the_same_answers(tmp_path, recipe_folder, teacher):
    module = load_model(teacher, recipe_folder)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1)
    save_model(module, ModelRecord.load(teacher), tmp_path / "copy", config=None)
    x = {"pixel_values": torch.randn(3, 1, 12, 12)}
    with torch.no_grad():
        assert torch.equal(run_model(load_model(tmp_path / "copy", recipe_folder), x), run_model(module, x))


def test_macs_are_those_of_one_sample_and_attention_counts():
    assert count_macs(nn.Conv2d(3, 8, 3, groups=1), {"x": torch.zeros(1, 3, 6, 6)}) == 4 * 4 * 9 * 3 * 8
    assert count_macs(nn.Conv2d(8, 8, 3, groups=8), {"x": torch.zeros(1, 8, 6, 6)}) == 4 * 4 * 9 * 8


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_macs_of_recurrent_layers(layer, tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer(6, 5, num_layers=2, bidirectional=True, batch_first=True)
            self.head = nn.Linear(10, 3)

        def forward(self, x):
            return self.head(self.layer(x)[0][:, -1])

    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[layer]
    steps = 7 * 2 * gates * 5 * ((6 + 5) + (10 + 5))
    found = macs_by_module(Net(), {"x": torch.zeros(1, 7, 6)})
    assert sum(found[""].values()) == steps + 30
    assert sum(found["layer"].values()) == steps
    export_module(Net(), {"x": torch.zeros(2, 7, 6)}, tmp_path / "model.onnx")
    graph = read_graph(tmp_path / "model.onnx")
    conform(graph, {"x": ("float32", (7, 6))}, "model.onnx")
    assert graph_macs(graph) == steps + 30


def test_macs_are_counted_where_a_parameter_is_given_on_as_it_is():
    class Query(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.linear = nn.Parameter(torch.ones(1, 4)), nn.Linear(4, 3)

        def forward(self, x):
            return self.linear(self.query.expand(len(x), -1)) + x

    module = Query()
    assert count_macs(module, {"x": torch.zeros(1, 3)}) == 12
    assert module.query.requires_grad

    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    assert count_macs(Attention(), {"x": torch.zeros(1, 2, 5, 7)}) == 2 * 2 * 5 * 5 * 7
    assert count_parameters(nn.Conv2d(3, 8, 3)) == 8 * 3 * 9 + 8


def test_keeping_layers_is_replayed_on_a_fresh_model():
    module = Stack()
    edit = layers_edit(module, [0, 3])
    assert edit == {"kind": "keep_layers", "stack": "layers", "layers": [0, 3]}
    last = module.layers[3]
    apply_edit(module, edit)
    assert len(module.layers) == 2
    assert module.layers[1] is last


@pytest.mark.parametrize("layers", [[], [4], [-1], [1, 0], [2, 2]])
def test_layers_that_make_no_sense_are_refused(layers):
    with pytest.raises(InputError, match="layers has 4 layers"):
        layers_edit(Stack(), layers)


def test_a_model_without_equal_layers_has_none_to_keep():
    with pytest.raises(InputError, match="no list of equal layers"):
        layers_edit(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), [0])


def test_changed_widths_are_replayed_on_a_fresh_model():
    module, fresh = Stack(1), Stack(1)
    before = structure(module)
    assert channels_edit(before, before) == {"kind": "channels", "modules": {}}
    module.first = nn.Linear(3, 5)
    module.layers[0] = nn.Linear(5, 6)
    edit = channels_edit(before, structure(module))
    assert edit["modules"]["first"] == {"attributes": {"out_features": 5}, "tensors": {"weight": [5, 3], "bias": [5]}}
    apply_edit(fresh, edit)
    fresh.load_state_dict(module.state_dict())
    x = torch.randn(2, 3)
    assert torch.equal(fresh(x), module(x))
    assert fresh.first.out_features == 5
    assert fresh.first.weight.requires_grad


def test_an_edit_of_a_later_version_is_refused():
    with pytest.raises(IntegrityError, match="'fold'"):
        apply_edit(Stack(), {"kind": "fold"})
