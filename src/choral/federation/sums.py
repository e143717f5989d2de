"""How a driver gets from contributions to a total, whatever the aggregation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from choral.core.exact import Contribution, ExactSum, Total
from choral.core.params import ClientId
from choral.core.plan import Plan
from choral.federation.participant import NORM, Failed


@dataclass(frozen=True, slots=True)
class Closed:
    """A sum that is complete.

    Attributes:
        total: What it says; the exact sum where the coordinator adds noise to it.
        left_out: Accepted clients that are not in it.
    """

    total: Total | ExactSum
    left_out: tuple[ClientId, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreached:
    """No sum, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A sum that has begun.

    Attributes:
        refused: Who takes no part, and why.
        unreached: Why there will be no sum; None where there may be one.
    """

    refused: tuple[Failed, ...] = ()
    unreached: Unreached | None = None


def closed_exactly(exact: ExactSum, plan: Plan) -> Closed:
    """Return that a plain sum is complete; decoded, unless it must get noise first."""
    if plan.privacy is not None and plan.privacy.central:
        return Closed(exact)
    return Closed(exact.total(last=True))


class Sum(Protocol):
    """One attempt's sum, as a driver sees it."""

    @property
    def bytes_up(self) -> int:
        """Bytes that clients have sent so far."""
        ...

    @property
    def bytes_down(self) -> int:
        """Bytes that they were sent, without the model."""
        ...

    @property
    def norm_max(self) -> float | None:
        """Largest L2 norm of an update, None where it cannot be seen."""
        ...

    def open(self, answering: Sequence[ClientId], silent: Sequence[ClientId]) -> Opened:
        """Begin with the clients that will answer and those that will be lost on the way."""
        ...

    def take(self, client: ClientId, contribution: Any) -> Failed | None:
        """Take what a client has trained; return why it is not sent, if so."""
        ...

    def accept(self, client: ClientId) -> None:
        """Add what was taken from a client."""
        ...

    def discard(self, client: ClientId) -> None:
        """Forget what was taken from a client."""
        ...

    def lose(self, client: ClientId) -> None:
        """Expect nothing more of a client."""
        ...

    def close(self, survivors: Sequence[ClientId]) -> Closed | Unreached | None:
        """Close the sum over exactly these clients; None where its driver will tell the outcome."""
        ...


class PlainSum:
    """The exact sum of contributions that the coordinator sees.

    Args:
        exact: The empty sum.
        plan: The round's terms.
    """

    def __init__(self, exact: ExactSum, plan: Plan) -> None:
        self.bytes_up = 0
        self.bytes_down = 0
        self.norm_max: float | None = 0.0
        self._exact = exact
        self._plan = plan
        self._waiting: dict[ClientId, Contribution] = {}

    def open(self, answering: Sequence[ClientId], silent: Sequence[ClientId]) -> Opened:
        """Begin; nobody has a reason to refuse."""
        return Opened()

    def take(self, client: ClientId, contribution: Contribution) -> Failed | None:
        """Keep a contribution until it is accepted."""
        self._waiting[client] = contribution
        return None

    def accept(self, client: ClientId) -> None:
        """Add a client's contribution."""
        contribution = self._waiting.pop(client)
        self._exact.add(contribution)
        self.bytes_up += contribution.size_bytes
        self.norm_max = max(self.norm_max or 0.0, contribution.metric(NORM))

    def discard(self, client: ClientId) -> None:
        """Forget a client's contribution."""
        self._waiting.pop(client, None)

    def lose(self, client: ClientId) -> None:
        """A plain sum waits for nobody."""

    def close(self, survivors: Sequence[ClientId]) -> Closed | Unreached:
        """Return the total."""
        return closed_exactly(self._exact, self._plan)
