"""Round robin: everyone in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from choral.core.keys import Key
from choral.core.params import ClientId
from choral.core.selection import Draft, History, Population
from choral.selection.draws import check_count


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """Walk through the population in its order, `count` clients a round, and start again.

    Attempt a of round r takes the clients at the places

        (r + a - 2) * count + 0 … count - 1,   modulo the size of the population.

    With one attempt a round and a fixed count and population, any two clients have been chosen
    equally often, give or take one, after any number of rounds. An attempt asks whom the next
    round would have asked: where the population is at least twice the count, no one of the attempt
    before; else as few of them as possible. The key is not used.
    """

    name: ClassVar[str] = "round_robin"

    def __call__(
        self, population: Population, draft: Draft, history: History, key: Key
    ) -> tuple[ClientId, ...]:
        """Return the cohort.

        Raises:
            ConfigError: More clients are asked for than there are.
        """
        ids = population.ids
        check_count(draft.count, len(ids))
        start = (draft.round + draft.attempt - 2) * draft.count
        return tuple(ids[(start + i) % len(ids)] for i in range(draft.count))
