"""A whole attempt in memory: messages travel as bytes, hooks change them, a monitor watches."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from choral.crypto.signatures import SigningKey
from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg.client import Client
from choral.secagg.context import VERSION, Context, RingEncoding
from choral.secagg.enrolment import Authority, authority_id
from choral.secagg.parameters import Suite, find
from choral.secagg.ports import MemoryOnce
from choral.secagg.server import Server
from choral.secagg.site import Expected, Site
from choral.testing.fakes import SeededRand

STEPS = (msg.Advertise, msg.Bundle, msg.Masked, msg.Consent, msg.Unmask)


class Monitor:
    """No party ever emits both kinds of share for one peer, nor two masked vectors."""

    def __init__(self):
        self.kinds = defaultdict(set)
        self.vectors = defaultdict(set)

    def saw(self, client, message):
        if isinstance(message, msg.Unmask):
            for revealed in message.revealed:
                self.kinds[client, revealed.dealer].add(revealed.kind)
        if isinstance(message, msg.Masked):
            self.vectors[client].add(message.digest)
        assert all(len(kinds) == 1 for kinds in self.kinds.values())
        assert all(len(digests) == 1 for digests in self.vectors.values())


class Spool:
    def __init__(self):
        self.chunks = []

    def write(self, chunk):
        self.chunks.append(chunk.copy())


class World:
    """A server, its clients, and the wire between them.

    `toward(client, message)` and `forward(client, message)` may return another message or None.
    """

    def __init__(
        self,
        n,
        *,
        semi_honest=False,
        size=5,
        chunk=3,
        parameters=None,
        min_cohort=2,
        bits=16,
        modulus=32,
    ):
        self.parameters = parameters or find(n, semi_honest=semi_honest, dropout=0)
        signed = self.parameters.suite is not Suite.SEMI_HONEST
        self.rand = SeededRand(7)
        self.authority = Authority(SigningKey.random(self.rand))
        self.server_key = SigningKey.random(self.rand)
        self.ids = tuple(f"c{i:03}" for i in range(n))
        self.encoding = RingEncoding(size, modulus, bits, 1.0, 0, 1, size)
        self.context = Context(
            VERSION, "run", 1, 1, (bytes(32),), bytes([1]) * 32, self.encoding, min_cohort,
            self.parameters, authority_id(self.authority.public), 1000,
        )  # fmt: skip
        self.expected = Expected("run", 1, (bytes(32),), bytes([1]) * 32, self.encoding)
        self.keys = {name: SigningKey.random(self.rand) for name in self.ids}
        self.sites = {
            name: Site(
                name,
                key if signed else None,
                self.authority.enrol(name, key.public),
                self.authority.public,
                self.server_key.public,
                min_cohort=2,
                suites=frozenset(Suite),
                min_corrupt=self.parameters.corrupt,
            )
            for name, key in self.keys.items()
        }
        self.once = {name: MemoryOnce() for name in self.ids}
        self.signed = signed
        self.size, self.chunk = size, chunk
        ring = self.encoding.ring
        low = 2**modulus - 2**bits
        values = [
            np.array([(low + 1000 * i + j) % 2**modulus for j in range(size)], ring.dtype)
            for i in range(n)
        ]
        self.vectors = dict(zip(self.ids, values, strict=True))
        self.toward = lambda client, message: message
        self.forward = lambda client, message: message
        self.log = []
        self.begin()

    def begin(self, attempt=1):
        """Build machines for an attempt, with the same sites and stores."""
        self.context = replace(self.context, attempt=attempt)
        self.spools = {name: Spool() for name in self.ids}
        self.clients = {name: self.client(name) for name in self.ids}
        self.server = Server(
            self.context,
            self.ids,
            key=self.server_key if self.signed else None,
            authority=self.authority.public,
        )
        self.monitor = Monitor()  # keys are an attempt's own
        self.summed, self.abandoned = None, None
        self.rejected, self.stopped, self.counted = [], {}, set()

    def client(self, name):
        return Client(
            self.sites[name],
            self.expected,
            rand=self.rand,
            once=self.once[name],
            source=lambda: self.chunks(self.vectors[name].copy()),
            sink=self.spools[name],
        )

    def chunks(self, vector):
        return [vector[at : at + self.chunk] for at in range(0, vector.size, self.chunk)]

    def run(self):
        """Run to the end; where everybody waits, the server's time is over."""
        self.server_does(self.server.receive(cmd.Start()))
        for _ in range(8):
            if self.summed or self.abandoned:
                break
            self.server_does(self.server.receive(cmd.Close()))
        return self

    def server_does(self, commands):
        for command in commands:
            match command:
                case cmd.Tell(client, message):
                    self.tell(client, message)
                case cmd.Reject():
                    self.rejected.append((command.client, command.reason, command.about))
                case cmd.Summed():
                    self.summed = command
                case cmd.Abandon():
                    self.abandoned = command

    def tell(self, client, message):
        changed = self.toward(client, message)
        if changed is None:
            return
        raw = msg.encode(changed)
        assert msg.decode(raw) == changed
        self.log.append((">", client, raw))
        self.client_does(client, self.clients[client].receive(raw))

    def client_does(self, client, commands):
        for command in commands:
            match command:
                case cmd.Send(message) | cmd.Upload(message):
                    self.monitor.saw(client, message)
                    changed = self.forward(client, message)
                    if changed is not None:
                        self.server_does(self.server.receive(self.event(client, changed)))
                case cmd.Stopped(breach):
                    self.stopped[client] = breach
                case cmd.Counted():
                    self.counted.add(client)

    def event(self, client, message):
        raw = msg.encode(message)
        assert msg.decode(raw) == message
        self.log.append(("<", client, raw))
        if isinstance(message, msg.Masked):
            spool = self.spools[client]
            return cmd.Uploaded(client, message, lambda: spool.chunks)
        return cmd.Received(client, raw)

    def drop(self, pattern):
        """Lose what a client sends from a step on: id to 0 … 4."""

        def forward(client, message):
            step = STEPS.index(type(message)) if type(message) in STEPS else 9
            return None if step >= pattern.get(client, 9) else message

        self.forward = forward
        return self

    def total(self, ids):
        ring = self.encoding.ring
        out = ring.zeros(self.size)
        for name in ids:
            ring.add(out, self.vectors[name])
        return out

    def assert_exact(self):
        """The sum is that of U3, to the bit."""
        assert self.summed is not None, self.abandoned
        np.testing.assert_array_equal(self.summed.total, self.total(self.summed.survivors))


@pytest.fixture
def world():
    """Return the class; each test builds its own."""
    return World
