"""Models of the int8 bench for spoken words: [N, 1, 98 frames, 40 mel bands] float32 -> [N, 10] logits."""

import torch
from torch import nn


class WordCnn(nn.Module):
    """One-dimensional convolutions along time, the mel bands being their channels."""

    def __init__(self, width: int = 224) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out, kernel, stride in (
            (40, width, 5, 1),
            (width, width, 5, 2),
            (width, width, 3, 1),
            (width, width, 5, 2),
            (width, width, 3, 1),
        ):
            layers += [
                nn.Conv1d(c_in, c_out, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm1d(c_out),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x.squeeze(1).transpose(1, 2)).mean(2))


class WordGru(nn.Module):
    """Two frames a step into a gated recurrent unit (Cho et al. 2014, arXiv:1406.1078), its states' mean classified."""

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.frames = nn.Linear(80, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(torch.relu(self.frames(x.reshape(-1, 49, 80))))
        return self.head(states.mean(1))


def cnn() -> nn.Module:
    """A 1-D CNN."""
    return WordCnn()


def gru() -> nn.Module:
    """A recurrent network."""
    return WordGru()
