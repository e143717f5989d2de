"""The open work of one run: who has what to do, what came of it, and who waits for an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from choral.coordinator.tickets import Arrived, Message, Ticket, Use
from choral.coordinator.transfers import WINDOW_S
from choral.coordinator.world import World
from choral.core.errors import ChoralError, Stale
from choral.core.params import ClientId
from choral.core.plan import Plan
from choral.crypto.signatures import SigningKey, statement
from choral.wire.receipts import Receipt

TOKEN_BYTES: Final = 16

Later = Callable[..., None]
"""Takes a call and its arguments, to be made once everything before it is durable."""


@dataclass(frozen=True, slots=True)
class Model:
    """What clients start from, or measure.

    Attributes:
        sha256: Digest of its file.
        size_bytes: Size of its file.
    """

    sha256: str
    size_bytes: int


class Assignments:
    """The tickets of a run's open attempt.

    Whatever others can see of it goes through `later`.

    Args:
        world: What is outside.
        post: Hands the run a message.
        later: Makes a call once everything before it is durable.

    Attributes:
        tickets: Those of the open attempt.
    """

    def __init__(self, world: World, post: Callable[[Message], None], later: Later) -> None:
        self.tickets: dict[ClientId, Ticket] = {}
        self._world = world
        self._post = post
        self._later = later
        self._before: list[Ticket] = []
        self._replies: dict[ClientId, Callable[[Receipt | ChoralError], None]] = {}
        self._receipts: dict[ClientId, Receipt] = {}

    # --- tickets ----------------------------------------------------------------------------------

    def ticket(
        self, client: ClientId, plan: Plan, use: Use, *, model: Model, deadline: float
    ) -> Ticket:
        """Return new work; its token is the same whoever makes it, and however often."""
        return Ticket(
            token=token_of(self._world.keys.signing, plan, client=client, use=use),
            client=client,
            use=use,
            plan=plan,
            model_sha256=model.sha256,
            model_bytes=model.size_bytes,
            deadline=deadline,
            post=self._post,
            keep=self._world.kept.keep,
        )

    def give(
        self, clients: Iterable[ClientId], plan: Plan, *, model: Model, deadline: float
    ) -> None:
        """Give clients the work of an attempt; that of the one before is over."""
        self.retire()
        self.tickets = {
            client: self.ticket(client, plan, Use.TRAIN, model=model, deadline=deadline)
            for client in clients
        }
        self._later(self._world.desk.assign, tuple(self.tickets.values()))

    def tell(self, client: ClientId, body: bytes) -> None:
        """Send a client a message of secure aggregation."""
        ticket = self.tickets.get(client)
        if ticket is not None:
            self._later(self._world.desk.tell, ticket, body)

    def moving(self) -> bool:
        """Return whether an upload makes progress: a deadline does not cut it."""
        now = self._world.clock.monotonic()
        return any(now - t.moved < WINDOW_S and not t.done for t in self.tickets.values())

    # --- receipts ---------------------------------------------------------------------------------

    def answered(self, client: ClientId) -> bool:
        """Return whether an upload of a client's waits for the round to take it."""
        return client in self._replies

    def hold(self, message: Arrived) -> None:
        """Keep who waits for the receipt of an upload until the round has taken it."""
        client = message.ticket.client
        self._replies[client] = message.reply
        self._receipts[client] = self.receipt(
            message.ticket, message.header.sha256, message.header.size_bytes
        )

    def receipt(self, ticket: Ticket, sha256: str, size_bytes: int) -> Receipt:
        """Return the signed receipt of an upload."""
        plan = ticket.plan
        bare = Receipt(plan.run_id, plan.round, plan.attempt, ticket.client, sha256, size_bytes)
        bare = replace(bare, audit_head=self._world.audit_head())
        return replace(bare, signature=self._world.keys.signing.sign(bare.stated()))

    def accepted(self, client: ClientId) -> None:
        """Send the receipt of what was added."""
        self._reply(client, self._receipts.pop(client, None))

    def turned_down(self, client: ClientId, why: str) -> None:
        """Say that an upload is not added."""
        self._reply(client, Stale(f"the contribution is {why}"))

    def _reply(self, client: ClientId, answer: Receipt | ChoralError | None) -> None:
        reply = self._replies.pop(client, None)
        if reply is not None and answer is not None:
            self._later(reply, answer)

    # --- the end ----------------------------------------------------------------------------------

    def end(self) -> None:
        """Take nothing about the attempt any more; what was said about it can be read still."""
        self._later(self._world.desk.end, tuple(self.tickets.values()))

    def retire(self) -> None:
        """End the work of the last attempt; forget that of the one before."""
        desk = self._world.desk
        self._later(desk.forget, tuple(self._before))
        self._before, self.tickets = list(self.tickets.values()), {}
        self._later(desk.end, tuple(self._before))
        for client in tuple(self._replies):
            self._reply(client, Stale("the attempt is over"))
        self._receipts.clear()

    def leave(self) -> None:
        """End everything: the run is over."""
        self.retire()
        self.retire()


def token_of(key: SigningKey, plan: Plan, *, client: ClientId, use: Use) -> bytes:
    """Return the token of a client's work: nobody without the key can guess it.

    It follows from the key, so a coordinator that goes on after a crash gives the same one, and
    clients that work go on with it.
    """
    what = statement(
        "choral token v1",
        plan.run_id.encode(),
        plan.round.to_bytes(8, "little"),
        plan.attempt.to_bytes(8, "little"),
        use.value.encode(),
        client.encode(),
    )
    return hashlib.sha256(key.sign(what)).digest()[:TOKEN_BYTES]
