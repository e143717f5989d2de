"""Measuring a global model on held-out examples, and on the clients' own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from choral.core.params import ClientId, Params
from choral.federation.participant import Participant
from choral.federation.setup import Evaluation

SHOWN = 1000
"""Clients up to which each one's metrics are kept apart."""

Metrics = dict[str, float | None]
"""Scalars by name; None for what is no finite number."""

Measurement = tuple[Metrics, dict[str, Metrics]]
"""Metrics of the model, and metrics of each client."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A client's own evaluation of a model.

    Attributes:
        client: The client.
        metrics: Means over its held-out examples; None for what is no finite number.
        examples: How many those are; 0 where it has none.
    """

    client: ClientId
    metrics: Mapping[str, float | None]
    examples: int


def measures_clients(asked: bool | None, *, population: int, private: bool) -> bool:
    """Return whether clients measure a run's models on their own examples.

    Nothing hides what they report, so a run with privacy has it only where it is asked for.

    Args:
        asked: What the run says, or None.
        population: Number of its clients.
        private: Whether it has differential privacy.
    """
    return asked if asked is not None else population <= SHOWN and not private


def asks_clients(evaluation: Evaluation, *, final: bool) -> bool:
    """Return whether clients are asked: where the model's metrics need them, and at the end."""
    return evaluation.clients and (evaluation.held_out is None or final)


def measurement(
    params: Params,
    evaluation: Evaluation,
    *,
    participant: Participant,
    clients: Iterable[Measured],
) -> Measurement:
    """Return the metrics of a model after a round.

    The model's metrics are those of the held-out set where there is one, else of all clients' own
    held-out examples together.

    Args:
        params: The model.
        evaluation: How it is measured.
        participant: Measures on the held-out set.
        clients: What clients measured, empty where they were not asked.

    Raises:
        ClientError: The task's own code raised on the held-out set.
    """
    measured = [m for m in clients if m.examples and m.metrics]
    if evaluation.held_out is not None:
        metrics = participant.measure(params, evaluation.held_out, who="the held-out set")
    else:
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
