"""Clients' own evaluations of a model: asked for together, taken until a time is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from choral.coordinator.tickets import Ticket
from choral.core.params import ClientId
from choral.federation import events as ev
from choral.federation.evaluation import Measured


class Poll:
    """One evaluation of one model.

    Args:
        command: What asked for it.
        tickets: The clients' work.
        let_go: Ends work that nobody waits for any more.
    """

    def __init__(
        self,
        command: ev.Evaluate,
        tickets: Mapping[ClientId, Ticket],
        let_go: Callable[[tuple[Ticket, ...]], None],
    ) -> None:
        self.command = command
        self._waiting = dict(tickets)
        self._found: list[Measured] = []
        self._let_go = let_go

    def take(self, ticket: Ticket, found: Measured | None) -> bool:
        """Note what a client measured, or that it will not; return whether that was the last."""
        if self._waiting.get(ticket.client) is not ticket:
            return False
        del self._waiting[ticket.client]
        if found is not None:
            self._found.append(found)
        self._let_go((ticket,))
        return not self._waiting

    def end(self) -> list[Measured]:
        """Wait for nobody any more; return what there is, in the order of ids."""
        self._let_go(tuple(self._waiting.values()))
        self._waiting.clear()
        return sorted(self._found, key=lambda m: m.client)
