import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from calibration.errors import InputError
from pipeline.model import ModelRecord, load_model, run_model
from pipeline.recipe import ModelSource
from pipeline.stages.export import Export
from pipeline.stages.load import Load


def load(make_work, task, data, source, teacher=None, name="load") -> Path:
    work = make_work(name)
    Load()(work, task=task, source_model=source, data=data, teacher=teacher)
    return work.out


def test_a_factory_with_weights_is_rebuilt_with_the_same_answers(recipe_folder, teacher):
    weights = load_file(recipe_folder / "teacher.safetensors")
    module = load_model(teacher, recipe_folder)
    assert all(torch.equal(t, weights[name]) for name, t in module.state_dict().items())
    record = ModelRecord.load(teacher)
    assert record.trained
    assert record.classes == 3
    assert record.inputs == {"pixel_values": ("float32", (1, 12, 12))}


def test_macs_and_parameters_are_those_of_the_architecture(student):
    record = ModelRecord.load(student)
    stem, block, head = 6 * 6 * 9 * 16, 2 * 6 * 6 * 9 * 16 * 16, 16 * 3
    assert record.macs == stem + block + head
    assert record.parameters == 9 * 16 + 2 * 9 * 16 * 16 + 3 * 2 * 16 + head + 3
    assert not record.trained


def test_a_fresh_student_has_the_same_weights_each_time(make_work, task, data, teacher, student):
    again = load(make_work, task, data, ModelSource(factory="nets.py:student"), teacher)
    assert (again / "weights.safetensors").read_bytes() == (student / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (ModelSource(factory="nets.py:teacher"), "random weights"),
        (ModelSource(factory="nets.py:teacher", weights="none.safetensors"), "none.safetensors: no such"),
        (
            ModelSource(factory="nets.py:student", weights="teacher.safetensors"),
            "blocks.1.a.0.weight.*of another shape: stem",
        ),
        (ModelSource(factory="nets.py:absent", weights="teacher.safetensors"), "absent"),
        (ModelSource(folder="no-model"), "no config.json"),
        (ModelSource(onnx="no.onnx"), "no.onnx: no such"),
        (ModelSource(keep_layers=(0,)), "the student's"),
    ],
)
def test_a_source_that_gives_no_teacher_is_refused(make_work, task, data, teacher, source, said):
    with pytest.raises(InputError, match=said):
        load(make_work, task, data, source)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("two", "gives 2 outputs, but the data has 3 classes: left, right, across"),
        ("four", "gives 4 outputs, but the data has 3 classes"),
        ("colour", r"does not take pixel_values \[4, 1, 12, 12\]"),
        ("number", "gave a int"),
        ("undefined", "NaN"),
    ],
)
def test_a_student_that_does_not_fit_the_data_is_refused(make_work, task, data, teacher, factory, said):
    with pytest.raises(InputError, match=said):
        load(make_work, task, data, ModelSource(factory=f"nets.py:{factory}"), teacher)


def test_weights_that_are_not_numbers_are_refused_by_name(make_work, task, data, recipe_folder, teacher):
    weights = load_file(recipe_folder / "teacher.safetensors")
    weights["head.weight"][1, 2] = float("nan")
    save_file(weights, recipe_folder / "nan.safetensors")
    with pytest.raises(InputError, match=r"nan\.safetensors: NaN or infinity in head\.weight"):
        load(make_work, task, data, ModelSource(factory="nets.py:teacher", weights="nan.safetensors"))


def test_a_pickle_needs_permission(make_work, task, data, recipe_folder, teacher):
    torch.save(load_file(recipe_folder / "teacher.safetensors"), recipe_folder / "teacher.pt")
    with pytest.raises(InputError, match="is a pickle"):
        load(make_work, task, data, ModelSource(factory="nets.py:teacher", weights="teacher.pt"), name="refused")
    source = ModelSource(factory="nets.py:teacher", weights="teacher.pt", allow_pickle=True)
    out = load(make_work, task, data, source, name="allowed")
    assert (out / "weights.safetensors").read_bytes() == (teacher / "weights.safetensors").read_bytes()


def test_keep_layers_inherits_the_teachers_weights(make_work, task, data, recipe_folder, teacher):
    out = load(make_work, task, data, ModelSource(keep_layers=(1,)), teacher)
    whole, part = (load_model(folder, recipe_folder) for folder in (teacher, out))
    whole.blocks = torch.nn.Sequential(whole.blocks[1])
    x = {"pixel_values": torch.randn(5, 1, 12, 12)}
    assert torch.equal(run_model(whole, x), run_model(part, x))
    assert ModelRecord.load(out).trained


