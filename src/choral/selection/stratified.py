"""Stratified selection: every cohort looks like the population."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from choral.core.keys import Key
from choral.core.params import ClientId
from choral.core.selection import Draft, History, Population
from choral.selection.draws import check_count, shuffled
from choral.selection.strata import check_minimums, floors, grouped, seated


@dataclass(frozen=True, slots=True)
class Stratified:
    """Give each stratum its share of the cohort, then choose uniformly within it.

    A stratum is the set of clients with one value of a declared label. Its seats are its
    proportional share of `count`, rounded up or down at random so that every client has the same
    chance count / size over the rounds, unless a minimum raises it. The cohort is in random order.

    Source: proportional allocation, Cochran, "Sampling Techniques", 1977, chapter 5; fractions by
    systematic sampling, Madow 1949.

    The labels of the whole population are read in every round, which takes about half a
    microsecond a client and the time of the population's `strata`.

    Args:
        by: The label, such as `region`. Every client must have it.
        min_share: Least share of the cohort for each stratum, in [0, 1], rounded up to whole
            clients; or a mapping of stratum to share, 0 for those that it does not name.
        minimum: Least number of clients of each stratum.

    Raises:
        ConfigError: An argument is out of its range.
    """

    name: ClassVar[str] = "stratified"

    by: str
    min_share: float | Mapping[str, float] = 0.0
    minimum: int = 0

    def __post_init__(self) -> None:
        check_minimums(self, self.name)

    def __call__(
        self, population: Population, draft: Draft, history: History, key: Key
    ) -> tuple[ClientId, ...]:
        """Return the cohort.

        Raises:
            ConfigError: More clients are asked for than there are, a client has no such label, or
                the minimums cannot be met.
        """
        ids = population.ids
        check_count(draft.count, len(ids))
        groups = grouped(population, self.by)
        least = floors(groups, draft.count, self.min_share, self.minimum)
        chosen = seated(groups, draft.count, least, key)
        return tuple(ids[i] for i in shuffled(key.fold("cohort"), chosen))
