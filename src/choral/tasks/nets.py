"""The built-in networks, as PyTorch modules. They take flat examples or shaped ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from choral.core.errors import DataError

__all__ = ["Shaped", "cnn", "cross_entropy", "mlp"]


class Shaped(nn.Module):
    """Gives every example the shape that the network expects.

    Args:
        shape: Shape of one example.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.size = math.prod(shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `[n, *shape]`; raise `DataError` where the examples have another size."""
        if x[:1].numel() != self.size:
            raise DataError(
                f"examples have shape {list(x.shape[1:])}, but the model takes {list(self.shape)}"
            )
        return x.reshape(len(x), *self.shape)


def mlp(input_dim: int, hidden: Sequence[int], classes: int) -> nn.Module:
    """Return a fully connected network with ReLU between its layers."""
    layers: list[nn.Module] = [Shaped([input_dim])]
    width = input_dim
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU()]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, classes))


def cnn(input_shape: Sequence[int], classes: int) -> nn.Module:
    """Return the convolutional network of LEAF's FEMNIST task, with "same" padding.

    Two blocks of a 5x5 convolution (32, then 64 kernels), ReLU and 2x2 pooling, then 512 hidden
    units. Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018.
    """
    channels, height, width = input_shape
    flat = 64 * (height // 4) * (width // 4)
    return nn.Sequential(
        Shaped(input_shape),
        nn.Conv2d(channels, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(flat, 512),
        nn.ReLU(),
        nn.Linear(512, classes),
    )
