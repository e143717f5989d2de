"""Random schedules: whatever is lost, late, early or doubled, the sum is exact or there is none.

A schedule is its number, and a failure names it. One schedule alone:

    SECAGG_SCHEDULE=123 python -m pytest tests/unit/secagg/test_schedules.py -k a_sample
"""

import hashlib
import os
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from choral.secagg import commands as cmd
from choral.secagg import context as context_module
from choral.secagg import messages as msg
from choral.secagg.client import Client
from choral.secagg.parameters import SIGMA, SIGMA_WITHOUT_BEACON, Parameters, Suite, find
from choral.secagg.refusals import Reason
from choral.secagg.server import Phase, Server

ALONE = os.environ.get("SECAGG_SCHEDULE")
BLOCK = 50
SAMPLE = 400
NIGHTLY_BLOCK = 250
NIGHTLY = 20_000
BEACON = b"a public value"
SUITES = ("full", "semi_honest", "graph", "semi_honest graph")
DROPOUT = 0.4
TOO_FEW = {
    Reason.TOO_FEW_SHARES,
    Reason.TOO_FEW_SURVIVORS,
    Reason.TOO_FEW_CONSENTS,
    Reason.ONE_SIDED,
}
"""On a random graph a neighbourhood may run short while the cohort does not."""
FORGETFUL = {Reason.REPLAYED, Reason.JOINED, Reason.SUPERSEDED}


@pytest.fixture(autouse=True)
def _small_graphs(monkeypatch):
    """Let graphs through that are too small to be safe: here only their arithmetic counts."""
    monkeypatch.setattr(context_module, "verify", lambda parameters: None)
    monkeypatch.setattr(Parameters, "side_floor", 1)


class Monitor:
    """What all parties of one attempt ever emitted, whoever it was meant for."""

    def __init__(self):
        self.by_holder = defaultdict(set)
        self.by_dealer = defaultdict(set)
        self.vectors = defaultdict(set)

    def saw(self, client, message):
        if isinstance(message, msg.Unmask):
            for r in message.revealed:
                self.by_holder[client, r.dealer].add((r.kind, r.share))
                self.by_dealer[r.dealer].add(r.kind)
        if isinstance(message, msg.Masked):
            self.vectors[client].add(message.digest)
        assert all(len(seen) == 1 for seen in self.by_holder.values())
        # With an honest server not even two holders reveal different kinds.
        assert all(len(kinds) == 1 for kinds in self.by_dealer.values())
        assert all(len(digests) == 1 for digests in self.vectors.values())


class Spool:
    def __init__(self):
        self.chunks = []

    def write(self, chunk):
        self.chunks.append(chunk.copy())


