"""What a driver asks of the thing that runs the clients' work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from choral.core.params import ClientId, Params
from choral.core.plan import Plan
from choral.federation.evaluation import Measured
from choral.federation.participant import Outcome


@dataclass(frozen=True, slots=True)
class Work:
    """One attempt's work for the clients that will answer.

    Attributes:
        plan: The round's terms.
        params: The global model.
        clients: Who works, in the order in which their answers are wanted.
        personal: Personal tensors of clients that have any.
    """

    plan: Plan
    params: Params
    clients: tuple[ClientId, ...]
    personal: Mapping[ClientId, Params] = field(default_factory=dict)


class Engine(Protocol):
    """Runs clients' work somewhere. Outcomes do not depend on where."""

    @property
    def name(self) -> str:
        """What results call it."""
        ...

    def train(self, work: Work) -> Iterator[Outcome]:
        """Yield one outcome per client of `work`, in that order; may be closed early."""
        ...

    def evaluate(
        self, params: Params, clients: tuple[ClientId, ...], personal: Mapping[ClientId, Params]
    ) -> Iterator[Measured]:
        """Yield every client's evaluation of `params`, in that order."""
        ...

    def close(self) -> None:
        """Let go of processes and memory."""
        ...
