"""A whole project of a user's own, so small that every stage of it runs in seconds: pictures of stripes and blobs."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

MODELS = '''
"""A user's models."""
from torch import nn

from layers import block


def net(width):
    return nn.Sequential(
        *block(1, width), *block(width, 2 * width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 3)
    )


def teacher():
    return net(32)


def student():
    return net(16)
'''
LAYERS = """
from torch import nn


def block(c_in, c_out):
    return nn.Conv2d(c_in, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(), nn.MaxPool2d(2)
"""
RECIPE = """
name: tiny
task: image-classification
data: {source: pictures, calibration: calibration.npz}
teacher: {factory: models.py:teacher, weights: teacher.safetensors}
student: {factory: models.py:student}
stages:
  - distill: {epochs: 2, batch_size: 64}
  - prune: {macs: 0.7, epochs: 1}
  - quantize: {dtype: int8, seconds: 4}
  - calibrate: {samples: 48}
  - validate: {seconds: 1, max_seconds: 1}
budget: {accuracy_drop: 20, size_mb: 1}
devices: [host]
"""


def pictures(samples: int, seed: int) -> dict[str, np.ndarray]:
    """uint8 [samples, 16, 16, 1] images of three classes, and their labels."""
    rng = np.random.default_rng(seed)
    label = np.arange(samples) % 3
    image = rng.integers(0, 90, (samples, 16, 16, 1))
    for i, kind in enumerate(label):
        at = rng.integers(0, 11)
        image[i, at : at + 5, :] += 120 * (kind == 0)
        image[i, :, at : at + 5] += 120 * (kind == 1)
        image[i, at : at + 5, at : at + 5] += 150 * (kind == 2)
    return {"image": image.astype(np.uint8), "label": label.astype(np.int64)}


def write_project(folder: Path) -> Path:
    """Writes models, a trained teacher, data and recipe; returns the recipe's path."""
    (folder / "pictures").mkdir(parents=True)
    (folder / "models.py").write_text(MODELS)
    (folder / "layers.py").write_text(LAYERS)
    for name, samples, seed in (("pictures/train", 900, 0), ("pictures/test", 600, 1), ("calibration", 60, 2)):
        np.savez(folder / f"{name}.npz", **pictures(samples, seed))  # pyright: ignore[reportArgumentType]
    save_file(_teacher(), folder / "teacher.safetensors")
    recipe = folder / "tiny.yaml"
    recipe.write_text(RECIPE)
    return recipe


def _teacher() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    scope: dict[str, object] = {}
    exec(LAYERS + MODELS.replace("from layers import block", ""), scope)  # noqa: S102 - the text above
    model = scope["teacher"]()  # pyright: ignore[reportCallIssue, reportGeneralTypeIssues]
    data = pictures(900, 0)
    x = (torch.from_numpy(data["image"]).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    y = torch.from_numpy(data["label"])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(60):
        index = torch.arange(step * 64, step * 64 + 64) % len(x)
        loss = functional.cross_entropy(model(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
