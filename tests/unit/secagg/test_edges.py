"""Edges: of the threshold, of the ring, of a chunk, and of the time at which a message comes."""

from dataclasses import replace

import numpy as np
import pytest

from choral.core.keys import Key
from choral.crypto.fixed_point import MAX_BITS, FixedPoint
from choral.crypto.prg import BUFFER_SIZE
from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg.client import Client, Phase
from choral.secagg.parameters import find
from choral.secagg.refusals import Breach
from choral.secagg.server import Server
from choral.testing.fakes import SeededRand

MODULI = [16, 24, 32, 64]


# --- t - 1, t, t + 1 ------------------------------------------------------------------------------


@pytest.mark.parametrize("semi_honest", [False, True])
@pytest.mark.parametrize("n", [3, 4, 6, 9])
@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("step", range(5))
def test_one_less_than_the_threshold_is_no_sum(world, n, semi_honest, extra, step):
    t = find(n, semi_honest=semi_honest, dropout=0).t
    left = t + extra
    if left > n or (semi_honest and step == 3):
        return
    w = world(n, semi_honest=semi_honest)
    w.drop(dict.fromkeys(w.ids[: n - left], step)).run()
    if w.summed is None and step == 4:  # it waits for shares; its driver need not
        w.server_does(w.server.receive(cmd.GiveUp()))
    assert (w.summed is None) is (extra < 0)
    assert (w.abandoned is None) is (extra >= 0)
    if extra >= 0:
        w.assert_exact()
        assert len(w.summed.survivors) == (left if step < 3 else n)
        assert w.summed.result.count == len(w.summed.survivors)


# --- the ends of the ring -------------------------------------------------------------------------


def tightest(modulus, n):
    """Return the most bits a coordinate may have in a sum of n clients."""
    return min(MAX_BITS, modulus - (n - 1).bit_length() - 1)


@pytest.mark.parametrize("modulus", MODULI)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("ends", ["plus", "minus", "both"])
def test_everybody_at_the_clip(world, modulus, n, ends):
    """All at +C, all at -C, or coordinates of either sign: the sum is n C, to the bit."""
    w = world(n, size=6, chunk=4, modulus=modulus, bits=tightest(modulus, n))
    fixed = FixedPoint(w.encoding.ring, w.encoding.bits, w.encoding.clip)
    signs = {"plus": [1.0] * 6, "minus": [-1.0] * 6, "both": [1.0, -1.0] * 3}[ends]
    x = np.array(signs) * fixed.clip * 1.5  # beyond C: the clip holds it
    for i, name in enumerate(w.ids):
        fixed.encode_into(x, w.vectors[name], start=0, key=Key.root(i), weight=1.0)
    w.run().assert_exact()
    total = w.summed.total
    wanted = np.array(signs) * n * fixed.limit
    np.testing.assert_array_equal(w.encoding.ring.centred(total), wanted.astype(np.int64))
    np.testing.assert_array_equal(fixed.decode(total, count=n, slack=0), wanted * fixed.grid)


@pytest.mark.parametrize("modulus", [16, 24, 32])
@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_one_bit_more_is_refused_before_the_first_message(world, modulus, n):
    with pytest.raises(Breach, match="sum_could_overflow"):
        world(n, modulus=modulus, bits=tightest(modulus, n) + 1)


@pytest.mark.parametrize("modulus", MODULI)
def test_every_element_at_the_end_of_the_ring(world, modulus):
    """Ring arithmetic itself wraps around exactly, whatever a client puts in."""
    w = world(5, size=7, modulus=modulus, bits=8)
    ring = w.encoding.ring
    ends = [0, 1, 2 ** (modulus - 1) - 1, 2 ** (modulus - 1), 2**modulus - 1, 7, 0]
    for name in w.ids:
        w.vectors[name] = np.array(ends, ring.dtype)
    w.run().assert_exact()
    wanted = [5 * e % 2**modulus for e in ends]
    assert w.summed.total.tolist() == wanted


