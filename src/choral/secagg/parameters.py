"""How many neighbours and how many shares: k and t, and what they protect against.

Every client shares its secrets among its closed neighbourhood, itself and k others; any t of those
k + 1 shares give a secret back. Sources: Bonawitz et al. 2017 (arXiv 1611.04482) for the complete
graph, Bell et al. 2020 (eprint 2020/704) for the random one.

* `full`: complete graph, t = floor((n + floor(n / 3)) / 2) + 1. Two sets of t holders then share
  more than a third of the cohort, so that no colluding third answers for both.
* `graph`: random k-regular graph. With X corrupt among the k neighbours, 2 t > k + 1 + X fails for
  some client with probability at most 2^-sigma. Clients stand on a circle, so two stretches in
  which all that live help the server would cut it in two: every survivor wants `side_floor` others
  on either side, and that many corrupt ones on one side, twice, have probability below 2^-sigma.
* `semi_honest`: t = floor(n / 2) + 1 on the complete graph; on the random one, t corrupt holders in
  some closed neighbourhood with probability at most 2^-sigma. The k + 1 holders are counted as if
  all were drawn, which is a little stricter than k neighbours of an honest client.

In both random cases the event that all neighbours of a client are corrupt or lost counts against
sigma too, and fewer than t of the k neighbours surviving, for some client, has probability at most
2^-20. All by a union bound over the n clients.

At least n - delta n clients must be listed at R1, since the corrupt ones among fewer would weigh
more. Without a beacon the bounds are those of just so many. With one, and in `semi_honest`, they
are those of the whole cohort, as the papers have it; if a tenth of it is missing, sigma is then up
to 5 bits less. On a random graph a fraction of clients is
rounded up where it helps the server.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np

from choral.core.checks import real, whole
from choral.core.errors import PlanError, Refused
from choral.crypto.shamir import MAX_HOLDERS
from choral.secagg.hypergeometric import log2_tails

MAX_FULL: Final = 128
"""Clients up to which the complete graph is used."""
MAX_CLIENTS: Final = 100_000
SIGMA: Final = 40
SIGMA_WITHOUT_BEACON: Final = 80
"""A server may try many graphs where no public value fixes it; 2^40 tries leave 2^-40. It may also
put what it likes into the leaves that a client does not see: the graph suite needs a server that is
honest while keys are exchanged, with a beacon or without."""
_CUT_MARGIN: Final = 8
"""Bits by which a cut of the circle is less likely than what sigma bounds."""
FAILURE_BITS: Final = 20
CORRUPT: Final = 0.05
DROPOUT: Final = 0.1

MIN_COHORT_SILOS: Final = 3
MIN_COHORT_DEVICES: Final = 64
SMALLEST: Final = 2
"""Below it there is nothing to add; two clients need a policy that says so by name."""

_ROUNDING: Final = 1e-6
"""Bits by which two machines may differ on a tail."""


class Suite(enum.StrEnum):
    """Which protocol; the value stands in the signed context."""

    FULL = "full"
    GRAPH = "graph"
    SEMI_HONEST = "semi_honest"


class ThreatModel(enum.StrEnum):
    """What the server may do without learning one client's update."""

    ACTIVE = "active"
    SEMI_MALICIOUS = "semi-malicious"
    SEMI_HONEST = "semi-honest"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What stands in the signed context about neighbours and shares.

    Attributes:
        suite: Which protocol.
        clients: n, the invited cohort.
        k: Neighbours of each client; n - 1 is the complete graph.
        t: Shares that give a secret back, out of k + 1.
        corrupt: Fraction that may collude with the server.
        dropout: Fraction that may be lost.
        sigma: Statistical security in bits; the complete graph does not depend on it.
        beacon: Whether a public value that the server cannot choose seeds the graph.
    """

    suite: Suite
    clients: int
    k: int
    t: int
    corrupt: float
    dropout: float
    sigma: int
    beacon: bool = False

    @property
    def complete(self) -> bool:
        """Whether everybody neighbours everybody."""
        return self.k == self.clients - 1

    @property
    def threat_model(self) -> ThreatModel:
        """What the server may do."""
        if self.suite is Suite.SEMI_HONEST:
            return ThreatModel.SEMI_HONEST
        if self.suite is Suite.GRAPH:
            return ThreatModel.SEMI_MALICIOUS
        return ThreatModel.ACTIVE

    @property
    def least_listed(self) -> int:
        """Fewest clients at R1 for which the bounds on a random graph hold; 2 on a complete one."""
        return SMALLEST if self.complete else self.clients - _count(self.dropout, self.clients)

    @property
    def side_floor(self) -> int:
        """Fewest survivors that a client wants on either side of it; 0 where it cannot matter.

        Nobody lies about losses in `semi_honest`, and a complete graph has no sides.
        """
        if self.complete or self.suite is Suite.SEMI_HONEST:
            return 0
        return _side_floor(self)

    @property
    def tolerated_losses(self) -> int:
        """Clients that may be lost at any step: always on the complete graph, else but for 2^-20.

        >>> [find(n).tolerated_losses for n in (3, 4, 5, 6, 7)]
        [0, 1, 1, 1, 2]
        """
        return self.clients - self.t if self.complete else _count(self.dropout, self.clients)

    def as_json(self) -> dict[str, str | int | float]:
        """Return what `choral secagg params --json` prints."""
        return {
            "suite": str(self.suite),
            "clients": self.clients,
            "k": self.k,
            "t": self.t,
            "corrupt": self.corrupt,
            "dropout": self.dropout,
            "sigma": self.sigma,
            "threat_model": str(self.threat_model),
            "tolerated_losses": self.tolerated_losses,
        }


def full_threshold(clients: int) -> int:
    """Return t of `full`.

    >>> full_threshold(100)
    67
    """
    return (clients + clients // 3) // 2 + 1


def semi_honest_threshold(clients: int) -> int:
    """Return t of `semi_honest` on the complete graph."""
    return clients // 2 + 1


def find(
    clients: int,
    *,
    corrupt: float = CORRUPT,
    dropout: float = DROPOUT,
    semi_honest: bool = False,
    beacon: bool = False,
    sigma: int | None = None,
) -> Parameters:
    """Return the smallest k, and t, that keep a cohort's updates private and its sum reachable.

    Args:
        clients: n, 2 to 100 000.
        corrupt: Fraction that may collude with the server, in [0, 1).
        dropout: Fraction that may be lost, in [0, 1).
        semi_honest: The server follows the protocol and is only curious.
        beacon: A public value that the server cannot choose seeds the graph.
        sigma: Bits of statistical security; None for 40, or 80 for an active server and no beacon.

    Raises:
        ConfigError: An argument is out of range.
        PlanError: No k and t do both.

    >>> found = find(1000, semi_honest=True)
    >>> found.k, found.t
    (36, 19)
    """
    n = whole("clients", clients, least=SMALLEST, most=MAX_CLIENTS)
    gamma = real("corrupt", corrupt, least=0, below=1)
    delta = real("dropout", dropout, least=0, below=1)
    weak_graph = not semi_honest and not beacon and n > MAX_FULL
    least = SIGMA_WITHOUT_BEACON if weak_graph else SIGMA
    bits = least if sigma is None else whole("sigma", sigma, least=SIGMA, most=256)
    if not semi_honest:
        _check_fractions(gamma, delta)
    if n <= MAX_FULL:
        suite = Suite.SEMI_HONEST if semi_honest else Suite.FULL
        t = semi_honest_threshold(n) if semi_honest else full_threshold(n)
        found = Parameters(suite, n, n - 1, t, gamma, delta, bits)
        _check_complete(found)
        return found
    suite = Suite.SEMI_HONEST if semi_honest else Suite.GRAPH
    seeded = beacon and not semi_honest
    return _search(n, gamma, delta, sigma=bits, suite=suite, beacon=seeded)


def verify(parameters: Parameters) -> None:
    """Refuse parameters that are weaker than what they claim to be.

    A client calls it on what the server signed. Stronger ones are let through.

    Raises:
        Refused: No such suite for this cohort, or k, t or sigma too small.
    """
    p = parameters
    if not (SMALLEST <= p.clients <= MAX_CLIENTS and 1 <= p.k < min(p.clients, MAX_HOLDERS)):
        raise Refused(f"a cohort of {p.clients} with {p.k} neighbours: there is no such graph")
    if not (0 <= p.corrupt < 1 and 0 <= p.dropout < 1 and 2 <= p.t <= p.k + 1):
        raise Refused(f"threshold {p.t} of {p.k + 1} for corrupt {p.corrupt}, lost {p.dropout}")
    if p.k % 2 and not p.complete:
        raise Refused(f"{p.k} neighbours among {p.clients} clients: expected an even number")
    if p.suite is Suite.GRAPH and p.clients <= MAX_FULL:
        raise Refused(f"suite {p.suite} for {p.clients} clients: up to {MAX_FULL} it is full")
    active = p.suite is not Suite.SEMI_HONEST
    if active and p.corrupt + 2 * p.dropout >= 1:
        raise Refused(f"corrupt {p.corrupt} + 2 x dropout {p.dropout} is not below 1")
    if p.suite is Suite.FULL and not p.complete:
        raise Refused(f"suite {p.suite} for {p.clients} clients and {p.k} neighbours")
    least = _least_threshold(p)
    if p.t < least:
        raise Refused(
            f"threshold {p.t} of {p.k + 1} holders among {p.clients} clients: "
            f"{p.suite} at sigma {p.sigma} needs at least {least}",
            hint="the server asked for less than its own context promises",
        )


def _least_threshold(p: Parameters) -> int:
    """Return the smallest t that keeps what the parameters claim; k + 2 where none does.

    Raises:
        Refused: They claim more than their graph can keep, or too few bits.
    """
    active = p.suite is not Suite.SEMI_HONEST
    if p.complete:
        if _count(p.corrupt, p.clients) > _withstands(p):
            raise Refused(f"corrupt {p.corrupt}: {p.suite} of {p.clients} withstands less")
        return full_threshold(p.clients) if active else semi_honest_threshold(p.clients)
    floor = SIGMA if p.beacon or not active else SIGMA_WITHOUT_BEACON
    if p.sigma < floor:
        raise Refused(f"sigma {p.sigma}, expected at least {floor} for this graph")
    found = _least_secure(p)
    return p.k + 2 if found is None or p.side_floor > p.k // 2 else found


def _check_fractions(gamma: float, delta: float) -> None:
    """Refuse what no threshold survives: t above (1 + gamma) / 2 and at most 1 - delta."""
    if gamma + 2 * delta >= 1:
        raise PlanError(
            f"corrupt {gamma:g} + 2 x dropout {delta:g} = {gamma + 2 * delta:g}: an active server "
            "needs it below 1",
            hint="fewer losses, fewer corrupt clients, or the semi-honest suite by name",
        )


def _check_complete(p: Parameters) -> None:
    """Refuse fractions beyond what the complete graph's threshold tolerates."""
    if _count(p.corrupt, p.clients) > _withstands(p):
        raise PlanError(
            f"{p.corrupt:g} of {p.clients} clients corrupt: {p.suite} tolerates {_withstands(p)}",
            hint="a smaller fraction",
        )
    if _count(p.dropout, p.clients) > p.tolerated_losses:
        raise PlanError(
            f"{p.dropout:g} of {p.clients} clients lost: threshold {p.t} tolerates "
            f"{p.tolerated_losses}",
            hint="a smaller fraction, or a larger cohort",
        )


