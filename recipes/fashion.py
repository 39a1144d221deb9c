"""The models of fashion.yaml: residual networks for 28 x 28 grey images, ten classes."""

import torch
from torch import nn


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016, arXiv:1512.03385).

    [N, c_in, H, W] -> [N, c_out, H/stride, W/stride].
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and c_in == c_out
            else nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResidualNetwork(nn.Module):
    """[N, 1, 28, 28] float32 -> [N, 10] logits. Each stage after the first halves the resolution.

    The stem trades resolution for speed: a stride of 1 keeps 28 x 28, one of 2 starts at 14 x 14.
    """

    def __init__(self, widths: tuple[int, ...], depth: int, stem_kernel: int = 3, stem_stride: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, widths[0], stem_kernel, stem_stride, stem_kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        c_in = widths[0]
        for stage, width in enumerate(widths):
            for i in range(depth):
                blocks.append(Block(c_in, width, 2 if stage > 0 and i == 0 else 1))
                c_in = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(c_in, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(torch.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))


def teacher() -> nn.Module:
    """0.48 million parameters, 73 million multiply-accumulates."""
    return ResidualNetwork((32, 64, 96), depth=2)


def student() -> nn.Module:
    """0.31 million parameters, 10 million multiply-accumulates."""
    return ResidualNetwork((32, 64, 128), depth=1, stem_kernel=5, stem_stride=2)