def test_layers_that_the_teacher_has_not_are_refused(make_work, task, data, teacher):
    with pytest.raises(InputError, match="blocks has 2 layers"):
        load(make_work, task, data, ModelSource(keep_layers=(2,)), teacher)


def test_onnx_is_checked_and_taken_as_it_is(make_work, task, data, recipe_folder, teacher):
    work = make_work("export")
    Export()(work, task=task, data=data, model=teacher)
    graph = onnx.load(work.out / "model.onnx")
    graph.graph.input[0].name = "image"
    graph.graph.node[0].input[0] = "image"
    onnx.save(graph, recipe_folder / "teacher.onnx")
    out = load(make_work, task, data, ModelSource(onnx="teacher.onnx"))
    record = ModelRecord.load(out)
    assert record.macs == ModelRecord.load(teacher).macs
    assert record.classes == 3
    assert [i.name for i in onnx.load(out / "model.onnx").graph.input] == ["pixel_values"]
    with pytest.raises(InputError, match="exists only as ONNX"):
        load_model(out, recipe_folder)
    with pytest.raises(InputError, match="exists only as ONNX"):
        load(make_work, task, data, ModelSource(keep_layers=(0,)), out, name="student")


def test_an_operator_that_the_runtime_does_not_know_is_to_be_replaced(make_work, task, data, recipe_folder, teacher):
    work = make_work("export")
    Export()(work, task=task, data=data, model=teacher)
    graph = onnx.load(work.out / "model.onnx")
    graph.opset_import.append(onnx.helper.make_opsetid("my.ops", 1))
    last = graph.graph.node[-1]
    graph.graph.node.append(onnx.helper.make_node("Foo", ["before"], [last.output[0]], "foo", domain="my.ops"))
    last.output[0] = "before"
    onnx.save(graph, recipe_folder / "custom.onnx")
    with pytest.raises(InputError, match=r"custom\.onnx: .*my\.ops:Foo") as refused:
        load(make_work, task, data, ModelSource(onnx="custom.onnx"))
    assert "replace the operator" in refused.value.next_step


def test_onnx_with_weights_that_are_not_numbers_is_refused(make_work, task, data, recipe_folder, teacher):
    work = make_work("export")
    Export()(work, task=task, data=data, model=teacher)
    graph = onnx.load(work.out / "model.onnx")
    tensor = next(t for t in graph.graph.initializer if t.name == "head.weight")
    bad = onnx.numpy_helper.to_array(tensor).copy()
    bad[0, 0] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(bad, tensor.name))
    onnx.save(graph, recipe_folder / "bad.onnx")
    with pytest.raises(InputError, match=r"bad\.onnx: NaN or infinity in head\.weight"):
        load(make_work, task, data, ModelSource(onnx="bad.onnx"))
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(bad, 3e38), tensor.name))
    onnx.save(graph, recipe_folder / "bad.onnx")
    with pytest.raises(InputError, match=r"bad\.onnx answers with NaN or infinity"):
        load(make_work, task, data, ModelSource(onnx="bad.onnx"), name="again")


