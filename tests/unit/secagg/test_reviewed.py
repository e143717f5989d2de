"""Faults that adversarial reviews found."""

import copy
import gc
import hashlib
from dataclasses import replace

import numpy as np
import pytest

from choral.core.errors import ConfigError, Refused
from choral.crypto.agreement import AgreementKey
from choral.crypto.secret import Secret
from choral.crypto.signatures import SigningKey
from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg import statements
from choral.secagg.graph import Graph
from choral.secagg.masking import Accumulator, Spoiled
from choral.secagg.parameters import Parameters, Suite, ThreatModel, find, verify
from choral.secagg.refusals import Breach, Reason
from choral.secagg.server import Phase, Server
from choral.secagg.shares import Held
from choral.secagg.site import Once
from choral.testing.fakes import SeededRand

# --- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weak",
    [
        Parameters(Suite.GRAPH, 5, 4, 3, 0.05, 0.1, 80),
        Parameters(Suite.GRAPH, 128, 127, 70, 0.05, 0.1, 80),
        Parameters(Suite.GRAPH, 1000, 999, 501, 0.0, 0.1, 80),
        Parameters(Suite.FULL, 100, 99, 67, 0.9, 0.0, 40),
        Parameters(Suite.SEMI_HONEST, 100, 99, 51, 0.9, 0.0, 40),
        replace(find(1000), k=97),
    ],
    ids=str,
)
def test_contexts_do_not_claim_what_they_lack(weak):
    with pytest.raises(Refused):
        verify(weak)


def test_no_random_graph_is_called_active():
    assert find(1000, beacon=True).threat_model is ThreatModel.SEMI_MALICIOUS


def test_a_graph_asks_for_most_of_its_cohort():
    assert find(1000).least_listed == 900
    assert find(100).least_listed == 2


@pytest.mark.parametrize("n", [129, 200, 1_000, 10_000, 100_000])
def test_a_stretch_of_helpers_is_no_side(n):
    p = find(n)
    half = p.k // 2
    assert 0 < p.side_floor <= half
    # fewer than t shares of the client at the edge, with as many helpers as may stand there
    helpers = max(g for g in range(half + 1) if 2 * g + 1 + half - p.t <= p.side_floor)
    assert half - p.side_floor + 1 + 2 * (helpers - 1) < p.t


def test_the_sides_of_a_place_are_its_neighbours():
    graph = Graph(50, 8, seed=bytes(32))
    for node in range(50):
        before, after = graph.sides(node)
        assert len(before) == len(after) == 4
        assert sorted((*before, *after)) == list(graph.neighbours(node))
    assert Graph(5, 4, seed=bytes(32)).sides(0) == ((), ())


# --- two attempts of one round --------------------------------------------------------------------


def test_a_later_attempt_silences_the_earlier_one(world):
    w = world(4)
    w.toward = lambda client, m: None if isinstance(m, msg.Consents) else m
    w.run()
    first, told = w.clients, w.told
    w.toward = lambda client, m: m if isinstance(m, msg.Invitation) else None
    w.begin(attempt=2)
    w.server_does(w.server.receive(cmd.Start()))
    for name, client in first.items():
        (sent, stopped) = client.receive(told[name][msg.Consents])
        assert isinstance(sent.message, msg.Complaint)
        assert stopped.breach.reason is Reason.SUPERSEDED


def test_attempts_of_a_round_are_one_sum_on_their_model(world):
    w = world(4)
    for attempt in (1, 2, 3, 4):
        w.toward = lambda client, m: None if isinstance(m, msg.Survivors) else m
        w.begin(attempt=attempt)
        w.run()
        assert not w.stopped
    w.toward = lambda client, m: m
    w.begin(attempt=5)
    w.run().assert_exact()


def test_a_sum_is_counted_before_the_vector_leaves(world):
    w = world(4)
    w.run()
    context = replace(w.context, round=9)
    site = replace(w.sites["c000"], max_sums=1)
    with pytest.raises(Refused, match=Reason.MODEL_CAP):
        Once(w.once["c000"], site, context).enter()


