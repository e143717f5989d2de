"""A cohort as large as the random graph is for: a tenth is lost anywhere, the others' sum is exact.

The parameters are the planned ones of the active suite, so that this also shows that they hold.
"""

import time
from collections import Counter, deque
from dataclasses import replace

import numpy as np
import pytest

from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg.client import Client
from choral.secagg.parameters import DROPOUT, Suite, find
from choral.secagg.server import Server

STEPS = (msg.Advertise, msg.Bundle, msg.Masked, msg.Consent, msg.Unmask)
SIZE = 16


class Cohort:
    """Machines and a first-in-first-out wire; messages travel as bytes.

    `lost` says of each lost client from which step on nothing is heard of it.
    """

    def __init__(self, world, n, *, beacon=b"", lost=None):
        parameters = find(n, beacon=bool(beacon))
        assert parameters.suite is Suite.GRAPH
        assert not parameters.complete
        # The world is for identities: its own machines have no beacon and are not used.
        w = world(n, parameters=replace(parameters, beacon=False, sigma=80, t=parameters.k + 1))
        self.ids, self.lost = w.ids, dict(lost or {})
        encoding = replace(w.encoding, size=SIZE, weight_at=SIZE - 1)
        self.context = replace(w.context, parameters=parameters, encoding=encoding, min_cohort=64)
        expected = replace(w.expected, encoding=encoding, beacon=beacon)
        rng = np.random.default_rng(n)
        self.vectors = {name: rng.integers(0, 2**32, SIZE, np.uint32) for name in w.ids}
        self.spools = {name: [] for name in w.ids}
        self.clients = {
            name: Client(
                replace(w.sites[name], min_corrupt=parameters.corrupt, min_cohort=64),
                expected,
                rand=w.rand,
                once=w.once[name],
                source=lambda name=name: [self.vectors[name].copy()],
                sink=Spool(self.spools[name]),
            )
            for name in w.ids
        }
        self.server = Server(
            self.context,
            w.ids,
            key=w.server_key,
            authority=w.authority.public,
            beacon=beacon,
        )
        self.summed = self.abandoned = None
        self.refused, self.counted, self.heard = [], set(), Counter()
        self.wire = deque()

    def run(self):
        self.feed(cmd.Start())
        for _ in range(8):
            while self.wire:
                self.step(*self.wire.popleft())
            if self.summed or self.abandoned:
                break
            self.feed(cmd.Close())
        return self

    def feed(self, event):
        for command in self.server.receive(event):
            match command:
                case cmd.Tell(client, message):
                    self.wire.append((client, message))
                case cmd.Summed():
                    self.summed = command
                case cmd.Abandon():
                    self.abandoned = command
                case _:
                    self.refused.append(command)

    def step(self, name, message):
        for command in self.clients[name].receive(msg.encode(message)):
            match command:
                case cmd.Send(said) | cmd.Upload(said):
                    self.said(name, said)
                case cmd.Counted():
                    self.counted.add(name)
                case _:
                    self.refused.append(command)

    def said(self, name, message):
        step = STEPS.index(type(message)) if type(message) in STEPS else 0
        if step >= self.lost.get(name, 9):
            return
        self.heard[step] += 1
        if isinstance(message, msg.Masked):
            chunks = self.spools[name]
            self.feed(cmd.Uploaded(name, message, lambda: chunks))
        else:
            self.feed(cmd.Received(name, msg.encode(message)))


class Spool:
    def __init__(self, chunks):
        self._chunks = chunks

    def write(self, chunk):
        self._chunks.append(chunk.copy())


def losses(ids, number):
    """Lose a tenth of the cohort, each at a step of its own."""
    rng = np.random.default_rng([number, len(ids)])
    count = int(DROPOUT * len(ids))
    return {str(name): int(rng.integers(5)) for name in rng.choice(ids, count, replace=False)}


def check(world, n, *, beacon=b"", number=1):
    ids = [f"c{i:03}" for i in range(n)]
    lost = losses(ids, number)
    assert len(set(lost.values())) == 5
    begun = time.process_time()
    c = Cohort(world, n, beacon=beacon, lost=lost).run()
    took = time.process_time() - begun
    assert not c.refused, c.refused[:3]
    assert c.summed is not None, c.abandoned
    wanted = {name for name in ids if lost.get(name, 9) > 2}
    assert set(c.summed.survivors) == wanted
    total = np.zeros(SIZE, np.uint32)
    for name in wanted:
        total += c.vectors[name]
    np.testing.assert_array_equal(c.summed.total, total)
    assert c.summed.result.count == len(wanted)
    assert c.summed.result.weight == int(total[-1])
    # Everybody who is in the sum and there to hear of it can check that.
    assert c.counted >= {name for name in wanted if name not in lost}
    gone = Counter(lost.values())
    left = [n - sum(gone[s] for s in range(step + 1)) for step in range(5)]
    assert [c.heard[step] for step in range(5)] == left
    print(f"{n} clients, k = {c.context.parameters.k}: {took:.1f} s of CPU time")


def test_a_hundred_and_fifty_clients(world):
    check(world, 150)


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(2, 6))
def test_a_hundred_and_fifty_clients_with_a_beacon(world, number):
    check(world, 150, beacon=b"a public value", number=number)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("beacon", [b"a public value", b""], ids=["beacon", "no beacon"])
def test_a_thousand_clients(world, beacon):
    check(world, 1000, beacon=beacon)
