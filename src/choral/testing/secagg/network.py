"""A whole attempt in memory: one server, its clients, and the wire between them.

Messages travel as bytes. Hooks change them, a schedule or a script loses, doubles and reorders
them, and a monitor watches what every client says over all attempts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np

from choral.core.ports import Rand
from choral.crypto.ring import RingVector
from choral.crypto.signatures import SigningKey
from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg.client import Client
from choral.secagg.context import VERSION, Context, RingEncoding
from choral.secagg.context import h1 as h1_of
from choral.secagg.enrolment import Authority, authority_id
from choral.secagg.parameters import Parameters, Suite, find
from choral.secagg.ports import MemoryOnce
from choral.secagg.refusals import Breach, Reason
from choral.secagg.server import Server
from choral.secagg.site import Expected, Site
from choral.testing.fakes import SeededRand
from choral.testing.secagg.monitor import Monitor
from choral.testing.secagg.parties import ClientFactory, ClientMachine, ServerFactory, Spool
from choral.testing.secagg.schedule import STEPS, Draws, Loss, Schedule

MODEL: Final = bytes(32)
PLAN: Final = bytes([1]) * 32
NEVER: Final = 9

Toward: TypeAlias = Callable[[str, Any], msg.FromServer | bytes | None]
"""(client, message to it) to what it gets instead; None for nothing."""
Forward: TypeAlias = Callable[[str, Any], msg.FromClient | None]
"""(client, message of it) to what the server gets instead; None for nothing."""


class Network:
    """A server, `n` clients `c000` … with vectors near the edge of the ring, and the wire.

    Without a schedule every answer arrives before anything else is sent.

    Args:
        n: Clients.
        semi_honest: Use that suite where `parameters` are not given.
        size: Elements of a vector.
        chunk: Elements of a chunk.
        parameters: Suite, k and t; by default the planned ones for so many clients.
        min_cohort: Floor in the context.
        bits: b.
        modulus: m.
        beacon: Public value of the graph; empty without one.
        client: Makes each client.
        server: Makes the server.
        schedule: Order, duplicates and losses by seed.
        losses: Who is gone when, by script.
        monitor: Watches the clients.
        seed: Of all secrets.

    Attributes:
        toward: Hook on what goes to a client.
        forward: Hook on what comes from one; the monitor has seen it before.
        log: (">" or "<", client, bytes) of all that passed.
        told: Client to the last message of each type that the server meant for it.
        said: Client to the last message of each type that it sent.
        h1: Salt of the keys of this attempt, once there is a roster.
        summed: The sum, or None.
        abandoned: Why there is none, or None.
        rejected: (sender, reason, who is to blame) of all that the server refused.
        accused: (client, reason, whom it accuses) of all complaints that the server noted.
        stopped: Client to the check that ended its part.
        counted: Clients that were told that they are in the sum.
    """

    def __init__(
        self,
        n: int,
        *,
        semi_honest: bool = False,
        size: int = 5,
        chunk: int = 3,
        parameters: Parameters | None = None,
        min_cohort: int = 2,
        bits: int = 16,
        modulus: int = 32,
        beacon: bytes = b"",
        client: ClientFactory = Client,
        server: ServerFactory = Server,
        schedule: Schedule | None = None,
        losses: Iterable[Loss] = (),
        monitor: Monitor | None = None,
        seed: int = 7,
    ) -> None:
        self.parameters = parameters or find(n, semi_honest=semi_honest, dropout=0)
        self.signed = self.parameters.suite is not Suite.SEMI_HONEST
        self.size, self.chunk, self.beacon = size, chunk, beacon
        self.make_client, self.make_server = client, server
        self.rand: Rand = SeededRand(seed)
        self.authority = Authority(SigningKey.random(self.rand))
        self.server_key = SigningKey.random(self.rand)
        self.ids = tuple(f"c{i:03}" for i in range(n))
        self.encoding = RingEncoding(size, modulus, bits, 1.0, 0, 1, size)
        self.context = Context(
            VERSION, "run", 1, 1, (MODEL,), PLAN, self.encoding, min_cohort, self.parameters,
            authority_id(self.authority.public), 1000,
        )  # fmt: skip
        self.expected = Expected("run", 1, (MODEL,), PLAN, self.encoding, beacon)
        self.expectations: dict[str, Expected] = {}
        self.keys = {name: SigningKey.random(self.rand) for name in self.ids}
        self.sites = {name: self._site(name) for name in self.ids}
        self.rands: dict[str, Rand] = {}
        self.once = {name: MemoryOnce() for name in self.ids}
        self.vectors = _vectors(self.encoding, self.ids)
        self.toward: Toward = lambda client, message: message
        self.forward: Forward = lambda client, message: message
        self.monitor = monitor or Monitor()
        self.losses = tuple(losses)
        self.log: list[tuple[str, str, bytes]] = []
        self._draws: Draws | None = schedule.draws() if schedule else None
        self.begin()

    def _site(self, name: str) -> Site:
        key = self.keys[name]
        return Site(
            name,
            key if self.signed else None,
            self.authority.enrol(name, key.public),
            self.authority.public,
            self.server_key.public,
            min_cohort=2,
            suites=frozenset(Suite),
            min_corrupt=self.parameters.corrupt,
        )

    def begin(self, attempt: int = 1) -> None:
        """Build machines for an attempt, with the same sites, stores and monitor."""
        self.context = replace(self.context, attempt=attempt)
        self.monitor.begin(
            run_id=self.context.run_id,
            round=self.context.round,
            threshold=self.context.parameters.t,
        )
        self.told: dict[str, dict[type[Any], Any]] = {name: {} for name in self.ids}
        self.said: dict[str, dict[type[Any], Any]] = {name: {} for name in self.ids}
        self.h1 = b""
        self.gone: set[str] = set()
        self._flights: list[tuple[str, Any]] = []
        self.spools = {name: Spool() for name in self.ids}
        self.clients: dict[str, Any] = {name: self.client(name) for name in self.ids}
        self.server: Any = self.make_server(
            self.context,
            self.ids,
            key=self.server_key if self.signed else None,
            authority=self.authority.public,
            beacon=self.beacon,
        )
        self.summed: cmd.Summed | None = None
        self.abandoned: cmd.Abandon | None = None
        self.rejected: list[tuple[str, Reason, str]] = []
        self.accused: list[tuple[str, Reason, str]] = []
        self.stopped: dict[str, Breach] = {}
        self.counted: set[str] = set()

    def client(self, name: str, *, make: ClientFactory | None = None) -> ClientMachine:
        """Return a client's machine as after a restart of its process."""
        return (make or self.make_client)(
            self.sites[name],
            self.expectations.get(name, self.expected),
            rand=self.rands.get(name, self.rand),
            once=self.once[name],
            source=lambda: self.chunks(self.vectors[name].copy()),
            sink=self.spools[name],
        )

    def chunks(self, vector: RingVector) -> list[RingVector]:
        """Return a vector in chunks."""
        return [vector[at : at + self.chunk] for at in range(0, vector.size, self.chunk)]

    # --- the way of a message ---------------------------------------------------------------------

    def run(self) -> Network:
        """Run to the end; where all wait, the server's time is over, and at last it gives up."""
        for event in (cmd.Start(), *[cmd.Close()] * 8, cmd.GiveUp()):
            if self.summed or self.abandoned:
                break
            self.server_does(self.server.receive(event))
            self._drain()
        return self

    def server_does(self, commands: cmd.ServerCommands) -> None:
        """Do what the server asks for."""
        for command in commands:
            match command:
                case cmd.Tell(client, message):
                    self.tell(client, message)
                case cmd.Reject():
                    self.rejected.append((command.client, command.reason, command.about))
                case cmd.Accused():
                    self.accused.append((command.client, command.reason, command.about))
                case cmd.Summed():
                    self.summed = command
                case cmd.Abandon():
                    self.abandoned = command

    def tell(self, client: str, message: msg.FromServer) -> None:
        """Pass on what the server meant for a client, through the hook."""
        self.told[client][type(message)] = message
        if isinstance(message, msg.Roster):
            self.h1 = h1_of(
                self.context.h0, count=message.count, root=message.root, beacon=message.beacon
            )
        changed = self.toward(client, message)
        if changed is not None:
            self.deliver(client, changed)

    def deliver(self, client: str, message: msg.FromServer | bytes) -> None:
        """Bring a message to a client, past the hook; bytes go as they are."""
        self._post(client, message if isinstance(message, bytes) else msg.encode(message))

    def client_does(self, client: str, commands: cmd.ClientCommands) -> None:
        """Do what a client asks for."""
        for command in commands:
            match command:
                case cmd.Upload(message):
                    self.monitor.saw(client, message, content=self._content(client))
                    self._sent(client, message)
                case cmd.Send(message):
                    self.monitor.saw(client, message)
                    self._sent(client, message)
                case cmd.Stopped(breach):
                    self.stopped[client] = breach
                case cmd.Counted():
                    self.counted.add(client)

    def _content(self, client: str) -> bytes:
        hasher, ring = hashlib.sha256(), self.context.encoding.ring
        for chunk in self.spools[client].chunks:
            hasher.update(ring.pack(chunk))
        return hasher.digest()

    def _sent(self, client: str, message: msg.FromClient) -> None:
        self.said[client][type(message)] = message
        changed = self.forward(client, message)
        if changed is not None and self._passes(client, type(message)):
            self._post(client, self.event(client, changed))

    def event(self, client: str, message: msg.FromClient) -> cmd.ServerEvent:
        """Return what happens to the server when a client's message arrives."""
        raw = msg.encode(message)
        self.log.append(("<", client, raw))
        if isinstance(message, msg.Masked):
            spool = self.spools[client]
            return cmd.Uploaded(client, message, lambda: spool.chunks)
        return cmd.Received(client, raw)

    def _post(self, client: str, cargo: Any) -> None:
        """Put a message on its way; without a schedule it is there at once."""
        if self._draws is None:
            self._arrive(client, cargo)
        else:
            self._flights.append((client, cargo))

    def _arrive(self, client: str, cargo: Any) -> None:
        if not isinstance(cargo, bytes):
            self.server_does(self.server.receive(cargo))
        elif self._passes(client, kind_of(cargo) if self.losses else None):
            self.log.append((">", client, cargo))
            self.client_does(client, self.clients[client].receive(cargo))

    def _drain(self) -> None:
        """Let messages arrive as the schedule says until none is on its way."""
        while self._flights and self._draws is not None:
            if self._draws.hurries():
                self.server_does(self.server.receive(cmd.Close()))
            at = self._draws.next(len(self._flights))
            client, cargo = self._flights.pop(at)
            if self._draws.lost():
                continue
            if self._draws.again():
                self._flights.append((client, cargo))
            self._arrive(client, cargo)

    def _passes(self, client: str, kind: type[Any] | None) -> bool:
        """Return whether a client is there for a message of this type, and note that it is gone."""
        if client in self.gone:
            return False
        loss = next((x for x in self.losses if (x.client, x.message) == (client, kind)), None)
        if loss is None:
            return True
        self.gone.add(client)
        if loss.noticed and not loss.after:
            self.server_does(self.server.receive(cmd.Lost(client)))
        return loss.after

    def drop(self, pattern: Mapping[str, int]) -> Network:
        """Lose what a client sends from a step on: id to 0 … 4; it still hears the server."""

        def forward(client: str, message: Any) -> Any:
            step = STEPS.index(type(message)) if type(message) in STEPS else NEVER
            return None if step >= pattern.get(client, NEVER) else message

        self.forward = forward
        return self

    # --- what came of it --------------------------------------------------------------------------

    def total(self, ids: Iterable[str]) -> RingVector:
        """Return the sum of the clear vectors."""
        ring = self.encoding.ring
        out = ring.zeros(self.size)
        for name in ids:
            ring.add(out, self.vectors[name])
        return out

    def assert_exact(self) -> None:
        """Fail unless there is a sum and it is that of the survivors, to the bit."""
        if self.summed is None:
            raise AssertionError(f"no sum: {self.abandoned}")
        np.testing.assert_array_equal(self.summed.total, self.total(self.summed.survivors))


def kind_of(raw: bytes) -> type[Any] | None:
    """Return the type of a message's bytes, None for bytes that are none."""
    try:
        return type(msg.decode(raw))
    except Breach:
        return None


def _vectors(encoding: RingEncoding, ids: Sequence[str]) -> dict[str, RingVector]:
    """Return a vector for each client; their sums wrap around the ring."""
    high = 2**encoding.modulus_bits
    low = high - 2**encoding.bits
    return {
        name: np.array(
            [(low + 1000 * i + j) % high for j in range(encoding.size)], encoding.ring.dtype
        )
        for i, name in enumerate(ids)
    }
