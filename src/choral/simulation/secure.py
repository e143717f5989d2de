"""Secure aggregation in one process: the real machines of both sides, and a wire of bytes.

Nothing is left out. Every client of a cohort has a machine with its own enrolled key and its own
memory of what it has answered; every message is encoded, carried and decoded; masks are made from
the system's randomness. What a deployment adds is a network and processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from choral.core.aggregation import RingGrid, Secure
from choral.core.errors import RunFailed
from choral.core.keys import Key
from choral.core.params import ClientId, Spec
from choral.core.plan import Plan
from choral.core.ports import Clock, Rand
from choral.crypto.ring import RingVector
from choral.crypto.signatures import SigningKey
from choral.federation import secure
from choral.federation.participant import Failed
from choral.federation.ring import RingContribution
from choral.federation.sums import Closed, Opened, Unreached
from choral.federation.totals import Group, Unmasked, close, hopeless
from choral.secagg import commands as cmd
from choral.secagg.client import Client
from choral.secagg.context import Context
from choral.secagg.enrolment import Authority, authority_id
from choral.secagg.messages import Deliveries, FromClient, FromServer, Masked, encode
from choral.secagg.ports import MemoryOnce
from choral.secagg.refusals import Breach
from choral.secagg.server import Phase, Server
from choral.secagg.site import Expected, Site

_CHUNK = 1 << 18
"""Elements of a vector that are masked at a time."""
_STEPS = 3
"""A client that is lost answers 0, 1 or 2 messages before: it is lost at R0, R1 or R2."""


class Fleet:
    """The parties of a simulated run, with the keys and memories that outlive a round.

    Args:
        terms: What the sites allow: what the run asks for and nothing else.
        rand: Secret randomness.
        clock: For deadlines in the signed context.
    """

    def __init__(self, terms: Secure, *, rand: Rand, clock: Clock) -> None:
        self.terms = terms
        self.rand = rand
        self.clock = clock
        self.authority = Authority(SigningKey.random(rand))
        self.server_key = SigningKey.random(rand)
        self._members: dict[ClientId, tuple[SigningKey, bytes, MemoryOnce]] = {}

    def site(self, client: ClientId, context: Context) -> Site:
        """Return a client's identity and policy; it is enrolled when it is first asked for."""
        key, enrolment, _ = self._member(client)
        return Site(
            client,
            key,
            enrolment,
            self.authority.public,
            self.server_key.public,
            min_cohort=secure.min_cohort_of(self.terms, context.parameters.clients),
            suites=frozenset({context.parameters.suite}),
            min_corrupt=self.terms.corrupt,
        )

    def once(self, client: ClientId) -> MemoryOnce:
        """Return a client's memory of what it has answered."""
        return self._member(client)[2]

    def _member(self, client: ClientId) -> tuple[SigningKey, bytes, MemoryOnce]:
        if client not in self._members:
            key = SigningKey.random(self.rand)
            enrolment = self.authority.enrol(client, key.public)
            self._members[client] = (key, enrolment, MemoryOnce())
        return self._members[client]


class _Spool:
    """Chunks of a masked vector, as they are."""

    def __init__(self) -> None:
        self.chunks: list[RingVector] = []

    def write(self, chunk: RingVector) -> None:
        self.chunks.append(chunk)


@dataclass(slots=True)
class _Party:
    """A client in an attempt: its machine, and what it has and has not sent.

    Attributes:
        machine: The machine.
        spool: Its masked vector.
        vector: What it has trained.
        deliveries: The message that waits until it has.
        answers: Messages that it answers before it is lost; None for a client that is not.
    """

    machine: Client
    spool: _Spool
    vector: RingVector
    deliveries: bytes | None = None
    answers: int | None = None


