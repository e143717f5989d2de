"""Secrets and vectors never show: over whole attempts, refused ones, too.

A spy notes every secret that any party ever held, every share, and every vector. Then everything
that left a party or can be printed is searched for them, in any spelling.
"""

import base64
import importlib.util
import logging
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from choral.core.errors import ChoralError
from choral.secagg import client as client_module
from choral.secagg import commands as cmd
from choral.secagg import context as context_module
from choral.secagg import messages as msg
from choral.secagg import server as server_module
from choral.secagg import shares, statements
from choral.secagg.parameters import Parameters, Suite
from choral.secagg.roster import standings


def load(name):
    """Return a module of this folder that is no test."""
    if name not in sys.modules:
        path = Path(__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


watching = load("watching")
VICTIM = watching.VICTIM


@pytest.fixture
def watched(world, monkeypatch, caplog):
    """Return a function that builds a watched world, with all logging caught."""
    caplog.set_level(logging.DEBUG)

    def build(**options):
        return watching.Watched(world, monkeypatch, **options)

    return build


# --- the search itself can fail -------------------------------------------------------------------


SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        bytearray(b"head" + SECRET + b"tail"),
        repr(SECRET),
        SECRET.hex(),
        f"key={SECRET.hex().upper()}",
        SECRET.hex(":"),
        SECRET[::-1].hex(),
        base64.b64encode(SECRET).decode(),
        base64.b64encode(b"1" + SECRET).decode(),
        base64.b64encode(b"12" + SECRET).decode(),
        base64.urlsafe_b64encode(SECRET).decode(),
        repr(list(SECRET)),
        str(np.frombuffer(SECRET, np.uint8)),
        str(int.from_bytes(SECRET, "big")),
        repr({"a": int.from_bytes(SECRET, "little")}),
        SECRET[:16].hex(),
        SECRET[16:],
    ],
)
def test_the_search_finds_every_spelling(shown):
    pile = watching.Pile()
    pile.add(shown)
    assert pile.shows(SECRET)
    assert not pile.shows(bytes(reversed(range(32))))


def test_the_spy_finds_a_secret_that_is_sent(watched, monkeypatch):
    """Positive control: a commitment that is the seed itself."""
    monkeypatch.setattr(statements, "commitment", lambda h1, seed: bytes(seed))
    seen = watched().run()
    with pytest.raises(AssertionError):
        seen.assert_nothing_shows()


def test_the_spy_finds_a_share_that_is_printed(watched, monkeypatch):
    monkeypatch.setattr(shares.Held, "__repr__", lambda self: f"Held({self._plain})")
    seen = watched().run()
    with pytest.raises(AssertionError):
        seen.assert_nothing_shows()


def test_the_spy_finds_a_vector_that_is_not_masked(watched, monkeypatch):
    monkeypatch.setattr(client_module.Client, "_masks", lambda *_: [])
    seen = watched().run()
    with pytest.raises(AssertionError):
        seen.assert_nothing_shows()


# --- attempts that reach their end ----------------------------------------------------------------


def small_graph():
    """Return a graph that is too small to be safe."""
    return Parameters(Suite.GRAPH, 6, 4, 3, 0.0, 0.0, 80)


def all_there(seen):
    """Check that the spy was there: a seed, two keys and their shared secrets for each client."""
    owners = {k.owner for k in seen.spy.kept}
    assert owners >= {"before", "server", *seen.w.ids} - (
        {"server"} if not seen.w.summed else set()
    )
    assert len(seen.spy.plains) >= len(seen.w.ids) * 2


@pytest.mark.parametrize("suite", ["full", "semi_honest", "graph"])
def test_nothing_shows_where_everybody_stays(watched, monkeypatch, caplog, capfd, suite):
    monkeypatch.setattr(context_module, "verify", lambda parameters: None)
    monkeypatch.setattr(Parameters, "side_floor", 1)
    graph = {"n": 6, "parameters": small_graph()} if suite == "graph" else {}
    seen = watched(semi_honest=suite == "semi_honest", size=64, chunk=20, **graph).run()
    seen.w.assert_exact()
    all_there(seen)
    seen.pile.add(caplog.text)
    seen.pile.add("".join(capfd.readouterr()))
    seen.assert_nothing_shows()
    assert seen.hidden_shares()


