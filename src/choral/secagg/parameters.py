"""How many neighbours and how many shares: k and t, and what they protect against.

Every client shares its secrets among its closed neighbourhood, itself and k others; any t of those
k + 1 shares give a secret back. Sources: Bonawitz et al. 2017 (arXiv 1611.04482) for the complete
graph, Bell et al. 2020 (eprint 2020/704) for the random one.

* `full`: complete graph, t = floor((n + floor(n / 3)) / 2) + 1. Two sets of t holders then share
  more than a third of the cohort, so that no colluding third answers for both.
* `graph`: random k-regular graph. With X corrupt among the k neighbours, 2 t > k + 1 + X fails for
  some client with probability at most 2^-sigma.
* `semi_honest`: t = floor(n / 2) + 1 on the complete graph; on the random one, t corrupt holders in
  some closed neighbourhood with probability at most 2^-sigma. The k + 1 holders are counted as if
  all were drawn, which is a little stricter than k neighbours of an honest client.

In both random cases the event that all neighbours of a client are corrupt or lost counts against
sigma too, and fewer than t of the k neighbours surviving, for some client, has probability at most
2^-20. All three by a union bound over the n clients.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass
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
"""A server may try many graphs where no public value fixes it; 2^40 tries leave 2^-40."""
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
        if self.suite is Suite.GRAPH and not (self.beacon or self.complete):
            return ThreatModel.SEMI_MALICIOUS
        return ThreatModel.ACTIVE

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
    k, t = _search(n, gamma, delta, bits, semi_honest)
    return Parameters(suite, n, k, t, gamma, delta, bits, beacon and not semi_honest)


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
    active = p.suite is not Suite.SEMI_HONEST
    if active and p.corrupt + 2 * p.dropout >= 1:
        raise Refused(f"corrupt {p.corrupt} + 2 x dropout {p.dropout} is not below 1")
    if p.suite is Suite.FULL and not p.complete:
        raise Refused(f"suite {p.suite} for {p.clients} clients and {p.k} neighbours")
    if p.complete and p.suite is not Suite.GRAPH:
        least = full_threshold(p.clients) if active else semi_honest_threshold(p.clients)
    else:
        floor = SIGMA if p.beacon or not active else SIGMA_WITHOUT_BEACON
        if p.sigma < floor:
            raise Refused(f"sigma {p.sigma}, expected at least {floor} for this graph")
        found = _least_secure(p.clients, p.k, (p.corrupt, p.dropout), (p.sigma, not active))
        least = p.k + 2 if found is None else found
    if p.t < least:
        raise Refused(
            f"threshold {p.t} of {p.k + 1} holders among {p.clients} clients: "
            f"{p.suite} at sigma {p.sigma} needs at least {least}",
            hint="the server asked for less than its own context promises",
        )


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
    most = p.clients // 3 if p.suite is Suite.FULL else p.t - 1
    if _count(p.corrupt, p.clients) > most:
        raise PlanError(
            f"{p.corrupt:g} of {p.clients} clients corrupt: {p.suite} tolerates {most}",
            hint="a smaller fraction",
        )
    if _count(p.dropout, p.clients) > p.tolerated_losses:
        raise PlanError(
            f"{p.dropout:g} of {p.clients} clients lost: threshold {p.t} tolerates "
            f"{p.tolerated_losses}",
            hint="a smaller fraction, or a larger cohort",
        )


def _count(fraction: float, clients: int) -> int:
    """Return a fraction of a cohort, rounded down but for the rounding of floats."""
    return math.floor(fraction * clients + 1e-9)


@lru_cache(maxsize=64)
def _search(n: int, gamma: float, delta: float, sigma: int, semi_honest: bool) -> tuple[int, int]:
    """Return the smallest feasible k with its smallest secure t."""
    for k in _degrees(n):
        t = _least_secure(n, k, (gamma, delta), (sigma, semi_honest))
        if t is not None and _reaches(n, k, t, _count(delta, n)):
            return k, t
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


def _least_secure(
    n: int, k: int, fractions: tuple[float, float], level: tuple[int, bool]
) -> int | None:
    """Return the smallest secure t of k + 1 holders, or None where there is none."""
    (gamma, delta), (sigma, semi_honest) = fractions, level
    corrupt = _count(gamma, n)
    exposed = min(n - 1, corrupt + _count(delta, n))
    union = math.log2(n)
    alone = log2_tails(population=n - 1, marked=exposed, draws=k)[k]
    thresholds = np.arange(2, k + 2)
    if semi_honest:
        tails = log2_tails(population=n, marked=corrupt, draws=k + 1)[thresholds]
    else:
        tails = log2_tails(population=n - 1, marked=min(corrupt, n - 1), draws=k)
        tails = tails[np.clip(2 * thresholds - k - 1, 0, k + 1)]
    bad = union + np.logaddexp2(tails, alone)
    secure = np.flatnonzero(bad <= -sigma + _ROUNDING)
    return int(thresholds[secure[0]]) if secure.size else None


def _reaches(n: int, k: int, t: int, lost: int) -> bool:
    """Return whether t of k neighbours survive for every client, but for 2^-20."""
    tails = log2_tails(population=n - 1, marked=min(lost, n - 1), draws=k)
    return bool(t <= k and math.log2(n) + tails[k - t + 1] <= -FAILURE_BITS)
