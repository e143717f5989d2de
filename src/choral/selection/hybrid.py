"""Hybrid selection: part of the cohort stratified, the rest at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from choral.core.checks import real
from choral.core.keys import Key
from choral.core.params import ClientId
from choral.core.selection import Draft, History, Population
from choral.selection.draws import check_count, sample, shuffled
from choral.selection.strata import check_minimums, floors, grouped, seated


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Choose a part of the cohort by strata and the rest uniformly from all other clients.

    The stratified part, `count - round(random_share * count)` clients, comes first and holds the
    minimums, which are counted against the whole cohort. No client is chosen twice. The cohort is
    in random order. The cost is that of `Stratified`.

    Args:
        by: The label, such as `region`. Every client must have it.
        random_share: Share of the cohort that is chosen uniformly, in [0, 1].
        min_share: Least share of the cohort for each stratum, in [0, 1], rounded up to whole
            clients; or a mapping of stratum to share, 0 for those that it does not name.
        minimum: Least number of clients of each stratum.

    Raises:
        ConfigError: An argument is out of its range.
    """

    name: ClassVar[str] = "hybrid"

    by: str
    random_share: float = 0.5
    min_share: float | Mapping[str, float] = 0.0
    minimum: int = 0

    def __post_init__(self) -> None:
        share = real(f"{self.name}.random_share", self.random_share, least=0, most=1)
        object.__setattr__(self, "random_share", share)
        check_minimums(self, self.name)

    def __call__(
        self, population: Population, draft: Draft, history: History, key: Key
    ) -> tuple[ClientId, ...]:
        """Return the cohort.

        Raises:
            ConfigError: More clients are asked for than there are, a client has no such label, or
                the minimums cannot be met by the stratified part.
        """
        ids = population.ids
        check_count(draft.count, len(ids))
        groups = grouped(population, self.by)
        least = floors(groups, draft.count, self.min_share, self.minimum)
        at_random = round(self.random_share * draft.count)
        chosen = seated(groups, draft.count - at_random, least, key.fold("stratified"))
        chosen += sample(key.fold("random"), len(ids), at_random, taken=chosen)
        return tuple(ids[i] for i in shuffled(key.fold("cohort"), chosen))
