"""Where clients wait for work, and where runs find clients.

Clients' calls live on the event loop, runs on threads of their own. Everything that changes what a
waiting call sees happens on the loop; a run reads who is there under a lock.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from choral.coordinator.tickets import GaveUp, Left, Message, Seen, Ticket
from choral.core.errors import Stale, Unavailable
from choral.core.params import ClientId
from choral.core.ports import Clock
from choral.wire.joining import Join

PATIENCE_S: Final = 60.0
"""A client that was not heard of for so long is not counted as available."""


@dataclass(frozen=True, slots=True)
class Farewell:
    """A run has ended: what its clients are told."""

    run_id: str
    status: str
    reason: str


@dataclass(slots=True, eq=False)
class Presence:
    """What is known of a client.

    Attributes:
        join: What it said of itself last.
        seen: When it called last, on the coordinator's clock.
        holding: Calls of its that are held now.
        refusal: Why it was refused last; empty otherwise.
        tickets: Its open work, oldest first.
        farewells: What it has still to be told.
        waiting: The held call.
    """

    join: Join
    seen: float
    holding: int = 0
    refusal: str = ""
    tickets: list[Ticket] = field(default_factory=list)
    farewells: deque[Farewell] = field(default_factory=deque)
    waiting: asyncio.Future[None] | None = None

    def next(self) -> Ticket | Farewell | None:
        """Return what the client is to be told now."""
        self.tickets = [t for t in self.tickets if not (t.done or t.over)]
        if self.tickets:
            return self.tickets[0]
        return self.farewells.popleft() if self.farewells else None

    def wake(self) -> None:
        """Let the held call look again."""
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)


class Desk:
    """Clients and their open work.

    Args:
        loop: The event loop of the clients' calls.
        clock: Time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._lock = threading.Lock()
        self._present: dict[ClientId, Presence] = {}
        self._tickets: dict[bytes, Ticket] = {}
        self._early: dict[ClientId, list[Ticket]] = {}
        self._watchers: list[Callable[[Message], None]] = []
        self._returning: set[str] = set()

    # --- on the loop ------------------------------------------------------------------------------

    async def wait(self, join: Join, *, at_most_s: float) -> Ticket | Farewell | None:
        """Hold a client's call until there is something for it to do, at most so long."""
        presence = self._arrived(join)
        presence.holding += 1
        try:
            found = presence.next()
            if found is not None or at_most_s <= 0:
                return found
            presence.wake()  # an older call of the same client looks again, and goes
            waiting = presence.waiting = self._loop.create_future()
            try:
                await asyncio.wait_for(waiting, at_most_s)
            except TimeoutError:
                return None
            return presence.next() if presence.waiting is waiting else None
        finally:
            presence.holding -= 1
            presence.seen = self._clock.monotonic()

    def wake(self) -> None:
        """Let every held call end, since there will be nothing more to say."""
        for presence in self.presences().values():
            presence.wake()

    def _arrived(self, join: Join) -> Presence:
        now = self._clock.monotonic()
        presence = self._present.get(join.client)
        changed = presence is None or presence.join != join or not self._available(presence, now)
        if presence is None:
            presence = Presence(join, now, tickets=self._early.pop(join.client, []))
            with self._lock:
                self._present[join.client] = presence
        presence.join, presence.seen = join, now
        for ticket in presence.tickets:
            if ticket.done and not ticket.over:
                ticket.post(Left(ticket))
        if changed:
            self._tell_watchers()
        return presence

    def ticket(self, token: bytes, client: ClientId, *, over: bool = False) -> Ticket:
        """Return the work that a token names.

        Args:
            token: The token.
            client: Who holds it.
            over: Whether work that is over will do: its last messages can still be read.

        Raises:
            Stale: There is none, it is over, or it is somebody else's.
            Unavailable: It may be that of a run that is not yet taken up again.
        """
        ticket = self._tickets.get(token)
        if ticket is None and self._returning:
            raise Unavailable("the coordinator takes its runs up again", hint="ask again")
        if ticket is None or (ticket.over and not over) or ticket.client != client:
            raise Stale(
                "this token names no open work of yours",
                hint="the round is over, or was tried again: ask for new work",
            )
        presence = self._present.get(client)
        if presence is not None:
            presence.seen = self._clock.monotonic()
        return ticket

    def expect(self, run_id: str) -> None:
        """Note that a run's work will be known soon: nobody is told that it is over."""
        self._returning.add(run_id)

    @property
    def complete(self) -> bool:
        """Whether the work of all runs is known."""
        return not self._returning

    def ring(self) -> None:
        """Let all held exchanges end."""
        for ticket in self._tickets.values():
            ticket.bell.set()

    def presences(self) -> dict[ClientId, Presence]:
        """Return everybody who was ever here."""
        with self._lock:
            return dict(self._present)

    def look_again(self) -> None:
        """Let every run look again at who suits it, and every held call ask anew."""
        self._tell_watchers()
        self.wake()

    def drop(self, client: ClientId, why: str) -> int:
        """Let a client go that may not come in any more; return how much work is lost with it.

        What it has uploaded whole stays where it is; a secure sum expects nothing more of it.
        """
        with self._lock:
            presence = self._present.pop(client, None)
        if presence is None:
            return 0
        lost = [t for t in self._tickets.values() if t.client == client and not t.over]
        for ticket in lost:
            if ticket.done:
                ticket.post(Left(ticket))
            elif not ticket.gave_up:
                ticket.done = ticket.gave_up = True
                ticket.post(GaveUp(ticket, Unavailable.code, why))
            ticket.bell.set()
        presence.tickets.clear()
        presence.farewells.clear()
        presence.wake()
        self._tell_watchers()
        return sum(not t.receipt for t in lost)

    # --- from a run's thread ----------------------------------------------------------------------

    def watch(self, post: Callable[[Message], None]) -> None:
        """Tell a run from now on when somebody comes."""
        with self._lock:
            self._watchers.append(post)

    def unwatch(self, post: Callable[[Message], None]) -> None:
        """Tell it no more."""
        with self._lock:
            self._watchers = [w for w in self._watchers if w != post]

    def _tell_watchers(self) -> None:
        for post in tuple(self._watchers):
            post(Seen())

    def returned(self, run_id: str) -> None:
        """Note that a run's work is known, or never will be."""
        self._on_loop(self._returning.discard, run_id)

    def offers(self) -> list[Join]:
        """Return what the available clients say of themselves."""
        now = self._clock.monotonic()
        with self._lock:
            return [p.join for p in self._present.values() if self._available(p, now)]

    @staticmethod
    def _available(presence: Presence, now: float) -> bool:
        return presence.holding > 0 or now - presence.seen < PATIENCE_S

    def assign(self, tickets: Sequence[Ticket]) -> None:
        """Give work to clients."""
        self._on_loop(self._assign, tickets)

    def _assign(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self._tickets[ticket.token] = ticket
            presence = self._present.get(ticket.client)
            if presence is None:  # a run that goes on invites whom it had invited before
                self._early.setdefault(ticket.client, []).append(ticket)
            else:
                presence.tickets.append(ticket)
                presence.wake()

    def tell(self, ticket: Ticket, body: bytes) -> None:
        """Put a message of secure aggregation into a client's mailbox."""
        self._on_loop(self._tell, ticket, body)

    def _tell(self, ticket: Ticket, body: bytes) -> None:
        ticket.mailbox.post(body)
        ticket.bell.set()

    def end(self, tickets: Iterable[Ticket]) -> None:
        """Take nothing about this work any more; what was said about it can be read still."""
        self._on_loop(self._end, tuple(tickets))

    @staticmethod
    def _end(tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            ticket.over = True
            ticket.bell.set()
            if ticket.upload is not None:
                ticket.upload[0].close()
                ticket.upload = None

    def forget(self, tickets: Iterable[Ticket]) -> None:
        """Let go of work that was over before the last."""
        self._on_loop(self._forget, tuple(tickets))

    def _forget(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self._tickets.pop(ticket.token, None)

    def refuse(self, client: ClientId, why: str) -> None:
        """Note why a client was refused, for operators."""
        presence = self._present.get(client)
        if presence is not None:
            presence.refusal = why

    def farewell(self, clients: Iterable[ClientId], message: Farewell) -> None:
        """Tell clients that a run has ended."""
        self._on_loop(self._farewell, tuple(clients), message)

    def _farewell(self, clients: Sequence[ClientId], message: Farewell) -> None:
        for client in clients:
            presence = self._present.get(client)
            if presence is not None:
                presence.farewells.append(message)
                presence.wake()

    def _on_loop(self, call: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)