@pytest.mark.parametrize("step", range(5))
def test_nothing_shows_where_one_is_lost(watched, caplog, step):
    """The key of a lost client is put together by the server: it does not show either."""
    seen = watched()
    seen.w.drop({"c002": step})
    seen.run()
    seen.w.assert_exact()
    seen.pile.add(caplog.text)
    seen.assert_nothing_shows()


def test_revealed_shares_show_where_they_are_revealed_and_nowhere_else(watched):
    """Of each dealer one kind, in the message of the holder that reveals it, and in no other."""
    seen = watched()
    seen.w.drop({"c002": 2})
    seen.run()
    revealing = {}
    for way, who, raw in seen.w.log:
        m = msg.decode(raw)
        if isinstance(m, msg.Unmask):
            assert way == "<"
            for r in m.revealed:
                assert (r.kind is msg.Kind.MASK_KEY) is (r.dealer == "c002")
                revealing[r.share] = who
    assert len(revealing) == 3 * 4
    for _, who, raw in seen.w.log:
        for share, holder in revealing.items():
            assert share not in raw or (who == holder and isinstance(msg.decode(raw), msg.Unmask))


def test_a_replay_of_the_unmasking_shows_no_other_share(watched):
    seen = watched().run()
    before = set(seen.revealed)
    again = [raw for way, who, raw in seen.w.log if way == ">" and who == VICTIM]
    for raw in again:
        seen.w.clients[VICTIM].receive(raw)
    assert seen.revealed == before
    seen.assert_nothing_shows()


# --- attempts that are refused --------------------------------------------------------------------


def blank(value):
    """Return a value of the same shape that says something else."""
    if isinstance(value, bytes):
        return bytes(len(value)) or b"\1"
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return "other"
    if isinstance(value, tuple) and value:
        return (changed(value[0], 0) if is_dataclass(value[0]) else blank(value[0]), *value[1:])
    return value


def changed(message, place):
    """Return a message with one of its fields changed."""
    field = fields(message)[place]
    value = getattr(message, field.name)
    new = changed(value, 2) if is_dataclass(value) else blank(value)
    return replace(message, **{field.name: new})


CHANGES = [
    (kind, place)
    for kind in (
        msg.Invitation, msg.Roster, msg.Deliveries, msg.Survivors, msg.Consents, msg.Result,
    )
    for place in range(len(fields(kind)))
]  # fmt: skip


@pytest.mark.parametrize(("kind", "place"), CHANGES)
def test_nothing_shows_where_a_client_refuses(watched, caplog, kind, place):
    seen = watched()
    w = seen.w
    w.toward = lambda client, m: (
        changed(m, place) if client == VICTIM and isinstance(m, kind) else m
    )
    seen.run()
    assert w.stopped[VICTIM]
    seen.pile.add(caplog.text)
    watching.assert_victim_is_clean(seen)
    watching.assert_no_locals_show(seen)


def test_nothing_shows_where_shares_are_bad(watched, monkeypatch):
    """A bad tag and a bad share are complained about, and both go on."""
    inner = client_module.seal

    def seal(held, shared, *, holder, h1):
        if (held.dealer, holder) == ("c001", VICTIM):
            held._plain[0] ^= 1
        sealed = inner(held, shared, holder=holder, h1=h1)
        return bytes(len(sealed)) if (holder, held.dealer) == (VICTIM, "c002") else sealed

    monkeypatch.setattr(client_module, "seal", seal)
    seen = watched(n=6, min_cohort=3).run()
    seen.w.assert_exact()
    said = [msg.decode(raw) for _, who, raw in seen.w.log if who == VICTIM]
    assert {m.about for m in said if isinstance(m, msg.Complaint)} == {"c001", "c002"}
    seen.assert_nothing_shows()


