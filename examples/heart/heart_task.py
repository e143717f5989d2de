"""Logistic regression on 13 features; the sigmoid is part of the loss."""

from __future__ import annotations

import torch

from choral.tasks.torch import TorchTask

task = TorchTask(
    model=lambda: torch.nn.Linear(13, 1),
    loss=torch.nn.functional.binary_cross_entropy_with_logits,
    optimizer="sgd",
    lr=0.001,
    batch_size=4,
)