def _withstands(p: Parameters) -> int:
    """Return how many corrupt clients the threshold of a complete graph withstands."""
    return p.t - 1 if p.suite is Suite.SEMI_HONEST else p.clients // 3


def _count(fraction: float, clients: int) -> int:
    """Return a fraction of a cohort, rounded down but for the rounding of floats."""
    return math.floor(fraction * clients + 1e-9)


def _at_most(fraction: float, clients: int) -> int:
    """Return a fraction of a cohort, rounded up but for the rounding of floats."""
    return min(clients, math.ceil(fraction * clients - 1e-9))


@lru_cache(maxsize=64)
def _search(
    n: int, gamma: float, delta: float, *, sigma: int, suite: Suite, beacon: bool
) -> Parameters:
    """Return the smallest feasible k with its smallest secure t."""
    for k in _degrees(n):
        tried = Parameters(suite, n, k, 2, gamma, delta, sigma, beacon)
        t = _least_secure(tried)
        if t is not None and _reaches(found := replace(tried, t=t)):
            return found
    raise PlanError(
        f"no graph of up to {min(n, MAX_HOLDERS) - 1} neighbours keeps {n} clients private with "
        f"corrupt {gamma:g} and dropout {delta:g} at sigma {sigma}",
        hint="fewer losses or fewer corrupt clients",
    )


