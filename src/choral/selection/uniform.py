"""Uniform selection: every client has the same chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from choral.core.keys import Key
from choral.core.params import ClientId
from choral.core.selection import Draft, History, Population
from choral.selection.draws import check_count, sample


@dataclass(frozen=True, slots=True)
class Uniform:
    """Choose `count` clients without replacement, every ordered choice equally likely.

    The result is in the order drawn, so that the first clients of a cohort are a uniform sample
    too. Time and memory grow with `count`, not with the population, up to half of it.
    """

    name: ClassVar[str] = "uniform"

    def __call__(
        self, population: Population, draft: Draft, history: History, key: Key
    ) -> tuple[ClientId, ...]:
        """Return the cohort.

        Raises:
            ConfigError: More clients are asked for than there are.
        """
        ids = population.ids
        check_count(draft.count, len(ids))
        return tuple(ids[i] for i in sample(key, len(ids), draft.count))