def test_onnx_with_free_height_and_width_takes_the_datas(make_work, task, data, recipe_folder, teacher):
    work = make_work("export")
    Export()(work, task=task, data=data, model=teacher)
    graph = onnx.load(work.out / "model.onnx")
    for place, name in ((2, "height"), (3, "width")):
        graph.graph.input[0].type.tensor_type.shape.dim[place].dim_param = name
    onnx.save(graph, recipe_folder / "free.onnx")
    out = load(make_work, task, data, ModelSource(onnx="free.onnx"))
    shape = onnx.load(out / "model.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value or d.dim_param for d in shape] == ["batch", 1, 12, 12]


def test_onnx_with_weights_among_its_inputs_is_taken_without(make_work, task, data, recipe_folder, teacher):
    work = make_work("export")
    Export()(work, task=task, data=data, model=teacher)
    graph = onnx.load(work.out / "model.onnx")
    for tensor in graph.graph.initializer:
        graph.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    graph.ir_version = 3
    onnx.save(graph, recipe_folder / "old.onnx")
    out = load(make_work, task, data, ModelSource(onnx="old.onnx"))
    assert [i.name for i in onnx.load(out / "model.onnx").graph.input] == ["pixel_values"]
    assert ModelRecord.load(out).macs == ModelRecord.load(teacher).macs


def test_onnx_that_the_runtime_refuses_is_called_as_the_user_does(make_work, task, data, recipe_folder, teacher):
    work = make_work("export")
    Export()(work, task=task, data=data, model=teacher)
    graph = onnx.load(work.out / "model.onnx")
    for node in graph.graph.node:
        node.name = "same"
    onnx.save(graph, recipe_folder / "same.onnx")
    with pytest.raises(InputError, match=r"same\.onnx: ONNX Runtime: .* Load model from it failed:.*same") as caught:
        load(make_work, task, data, ModelSource(onnx="same.onnx"))
    assert "model.onnx" not in caught.value.message


@pytest.fixture
def exported(make_work, task, data, teacher):
    work = make_work("export")
    Export()(work, task=task, data=data, model=teacher)
    return onnx.load(work.out / "model.onnx")


def test_onnx_for_samples_of_another_size_is_refused(make_work, task, data, recipe_folder, exported):
    exported.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 224
    onnx.save(exported, recipe_folder / "wide.onnx")
    with pytest.raises(InputError, match=r"wide\.onnx: input .* is \[batch, 1, 12, 224\]; the task gives .*12, 12"):
        load(make_work, task, data, ModelSource(onnx="wide.onnx"))


def test_onnx_that_was_exported_for_one_sample_is_refused(make_work, task, data, recipe_folder, exported):
    head = next(node for node in exported.graph.node if node.op_type == "Gemm")
    weights = next(t for t in exported.graph.initializer if t.name == head.input[1])
    exported.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([1, max(weights.dims)]), "one"))
    flat = onnx.helper.make_node("Reshape", [head.input[0], "one"], ["flat"], "flatten")
    exported.graph.node.insert(list(exported.graph.node).index(head), flat)
    head.input[0] = "flat"
    for port in (*exported.graph.input, *exported.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(exported, recipe_folder / "one.onnx")
    with pytest.raises(InputError, match=r"one\.onnx was exported for 1 sample at a time and cannot answer 4"):
        load(make_work, task, data, ModelSource(onnx="one.onnx"))


def test_onnx_that_contradicts_itself_is_refused(make_work, task, data, recipe_folder, exported):
    exported.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 77
    onnx.save(exported, recipe_folder / "contrary.onnx")
    with pytest.raises(InputError, match=r"contrary\.onnx.*contradict"):
        load(make_work, task, data, ModelSource(onnx="contrary.onnx"))


def test_onnx_without_logits_is_refused(make_work, task, data, recipe_folder, exported):
    exported.graph.node.append(onnx.helper.make_node("Cast", ["logits"], ["sure"], to=onnx.TensorProto.BOOL))
    del exported.graph.output[:]
    exported.graph.output.append(onnx.helper.make_tensor_value_info("sure", onnx.TensorProto.BOOL, ["batch", 3]))
    onnx.save(exported, recipe_folder / "sure.onnx")
    with pytest.raises(InputError, match=r"sure\.onnx: its output is bool"):
        load(make_work, task, data, ModelSource(onnx="sure.onnx"))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the division that this processor refuses")
def test_onnx_that_kills_the_runtime_is_refused(make_work, task, data, recipe_folder, exported):
    exported.graph.output[0].name = "answer"
    node = onnx.helper.make_node
    exported.graph.node.extend(
        [
            node("Cast", ["logits"], ["integers"], to=onnx.TensorProto.INT64),
            node("Div", ["smallest", "minus"], ["overflow"]),
            node("Add", ["integers", "overflow"], ["sum"]),
            node("Cast", ["sum"], ["answer"], to=onnx.TensorProto.FLOAT),
        ]
    )
    for name, value in (("smallest", -(1 << 63)), ("minus", -1)):
        exported.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([value]), name))
    onnx.save(exported, recipe_folder / "deadly.onnx")
    with pytest.raises(InputError, match=r"deadly\.onnx: the runtime crashed on it"):
        load(make_work, task, data, ModelSource(onnx="deadly.onnx"))


def test_onnx_that_is_quantized_already_is_refused_by_the_node(make_work, task, data, recipe_folder, teacher):
    from onnxruntime.quantization import quantize_dynamic

    work = make_work("export")
    Export()(work, task=task, data=data, model=teacher)
    quantize_dynamic(work.out / "model.onnx", recipe_folder / "int8.onnx")
    with pytest.raises(InputError, match=r"int8\.onnx is quantized already: its node .* is DynamicQuantizeLinear"):
        load(make_work, task, data, ModelSource(onnx="int8.onnx"))
