"""Parties of both implementations, with one face: bytes in, bytes out.

The reference stands in `tests/reference/` and is written from
docs/reference/secure-aggregation-wire.md. Tests load this file by its path.
"""

import hashlib
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from choral.crypto import signatures
from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg.client import Client
from choral.secagg.parameters import Parameters, Suite
from choral.secagg.ports import MemoryOnce
from choral.testing.fakes import SeededRand

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "tests" / "reference"
PAGE = ROOT / "docs" / "reference" / "secure-aggregation-wire.md"
FROZEN = json.loads((Path(__file__).parent / "vectors" / "transcript.json").read_text())


def load(name):
    sys.path.insert(0, str(REFERENCE))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(REFERENCE))


p, w = load("secagg_primitives"), load("secagg_wire")
rc, rs = load("secagg_client"), load("secagg_server")

STEPS = ["secagg advertise", "secagg bundle", "secagg masked", "secagg consent", "secagg unmask"]
NEVER = 9
PAIRS = [
    ("reference", "reference"),
    ("reference", "product"),
    ("product", "reference"),
    ("reference", "mixed"),
    ("product", "mixed"),
]


class Bytes:
    """Seeded bytes for inputs of tests."""

    def __init__(self, *name):
        self.name = repr(name).encode()
        self.count = 0

    def token(self, size):
        self.count += 1
        return hashlib.shake_256(self.name + self.count.to_bytes(8, "little")).digest(size)

    def below(self, limit):
        return int.from_bytes(self.token(8), "little") % limit


# --- parties: bytes in, bytes out -----------------------------------------------------------------


class ProductClient:
    def __init__(self, world, name, rand, once=None):
        self.world = world
        self.spool = []
        self.machine = Client(
            world.sites[name],
            world.expected,
            rand=rand,
            once=MemoryOnce() if once is None else once,
            source=lambda: world.chunks(world.vectors[name].copy()),
            sink=SimpleNamespace(write=lambda chunk: self.spool.append(chunk.copy())),
        )
        self.counted = False

    @property
    def stopped(self):
        return self.machine.phase == "stopped"

    def receive(self, raw):
        replies = []
        for command in self.machine.receive(raw):
            match command:
                case cmd.Send(message):
                    replies.append((msg.encode(message), None))
                case cmd.Upload(message):
                    packed = b"".join(bytes(self.world.encoding.ring.pack(c)) for c in self.spool)
                    replies.append((msg.encode(message), packed))
                case cmd.Counted():
                    self.counted = True
        return replies


def reference_client(world, name, rand, durable):
    site, expected = world.sites[name], world.expected
    return rc.new_client(
        {
            "client": name,
            "seed": site.key and bytes(site.key._secret.expose()),
            "enrolment": site.enrolment,
            "authority": site.authority,
            "coordinator": site.server,
            "min_cohort": site.min_cohort,
            "suites": {str(s) for s in site.suites},
            "min_corrupt": site.min_corrupt,
            "max_sums": site.max_sums,
        },
        {
            "run_id": expected.run_id,
            "round": expected.round,
            "models": list(expected.models),
            "plan": expected.plan,
            "encoding": context_of(world)["encoding"],
            "beacon": expected.beacon,
        },
        world.vectors[name].tolist(),
        rand.token,
        durable,
    )


class ReferenceClient:
    def __init__(self, world, name, rand, durable=None):
        self.state = reference_client(world, name, rand, {} if durable is None else durable)

    def receive(self, raw):
        return rc.receive(self.state, raw)

    @property
    def stopped(self):
        return self.state.stopped is not None

    @property
    def counted(self):
        return self.state.counted