# --- the server stays up, and blames nobody for others --------------------------------------------


@pytest.mark.parametrize("phase", ["before", "after", "aborted"])
def test_garbage_at_any_time_costs_the_server_nothing(world, phase):
    w = world(4)
    if phase == "aborted":
        w.server.receive(cmd.Start())
        w.server.receive(cmd.GiveUp())
        assert w.server.phase is Phase.ABORTED
    elif phase == "after":
        w.drop({"c003": 4}).run()
    for raw in (b"", b"\0", b"x" * 99):
        assert w.server.receive(cmd.Received("c003", raw)) == ()


def test_a_dealer_of_garbage_ends_the_attempt_before_anyone_reveals(world):
    w = world(7)

    def forward(client, m):
        if client == "c000" and isinstance(m, msg.Bundle):
            sealed = tuple(bytes(len(s)) if i < 3 else s for i, s in enumerate(m.sealed))
            return replace(m, sealed=sealed)
        return m

    w.forward = forward
    w.run()
    assert w.abandoned.reason == "too_few_good_shares"
    assert w.abandoned.blamed == ("c000", "c001", "c002", "c003")
    assert {(by, about) for by, _, about in w.accused} == {
        ("c001", "c000"),
        ("c002", "c000"),
        ("c003", "c000"),
    }
    w.forward = lambda client, m: m
    w.begin(attempt=2)
    w.run().assert_exact()


def test_closing_early_at_the_end_waits_for_what_is_missing(world):
    w = world(4)
    held = []

    def forward(client, m):
        if isinstance(m, msg.Unmask) and client in {"c001", "c002"}:
            held.append((client, m))
            return None
        return m

    w.forward = forward
    w.server_does(w.server.receive(cmd.Start()))
    assert w.server.phase is Phase.UNMASKING
    assert w.server.receive(cmd.Close()) == ()
    for client, m in held:
        w.server_does(w.server.receive(w.event(client, m)))
    w.assert_exact()


def test_a_holder_that_holds_back_is_named(world):
    w = world(7)

    def forward(client, m):
        if isinstance(m, msg.Unmask) and client == "c001":
            kept = replace(m, revealed=m.revealed[1:])
            return replace(kept, signature=w.keys[client].sign(statements.unmask(w.h1, kept)))
        return m

    w.forward = forward
    w.run().assert_exact()
    assert w.rejected == [("c001", Reason.BAD_SHARE, "c001")]


def test_the_last_one_of_a_step_says_that_it_leaves(world):
    w = world(4)
    w.toward = lambda client, m: None if client == "c001" else m
    w.server_does(w.server.receive(cmd.Start()))
    bare = msg.Complaint("c001", Reason.JOINED, "", True, b"")
    told, *after = w.server.receive(cmd.Received("c001", msg.encode(bare)))
    assert told == cmd.Accused("c001", Reason.JOINED, "", ends=True)
    assert {type(c) for c in after} == {cmd.Tell}  # the next step has begun, and forgets it


def test_accusations_are_one_word_each_and_of_members(world):
    w = world(4)
    w.toward = lambda client, m: None if isinstance(m, msg.Roster) else m
    w.server_does(w.server.receive(cmd.Start()))

    def say(about):
        bare = msg.Complaint("c001", Reason.BAD_TAG, about, False, b"")
        what = statements.complaint(w.context.h0, bare)
        signed = replace(bare, signature=w.keys["c001"].sign(what))
        return w.server.receive(cmd.Received("c001", msg.encode(signed)))

    assert say("c002") == (cmd.Accused("c001", Reason.BAD_TAG, "c002"),)
    assert say("c002") == ()
    assert say("nobody") == (cmd.Accused("c001", Reason.BAD_TAG, ""),)
    forged = msg.Complaint("c001", Reason.BAD_TAG, "c003", False, bytes(64))
    (told, *_) = w.server.receive(cmd.Received("c001", msg.encode(forged)))
    assert told == cmd.Reject("c001", Reason.BAD_SIGNATURE, "c001")


