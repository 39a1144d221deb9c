"""How well the emulation of a CPU without VNNI agrees with such a CPU (QEMU's Haswell), and what repairing wins back."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from targets.onnx_products import integer_tensors, optimized
from targets.onnx_saturation import without_vnni
from targets.transport.qemu import emulator

RUNNER = Path(__file__).parent / "saturation_run.py"
CPU = "Haswell"


@dataclass(frozen=True)
class QuantizedModel:
    """inputs: name -> array, sample first. correct: of the first output's [samples, ...], of each whether it is right."""

    name: str
    graph: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    correct: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Agreement:
    """equal: share of all integers, of all integer tensors, that are the same. accuracy_points: predicted less real."""

    name: str
    integers: int
    equal: float
    accuracy_points: float
    accuracy: float
    clipping_points: float


def emulator_against_qemu(models: Sequence[QuantizedModel]) -> list[Agreement]:
    """One for each model. Every integer tensor is compared, end to end: both sides start from the model's inputs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, here = Path(scratch) / "there", Path(scratch) / "here"
        folder.mkdir()
        here.mkdir()
        watched: dict[str, list[str]] = {}
        for index, model in enumerate(models):
            plan = optimized(model.graph)
            watched[model.name] = integer_tensors(plan)
            _with_outputs(plan, watched[model.name])
            onnx.save(model.graph, folder / f"{index}.onnx")
            onnx.save(plan, folder / f"{index}.raw.onnx")
            emulated = without_vnni(model.graph)
            _with_outputs(emulated, watched[model.name])
            onnx.save(emulated, here / f"{index}.raw.onnx")
            onnx.save(model.graph, here / f"{index}.onnx")
            for place in (folder, here):
                np.savez(place / f"{index}.npz", **model.inputs)
        subprocess.run([*emulator(CPU), sys.executable, RUNNER, folder], check=True)
        subprocess.run([sys.executable, RUNNER, here], check=True)
        return [
            _compared(model, *(Path(place) / f"{index}" for place in (folder, here)))
            for index, model in enumerate(models)
        ]


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> None:
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in known)


def _compared(model: QuantizedModel, there: Path, here: Path) -> Agreement:
    real, emulated, shipped, native = (
        dict(np.load(f"{path}.out.npz")) for path in (f"{there}.raw", f"{here}.raw", there, here)
    )
    equal = integers = 0
    for place, array in real.items():
        if array.dtype.kind in "iu":
            equal += int((array == emulated[place]).sum())
            integers += array.size

    def accuracy(outputs: np.ndarray) -> float:
        return 100 * float(model.correct(outputs.reshape(-1, *outputs.shape[2:])).mean())

    on_device = accuracy(shipped["0"])
    return Agreement(
        model.name,
        integers,
        equal / max(integers, 1),
        accuracy(emulated["0"]) - on_device,
        on_device,
        accuracy(native["0"]) - on_device,
    )
