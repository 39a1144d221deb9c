"""Models of the int8 bench for 28 x 28 grey images, ten classes: [N, 1, 28, 28] float32 -> [N, 10] logits.

One of each family that quantizers treat differently. The residual network is that of recipes/fashion.py.
"""

import torch
from torch import nn


class InvertedResidual(nn.Module):
    """Expands, filters each channel, projects; adds its input where it can (Sandler et al. 2018, arXiv:1801.04381)."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.body = nn.Sequential(
            nn.Conv2d(c_in, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.shortcut = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


def mobilenet() -> nn.Module:
    """Depthwise convolutions, as MobileNetV2 has them."""
    layers: list[nn.Module] = [nn.Conv2d(1, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6()]
    c_in = 24
    for width, repeats, stride in ((24, 1, 1), (40, 3, 2), (80, 4, 2)):
        for i in range(repeats):
            layers.append(InvertedResidual(c_in, width, stride if i == 0 else 1))
            c_in = width
    head = [nn.Conv2d(c_in, 320, 1, bias=False), nn.BatchNorm2d(320), nn.ReLU6(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, *head, nn.Flatten(), nn.Linear(320, 10))


def mobilenet_tiny() -> nn.Module:
    """Depthwise and pointwise convolutions in turn, few channels: MobileNetV1 (Howard et al. 2017, arXiv:1704.04861)
    cut down to the size that microcontrollers run, as in the MLPerf Tiny suite (Banbury et al. 2021, arXiv:2106.07597).
    """
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    c_in = 8
    for width, stride in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1)):
        layers += [nn.Conv2d(c_in, c_in, 3, stride, 1, groups=c_in, bias=False), nn.BatchNorm2d(c_in), nn.ReLU()]
        layers += [nn.Conv2d(c_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        c_in = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, 10))


class ConvNextBlock(nn.Module):
    """A 7 x 7 depthwise convolution, then a two-layer perceptron at each pixel (Liu et al. 2022, arXiv:2201.03545)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.project = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.project(nn.functional.gelu(self.expand(y)))
        return x + (y * self.scale).permute(0, 3, 1, 2)


class PixelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel, [N, C, H, W] in and out."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name that torch gave it
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """Two stages of blocks, 14 x 14 and 7 x 7."""

    def __init__(self, widths: tuple[int, int] = (64, 128), depths: tuple[int, int] = (2, 3)) -> None:
        super().__init__()
        first, second = widths
        self.body = nn.Sequential(
            nn.Conv2d(1, first, 2, 2),
            PixelNorm(first),
            *(ConvNextBlock(first) for _ in range(depths[0])),
            PixelNorm(first),
            nn.Conv2d(first, second, 2, 2),
            *(ConvNextBlock(second) for _ in range(depths[1])),
        )
        self.norm = nn.LayerNorm(second)
        self.head = nn.Linear(second, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.body(x).mean((2, 3))))


def convnext() -> nn.Module:
    """Depthwise convolutions, layer normalisation and GELU, as ConvNeXt has them."""
    return ConvNext()


def vgg() -> nn.Module:
    """Plain 3 x 3 convolutions and two large layers behind them (Simonyan and Zisserman 2014, arXiv:1409.1556)."""
    layers: list[nn.Module] = []
    c_in = 1
    for width in (48, 96, 192):
        for _ in range(2):
            layers += [nn.Conv2d(c_in, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            c_in = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(9 * c_in, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10)]
    return nn.Sequential(*layers, *head)


class Attention(nn.Module):
    """Self-attention of several heads, [N, tokens, width] in and out (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(-1, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.project(y.transpose(1, 2).reshape(-1, tokens, width))


class Encoder(nn.Module):
    """Attention and a two-layer perceptron, normalised before each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches of 4 x 4 as 49 tokens, their mean classified (Dosovitskiy et al. 2020, arXiv:2010.11929)."""

    def __init__(self, width: int = 128, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, 49, width) * 0.02)
        self.body = nn.Sequential(*(Encoder(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.body(tokens)).mean(1))


def vit() -> nn.Module:
    """Attention over patches, as ViT has it."""
    return VisionTransformer()
