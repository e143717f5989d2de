"""Measuring a global model on held-out examples, and on the clients' own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from choral.core.params import ClientId, Params
from choral.federation.participant import Participant
from choral.federation.setup import Evaluation
from choral.simulation.engine import Engine, Measured

SHOWN = 1000
"""Clients up to which each one's metrics are kept apart."""

Metrics = dict[str, float | None]
"""Scalars by name; None for what is no finite number."""

Measurement = tuple[Metrics, dict[str, Metrics]]
"""Metrics of the model, and metrics of each client."""


def measure(
    params: Params,
    evaluation: Evaluation,
    *,
    participant: Participant,
    engine: Engine,
    clients: Iterable[ClientId],
    personal: Mapping[ClientId, Params],
    final: bool,
) -> Measurement:
    """Return the metrics of a model after a round.

    The model's metrics are those of the held-out set where there is one, else of all clients' own
    held-out examples together. Clients are asked when they are needed for that, and at the end.
    """
    held_out = evaluation.held_out
    metrics: Metrics = {}
    if held_out is not None:
        metrics = participant.measure(params, held_out, who="the held-out set")
    if not evaluation.clients or (held_out is not None and not final):
        return metrics, {}
    measured = [
        m for m in engine.evaluate(params, tuple(clients), personal) if m.examples and m.metrics
    ]
    if held_out is None:
        metrics = pool(measured)
    each = {m.client: dict(m.metrics) for m in measured} if len(measured) <= SHOWN else {}
    return metrics, {str(client): values for client, values in each.items()}


def pool(measured: Iterable[Measured]) -> Metrics:
    """Return the mean of each metric over all examples of the clients that measured it.

    Edge case: where one client's value is no finite number, neither is the mean.

    >>> pool([Measured(ClientId("a"), {"accuracy": 1.0, "loss": 0.5}, 1),
    ...       Measured(ClientId("b"), {"accuracy": 0.5, "loss": None}, 3)])
    {'accuracy': 0.625, 'loss': None}
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for m in measured:
        for name, value in m.metrics.items():
            term = math.nan if value is None else value * m.examples
            sums[name] = sums.get(name, 0.0) + term
            counts[name] = counts.get(name, 0) + m.examples
    means = {name: total / counts[name] for name, total in sums.items()}
    return {name: None if math.isnan(mean) else mean for name, mean in means.items()}