class Twins:
    """A client of each kind with the same secrets: whatever comes, they answer the same bytes."""

    def __init__(self, world, name, seed, memory=None):
        once, durable = memory or (MemoryOnce(), {})
        self.product = ProductClient(world, name, SeededRand(seed), once)
        self.reference = ReferenceClient(world, name, SeededRand(seed), durable)
        self.complaints = []

    def receive(self, raw):
        first, second = self.product.receive(raw), self.reference.receive(raw)
        assert readable(first) == readable(second)
        assert first == second
        assert self.product.stopped == self.reference.stopped
        assert self.product.counted == self.reference.counted
        read = readable(first)
        self.complaints += [m["reason"] for label, m in read if label == "secagg complaint"]
        return first

    @property
    def counted(self):
        return self.product.counted


def readable(replies):
    return [w.read_message(raw) for raw, _ in replies]


class ProductServer:
    def __init__(self, world):
        self.world, self.machine = world, world.server
        self.total = self.survivors = self.result = None
        self.over = False
        self.rejected = []

    def start(self):
        return self._told(self.machine.receive(cmd.Start()))

    def close(self):
        before = self.machine.phase
        told = self._told(self.machine.receive(cmd.Close()))
        if self.machine.phase == before and not self.over:
            told += self._told(self.machine.receive(cmd.GiveUp()))
        return told

    def receive(self, sender, raw, vector):
        if vector is None:
            return self._told(self.machine.receive(cmd.Received(sender, raw)))
        chunks = self.world.chunks(self.world.encoding.ring.unpack(vector))
        event = cmd.Uploaded(sender, msg.decode(raw), lambda: chunks)
        return self._told(self.machine.receive(event))

    def _told(self, commands):
        told = []
        for command in commands:
            match command:
                case cmd.Tell(client, message):
                    told.append((client, msg.encode(message)))
                case cmd.Reject(client, reason, about) | cmd.Accused(client, reason, about):
                    self.rejected.append((client, str(reason), about))
                case cmd.Summed():
                    self.total = bytes(self.world.encoding.ring.pack(command.total))
                    self.survivors = list(command.survivors)
                    self.result = w.read("secagg result", msg.encode(command.result))
                    self.over = True
                case cmd.Abandon():
                    self.over = True
        return told


def reference_server(world):
    seed = bytes(world.server_key._secret.expose()) if world.signed else None
    public, beacon = world.authority.public, world.expected.beacon
    return ReferenceServer(rs.new_server(context_of(world), world.ids, seed, public, beacon))


class ReferenceServer:
    def __init__(self, state):
        self.state = state

    def start(self):
        return rs.start(self.state)

    def close(self):
        return rs.close(self.state)

    def receive(self, sender, raw, vector):
        rs.receive(self.state, sender, raw, vector)
        return []

    @property
    def over(self):
        return self.state.result is not None or self.state.aborted is not None

    total = property(lambda self: self.state.total)
    survivors = property(lambda self: self.state.survivors)
    result = property(lambda self: self.state.result)


class TwinServers:
    """A coordinator of each kind: whatever comes, they send the same bytes."""

    def __init__(self, world):
        self.product, self.reference = ProductServer(world), reference_server(world)

    def start(self):
        return self._same(self.product.start(), self.reference.start())

    def close(self):
        return self._same(self.product.close(), self.reference.close())

    def receive(self, sender, raw, vector):
        ended = self.product.over
        told = self.product.receive(sender, raw, vector)
        self.reference.receive(sender, raw, vector)
        if not ended and (told or self.product.over):  # the step is over for the product
            return self._same(told, self.reference.close())
        return told

    def _same(self, first, second):
        assert first == second
        assert self.product.over == self.reference.over
        assert self.product.total == self.reference.total
        assert self.product.rejected == self.reference.state.rejected
        return first

    over = property(lambda self: self.product.over)
    total = property(lambda self: self.product.total)
    survivors = property(lambda self: self.product.survivors)
    result = property(lambda self: self.product.result)


def context_of(world):
    return w.read("choral secagg context v1", world.context.raw)


def same(name, raw):
    return raw


