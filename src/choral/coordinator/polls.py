"""Clients' own evaluations of a model: asked for together, taken until a time is over."""

from __future__ import annotations

from collections.abc import Mapping

from choral.coordinator.desk import Desk
from choral.coordinator.tickets import Ticket
from choral.core.params import ClientId
from choral.federation import events as ev
from choral.federation.evaluation import Measured


class Poll:
    """One evaluation of one model.

    Args:
        command: What asked for it.
        tickets: The clients' work.
        desk: Where it is given out.
    """

    def __init__(
        self, command: ev.Evaluate, tickets: Mapping[ClientId, Ticket], desk: Desk
    ) -> None:
        self.command = command
        self._waiting = dict(tickets)
        self._found: list[Measured] = []
        self._desk = desk
        desk.assign(tuple(self._waiting.values()))

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

    def _let_go(self, tickets: tuple[Ticket, ...]) -> None:
        self._desk.end(tickets)
        self._desk.forget(tickets)
