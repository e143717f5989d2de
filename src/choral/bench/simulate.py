"""Inline simulation beside a plain PyTorch loop that does the same local work.

Workload: 1 000 clients with 100 examples of 28 x 28 in 62 classes, 50 clients a round, one epoch of
batch 20, SGD at 0.05 without shuffling, logistic regression with 48 670 parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from choral.bench.machine import in_turn, machine, row
from choral.core.errors import MissingExtra

CLASSES = 62
EXAMPLES = 100
BATCH = 20
LR = 0.05


def bench_simulate(
    *, clients: int, per_round: int, rounds: int, repeat: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return seconds per client of Choral and of the loop, measured in turn."""
    try:
        import torch
    except ImportError:
        raise MissingExtra(
            "the floor is a PyTorch loop, and torch is not installed",
            hint="pip install 'choral[torch]'",
        ) from None
    say(f"making {clients} clients of {EXAMPLES} examples")
    x, y = _data(clients)
    work = per_round * rounds
    torch.set_num_threads(1)
    say(f"measuring {repeat} x {rounds} rounds of {per_round} clients, in turn with the loop")
    pairs = in_turn(
        lambda: _ours(x, y, per_round=per_round, rounds=rounds),
        lambda: _loop(x, y, per_round=per_round, rounds=rounds),
        repeat=repeat,
    )
    per_client = [(1e3 * a / work, 1e3 * b / work) for a, b in pairs]
    found = row("logistic, inline", per_client, unit="ms/client")
    found["clients_per_s"] = 1e3 / found["ours"]
    found["floor_clients_per_s"] = 1e3 / found["floor"]
    return {"name": "simulate", "machine": machine(), "rows": [found]}


def _data(clients: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(1234)
    y = rng.integers(0, CLASSES, size=(clients, EXAMPLES), dtype=np.int64)
    centres = rng.standard_normal((CLASSES, 28, 28), dtype=np.float32)
    noise = rng.standard_normal((clients, EXAMPLES, 28, 28), dtype=np.float32)
    x = centres[y] * 0.5 + noise
    return x[:, :, None].astype(np.float32), y


def _model() -> Any:
    import torch

    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, CLASSES))


def _ours(x: Any, y: Any, *, per_round: int, rounds: int) -> None:
    import torch

    from choral.simulation.api import simulate
    from choral.tasks.torch import TorchTask

    task = TorchTask(
        model=_model,
        loss=torch.nn.functional.cross_entropy,
        optimizer="sgd",
        lr=LR,
        batch_size=BATCH,
    )
    simulate(
        task,
        clients={f"{c:06d}": (x[c], y[c]) for c in range(len(y))},
        rounds=rounds,
        clients_per_round=per_round,
        local={"shuffle": False},
        evaluate_clients=False,
        test_fraction=0.0,
        seed=7,
    )


def _loop(x: Any, y: Any, *, per_round: int, rounds: int) -> None:
    """Do the same work by hand: one model, one optimiser per client, a running sum, the loss."""
    import torch
    from torch.nn.utils import parameters_to_vector, vector_to_parameters

    torch.manual_seed(7)
    model = _model()
    params = list(model.parameters())
    vector = parameters_to_vector(params).detach().clone()
    rng = np.random.default_rng(7)
    for _ in range(rounds):
        total, count, losses = torch.zeros_like(vector), 0, 0.0
        for client in rng.choice(len(y), per_round, replace=False):
            vector_to_parameters(vector.clone(), params)
            optimizer = torch.optim.SGD(params, lr=LR)
            inputs, targets = torch.from_numpy(x[client]), torch.from_numpy(y[client])
            model.train()
            for at in range(0, EXAMPLES, BATCH):
                optimizer.zero_grad(set_to_none=True)
                loss = torch.nn.functional.cross_entropy(
                    model(inputs[at : at + BATCH]), targets[at : at + BATCH]
                )
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses += loss.item()
            with torch.no_grad():
                total.add_(parameters_to_vector(params), alpha=EXAMPLES)
                count += EXAMPLES
        vector = total / count