def test_a_stranger_is_not_even_decoded(world):
    w = world(4)
    w.server.receive(cmd.Start())
    assert w.server.receive(cmd.Received("mallory", b"\0")) == ()


def test_a_sealed_share_of_another_size_spoils_nobody_elses_delivery(world):
    """Only values that were never bytes can have one: reading refuses it."""
    w = world(5)

    def forward(client, m):
        if isinstance(m, msg.Bundle) and client == "c001":
            first, *others = m.sealed
            w.server_does(
                w.server.receive(cmd.Received(client, replace(m, sealed=(first[:-8], *others))))
            )
            return None
        return m

    w.forward = forward
    w.run().assert_exact()
    assert w.rejected == [("c001", Reason.BAD_SHARE, "c001")]
    assert not w.stopped
    assert w.summed.survivors == ("c000", "c002", "c003", "c004")


# --- never a wrong sum ----------------------------------------------------------------------------


def test_a_client_that_was_told_of_fewer_dealers_is_refused(world):
    w = world(6)

    def toward(client, m):
        if isinstance(m, msg.Deliveries) and client == "c001":
            return replace(m, deliveries=tuple(d for d in m.deliveries if d.dealer != "c005"))
        return m

    w.toward = toward
    w.drop({"c005": 2}).run()
    assert ("c001", Reason.CHANGED_DEALERS, "c001") in w.rejected
    if w.summed:
        w.assert_exact()


def vector(w, value):
    return np.full(w.size, value, w.encoding.ring.dtype)


def test_a_source_that_fails_leaves_the_sum_as_it_was(world):
    w = world(4)
    sums = Accumulator(w.context)

    def failing():
        yield vector(w, 1)[:3]
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        sums.add(failing, bytes(32))
    assert not sums.total.any()


def test_what_is_added_is_what_was_hashed(world):
    """One reading: nothing can change between the check and the sum."""
    w = world(4)
    sums = Accumulator(w.context)
    readings = iter([vector(w, 1), vector(w, 2)])
    content = hashlib.sha256(w.encoding.ring.pack(vector(w, 1))).digest()
    sums.add(lambda: [next(readings)], content)
    assert (sums.total == 1).all()


@pytest.mark.parametrize("cut", [0, 1])
def test_a_vector_that_was_not_announced_is_taken_out_again(world, cut):
    w = world(4)
    sums = Accumulator(w.context)
    good, bad = vector(w, 1), vector(w, 2)[cut:]
    sums.add(lambda: [good], hashlib.sha256(w.encoding.ring.pack(good)).digest())
    with pytest.raises(Breach) as found:
        sums.add(lambda: [bad[:3], bad[3:]], bytes(32))
    assert found.value.reason is Reason.WRONG_VECTOR
    assert (sums.total == 1).all()
    sums.add(lambda: [good], hashlib.sha256(w.encoding.ring.pack(good)).digest())
    assert (sums.total == 2).all()


@pytest.mark.parametrize("again", [[3], [], [OSError("disk")]])
def test_a_wrong_vector_that_changes_until_it_is_taken_out_spoils_the_attempt(world, again):
    w = world(4)
    sums = Accumulator(w.context)
    readings = iter([[2], again])

    def source():
        for value in next(readings):
            if isinstance(value, Exception):
                raise value
            yield vector(w, value)

    with pytest.raises(Spoiled):
        sums.add(source, bytes(32))
    with pytest.raises(Spoiled):
        sums.add(lambda: [vector(w, 1)], bytes(32))