# --- lengths --------------------------------------------------------------------------------------


def cut(vector, sizes):
    """Return a vector in chunks of these sizes, over and over."""
    chunks, at, i = [], 0, 0
    while at < vector.size:
        size = sizes[i % len(sizes)]
        chunks.append(vector[at : at + size])
        at, i = at + size, i + 1
    return chunks


class Uneven:
    """A world in which every client cuts its vector in its own way."""

    WAYS = ((1,), (3, 0, 2), (1 << 20,), (7,), (0, 0, 1, 5))

    @classmethod
    def of(cls, world, n, *, generator=1, **options):
        w = world(n, **options)
        encoding = replace(w.encoding, generator=generator)
        w.encoding, w.expected = encoding, replace(w.expected, encoding=encoding)
        w.context = replace(w.context, encoding=encoding)
        inner = w.client

        def client(name):
            made = inner(name)
            way = cls.WAYS[w.ids.index(name) % len(cls.WAYS)]
            made._source = lambda: cut(w.vectors[name].copy(), way)
            return made

        w.client = client
        w.begin()
        return w


@pytest.mark.parametrize("generator", [1, 2])
@pytest.mark.parametrize("modulus", MODULI)
@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 40])
def test_any_cuts_of_any_length(world, size, modulus, generator):
    w = Uneven.of(world, 5, size=size, modulus=modulus, bits=12, generator=generator)
    w.run().assert_exact()
    assert w.summed.survivors == w.ids
    assert w.summed.total.size == size


@pytest.mark.parametrize("modulus", MODULI)
@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("generator", [1, 2])
def test_a_buffer_of_the_generator_and_one_around_it(world, modulus, off, generator):
    """The key stream is made in buffers; chunks shorter and longer than one give the same masks."""
    held = world(2, modulus=modulus, bits=12).encoding.ring.dtype.itemsize
    edge = BUFFER_SIZE // held
    w = world(3, size=edge + off, chunk=edge, modulus=modulus, bits=12)
    encoding = replace(w.encoding, generator=generator)
    w.encoding, w.expected = encoding, replace(w.expected, encoding=encoding)
    w.context = replace(w.context, encoding=encoding)
    w.begin()
    ways = iter([(edge - 1,), (edge + 1,), (1, edge)])
    w.chunks = lambda vector: cut(vector, next(ways))
    w.run().assert_exact()


@pytest.mark.parametrize("wrong", ["a chunk too few", "an element too many", "nothing"])
def test_a_source_of_another_length_ends_the_clients_part(world, wrong):
    """Nothing of a wrong vector leaves the client."""
    w = world(4, size=5, chunk=3)
    pieces = {
        "a chunk too few": lambda: [w.vectors["c001"][:3].copy()],
        "an element too many": lambda: [w.vectors["c001"].copy(), w.vectors["c001"][:1].copy()],
        "nothing": list,
    }
    w.clients["c001"]._source = pieces[wrong]
    w.run().assert_exact()
    assert w.stopped["c001"].reason == "wrong_vector"
    assert "c001" not in w.summed.survivors
    assert "c001" not in dict(vectors_of(w))


# --- early, late, twice ---------------------------------------------------------------------------


def alone(w, name, spool):
    """Return a client whose randomness is its own, so that it can be played again."""
    return Client(
        w.sites[name],
        w.expected,
        rand=SeededRand(w.ids.index(name) + 100),
        once=type(w.once[name])(),
        source=lambda: w.chunks(w.vectors[name].copy()),
        sink=spool,
    )


class Spool:
    def __init__(self):
        self.chunks = []

    def write(self, chunk):
        self.chunks.append(chunk.copy())


def recorded(world, n, **options):
    """Run once with repeatable clients; return the world, what the server took, and what c000 did.

    The first is a list of events, the second one of messages and answers.
    """
    w = world(n, **options)
    w.clients = {name: alone(w, name, w.spools[name]) for name in w.ids}
    events, heard = [], []
    take, hear = w.server.receive, w.clients["c000"].receive

    def receive(event):
        events.append(event)
        return take(event)

    def listen(raw):
        commands = hear(raw)
        heard.append((raw, commands))
        return commands

    w.server.receive, w.clients["c000"].receive = receive, listen
    w.run().assert_exact()
    return w, events, heard


