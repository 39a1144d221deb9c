import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from calibration.errors import InputError
from pipeline.model import ModelRecord, load_model
from pipeline.recipe import ModelSource
from pipeline.stages.export import Export
from pipeline.stages.load import Load
from targets.target import ModelPackage, TensorSpec


def export(make_work, task, data, model, name="export") -> ModelPackage:
    work = make_work(name)
    Export()(work, task=task, data=data, model=model)
    return ModelPackage.load(work.out)


def test_the_package_answers_as_the_model_does_at_any_batch(make_work, task, data, recipe_folder, teacher):
    package = export(make_work, task, data, teacher)
    module = load_model(teacher, recipe_folder)
    session = onnxruntime.InferenceSession(package.folder / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7, 256):
        x = torch.randn(batch, 1, 12, 12)
        with torch.no_grad():
            expected = module(x).numpy()
        assert np.allclose(session.run(None, {"pixel_values": x.numpy()})[0], expected, atol=1e-4)


def test_the_package_says_what_it_is(make_work, task, data, teacher):
    package = export(make_work, task, data, teacher)
    record = ModelRecord.load(teacher)
    assert package.graphs == {"model": "model.onnx"}
    assert package.inputs == (TensorSpec("pixel_values", "float32", ("batch", 1, 12, 12)),)
    assert package.outputs == (TensorSpec("logits", "float32", ("batch", 3)),)
    assert package.dims == {"batch": (1, 1, 256)}
    assert package.preprocessing == task.preprocessing(data)
    assert (package.precision, package.architecture) == ("fp32", "convolutional")
    assert (package.macs, package.parameters) == (record.macs, record.parameters)
    assert ModelRecord.load((package.folder / str(package.torch_description)).parent) == record


def test_the_graph_is_one_file_that_old_runtimes_read_and_holds_nothing_local(
    make_work, task, data, teacher, repository
):
    package = export(make_work, task, data, teacher)
    graph = onnx.load(package.folder / "model.onnx", load_external_data=False)
    assert graph.ir_version <= 10
    assert max(o.version for o in graph.opset_import) <= 20
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in graph.graph.initializer)
    assert str(repository).encode() not in (package.folder / "model.onnx").read_bytes()


def test_the_same_model_gives_the_same_bytes(make_work, task, data, teacher):
    one, other = (export(make_work, task, data, teacher, name) for name in ("one", "other"))
    assert (one.folder / "model.onnx").read_bytes() == (other.folder / "model.onnx").read_bytes()


def test_a_model_whose_answer_depends_on_the_batch_is_refused(make_work, task, data, teacher):
    work = make_work("load")
    Load()(work, task=task, source_model=ModelSource(factory="nets.py:batch_bound"), data=data, teacher=teacher)
    with pytest.raises(InputError, match=r"output logits of nets\.py:batch_bound differs"):
        export(make_work, task, data, work.out)


def test_a_model_that_came_as_onnx_is_passed_on(make_work, task, data, recipe_folder, teacher):
    first = export(make_work, task, data, teacher)
    (recipe_folder / "passed.onnx").write_bytes((first.folder / "model.onnx").read_bytes())
    work = make_work("load")
    Load()(work, task=task, source_model=ModelSource(onnx="passed.onnx"), data=data)
    package = export(make_work, task, data, work.out, "again")
    assert (package.folder / "model.onnx").read_bytes() == (first.folder / "model.onnx").read_bytes()
    assert package.torch_description is None
    assert package.macs == first.macs


def test_a_model_that_cannot_be_exported_is_refused_quietly(make_work, task, data, teacher, capfd):
    work = make_work("load")
    Load()(work, task=task, source_model=ModelSource(factory="nets.py:branching"), data=data, teacher=teacher)
    with pytest.raises(InputError, match=r"torch\.onnx cannot export Branching: Could not guard"):
        export(make_work, task, data, work.out)
    assert capfd.readouterr() == ("", "")


QUIET = """
import sys
from contextlib import nullcontext
from pathlib import Path

from pipeline.stage import Work
from pipeline.stages.export import Export
from pipeline.tasks.image_classification import ImageClassification

out, recipe, data, model = map(Path, sys.argv[1:])
work = Work(out, out, recipe, nullcontext, lambda fraction, text: None)
Export()(work, task=ImageClassification(), data=data, model=model)
"""


@pytest.mark.slow
def test_it_is_quiet(tmp_path, recipe_folder, data, teacher, repository):
    arguments = [sys.executable, "-c", QUIET, str(tmp_path), str(recipe_folder), str(data), str(teacher)]
    ran = subprocess.run(arguments, capture_output=True, text=True, cwd=repository, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")
