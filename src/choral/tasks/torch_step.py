"""One optimiser step in PyTorch, and what the round's objective adds to its gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import torch

from choral.core.checks import real
from choral.core.errors import ConfigError, UnknownName, did_you_mean
from choral.core.params import Role
from choral.core.plan import Objective
from choral.tasks.objective import check_objective
from choral.tasks.torch_replica import Replica, Slot

Optimiser: TypeAlias = str | Callable[..., torch.optim.Optimizer]
"""`sgd`, `adam`, or a callable that is given the list of parameters and `lr=`."""

Stepper: TypeAlias = Callable[[list[Slot], float], Callable[[], Any]]
"""From the trained tensors and a learning rate to the function that takes one step."""

OPTIMISERS = ("adam", "sgd")


def stepper(optimizer: Optimiser, momentum: float) -> Stepper:
    """Return what builds a client's optimiser; its state starts anew with every call.

    Plain `sgd` adds gradients in place, bit for bit what `torch.optim.SGD` does.

    Raises:
        UnknownName: An optimiser's name that is not known.
        ConfigError: Momentum out of [0, 1), or with another optimiser than `sgd`.
    """
    if isinstance(optimizer, str) and optimizer not in OPTIMISERS:
        raise UnknownName(
            f"optimizer {optimizer!r} is not known",
            hint=did_you_mean(optimizer, OPTIMISERS)
            + "; or give a callable such as `torch.optim.RMSprop`",
        )
    momentum = real("momentum", momentum, least=0, below=1)
    if momentum and optimizer != "sgd":
        raise ConfigError(
            f"momentum {momentum} with optimizer {optimizer!r}",
            hint="momentum goes with `sgd`; a callable sets its own",
        )
    if optimizer == "sgd" and not momentum:
        return _plain_sgd

    def build(slots: list[Slot], lr: float) -> Callable[[], Any]:
        parameters = [s.tensor for s in slots]
        if optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=lr, momentum=momentum).step
        if isinstance(optimizer, str):
            return torch.optim.Adam(parameters, lr=lr).step
        return optimizer(parameters, lr=lr).step

    return build


def _plain_sgd(slots: list[Slot], lr: float) -> Callable[[], None]:
    pairs = [(s.tensor, s.raw) for s in slots]

    def step() -> None:
        for tensor, raw in pairs:
            if tensor.grad is not None:
                raw.add_(tensor.grad, alpha=-lr)

    return step


def backward(device: torch.device) -> Callable[[torch.Tensor], None]:
    """Return what adds the gradients of a loss to those of the parameters.

    `torch.autograd.backward` checks its arguments for as long as a small model's gradient takes to
    compute, so on the CPU its engine is called directly. The engine's signature is internal to
    PyTorch: where it is another one, the public function serves.
    """
    engine = _engine() if device.type == "cpu" else None
    if engine is None:
        return torch.autograd.backward
    run = engine
    seeds: dict[torch.dtype, torch.Tensor] = {}

    def direct(loss: torch.Tensor) -> None:
        if type(loss) is not torch.Tensor:
            torch.autograd.backward(loss)
            return
        seed = seeds.get(loss.dtype)
        if seed is None:
            seed = seeds[loss.dtype] = torch.ones_like(loss)
        run((loss,), (seed,), False, False, (), allow_unreachable=True, accumulate_grad=True)

    return direct


@cache
def _engine() -> Callable[..., Any] | None:
    """Return the engine's entry if it does on a small example what is expected of it."""
    at = torch.ones((), requires_grad=True)
    try:
        run: Callable[..., Any] = torch.autograd.Variable._execution_engine.run_backward
        seed = torch.ones(())
        run((at * 3,), (seed,), False, False, (), allow_unreachable=True, accumulate_grad=True)
    except (AttributeError, TypeError, RuntimeError):
        return None
    return run if at.grad is not None and at.grad.item() == 3 else None


def pull(replica: Replica, objective: Objective) -> Callable[[], None]:
    """Return what adds mu * (w - anchor) + drift to the gradients of the shared parameters.

    Args:
        replica: Holds the received model, which an absent anchor stands for.
        objective: The round's local objective.

    Raises:
        WrongShape: The anchor or the drift does not cover the shared tensors.
    """
    check_objective(objective, replica.spec.shared_size)
    drift = {} if objective.drift is None else replica.shared_parts(objective.drift)
    shared = set(replica.spec.names(Role.SHARED))
    slots = [s for s in replica.trained if s.name in shared]
    if not objective.mu:
        anchor = {}
    elif objective.anchor is None:
        anchor = {s.name: s.raw.clone() for s in slots}
    else:
        anchor = replica.shared_parts(objective.anchor)
    rows = [(s.tensor, s.raw, anchor.get(s.name), drift.get(s.name)) for s in slots]

    def add() -> None:
        for tensor, raw, towards, extra in rows:
            gradient = torch.zeros_like(raw) if tensor.grad is None else tensor.grad
            if towards is not None:
                gradient = gradient.add(raw - towards, alpha=objective.mu)
            if extra is not None:
                gradient = gradient.add(extra)
            tensor.grad = gradient

    return add
