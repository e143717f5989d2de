"""Record-level privacy in PyTorch: gradients of each example by Opacus, everything else by us.

Opacus gives `grad_sample` alone. Its optimiser, its accountant, its data loader and its noise are
not used: the noise there comes from PyTorch's generator, and its secure mode needs a package that
no longer builds. Ghost clipping is off, since its norms do not show what a row adds.

The gradient of one example must not depend on the others of its batch. Layers that mix examples are
refused by name. What cannot be seen from outside is a loss that does so: it must be a mean of
losses of one example each. A batched matrix product may round the last bit differently for another
batch size; that is of the order of 1e-7 of a gradient, and is not in the sensitivity.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from choral.core.errors import ConfigError, MissingExtra, PlanError
from choral.core.params import Vector
from choral.core.plan import Plan
from choral.core.ports import Rand
from choral.tasks.private import PrivateStep, private_steps
from choral.tasks.torch_data import Examples
from choral.tasks.torch_metrics import Loss, aligned
from choral.tasks.torch_replica import Replica
from choral.tasks.torch_step import Stepper, backward, pull

_PIECE: Final = 1 << 25
"""Elements of gradients of examples that are held at once: 128 MiB."""

MIXING: Final = "its output for one example depends on the others of the batch"


def fit_privately(
    replica: Replica,
    data: Examples,
    plan: Plan,
    *,
    loss: Loss,
    stepper: Stepper,
    rand: Rand | None,
) -> None:
    """Train the loaded module by private gradients of all its trained tensors, the personal too.

    Args:
        replica: Holds the received model, and the trained one afterwards.
        data: The client's examples.
        plan: The round's terms, with `local.record`.
        loss: Mean loss of a batch.
        stepper: Builds the client's optimiser, which sees private gradients alone.
        rand: Secret randomness; None for the operating system's.

    Raises:
        PlanError: A layer mixes examples, or Opacus does not know how to take its gradients.
        MissingExtra: Opacus is not installed.
    """
    module = replica.mode(training=True)
    check_private_layers(module)
    step = stepper(replica.trained, plan.local.lr)
    add_pull = None if plan.objective.plain else pull(replica, plan.objective)
    dimension = sum(s.tensor.numel() for s in replica.trained)
    steps = private_steps(plan.local, count=len(data[0]), dimension=dimension, rand=rand)
    with per_example(module):
        for one in steps:
            _set_gradients(replica, one.gradient(_blocks(replica, data, one, loss=loss)))
            if add_pull is not None:
                add_pull()
            step()
    for slot in replica.trained:
        slot.tensor.grad = None


def check_private_layers(module: nn.Module) -> None:
    """Refuse layers under which a record has no gradient of its own.

    Raises:
        PlanError: There is one; the message names it.
        MissingExtra: Opacus is not installed.
    """
    check_mixing_layers(module)
    validator = _opacus("opacus.validators").ModuleValidator
    problems = validator.validate(module, strict=False)
    if problems:
        raise PlanError(
            f"record-level privacy does not work with this model: {problems[0]}",
            hint="`opacus.validators.ModuleValidator.fix(model)` in `model=` replaces such layers",
        )


def check_mixing_layers(module: nn.Module) -> None:
    """Refuse layers whose output for one example depends on the others of its batch.

    Raises:
        PlanError: There is one; the message names it.
    """
    for name, layer in module.named_modules():
        tracked = isinstance(layer, nn.modules.instancenorm._InstanceNorm)
        if isinstance(layer, _BatchNorm) or (tracked and layer.track_running_stats):
            raise PlanError(
                f"layer `{name or 'model'}` is {type(layer).__name__}: {MIXING}, so no record can "
                "be hidden",
                hint="use GroupNorm, or let `opacus.validators.ModuleValidator.fix(model)` put it "
                "there in `model=`",
            )


def _opacus(name: str) -> Any:
    """Return a module of Opacus."""
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opacus":
            raise
        raise MissingExtra(
            "record-level privacy in PyTorch needs Opacus, which is not installed",
            hint="pip install 'choral[dp]'",
        ) from None


@contextmanager
def per_example(module: nn.Module) -> Iterator[None]:
    """Let backward passes leave `grad_sample` at each parameter; take everything away behind it.

    The wrapper's own state has names with `_module.` before them. It is never asked for: models are
    read from the module itself, whose names stay what they are.

    Raises:
        PlanError: Opacus does not take the gradients of a layer.
    """
    wrap = _opacus("opacus.grad_sample").GradSampleModule
    try:
        wrapped = wrap(module, batch_first=True, loss_reduction="mean", strict=True)
    except NotImplementedError as error:
        raise PlanError(f"record-level privacy does not work with this model: {error}") from None
    try:
        yield
    finally:
        wrapped.to_standard_module()
        for layer in module.modules():
            for left in ("activations", "max_batch_len"):
                layer.__dict__.pop(left, None)


def _blocks(replica: Replica, data: Examples, step: PrivateStep, *, loss: Loss) -> Iterator[Vector]:
    """Yield gradients of the drawn examples, one row each, in the order of the trained tensors."""
    x, y = data
    run_backward = backward(replica.device)
    size = max(1, _PIECE // step.terms.dimension)
    for at in range(0, len(step.rows), size):
        rows = torch.from_numpy(step.rows[at : at + size]).to(x.device)
        for slot in replica.trained:
            slot.tensor.grad = None
            slot.tensor.grad_sample = None  # type: ignore[attr-defined]
        value = loss(*aligned(replica.module(x[rows]), y[rows]))
        if value.ndim:
            raise ConfigError(
                f"the loss has shape {list(value.shape)}, expected one number",
                hint="return the mean over the batch",
            )
        with warnings.catch_warnings():
            # That a model's inputs need no gradient is as it should be.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            run_backward(value)
        yield _taken(replica, len(rows))


def _taken(replica: Replica, count: int) -> Vector:
    """Return the gradients that a backward pass left, shape `[count, dimension]`."""
    parts = []
    for slot in replica.trained:
        found = slot.tensor.grad_sample  # type: ignore[attr-defined]
        slot.tensor.grad_sample = None  # type: ignore[attr-defined]
        if found is None:  # the tensor took no part
            found = torch.zeros(count, *slot.tensor.shape)
        if isinstance(found, list) or len(found) != count:
            raise PlanError(
                f"tensor `{slot.name}` has no gradient for each example",
                hint="the first axis of what every layer takes and gives must count examples",
            )
        parts.append(found.detach().to("cpu", torch.float32).reshape(count, -1))
    joined: Vector = torch.cat(parts, dim=1).numpy()
    return joined


def _set_gradients(replica: Replica, vector: Vector) -> None:
    """Give each trained tensor its part of a private gradient."""
    at = 0
    for slot in replica.trained:
        size = slot.tensor.numel()
        part = torch.from_numpy(np.ascontiguousarray(vector[at : at + size]))
        slot.tensor.grad = part.reshape(slot.tensor.shape).to(slot.raw)
        at += size