class Instance:
    """One sum: a server and its clients.

    Args:
        fleet: The parties.
        context: What they sign.
        clients: The cohort of this sum.

    Attributes:
        bytes_up: Bytes that clients have sent.
        bytes_down: Bytes that they were sent.
        summed: The sum, once it is there.
        abandoned: Why there will be none.
    """

    def __init__(self, fleet: Fleet, context: Context, clients: Sequence[ClientId]) -> None:
        self.bytes_up = 0
        self.bytes_down = 0
        self.summed: cmd.Summed | None = None
        self.abandoned = ""
        self._context = context
        self._server = Server(
            context,
            clients,
            key=fleet.server_key if context.signed else None,
            authority=fleet.authority.public,
        )
        self._held: deque[cmd.ServerCommand] = deque()
        self._refused: dict[ClientId, Failed] = {}
        self._parties = {client: self._party(fleet, client) for client in clients}

    def _party(self, fleet: Fleet, client: ClientId) -> _Party:
        context, spool = self._context, _Spool()
        expected = Expected(
            context.run_id, context.round, context.models, context.plan, context.encoding
        )
        machine = Client(
            fleet.site(client, context),
            expected,
            rand=fleet.rand,
            once=fleet.once(client),
            source=lambda: _chunks(self._parties[client].vector),
            sink=spool,
        )
        return _Party(machine, spool, np.empty(0, context.encoding.ring.dtype))

    def open(self, lost: Mapping[ClientId, int]) -> tuple[Failed, ...]:
        """Exchange keys and shares; return who refuses.

        Args:
            lost: Clients that will not be heard of, with how many messages they answer before.
        """
        for client, answers in lost.items():
            self._parties[client].answers = answers
        self._pump(self._server.receive(cmd.Start()))
        for phase in (Phase.JOINING, Phase.SHARING):
            if self._server.phase is phase:
                self._pump(self._server.receive(cmd.Close()))
        return tuple(self._refused.values())

    def take(self, client: ClientId, vector: RingVector) -> Failed | None:
        """Mask and upload a client's vector; return why it does not arrive, if so."""
        party = self._parties[client]
        party.vector = vector
        if party.deliveries is None:
            return Failed(client, Breach.code, "it was told of no shares")
        self._held += self._deliver(client, party.deliveries)
        party.vector, party.spool.chunks = np.empty(0, vector.dtype), []
        return self._refused.get(client)

    def lose(self, client: ClientId) -> None:
        """Tell the server that a client is gone."""
        self._held += self._server.receive(cmd.Lost(client))

    def close(self) -> cmd.Summed | None:
        """Agree on who is in the sum, unmask it, and return it, or None with `abandoned` set."""
        if self._server.phase is Phase.MASKING:
            self._held += self._server.receive(cmd.Close())
        self._pump(())
        while self.summed is None and not self.abandoned:
            before = self._server.phase
            self._pump(self._server.receive(cmd.Close()))
            if self._server.phase is before:  # nobody is left that could answer
                self._pump(self._server.receive(cmd.GiveUp()))
        return self.summed

    @property
    def group(self) -> Group:
        """How the sum ended."""
        if self.summed is not None:
            return Unmasked(self.summed.total, self.summed.survivors)
        return Unreached(self.abandoned) if self.abandoned else None

    # --- the wire ---------------------------------------------------------------------------------

    def _pump(self, commands: Iterable[cmd.ServerCommand]) -> None:
        """Do what the server asks, and what follows from it, until everybody waits."""
        queue = self._held
        queue += commands
        while queue:
            command = queue.popleft()
            if isinstance(command, cmd.Tell):
                queue += self._tell(ClientId(command.client), command.message)
            elif isinstance(command, cmd.Summed):
                self.summed = command
            elif isinstance(command, cmd.Abandon):
                self.abandoned = command.reason
            elif isinstance(command, cmd.Reject) and command.about == command.client:
                client = ClientId(command.client)
                self._refuse(client, f"the coordinator refuses it: {command.reason}")

    def _tell(self, client: ClientId, message: FromServer) -> cmd.ServerCommands:
        """Carry a message to a client, unless it is lost or still at work."""
        raw = encode(message)
        self.bytes_down += len(raw)
        party = self._parties[client]
        if party.answers is not None:
            if not party.answers:
                return ()
            party.answers -= 1
        if isinstance(message, Deliveries):
            party.deliveries = raw
            return ()
        return self._deliver(client, raw)

    def _deliver(self, client: ClientId, raw: bytes) -> cmd.ServerCommands:
        """Give a message to a client, and its answers to the server."""
        answers: list[cmd.ServerCommand] = []
        for command in self._parties[client].machine.receive(raw):
            if isinstance(command, cmd.Stopped):
                self._refuse(client, command.breach.message)
            elif isinstance(command, cmd.Send | cmd.Upload):
                answers += self._server.receive(self._sent(client, command.message))
        return tuple(answers)

    def _sent(self, client: ClientId, message: FromClient) -> cmd.ServerEvent:
        """Carry what a client sends."""
        raw = encode(message)
        self.bytes_up += len(raw)
        if not isinstance(message, Masked):
            return cmd.Received(client, raw)
        chunks = self._parties[client].spool.chunks
        self.bytes_up += self._context.encoding.size * self._context.encoding.ring.width
        return cmd.Uploaded(client, message, lambda: chunks)

    def _refuse(self, client: ClientId, why: str) -> None:
        self._refused.setdefault(client, Failed(client, Breach.code, why))