def replay(w, events):
    """Return a new server's one end and what it rejected."""
    server = Server(
        w.context,
        w.ids,
        key=w.server_key if w.signed else None,
        authority=w.authority.public,
    )
    commands = [c for event in events for c in server.receive(event)]
    ends = [c for c in commands if isinstance(c, cmd.Summed | cmd.Abandon)]
    return ends, [c for c in commands if isinstance(c, cmd.Reject)]


@pytest.mark.parametrize("semi_honest", [False, True])
def test_every_message_to_the_server_at_every_other_moment(world, semi_honest):
    """Early it is not heard, late it is too late, twice it counts once: always the same sum."""
    w, events, _ = recorded(world, 3, semi_honest=semi_honest)
    tried = 0
    for message in events[1:]:
        for at in range(len(events) + 1):
            ends, rejected = replay(w, [*events[:at], message, *events[at:]])
            assert len(ends) == 1
            assert ends[0].result == w.summed.result
            assert ends[0].total.tobytes() == w.summed.total.tobytes()
            assert not rejected
            tried += 1
    assert tried == (len(events) - 1) * (len(events) + 1) > 80


@pytest.mark.parametrize("semi_honest", [False, True])
def test_every_message_to_a_client_at_every_other_moment(world, semi_honest):
    """Early it is not heard, later it gets the answer it got, or none once all is over."""
    w, _, heard = recorded(world, 3, semi_honest=semi_honest)
    messages = [raw for raw, _ in heard]
    kinds = [type(msg.decode(raw)) for raw in messages]
    answers = dict(heard)
    for extra in messages:
        for at in range(len(messages) + 1):
            spool = Spool()
            client = alone(w, "c000", spool)
            got = [client.receive(raw) for raw in messages[:at]]
            before = client.phase
            between = client.receive(extra)
            if kinds[messages.index(extra)] is msg.Result and before is Phase.CONSENTED:
                # The sum is out already: others were enough, and this client reveals nothing more.
                assert client.phase is Phase.COUNTED
                assert client.receive(messages[at]) == ()
                continue
            came = messages.index(extra)
            allowed = [answers[extra]] if came <= at else [()]
            assert between in (allowed if before is not Phase.COUNTED else [*allowed, ()])
            rest = [client.receive(raw) for raw in messages[at:]]
            if came == at:  # it was no repetition; the one in its own place is
                assert rest[0] in (between, ())
                rest[0] = between
            got += rest
            assert got == [answers[raw] for raw in messages]
            assert client.phase is Phase.COUNTED
            written = b"".join(c.tobytes() for c in spool.chunks)
            assert written == b"".join(c.tobytes() for c in w.spools["c000"].chunks)


@pytest.mark.parametrize("semi_honest", [False, True])
def test_messages_of_an_earlier_attempt_give_no_wrong_sum(world, semi_honest):
    """A vector that was late for one attempt arrives during the next one of the same round."""
    w = world(4, semi_honest=semi_honest).drop({"c000": 2, "c001": 2}).run()
    assert w.abandoned.reason == "too_few_vectors"
    old = [w.event(name, masked) for name, masked in vectors_of(w)]
    w.drop({}).begin(attempt=2)
    inner, told = w.tell, []

    def tell(client, message):
        if isinstance(message, msg.Deliveries) and not told:
            told.append(True)
            w.server_does(w.server.receive(old[-1]))
        inner(client, message)

    w.tell = tell
    w.run()
    if w.summed is not None:
        w.assert_exact()


def vectors_of(w):
    """Return who announced which vector, from the log."""
    said = [(who, msg.decode(raw)) for way, who, raw in w.log if way == "<"]
    return [(who, m) for who, m in said if isinstance(m, msg.Masked)]