def test_an_interrupt_while_adding_leaves_no_sum_that_could_be_used(world):
    w = world(4)
    sums = Accumulator(w.context)
    whole = vector(w, 1)
    content = hashlib.sha256(w.encoding.ring.pack(whole)).digest()

    def interrupted():
        yield whole[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sums.add(interrupted, content)
    with pytest.raises(Spoiled):
        sums.add(lambda: [whole], content)


def interrupted(w, step, cut):
    """Run up to `step`; its second message is cut short. Return that and the later ones."""
    held = []

    def forward(client, m):
        if isinstance(m, step):
            held.append(w.event(client, m))
            return None
        return m

    w.forward = forward
    w.server_does(w.server.receive(cmd.Start()))
    w.forward = lambda client, m: m
    w.server_does(w.server.receive(held[0]))
    cut()
    with pytest.raises(KeyboardInterrupt):
        w.server.receive(held[1])
    return held[1:]


@pytest.mark.parametrize("again", [True, False])
def test_an_interrupt_between_adding_and_noting_who_was_added_gives_no_sum(world, again):
    w = world(4)

    class Cut(dict):
        def __setitem__(self, client, content):
            raise KeyboardInterrupt

    def cut():
        w.server._digests = Cut(w.server._digests)

    first, *others = interrupted(w, msg.Masked, cut)
    w.server._digests = dict(w.server._digests)
    for event in (first if again else cmd.Lost("c001"), *others):
        w.server_does(w.server.receive(event))
    assert w.summed is None
    assert w.abandoned == cmd.Abandon("spoiled_sum", ())


def test_an_interrupt_between_keeping_shares_and_noting_whose_blames_nobody(world, monkeypatch):
    w = world(4)

    def stop(server, client):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        held = interrupted(w, msg.Unmask, lambda: patch.setattr(Server, "_answer", stop))
    for event in held:
        w.server_does(w.server.receive(event))
    assert not w.abandoned
    w.assert_exact()


def test_a_holder_of_many_bad_shares_is_named_once_for_each_reason(world):
    w = world(4)

    def forward(client, m):
        if isinstance(m, msg.Unmask) and client == "c001":
            more = replace(m, revealed=m.revealed + 100 * m.revealed[:1])
            return replace(more, signature=w.keys[client].sign(statements.unmask(w.h1, more)))
        return m

    w.forward = forward
    w.run().assert_exact()
    assert w.rejected == [("c001", Reason.REPEATED_ID, "c001")]


def test_a_spool_that_fails_ends_the_clients_part(world):
    w = world(4)

    class Full:
        def write(self, chunk):
            raise OSError("no space")

    w.spools["c001"].write = Full().write
    with pytest.raises(OSError, match="no space"):
        w.run()
    client = w.clients["c001"]
    assert client.phase == "stopped"
    assert client.receive(w.told["c001"][msg.Deliveries]) == ()


# --- secrets --------------------------------------------------------------------------------------


def test_a_refusal_holds_no_frames(world):
    w = world(4)

    def toward(client, m):
        if isinstance(m, msg.Roster):
            first, *others = m.members
            low = replace(first, advertise=replace(first.advertise, transport=bytes(32)))
            return replace(m, members=(low, *others))
        return m

    w.toward = toward
    w.run()
    for breach in w.stopped.values():
        assert breach.__traceback__ is breach.__context__ is breach.__cause__ is None


@pytest.mark.parametrize("make", [AgreementKey.random, SigningKey.random, Secret.random])
def test_keys_are_not_copied(make):
    key = make(SeededRand(1))
    for act in (copy.copy, copy.deepcopy, lambda k: k.__reduce_ex__(2)):
        with pytest.raises(TypeError, match="not copied"):
            act(key)


def test_erased_shares_reveal_nothing():
    held = Held("a", bytes(range(136)))
    with pytest.raises(TypeError):
        copy.copy(held)
    held.erase()
    with pytest.raises(Refused, match="erased"):
        held.reveal(msg.Kind.SELF_MASK)
    assert "\\x" not in repr(msg.Revealed("a", msg.Kind.SELF_MASK, b"\xff" * 32, b"\xff" * 36))
    gc.collect()


@pytest.mark.parametrize("byte", [b"\xff", b"\0"])
def test_a_stuck_source_of_randomness_is_refused(byte):
    class Stuck:
        def token(self, size):
            return byte * size

    with pytest.raises(ConfigError, match="stuck"):
        Secret.random(Stuck())