class SecureSum:
    """The secure sums of one attempt, one for each group.

    Args:
        plan: The round's terms.
        spec: The model's schema.
        fleet: The parties.
        clients: The cohort.
        key: Key of (run, "secure", round, attempt): groups, and where silent clients are lost.
    """

    def __init__(
        self, plan: Plan, spec: Spec, *, fleet: Fleet, clients: Sequence[ClientId], key: Key
    ) -> None:
        if not isinstance(plan.encoding, RingGrid):
            raise RunFailed("a secure sum of a plan without a ring")
        self.norm_max: float | None = None
        self._plan, self._spec, self._grid = plan, spec, plan.encoding
        self._fleet, self._key = fleet, key
        self._groups = secure.split(clients, fleet.terms, key.fold("groups"))
        self._instances = [self._instance(group) for group in self._groups]
        self._of = {c: i for i, group in enumerate(self._groups) for c in group}

    def _instance(self, clients: Sequence[ClientId]) -> Instance:
        plan, clock = self._plan, self._fleet.clock
        context = secure.context_of(
            plan,
            secure.ring_encoding(self._grid, self._spec.vector_size, plan.privacy),
            len(clients),
            terms=self._fleet.terms,
            authority=authority_id(self._fleet.authority.public),
            deadline=int(clock.wall() + plan.deadline_s),
        )
        return Instance(self._fleet, context, clients)

    @property
    def bytes_up(self) -> int:
        """Bytes that clients have sent so far."""
        return sum(instance.bytes_up for instance in self._instances)

    @property
    def bytes_down(self) -> int:
        """Bytes that they were sent, without the model."""
        return sum(instance.bytes_down for instance in self._instances)

    def open(self, answering: Sequence[ClientId], silent: Sequence[ClientId]) -> Opened:
        """Exchange keys and shares in every group."""
        step = self._key.fold("lost")
        answers = {c: int(step.fold(c).uniform() * _STEPS) for c in silent}
        refused: list[Failed] = []
        for instance, group in zip(self._instances, self._groups, strict=True):
            refused += instance.open({c: answers[c] for c in group if c in answers})
        told = tuple(f for f in refused if f.client not in answers)
        return Opened(told, hopeless([i.group for i in self._instances], self._fleet.terms))

    def take(self, client: ClientId, contribution: RingContribution) -> Failed | None:
        """Mask and upload what a client has trained."""
        return self._instances[self._of[client]].take(client, contribution.vector)

    def accept(self, client: ClientId) -> None:
        """The server has added it when it arrived."""

    def discard(self, client: ClientId) -> None:
        """A vector that came too late is in no sum: the attempt is over."""

    def lose(self, client: ClientId) -> None:
        """Expect nothing more of a client."""
        self._instances[self._of[client]].lose(client)

    def close(self, survivors: Sequence[ClientId]) -> Closed | Unreached:
        """Unmask every group's sum and decode it."""
        for instance in self._instances:
            if not instance.abandoned:
                instance.close()
        groups = [instance.group for instance in self._instances]
        return close(groups, survivors, plan=self._plan, spec=self._spec, terms=self._fleet.terms)


def _chunks(vector: RingVector) -> Iterable[RingVector]:
    return (vector[at : at + _CHUNK] for at in range(0, vector.size, _CHUNK))
