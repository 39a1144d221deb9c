"""A model's answers on a processor that is not here: how another instruction set computes it."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from targets.device.answers import COMMAND
from targets.device.process import ask
from targets.device_pyz import build_device_pyz
from targets.transport.qemu import emulated

if TYPE_CHECKING:
    from targets.target import CompiledModel

OPTIONS = {"threads": 1, "optimization": "all"}


def answers_on(
    cpu: str,
    artifact: "CompiledModel | Path",
    inputs: Mapping[str, np.ndarray],
    *,
    batch: int | None = 1,
    timeout_s: float = 900,
) -> dict[str, np.ndarray]:
    """Output name -> array of an artifact on QEMU's processor `cpu` ("Haswell", "cortex-a76"), all in one process.

    artifact: compiled, or an .onnx file, which ONNX Runtime runs with one thread. Any tensor that the file declares
    as a graph output is among the answers.
    inputs: name -> array, sample first. batch: samples a call, as many as a device is asked at once; None for all.
    Raises UnsupportedError and InputError as qemu.emulated does, and DeviceError of what happened there: a BundleError
    where the model is wrong, an UnsuitedError where the runtime is missing, crashes or takes longer than `timeout_s`.
    """
    there = emulated(cpu)
    spec: dict[str, Any] = {"batch": batch}
    if isinstance(artifact, Path):
        spec |= {"runner": "onnxruntime_cpu", "files": [artifact.name], "options": OPTIONS}
    else:
        spec |= {"runner": artifact.runner, "files": list(artifact.files), "options": artifact.options}
    source = artifact.parent if isinstance(artifact, Path) else artifact.folder
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = build_device_pyz(folder / "device.pyz")
        given, found = folder / "inputs.npz", folder / "outputs.npz"
        prefixed: dict[str, Any] = {f"input.{key}": array for key, array in inputs.items()}
        np.savez(given, **prefixed)
        spec |= {"folder": str(source.resolve()), "inputs": str(given), "outputs": str(found)}
        command = [*there.emulator, there.python, str(program), COMMAND]
        ask(command, folder, there.environment(), spec, f"{spec['files'][0]} on {cpu}", timeout_s)
        with found.open("rb") as file, np.load(file) as arrays:
            return {key.removeprefix("output."): arrays[key] for key in arrays.files}
