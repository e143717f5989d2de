"""Keys and shares go when they must: after each step, at the end, and wherever a client stops."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from choral.crypto import agreement
from choral.crypto.shamir import SHARE_SIZE
from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg import statements


def load(name):
    """Return a module of this folder that is no test."""
    if name not in sys.modules:
        path = Path(__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


watching = load("watching")
VICTIM, PUBLIC, PIECE = watching.VICTIM, watching.PUBLIC, watching.PIECE


@pytest.fixture
def watched(world, monkeypatch):
    """Return a function that builds a watched world."""

    def build(**options):
        return watching.Watched(world, monkeypatch, **options)

    return build


class Walk:
    """One client's secrets, noted while they are there, and asked for after each step."""

    def __init__(self, seen, name=VICTIM):
        self.seen, self.name = seen, name
        self.client = seen.w.clients[name]
        self.c = self.s = self.b = self.own = None
        self.pair = []
        self.phases = []
        inner = self.client.receive

        def receive(event):
            commands = inner(event)
            self.note()
            self.phases.append(str(self.client.phase))
            self.check(str(self.client.phase))
            return commands

        self.client.receive = receive

    def note(self):
        c = self.client
        if c.phase == "advertised":
            self.c = bytes(c._transport.secret.expose())
            self.s = bytes(c._mask.secret.expose())
        if c.phase == "shared":
            self.b = bytes(c._seed.expose())
            self.pair = [bytes(s.expose()) for s in c._shared.values()]
            self.own = bytes(c._held[self.name]._plain)

    def has(self, value):
        return value is not None and value[:PIECE] in watching.raw_of(self.client)

    def dealt(self):
        """Return the shares that this client made for others."""
        plains = {plain for dealer, plain in self.seen.spy.plains if dealer == self.name}
        return plains - {self.own}

    def others(self):
        """Return the shares that others made for this client, and that it has opened."""
        mine = [held for held in self.client._held.values() if held.dealer != self.name]
        return [bytes(held._plain) for held in mine]

    def check(self, phase):
        early = phase in {"advertised", "shared"}
        assert self.has(self.c) is early
        assert self.has(self.s) is early
        assert self.has(self.b) is (phase == "shared")
        assert all(self.has(value) is (phase == "shared") for value in self.pair)
        assert not any(self.has(plain) for plain in self.dealt())
        if phase in {"masked", "consented"}:
            assert len(self.others()) == 3
            assert self.has(self.own)
            assert len(self.seen.spy.left(self.name)) == 0
        if phase in {"unmasked", "counted"}:
            self.check_answers()
        if phase in {"ended", "stopped"}:
            assert not self.has(self.own)
            for share in self.seen.revealed:
                assert not self.has(share)

    def check_answers(self):
        """Only what was revealed stays, to be said again."""
        assert not self.client._held
        raw = watching.raw_of(self.client)
        for _, plain in self.seen.spy.plains:
            for share in (plain[:SHARE_SIZE], plain[SHARE_SIZE : 2 * SHARE_SIZE]):
                hidden = share not in self.seen.revealed and any(share)
                assert not (hidden and share in raw)


def test_secrets_go_when_they_are_no_longer_needed(watched):
    seen = watched()
    walk = Walk(seen)
    seen.run()
    assert walk.phases == ["advertised", "shared", "masked", "consented", "unmasked", "counted"]
    assert watching.raw_of(walk.client)
    assert walk.has(next(iter(seen.revealed & set(unmasked_by(seen, VICTIM)))))
    assert not seen.spy.left(VICTIM)


def test_revealed_shares_go_once_the_attempt_is_over(watched):
    """The result is there and the lease has ended: nobody asks for them again."""
    seen = watched().run()
    client = seen.w.clients[VICTIM]
    assert client.phase == "counted"
    client.receive(cmd.Ended())
    held = watching.raw_of(client)
    assert not [share for share in unmasked_by(seen, VICTIM) if share in held]


def unmasked_by(seen, name):
    for _, who, raw in seen.w.log:
        m = msg.decode(raw)
        if who == name and isinstance(m, msg.Unmask):
            return [r.share for r in m.revealed]
    return []


@pytest.mark.parametrize("after", ["advertised", "shared", "masked", "consented", "unmasked"])
@pytest.mark.parametrize("how", ["ended", "stopped"])
def test_secrets_go_at_the_end_whenever_it_comes(watched, after, how):
    """The lease runs out, or the client refuses, in any phase."""
    seen = watched()
    walk = Walk(seen)
    inner = walk.client.receive
    last = cmd.Ended() if how == "ended" else b"no message"

    def receive(event):
        commands = inner(event)
        return (*commands, *inner(last)) if walk.client.phase == after else commands

    walk.client.receive = receive
    seen.run()
    assert walk.client.phase == how
    assert walk.phases[-2:] == [after, how] or walk.phases[-1] == how
    watching.assert_victim_is_clean(seen)


def test_the_server_erases_what_it_puts_together(watched):
    """Seeds of survivors and the key of a lost client are gone once the sum is there."""
    seen = watched()
    seen.w.drop({"c002": 2})
    seen.run()
    made = [k for k in seen.spy.kept if k.owner == "server"]
    assert len(made) > 4
    seen.w.assert_exact()
    assert not [k for k in seen.spy.left("server") if k.value not in PUBLIC]


def test_a_key_of_low_order_found_late_leaves_nothing(watched, monkeypatch):
    """Nobody looks at the list, and a client notices when it makes its masks."""
    seen = watched()
    w = seen.w

    def forward(client, m):
        if client == "c003" and isinstance(m, msg.Advertise):
            m = replace(m, mask=bytes(32))
            what = statements.advertise(w.context.h0, m)
            w.clients[client]._advertise = m = replace(m, signature=w.keys[client].sign(what))
        return m

    w.forward = forward
    monkeypatch.setattr(agreement, "LOW_ORDER", frozenset())
    seen.run()
    assert w.stopped[VICTIM].reason == "bad_public_key"
    watching.assert_victim_is_clean(seen)


def test_a_server_that_blames_a_dealer_erases_what_it_put_together(watched, monkeypatch):
    seen = watching.blaming(watched, monkeypatch)
    assert not [k for k in seen.spy.left("server") if k.value not in PUBLIC]


def test_the_same_draws_give_other_secrets_in_no_attempt(watched):
    """A second attempt shares no secret with the first but the long-term keys."""
    seen = watched()
    seen.w.drop({"c001": 2, "c002": 2})
    seen.run()
    first = {k.value for k in seen.spy.kept if k.owner in seen.w.ids}
    count = len(seen.spy.kept)
    seen.w.drop({})
    seen.begin(attempt=2)
    seen.run()
    second = {k.value for k in seen.spy.kept[count:] if k.owner in seen.w.ids}
    assert second
    assert not first & second
    seen.w.assert_exact()
