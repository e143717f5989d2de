"""The loops of PyTorch training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from choral.core.errors import ConfigError
from choral.core.keys import Key
from choral.core.plan import Plan
from choral.tasks.torch_data import Examples, batches, placed
from choral.tasks.torch_metrics import Loss, Metric, aligned, own_metrics
from choral.tasks.torch_replica import Replica
from choral.tasks.torch_step import Stepper, backward, pull

EVALUATION_BATCH = 256


def fit(
    replica: Replica, data: Examples, plan: Plan, *, key: Key, loss: Loss, stepper: Stepper
) -> float:
    """Train the loaded module; return the mean loss over its steps, weighted by batch size.

    Args:
        replica: Holds the received model, and the trained one afterwards.
        data: The client's examples.
        plan: The round's terms.
        key: Key of (run, round, client, "train").
        loss: Mean loss of a batch.
        stepper: Builds the client's optimiser.
    """
    module = replica.mode(training=True)
    parameters = [s.tensor for s in replica.trained]
    run_backward = backward(replica.device)
    step = stepper(replica.trained, plan.local.lr)
    add_pull = None if plan.objective.plain else pull(replica, plan.objective)
    losses, sizes = [], []
    for x, y in batches(data, plan.local, key):
        for parameter in parameters:
            parameter.grad = None
        value = loss(*aligned(module(x), y))
        if value.ndim:
            raise ConfigError(
                f"the loss has shape {list(value.shape)}, expected one number",
                hint="return the mean over the batch",
            )
        run_backward(value)
        if add_pull is not None:
            add_pull()
        step()
        # Read at the end: reading a number at every step would wait for the device.
        losses.append(value.detach())
        sizes.append(len(x))
    values = torch.stack(losses).tolist()
    return float(sum(v * n for v, n in zip(values, sizes, strict=True)) / sum(sizes))


def measure(
    module: nn.Module, data: Examples, loss: Loss, *, metrics: Mapping[str, Metric]
) -> dict[str, float]:
    """Return the mean loss and metrics over the examples of a module in evaluation mode.

    Gradients are off by `no_grad` and not by `inference_mode`: a module may cache tensors, and
    those made under `inference_mode` cannot be trained with afterwards.
    """
    x, y = data
    sums: dict[str, float] = {}
    rules: dict[str, Metric] = {}
    with torch.no_grad():
        cuts = (torch.split(part, EVALUATION_BATCH) for part in placed(data))
        for inputs, targets in zip(*cuts, strict=True):
            output, target = aligned(module(inputs), targets)
            if not rules:
                rules = {"loss": loss, **own_metrics(output, y, loss), **metrics}
            for name, rule in rules.items():
                sums[name] = sums.get(name, 0.0) + float(rule(output, target)) * len(inputs)
    return {name: total / len(x) for name, total in sums.items()}
