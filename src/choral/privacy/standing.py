"""What a privacy ledger says: of one reservation, and of a whole population."""

from __future__ import annotations

from dataclasses import dataclass

from choral.privacy.entries import Limit
from choral.privacy.vocabulary import Epsilon


@dataclass(frozen=True, slots=True)
class Reservation:
    """Leave to release, once.

    Attributes:
        number: Of its entry.
        run: The run.
        round: Counted from 1.
        attempt: Counted from 1.
        what: `model`, `evaluation` or another word for what is released.
        mechanism: Names of what is released by, such as `gaussian`.
        epsilon: Of the population, this release included; where the population is kept for one
            run, of all that the run planned.
        over_run_limit: Whether the run has passed the limit that it set itself.
        state: `reserved`, `spent` or `voided`.
    """

    number: int
    run: str
    round: int
    attempt: int
    what: str
    mechanism: str
    epsilon: Epsilon
    over_run_limit: bool
    state: str


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a population stands.

    Attributes:
        epsilon: Everything reserved or spent.
        limit: The limit.
        left: Epsilon that is left: the difference, as a first measure; epsilons do not add up.
        reserved: Reservations that nobody settled; they count.
        spent: Reservations that were committed.
        voided: Reservations that released nothing.
        alone: The run that the population is kept for, or None.
    """

    epsilon: Epsilon
    limit: Limit
    left: float
    reserved: int
    spent: int
    voided: int
    alone: str | None
