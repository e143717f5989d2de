"""Entries of a privacy ledger: their form, their chain of hashes, and what they add up to.

| kind | what it records |
|---|---|
| `opened` | the population's limit, unit and relation; always the first entry |
| `run` | what a run declares before its first round |
| `reserved` | releases that may happen |
| `spent` | a reservation that was committed |
| `voided` | a reservation that released nothing, and how that is known |

Each entry holds its number, the hash of the one before, and the hash of its own canonical JSON.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from choral.core.canonical import digest_of
from choral.core.checks import real, whole
from choral.core.errors import ChoralError, ConfigError, TamperedLedger
from choral.core.ports import Record
from choral.privacy.accounting import slack
from choral.privacy.adapters import ORDERS, is_linear, release_divergence
from choral.privacy.vocabulary import (
    PrivacyUnit,
    Relation,
    Release,
    check_delta,
    check_epsilon,
    check_selection,
    release_of,
)

NOTHING: Final = "0" * 64
"""The hash before the first entry."""


LOGS: Final = "ledger/"
"""How the names of logs begin that are ledgers."""


def log_of(population: str) -> str:
    """Return the name of the log of a population's ledger.

    >>> log_of("heart")
    'ledger/heart'
    """
    return f"{LOGS}{population}"


def packed(releases: Sequence[Release]) -> list[dict[str, Any]]:
    """Return releases as JSON objects: equal ones once, with `times`, where there are several."""
    counts = Counter(releases)
    return [r.as_json() | ({"times": n} if n > 1 else {}) for r, n in counts.items()]


def unpacked(body: Sequence[Mapping[str, Any]]) -> tuple[Release, ...]:
    """Return the releases that `packed` wrote."""
    found: list[Release] = []
    for one in body:
        times = whole("times", one.get("times", 1), least=1)
        found += [release_of({n: v for n, v in one.items() if n != "times"})] * times
    return tuple(found)


Shape: TypeAlias = frozenset[tuple[Release, int]]
"""Releases of a reservation, without their common factor; see `shape_of`."""

_LINEAR: Final[Shape] = frozenset()


def shape_of(releases: Sequence[Release]) -> Shape:
    """Return what two reservations share whose divergences are proportional at all orders."""
    if all(is_linear(release) for release in releases):
        return _LINEAR
    counts = Counter(releases)
    factor = math.gcd(*counts.values())
    return frozenset((release, n // factor) for release, n in counts.items())


@dataclass(frozen=True, slots=True)
class Limit:
    """What may be released about a population, over all runs.

    Attributes:
        epsilon: Hard limit, above 0.
        delta: That it goes with.
        unit: Whose data.
        relation: Between which worlds.
    """

    epsilon: float
    delta: float
    unit: PrivacyUnit
    relation: Relation

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", check_epsilon(self.epsilon, name="budget.epsilon"))
        object.__setattr__(self, "delta", check_delta(self.delta, name="budget.delta"))
        object.__setattr__(self, "unit", PrivacyUnit(self.unit))
        object.__setattr__(self, "relation", Relation(self.relation))

    def as_json(self) -> dict[str, Any]:
        """Return the limit as a JSON object."""
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "unit": self.unit.value,
            "relation": self.relation.value,
        }


@dataclass(frozen=True, slots=True)
class RunTerms:
    """What a run declares before its first round; none of it may depend on what was released.

    Attributes:
        run: The run's id.
        releases: What one round releases.
        rounds: How many rounds are planned, from 1.
        selection: Name of the selection that draws its cohorts.
        epsilon: The run's own limit, which warns and does not refuse; None for none.

    Raises:
        ConfigError: One of them is out of range.
        PlanError: A release claims credit for a sampling that the selection does not do.
    """

    run: str
    releases: tuple[Release, ...]
    rounds: int
    selection: str
    epsilon: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "releases", tuple(self.releases))
        whole("run.rounds", self.rounds, least=1)
        if self.epsilon is not None:
            object.__setattr__(self, "epsilon", real("run.epsilon", self.epsilon, above=0))
        if not self.run or not self.releases:
            raise ConfigError("a run needs an id and at least one release a round")
        for release in self.releases:
            check_selection(release.sampling, self.selection)

    @property
    def planned(self) -> Counter[Release]:
        """Everything that the run plans to release."""
        return Counter({r: n * self.rounds for r, n in Counter(self.releases).items()})

    def as_json(self) -> dict[str, Any]:
        """Return the terms as a JSON object."""
        return {
            "run": self.run,
            "releases": packed(self.releases),
            "rounds": self.rounds,
            "selection": self.selection,
            "epsilon": self.epsilon,
        }


@dataclass(frozen=True, slots=True)
class Head:
    """Where a ledger stands: what a witness remembers of it.

    Attributes:
        length: Entries in it.
        digest: Hash of the last.
    """

    length: int
    digest: str


@dataclass(slots=True)
class Booked:
    """A reservation and what became of it.

    Attributes:
        number: Of its entry.
        key: (run, round, attempt, what).
        releases: What it reserved.
        epsilon: Bound after it, or None where it is infinite.
        state: `reserved`, `spent` or `voided`.
    """

    number: int
    key: tuple[str, int, int, str]
    releases: tuple[Release, ...]
    epsilon: float | None
    state: str = "reserved"


@dataclass(slots=True)
class LedgerState:
    """What the entries of a ledger add up to; grows by one entry at a time.

    Attributes:
        digests: Hash of every entry.
        limit: From the first entry.
        runs: Terms by run.
        alone: The run that the population is kept for, or None.
        booked: Reservations by number of their entry.
        found: Number of a reservation by its key.
        counts: Releases that are reserved or spent.
        by_run: The same for each run.
        shapes: How many reservations of each shape are reserved or spent.
    """

    digests: list[str] = field(default_factory=list)
    limit: Limit | None = None
    runs: dict[str, RunTerms] = field(default_factory=dict)
    alone: str | None = None
    booked: dict[int, Booked] = field(default_factory=dict)
    found: dict[tuple[str, int, int, str], int] = field(default_factory=dict)
    counts: Counter[Release] = field(default_factory=Counter)
    by_run: dict[str, Counter[Release]] = field(default_factory=dict)
    shapes: Counter[Shape] = field(default_factory=Counter)
    _divergence: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(ORDERS)))
    _slack: float = 0.0
    _unweighed: list[tuple[Release, int]] = field(default_factory=list)

    @property
    def first(self) -> RunTerms | None:
        """The run that was declared first."""
        return next(iter(self.runs.values()), None)

    def is_uniform(self, more: Sequence[Release]) -> bool:
        """Return whether all that counts, and more, is a multiple of what the first run declared.

        Then there is one number that grows, whatever is chosen as one goes.
        """
        if self.first is None:
            return True
        shape = shape_of(self.first.releases)
        held = all(n <= 0 or found == shape for found, n in self.shapes.items())
        return held and (not more or shape_of(more) == shape)

    @property
    def head(self) -> Head:
        """Length and last hash."""
        return Head(len(self.digests), self.digests[-1] if self.digests else NOTHING)

    def entry(self, kind: str, fields: Mapping[str, Any]) -> Record:
        """Return the next entry, with its number and hashes."""
        body = {**fields, "number": len(self.digests), "previous": self.head.digest}
        return Record(kind, {**body, "hash": digest_of([kind, body])})

    def add(self, record: Record) -> None:
        """Take the next entry in.

        Raises:
            TamperedLedger: It does not follow from those before.
        """
        number = len(self.digests)
        body = dict(record.body)
        digest = body.pop("hash", None)
        if body.get("number") != number or body.get("previous") != self.head.digest:
            raise TamperedLedger(f"entry {number} does not follow the one before")
        if digest_of([record.kind, body]) != digest:
            raise TamperedLedger(f"entry {number} has been edited")
        step = _STEPS.get(record.kind)
        if step is None or (number == 0) != (record.kind == "opened"):
            raise TamperedLedger(f"entry {number} of kind `{record.kind}` is out of place")
        try:
            step(self, number, body)
        except (KeyError, TypeError, ValueError, ChoralError) as error:
            if isinstance(error, TamperedLedger):
                raise
            raise TamperedLedger(f"entry {number} says what cannot be: {error}") from None
        self.digests.append(digest)

    def weigh(self, releases: Sequence[Release], times: int) -> None:
        """Add releases to what counts, or take them away where `times` is -1."""
        self.shapes[shape_of(releases)] += times
        for release in releases:
            self.counts[release] += times
            self._unweighed.append((release, times))

    def weight(self) -> tuple[npt.NDArray[np.float64], float]:
        """Return the Rényi divergence and the slack of all that counts.

        Raises:
            PlanError: No such bound covers one of the releases.
            MissingExtra: dp-accounting is not installed; entries are read without it.
        """
        if any(times < 0 for _, times in self._unweighed):
            # An order that was infinite cannot be subtracted: what counts is weighed anew.
            self._divergence, self._slack = np.zeros(len(ORDERS)), 0.0
            self._unweighed = [(r, n) for r, n in self.counts.items() if n > 0]
        while self._unweighed and self.limit is not None:
            release, times = self._unweighed[-1]
            found = release_divergence(release, self.limit.relation)
            self._divergence = self._divergence + times * found
            self._slack += slack({release: times}, caps=True)
            self._unweighed.pop()
        return self._divergence, max(self._slack, 0.0)


def _opened(state: LedgerState, number: int, body: Mapping[str, Any]) -> None:
    state.limit = Limit(**body["limit"])


def _run(state: LedgerState, number: int, body: Mapping[str, Any]) -> None:
    terms = body["terms"]
    releases = unpacked(terms["releases"])
    run = RunTerms(terms["run"], releases, terms["rounds"], terms["selection"], terms["epsilon"])
    if run.run in state.runs or state.alone is not None or (body["alone"] and state.runs):
        raise TamperedLedger(f"entry {number}: run `{run.run}` cannot be opened there")
    state.runs[run.run] = run
    state.by_run[run.run] = Counter()
    state.alone = run.run if body["alone"] else None


def _reserved(state: LedgerState, number: int, body: Mapping[str, Any]) -> None:
    releases = unpacked(body["releases"])
    key = (body["run"], body["round"], body["attempt"], body["what"])
    if key in state.found or key[0] not in state.runs:
        raise TamperedLedger(f"entry {number} reserves what cannot be reserved")
    state.booked[number] = Booked(number, key, releases, body["epsilon"])
    state.found[key] = number
    state.by_run[key[0]].update(releases)
    state.weigh(releases, 1)


def _spent(state: LedgerState, number: int, body: Mapping[str, Any]) -> None:
    _settled(state, number, body["reservation"]).state = "spent"


def _voided(state: LedgerState, number: int, body: Mapping[str, Any]) -> None:
    booked = _settled(state, number, body["reservation"])
    if not body["reason"]:
        raise TamperedLedger(f"entry {number} voids without a reason")
    booked.state = "voided"
    state.by_run[booked.key[0]].subtract(booked.releases)
    state.weigh(booked.releases, -1)


def _settled(state: LedgerState, number: int, reservation: int) -> Booked:
    booked = state.booked.get(reservation)
    if booked is None or booked.state != "reserved":
        raise TamperedLedger(f"entry {number} settles what is not reserved")
    return booked


_STEPS: Final = {
    "opened": _opened,
    "run": _run,
    "reserved": _reserved,
    "spent": _spent,
    "voided": _voided,
}
