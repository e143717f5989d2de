"""The engine without processes: one client after the other, here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from choral.core.keys import Key
from choral.core.params import ClientId, Params
from choral.core.task import ClientSource, count_examples
from choral.federation.evaluation import Measured
from choral.federation.participant import Outcome, Participant, overlay
from choral.simulation.engine import Work


@dataclass(frozen=True, slots=True)
class InlineEngine:
    """Runs every client in the calling process.

    Attributes:
        participant: The client's side of a round.
        source: The clients' data.
        name: What results call it.
    """

    participant: Participant
    source: ClientSource
    name: str = "inline"

    def train(self, work: Work) -> Iterator[Outcome]:
        """Yield one outcome per client of `work`, in that order."""
        key = Key.of_state(work.plan.key)
        for client in work.clients:
            yield self.participant.attempt(
                client,
                overlay(work.params, work.personal.get(client)),
                self.source.load,
                plan=work.plan,
                key=key.fold(client),
            )

    def evaluate(
        self, params: Params, clients: tuple[ClientId, ...], personal: Mapping[ClientId, Params]
    ) -> Iterator[Measured]:
        """Yield every client's evaluation of `params`, in that order."""
        for client in clients:
            yield self.evaluate_one(params, client, personal.get(client))

    def evaluate_one(self, params: Params, client: ClientId, personal: Params | None) -> Measured:
        """Return one client's evaluation."""
        test = self.source.load(client).test
        examples = 0 if test is None else count_examples(test)
        if not examples:
            return Measured(client, {}, 0)
        model, who = overlay(params, personal), f"client `{client}`"
        return Measured(client, self.participant.measure(model, test, who=who), examples)

    def close(self) -> None:
        """Nothing to let go of."""
