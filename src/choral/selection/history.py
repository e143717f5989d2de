"""Participation, collected round by round."""

from __future__ import annotations

from collections.abc import Iterable

from choral.core.params import ClientId
from choral.core.selection import History


class Participation:
    """Counts who completed which rounds.

    >>> seen = Participation()
    >>> seen.observe(1, [ClientId("a"), ClientId("b")])
    >>> seen.observe(2, [ClientId("a")])
    >>> seen.history()
    History(completed={'a': 2, 'b': 1}, last_seen={'a': 2, 'b': 1})
    """

    __slots__ = ("_completed", "_history", "_last_seen")

    def __init__(self) -> None:
        self._completed: dict[ClientId, int] = {}
        self._last_seen: dict[ClientId, int] = {}
        self._history: History | None = None

    def observe(self, round: int, clients: Iterable[ClientId]) -> None:
        """Count a round for each client that completed it; call it once a round.

        Args:
            round: Counted from 1, not below that of an earlier call.
            clients: Those whose update is in the round's sum; a repeated one counts once.
        """
        for client in dict.fromkeys(clients):
            self._completed[client] = self._completed.get(client, 0) + 1
            self._last_seen[client] = round
        self._history = None

    def history(self) -> History:
        """Return the participation so far; later observations do not change it."""
        if self._history is None:
            self._history = History(self._completed.copy(), self._last_seen.copy())
        return self._history