def draw_parameters(rng, name, n):
    """Return parameters of a suite, with a random graph where the suite has one."""
    if name == "full":
        return find(n, dropout=0)
    if name == "semi_honest":
        return find(n, semi_honest=True, dropout=0)
    k = int(rng.choice([*range(2, n - 1, 2), n - 1]))
    if name == "graph":
        beacon = bool(rng.integers(2))
        t = int(rng.integers((k + 1) // 2 + 1, k + 2))
        sigma = SIGMA if beacon else SIGMA_WITHOUT_BEACON
        return Parameters(Suite.GRAPH, n, k, t, 0.0, DROPOUT, sigma, beacon)
    least = n // 2 + 1 if k == n - 1 else 2
    t = int(rng.integers(least, k + 2))
    return Parameters(Suite.SEMI_HONEST, n, k, t, 0.0, DROPOUT, SIGMA)


class Schedule:
    """One attempt in which a random number generator decides what happens next."""

    def __init__(self, world, number):
        self.rng = rng = np.random.default_rng([number, 5])
        self.suite = SUITES[int(rng.integers(len(SUITES)))]
        n = int(rng.integers(3, 9))
        p = draw_parameters(rng, self.suite, n)
        modulus = int(rng.choice([16, 24, 32, 64]))
        w = world(
            n,
            parameters=replace(p, beacon=False, sigma=SIGMA_WITHOUT_BEACON),
            semi_honest=p.suite is Suite.SEMI_HONEST,
            size=int(rng.integers(0, 9)),
            modulus=modulus,
            bits=12,
        )
        encoding = replace(w.encoding, generator=int(rng.integers(1, 3)))
        floor = int(rng.integers(2, p.t + 1))
        self.context = replace(w.context, parameters=p, encoding=encoding, min_cohort=floor)
        self.beacon = BEACON if p.beacon else b""
        self.expected = replace(w.expected, encoding=encoding, beacon=self.beacon)
        self.w, self.ids, self.parameters = w, w.ids, p
        ring = encoding.ring
        high = 2**modulus
        self.vectors = {
            name: rng.integers(0, high, w.size, np.uint64, endpoint=False).astype(ring.dtype)
            if modulus < 64
            else np.frombuffer(rng.bytes(8 * w.size), ring.dtype)
            for name in w.ids
        }
        self.chunk = {name: int(rng.integers(1, 5)) for name in w.ids}
        # How rough this one is: each kind of trouble is absent in many schedules.
        rough = rng.random(8) * (rng.random(8) < 0.45)
        weights = np.array([0.02, 0.4, 0.04, 0.04, 0.2, 0.2, 0.04, 0.05])
        self.trouble = np.cumsum(rough * weights)
        self.fifo = rng.random() < 0.5
        self.monitor = Monitor()
        self.spools = {}
        self.clients = {name: self.client(name) for name in self.ids}
        self.server = self.new_server()
        self.log, self.answers = [], []
        self.flying, self.said = [], []
        self.gone, self.restarted, self.landed, self.counted = set(), set(), set(), set()
        self.stopped, self.rejected = defaultdict(set), []
        self.ends, self.crashes, self.late = [], 0, False

    # --- parties ----------------------------------------------------------------------------------

    def client(self, name):
        self.spools[name] = Spool()
        return Client(
            self.w.sites[name],
            self.expected,
            rand=self.w.rand,
            once=self.w.once[name],
            source=lambda: self.pieces(name),
            sink=self.spools[name],
        )

    def pieces(self, name):
        vector, step = self.vectors[name].copy(), self.chunk[name]
        return [vector[at : at + step] for at in range(0, vector.size, step)]

    def new_server(self):
        return Server(
            self.context,
            self.ids,
            key=self.w.server_key if self.context.signed else None,
            authority=self.w.authority.public,
            beacon=self.beacon,
        )

    def feed(self, event):
        """Give the server an event and put what it says on the wire."""
        open_ = self.server.phase is Phase.MASKING
        over = bool(self.ends)
        commands = self.server.receive(event)
        self.log.append(event)
        self.answers.append(commands)
        assert not (over and commands), "a server that has ended speaks"
        rejected = {c.client for c in commands if isinstance(c, cmd.Reject)}
        self.late |= isinstance(event, cmd.Uploaded) and not open_ and not over
        if isinstance(event, cmd.Uploaded) and open_ and event.sender not in rejected:
            self.landed.add(event.sender)
        for command in commands:
            match command:
                case cmd.Tell(client, message):
                    self.put(">", client, msg.encode(message))
                case cmd.Reject() | cmd.Accused():
                    self.rejected.append(command)
                case cmd.Summed() | cmd.Abandon():
                    self.ends.append(command)

    def put(self, way, client, payload):
        self.flying.append((way, client, payload))
        self.said.append((way, client, payload))

    def deliver(self, way, client, payload):
        if way == "<":
            self.feed(payload)
        elif client not in self.gone:
            self.hear(client, self.clients[client].receive(payload))

    def hear(self, client, commands):
        """Put what a client says on the wire."""
        for command in commands:
            match command:
                case cmd.Upload(message):
                    self.monitor.saw(client, message)
                    self.put("<", client, self.upload(message, self.spools[client]))
                case cmd.Send(message):
                    self.monitor.saw(client, message)
                    self.put("<", client, cmd.Received(client, msg.encode(message)))
                case cmd.Stopped(breach):
                    self.stopped[client].add(breach.reason)
                case cmd.Counted():
                    self.counted.add(client)

    def upload(self, message, spool):
        """Return the event of an upload; the spool holds what was announced."""
        packed = b"".join(bytes(self.context.encoding.ring.pack(c)) for c in spool.chunks)
        assert hashlib.sha256(packed).digest() == message.digest
        return cmd.Uploaded(message.client, message, lambda: spool.chunks)

    # --- trouble ----------------------------------------------------------------------------------

    def pick(self, items):
        return items[int(self.rng.integers(len(items)))]

    def hurry(self):
        """The time of a step is over as soon as it may be: the rest comes too late."""
        if len(self.server.answered) >= self.context.quorum:
            self.feed(cmd.Close())

    def lose(self):
        """A client hears nothing more; what it has sent may still arrive."""
        name = self.pick(self.ids)
        self.gone.add(name)
        if self.rng.random() < 0.5:
            self.feed(cmd.Lost(name))

    def restart(self):
        """A client loses its memory and keeps what is durable."""
        name = self.pick(self.ids)
        self.clients[name] = self.client(name)
        self.restarted.add(name)

    def crash(self):
        """The server starts again from its log and says all of it once more."""
        if self.crashes == 2:
            return
        self.crashes += 1
        self.server = self.new_server()
        again = [self.server.receive(event) for event in self.log]
        assert [plain(c) for c in again] == [plain(c) for c in self.answers]
        self.flying.extend(m for m in self.said if m[0] == ">")

    def act(self):
        """Let one thing happen."""
        troubles = (
            lambda: self.feed(cmd.Close()),
            self.hurry,
            self.lose,
            lambda: self.flying.pop(int(self.rng.integers(len(self.flying)))),
            lambda: self.deliver(*self.pick(self.flying)),
            lambda: self.deliver(*self.pick(self.said)),
            self.crash,
            self.restart,
        )
        which = int(np.searchsorted(self.trouble, self.rng.random(), side="right"))
        if which < len(troubles):
            troubles[which]()
            return
        at = 0 if self.fifo else int(self.rng.integers(len(self.flying)))
        self.deliver(*self.flying.pop(at))

    def play(self):
        """Run to the end; return "sum" or "abort"."""
        self.feed(cmd.Start())
        acts = closes = 0
        while acts < 3000 and not (self.ends and not self.flying):
            acts += 1
            if self.flying:
                self.act()
            else:
                closes += 1
                assert closes < 10, f"the server waits for ever in phase {self.server.phase}"
                # At R4 a server waits as long as somebody may still answer.
                last = closes > 1 and self.server.phase is Phase.UNMASKING
                self.feed(cmd.GiveUp() if last else cmd.Close())
        self.judge()
        return type(self.ends[0]).__name__

    def judge(self):
        assert len(self.ends) == 1
        end = self.ends[0]
        self.judge_refusals()
        if isinstance(end, cmd.Abandon):
            assert self.server.phase is Phase.ABORTED
            assert not self.counted
            return
        assert self.server.phase is Phase.DONE
        assert end.survivors == tuple(sorted(self.landed))
        assert len(end.survivors) == end.result.count >= self.context.quorum
        ring, size = self.context.encoding.ring, self.context.encoding.size
        wanted = ring.zeros(size)
        for name in end.survivors:
            ring.add(wanted, self.vectors[name])
        np.testing.assert_array_equal(end.total, wanted)
        assert end.result.total == hashlib.sha256(ring.pack(wanted)).digest()
        assert self.counted <= set(end.survivors)

    def judge_refusals(self):
        """Nobody cheats here, so nobody may be accused but of forgetting."""
        excused = set() if self.parameters.complete else TOO_FEW
        for name, reasons in self.stopped.items():
            assert reasons <= (excused | FORGETFUL if name in self.restarted else excused)
        for reject in self.rejected:
            reasons = set(self.stopped[reject.client])
            if reject.client in self.restarted:  # one that has forgotten signs no complaint
                reasons.add(Reason.BAD_SIGNATURE)
            assert reject.reason in reasons


def plain(commands):
    """Return commands in a form that can be compared: arrays have no truth."""
    return [(c.total.tobytes(), c.result) if isinstance(c, cmd.Summed) else c for c in commands]


def play_all(world, numbers):
    seen = Counter()
    for number in numbers:
        try:
            schedule = Schedule(world, number)
            end = schedule.play()
            seen[schedule.suite, end] += 1
            seen["late vector", end] += schedule.late
        except BaseException as error:
            error.add_note(f"schedule {number}: see the head of this file for how to replay it")
            raise
    return seen


@pytest.mark.parametrize("first", [int(ALONE)] if ALONE else range(0, SAMPLE, BLOCK))
def test_a_sample_of_schedules(world, first):
    seen = play_all(world, [first] if ALONE else range(first, first + BLOCK))
    if not ALONE:
        for end in ("Summed", "Abandon"):
            assert sum(seen[suite, end] for suite in SUITES) >= BLOCK // 10, seen
        assert seen["late vector", "Summed"], seen


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(SAMPLE, SAMPLE + NIGHTLY, NIGHTLY_BLOCK))
def test_many_schedules(world, first):
    seen = play_all(world, range(first, first + NIGHTLY_BLOCK))
    for suite in SUITES:
        assert min(seen[suite, "Summed"], seen[suite, "Abandon"]) >= 5, seen
    assert seen["late vector", "Summed"] >= 5, seen
