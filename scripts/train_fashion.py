"""Trains the teacher of recipes/fashion.yaml and writes recipes/teacher.safetensors (about 20 minutes on two cores)."""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

root = Path(__file__).resolve().parent.parent
recipes = root / "recipes"
sys.path[:0] = [str(root), str(recipes)]
import fashion  # noqa: E402

from pipeline.training import computes_in_bfloat16  # noqa: E402


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shifts by up to two pixels, mirrors half of the images and blanks a random square. [N, 1, 28, 28] in and out."""
    n = len(x)
    x = F.pad(x, (2, 2, 2, 2))
    dy, dx = (torch.randint(0, 5, (n, 1), generator=generator) for _ in range(2))
    rows = (dy + torch.arange(28))[:, :, None]
    cols = (dx + torch.arange(28))[:, None, :]
    mirrored = torch.rand((n, 1, 1), generator=generator) < 0.5
    cols = torch.where(mirrored, cols.flip(2), cols)
    x = x[torch.arange(n)[:, None, None], 0, rows, cols][:, None]
    top, left = (torch.randint(-4, 28, (n, 1, 1), generator=generator) for _ in range(2))
    pixel = torch.arange(28)
    inside = ((pixel[None, :, None] - top).clamp(-1, 8) % 8 == (pixel[None, :, None] - top)) & (
        (pixel[None, None, :] - left).clamp(-1, 8) % 8 == (pixel[None, None, :] - left)
    )
    return x.masked_fill(inside[:, None], 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    data = {split: np.load(recipes / f"fashion-mnist/{split}.npz") for split in ("train", "test")}
    x, y, x_test, y_test = (torch.from_numpy(data[s][k]) for s in ("train", "test") for k in ("image", "label"))
    x, x_test = ((a.permute(0, 3, 1, 2).float() / 255 - 0.2860) / 0.3530 for a in (x, x_test))
    model = fashion.teacher().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    batch, steps = 128, len(x) // 128 * epochs
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, steps, pct_start=0.2)
    bfloat16 = computes_in_bfloat16("auto")
    for epoch in range(epochs):
        start, total = time.time(), 0.0
        model.train()
        for index in torch.randperm(len(x), generator=generator)[: len(x) // batch * batch].split(batch):
            inputs = augment(x[index], generator).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = F.cross_entropy(model(inputs), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * epochs / steps
        print(f"epoch {epoch + 1}/{epochs}: mean loss {total:.3f}, {time.time() - start:.0f} s", flush=True)
    model.eval()
    with torch.no_grad():
        answers = torch.cat([model(part).argmax(1) for part in x_test.split(500)])
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, recipes / "teacher.safetensors")
    print(f"test accuracy {(answers == y_test).double().mean():.4f} on {len(y_test)} images")


if __name__ == "__main__":
    main()
