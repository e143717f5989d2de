"""Poisson sampling: every client tosses its own coin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from choral.core.keys import Key
from choral.core.params import ClientId
from choral.core.selection import Draft, History, Population
from choral.selection.draws import binomial, check_count, sample


@dataclass(frozen=True, slots=True)
class Poisson:
    """Choose each client independently with probability count / size of the population.

    `count` is the expected size of the cohort. The size varies, with a standard deviation just
    below sqrt(count), and the cohort may be empty: a round needs a rule for that.

    It is computed as a binomial number of clients, then a uniform sample of that many. This is the
    same distribution: with independent tosses a given set of m clients has the probability
    p^m * (1 - p)^(n - m), which depends on m alone; so m is binomial and, given m, all sets of m
    are equally likely. Time and memory grow with the size of the cohort.

    Accountants of differential privacy that assume Poisson sampling also assume that nobody who
    sees the result knows who was chosen. A key is not secret from whoever knows the run's seed.
    """

    name: ClassVar[str] = "poisson"

    def __call__(
        self, population: Population, draft: Draft, history: History, key: Key
    ) -> tuple[ClientId, ...]:
        """Return the cohort, in random order; it may be empty.

        Raises:
            ConfigError: More clients are expected than there are.
        """
        ids = population.ids
        check_count(draft.count, len(ids))
        drawn = key.fold("size")
        further = int.from_bytes(drawn.fold("further").state, "little")
        size = binomial(drawn.uniform(), len(ids), draft.count, further=further)
        return tuple(ids[i] for i in sample(key.fold("clients"), len(ids), size))
