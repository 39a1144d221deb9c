"""Two small networks for [N, 1, 28, 28] grey images and ten classes, as torch initializes them."""

import torch
from torch import nn


class Depthwise(nn.Module):
    """Depthwise-separable convolutions with ReLU6, as in MobileNet (Howard et al. 2017, arXiv:1704.04861)."""

    def __init__(self) -> None:
        super().__init__()

        def block(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
            depthwise = nn.Conv2d(c_in, c_in, 3, stride, 1, groups=c_in, bias=False)
            pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)
            return [depthwise, nn.BatchNorm2d(c_in), nn.ReLU6(), pointwise, nn.BatchNorm2d(c_out), nn.ReLU6()]

        stem = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
        self.features = nn.Sequential(*stem, *block(16, 32, 1), *block(32, 32, 1), *block(32, 64, 2))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Layer(nn.Module):
    """One head of attention and a feed-forward network, normalized before each. [N, tokens, width] both ways."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before_attention, self.before_feed_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.before_attention(x)
        scores = self.query(y) @ self.key(y).transpose(1, 2) / y.shape[-1] ** 0.5
        x = x + self.out(torch.softmax(scores, -1) @ self.value(y))
        return x + self.down(torch.nn.functional.gelu(self.up(self.before_feed_forward(x))))


class Transformer(nn.Module):
    """49 patches of 4 x 4 pixels, two layers, a mean (Dosovitskiy et al. 2021, arXiv:2010.11929)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(16, width)
        self.layers = nn.Sequential(Layer(width), Layer(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[0]
        patches = x.reshape(n, 7, 4, 7, 4).permute(0, 1, 3, 2, 4).reshape(n, 49, 16)
        return self.head(self.layers(self.embed(patches)).mean(1))


def depthwise() -> nn.Module:
    """Its normalizations hold the statistics of random images, so that they do something."""
    network = Depthwise().train()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
        for _ in range(20):
            network(torch.randn(32, 1, 28, 28))
    return network.eval()


def transformer() -> nn.Module:
    return Transformer().eval()


def transformer_with_outliers() -> nn.Module:
    """Of each normalization a few channels are far larger than the others, as large language models have them."""
    network = Transformer()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
                module.weight[::11] *= 20
    return network.eval()