def play(server, clients, *, lost=None, log=None, change=same, cheat=same):
    """Run an attempt; `lost` maps a client to the step from which on it is not heard."""
    lost, log = lost or {}, [] if log is None else log
    outbox = server.start()
    for _ in range(20):
        waiting, outbox = outbox, []
        for name, sent in waiting:
            raw = change(name, sent)
            log.append([">", name, raw.hex()])
            for reply, vector in clients[name].receive(raw):
                label = w.read_message(reply)[0]
                step = STEPS.index(label) if label in STEPS else 0
                if step < lost.get(name, NEVER):
                    said = cheat(name, reply)
                    log.append(["<", name, said.hex()])
                    outbox += server.receive(name, said, vector)
        if server.over and not outbox:
            break
        if not outbox:
            outbox = server.close()
    return log


GRAPH = Parameters(Suite.GRAPH, 129, 8, 5, 0.0, 0.0, 80)
CURIOUS = Parameters(Suite.SEMI_HONEST, 12, 4, 3, 0.0, 1 / 12, 40)
BEACON = b"drawn in public"
KINDS = {
    "full": {"n": 4, "size": 5},
    "full of 7": {"n": 7, "size": 3, "modulus": 64},
    "semi-honest": {"n": 4, "semi_honest": True, "size": 5, "modulus": 24},
    "semi-honest graph": {"n": 12, "parameters": CURIOUS, "size": 4, "modulus": 16, "bits": 8},
    "graph": {"n": 129, "parameters": GRAPH, "size": 4},
    "graph with a beacon": {
        "n": 129,
        "parameters": replace(GRAPH, beacon=True),
        "size": 4,
        "beacon": BEACON,
    },
}


def cohort(world, kind):
    """A product world of one kind, with an encoding of its own."""
    given = dict(KINDS[kind])
    built = world(given.pop("n"), **given)
    generator = 1 if kind.startswith("full") else 2
    weight_at = 2 if "graph" in kind else built.size
    return encode_as(built, generator=generator, weight_at=weight_at)


def encode_as(built, **changes):
    encoding = replace(built.encoding, **changes)
    built.encoding, built.expected = encoding, replace(built.expected, encoding=encoding)
    built.context = replace(built.context, encoding=encoding)
    built.begin()
    return built


def parties(built, servers, clients, seed=1):
    server = {"product": ProductServer, "reference": reference_server}[servers](built)
    kinds = {
        "product": [ProductClient],
        "reference": [ReferenceClient],
        "mixed": [ReferenceClient, ProductClient],
    }[clients]
    rand = SeededRand(seed)
    made = {name: kinds[i % len(kinds)](built, name, rand) for i, name in enumerate(built.ids)}
    return server, made


def check_sum(built, server, clients, lost):
    """The sum is exact, the result is signed, and every survivor that stayed was counted."""
    assert server.total is not None
    wanted = [name for name in built.ids if lost.get(name, NEVER) > 2]
    assert server.survivors == wanted
    total = built.total(wanted)
    packed = bytes(built.encoding.ring.pack(total))
    assert server.total == packed
    result = server.result
    leaves = [w.standing_leaf(name, name in wanted) for name in built.ids]
    if all(step > 0 for step in lost.values()):
        assert result["root"] == p.tree_root(leaves)
    assert (result["count"], result["total"]) == (len(wanted), p.sha256(packed))
    at = built.encoding.weight_at
    assert result["weight"] == (int(total[at]) if at < built.size else 0)
    said = w.say_result(result)
    if built.signed:
        assert p.verifies(built.server_key.public, said, result["signature"])
        signatures.verify(built.server_key.public, said, result["signature"])
    else:
        assert result["signature"] == b""
    for name in wanted:
        if name not in lost:
            assert clients[name].counted


def broken(raw, chance):
    """Flip, cut out, or double a few bytes somewhere."""
    at, size = chance.below(len(raw)), 1 + chance.below(9)
    middle = [
        bytes([raw[at] ^ (1 << chance.below(8))]) + raw[at + 1 : at + size],
        b"",
        raw[at : at + size] * 2,
    ][chance.below(3)]
    return raw[:at] + middle + raw[at + size :]
