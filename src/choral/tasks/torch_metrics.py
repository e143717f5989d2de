"""How outputs meet targets, and the metrics that a PyTorch task reports by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

Loss: TypeAlias = Callable[[Any, torch.Tensor], torch.Tensor]
"""From the module's output and the targets of a batch to the mean loss over the batch."""

Metric: TypeAlias = Callable[[Any, torch.Tensor], Any]
"""From the module's output and the targets of a batch to the mean of a metric over the batch."""


def aligned(output: Any, target: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """Return output and target as the loss gets them.

    Where there are as many outputs as targets, such as `[n, 1]` against `[n]`, the output takes the
    target's shape, so that nothing broadcasts, and the target the output's dtype, so that labels
    0 and 1 may be integers. Everything else is passed on as it is.
    """
    if isinstance(output, torch.Tensor) and output.numel() == target.numel():
        if output.shape != target.shape:
            output = output.reshape(target.shape)
        if target.dtype != output.dtype:
            target = target.to(output.dtype)
    return output, target


def own_metrics(output: Any, targets: torch.Tensor, loss: Loss) -> dict[str, Metric]:
    """Return the metrics that fit a model, judged by its output and all of a client's targets.

    * Whole-number targets and at least two outputs along axis 1: `accuracy` of the largest output.
    * As many outputs as targets, all targets 0 or 1: `accuracy` of output > 0 (> 0.5 where the loss
      is PyTorch's binary cross-entropy without logits).
    * As many outputs as targets otherwise: `mse` and `mae`.
    * Anything else: none.

    Args:
        output: Output for one batch, after `aligned`.
        targets: Every target of the data, not aligned.
        loss: The task's loss.
    """
    if not isinstance(output, torch.Tensor):
        return {}
    if output[:1].numel() == targets[:1].numel():
        if bool(((targets == 0) | (targets == 1)).all()):
            border = 0.5 if _wants_chances(loss) else 0.0
            return {"accuracy": lambda o, t: ((o > border) == (t > 0.5)).double().mean()}
        return {
            "mse": lambda o, t: (o - t).square().mean(),
            "mae": lambda o, t: (o - t).abs().mean(),
        }
    whole = not targets.is_floating_point()
    if whole and output.ndim == targets.ndim + 1 and output.shape[1] > 1:
        return {"accuracy": lambda o, t: (o.argmax(dim=1) == t).double().mean()}
    return {}


def _wants_chances(loss: Loss) -> bool:
    return isinstance(loss, nn.BCELoss) or loss is nn.functional.binary_cross_entropy
