"""What goes wrong on the way of messages, by script or by seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from choral.core.checks import real, whole
from choral.core.keys import Key
from choral.secagg import messages as msg

STEPS: Final = (msg.Advertise, msg.Bundle, msg.Masked, msg.Consent, msg.Unmask)
"""What a client sends at R0 to R4."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A client is gone for good at one of its messages.

    Attributes:
        client: Who.
        message: Type of the message, of the client's own or of the server's to it.
        after: Whether this message still comes through.
        noticed: Whether the server is told; otherwise it waits until the step's time is over.
    """

    client: str
    message: type[Any]
    after: bool = False
    noticed: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """An order of events drawn from a seed: any message that is on its way may come next.

    Attributes:
        seed: Of the draws; the same seed gives the same order.
        duplicates: Probability that a message comes once more, later.
        losses: Probability that one message does not come at all.
        hurry: Probability that the server's time is over before the next message.
    """

    seed: int
    duplicates: float = 0.0
    losses: float = 0.0
    hurry: float = 0.0

    def __post_init__(self) -> None:
        whole("seed", self.seed, least=0)
        for name in ("duplicates", "losses", "hurry"):
            real(name, getattr(self, name), least=0, below=1)

    def draws(self) -> Draws:
        """Return the draws from their beginning."""
        return Draws(self)


class Draws:
    """The draws of one schedule.

    Args:
        schedule: Seed and probabilities.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._rng = Key.root(schedule.seed).fold("schedule").rng()

    def next(self, count: int) -> int:
        """Return which of so many messages comes next."""
        return int(self._rng.integers(count))

    def again(self) -> bool:
        """Return whether a message comes once more."""
        return bool(self._rng.random() < self._schedule.duplicates)

    def lost(self) -> bool:
        """Return whether a message does not come."""
        return bool(self._rng.random() < self._schedule.losses)

    def hurries(self) -> bool:
        """Return whether the step's time is over."""
        return bool(self._rng.random() < self._schedule.hurry)