def _degrees(n: int) -> Iterator[int]:
    """Yield the degrees a Harary graph of n may have here: even ones, then the complete graph."""
    most = min(n - 1, MAX_HOLDERS - 1)
    yield from range(2, most + 1, 2)
    if most == n - 1 and most % 2:
        yield most


def _others(p: Parameters) -> int:
    """Return among how many others a client's neighbours are drawn, for the bounds."""
    strict = p.suite is Suite.GRAPH and not p.beacon
    return (p.least_listed if strict else p.clients) - 1


def _least_secure(p: Parameters) -> int | None:
    """Return the smallest secure t of k + 1 holders, or None where there is none."""
    n, k, others = p.clients, p.k, _others(p)
    if p.complete:
        least = full_threshold(n)
        return least if _at_most(p.corrupt, n) <= n // 3 else None
    if k > others:
        return None
    corrupt = _at_most(p.corrupt, n)
    exposed = min(others, corrupt + _at_most(p.dropout, n))
    alone = log2_tails(population=others, marked=exposed, draws=k)[k]
    gap = log2_tails(population=others, marked=exposed, draws=k // 2)[k // 2]
    alone = np.logaddexp2(alone, 2 * gap + math.log2(n) - 1)  # nobody near, or the circle cut
    thresholds = np.arange(2, k + 2)
    if p.suite is Suite.SEMI_HONEST:
        tails = log2_tails(population=n, marked=corrupt, draws=k + 1)[thresholds]
    else:
        tails = log2_tails(population=others, marked=min(corrupt, others), draws=k)
        tails = tails[np.clip(2 * thresholds - k - 1, 0, k + 1)]
    bad = math.log2(n) + np.logaddexp2(tails, alone)
    secure = np.flatnonzero(bad <= -p.sigma + _ROUNDING)
    return int(thresholds[secure[0]]) if secure.size else None


@lru_cache(maxsize=256)
def _side_floor(p: Parameters) -> int:
    """Return the fewest survivors on a side that make a cut as unlikely as sigma says.

    A cut needs two disjoint stretches of k / 2 places without an honest survivor. With g helpers in
    a stretch, at most k / 2 - (f - g) + 1 neighbours of the client at its edge see f survivors
    towards it, so that fewer than t shares of its b come back while 2 g < t + f - 1 - k / 2. The
    smallest g that is rare enough gives f. Two stretches are at most as likely together as if they
    were independent, and there are n (n - 1) / 2 pairs; each needs half of all helpers at most.
    """
    others, half = _others(p), p.k // 2
    tails = log2_tails(
        population=others, marked=min(others, _at_most(p.corrupt, p.clients)), draws=half
    )
    cut = 2 * (math.log2(p.clients) + tails) - 1
    rare = np.flatnonzero(cut <= -p.sigma - _CUT_MARGIN)
    helpers = _at_most(p.corrupt, p.clients) // 2 + 1
    if rare.size:
        helpers = min(helpers, int(rare[0]))
    return max(helpers, 2 * helpers + 1 + half - p.t)


def _reaches(p: Parameters) -> bool:
    """Return whether enough survive around every client, but for 2^-20 each.

    Counted are t of the k neighbours, and the floor on either side.
    """
    if p.complete:
        return p.t <= p.clients - _at_most(p.dropout, p.clients)
    lost = min(p.clients - 1, _at_most(p.dropout, p.clients))
    near = log2_tails(population=p.clients - 1, marked=lost, draws=p.k)
    half = p.k // 2
    side = log2_tails(population=p.clients - 1, marked=lost, draws=half)
    floor = p.side_floor
    if p.t > p.k or floor > half:
        return False
    enough = math.log2(p.clients) + near[p.k - p.t + 1] <= -FAILURE_BITS
    return bool(enough and math.log2(2 * p.clients) + side[half - floor + 1] <= -FAILURE_BITS)