def two_survivor_sets(w):
    """Ask the victim once more, with another set."""

    def toward(client, m):
        if client == VICTIM and isinstance(m, msg.Consents):
            tree, entries = standings(w.ids, frozenset(w.ids[:3]))
            return msg.Survivors(3, tree.root, entries)
        return m

    w.toward = toward


def wrong_source(chunks):
    def prepare(w):
        w.clients[VICTIM]._source = lambda: chunks(w.vectors[VICTIM].copy())

    return prepare


def garbage(raw):
    def prepare(w):
        inner = w.tell

        def tell(client, m):
            if client == VICTIM and isinstance(m, msg.Deliveries):
                w.client_does(client, w.clients[client].receive(raw))
            inner(client, m)

        w.tell = tell

    return prepare


REFUSALS = [
    two_survivor_sets,
    wrong_source(lambda v: [v[:2]]),
    wrong_source(lambda v: [v, v]),
    wrong_source(lambda v: [v.astype(np.uint64)]),
    wrong_source(lambda v: [v.astype(np.float32)]),
    wrong_source(lambda v: [v.reshape(1, -1)]),
    garbage(b""),
    garbage(b"\0\1\2"),
    garbage(SECRET * 4),
]


@pytest.mark.parametrize("prepare", REFUSALS)
def test_nothing_shows_where_a_client_stops_by_itself(watched, caplog, prepare):
    seen = watched()
    prepare(seen.w)
    seen.run()
    assert seen.w.stopped[VICTIM]
    seen.pile.add(caplog.text)
    watching.assert_victim_is_clean(seen)
    watching.assert_no_locals_show(seen)


class Broken(Exception):
    pass


@pytest.mark.parametrize("port", ["source", "sink", "rand", "once"])
def test_nothing_shows_where_a_port_breaks(watched, port):
    """What a port raises is its own; the masks are erased and the end erases the rest."""

    def fail(*_args, **_kwargs):
        raise Broken("no space left on device")

    seen = watched()
    client = seen.w.clients[VICTIM]
    broken = {
        "source": {"_source": fail},
        "sink": {"_sink": type("Sink", (), {"write": fail})()},
        "rand": {"_rand": type("Rand", (), {"token": fail})()},
        "once": {"_store": type("Once", (), {"read": fail, "claim": fail, "advance": fail})()},
    }[port]
    for name, value in broken.items():
        setattr(client, name, value)
    with pytest.raises(Broken):
        seen.run()
    client.receive(cmd.Ended())
    seen.collect()
    seen.pile.add(repr(client))
    for value in seen.spy.values():
        assert not seen.pile.shows(value)
    assert not seen.spy.left(VICTIM)


def test_nothing_shows_where_the_port_of_randomness_gives_too_little(watched):
    seen = watched()
    seen.w.clients[VICTIM]._rand = type("Rand", (), {"token": lambda _, size: SECRET[: size - 1]})()
    seen.run()
    assert seen.w.stopped[VICTIM]
    assert not seen.pile.shows(SECRET[:-1])


def test_an_element_that_is_no_element_does_not_show(watched):
    seen = watched(modulus=24, bits=12)
    seen.w.vectors = {name: v % 2**24 for name, v in seen.w.vectors.items()}
    seen.w.vectors[VICTIM] = np.full(5, 3_000_000_019, np.uint32)
    seen.run()
    assert not seen.pile.shows_element(3_000_000_019)


def test_a_server_that_blames_a_dealer_shows_nothing(watched, monkeypatch):
    watching.blaming(watched, monkeypatch).assert_nothing_shows()


def test_a_server_that_breaks_in_the_middle_shows_nothing(watched, monkeypatch):
    def unmask(self, total):
        raise ChoralError("interrupted")

    monkeypatch.setattr(server_module.Recovery, "unmask", unmask)
    seen = watched().run()
    assert seen.w.abandoned.reason == "unmasking failed: interrupted"
    seen.assert_nothing_shows()
