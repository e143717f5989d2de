"""When simulated clients answer, in virtual time: instantly, after a while, or never."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

from choral.core.checks import real
from choral.core.keys import Key


class Arrival(Protocol):
    """Says when a client's answer arrives."""

    def __call__(self, key: Key) -> float | None:
        """Return seconds after the invitation, or None for a client that is lost.

        Args:
            key: Key of (run, "arrival", round, attempt, client).
        """
        ...


@dataclass(frozen=True, slots=True)
class Availability:
    """Log-normal answer times and independent losses.

    Attributes:
        dropout: Probability that an invited client is lost without a word, 0 to below 1.
        latency_s: Median seconds to an answer, at least 0.
        spread: Standard deviation of the logarithm of the seconds, at least 0.
    """

    dropout: float = 0.0
    latency_s: float = 0.0
    spread: float = 0.0

    def __post_init__(self) -> None:
        dropout = real("simulation.dropout", self.dropout, least=0, below=1)
        object.__setattr__(self, "dropout", dropout)
        for name in ("latency_s", "spread"):
            value = real(f"simulation.{name}", getattr(self, name), least=0)
            object.__setattr__(self, name, value)

    def __call__(self, key: Key) -> float | None:
        """Return when the client of `key` answers."""
        if self.dropout and key.fold("lost").uniform() < self.dropout:
            return None
        if not self.latency_s or not self.spread:
            return self.latency_s
        point = NormalDist().inv_cdf(min(max(key.fold("seconds").uniform(), 1e-12), 1 - 1e-12))
        try:
            return self.latency_s * math.exp(self.spread * point)
        except OverflowError:
            return None
