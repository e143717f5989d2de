"""What a cheating client may try on the server: it loses its place, and the culprit is named."""

from dataclasses import replace

import numpy as np
import pytest

from choral.core.errors import PlanError
from choral.crypto.signatures import SigningKey
from choral.secagg import client as client_module
from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg import shares, statements
from choral.secagg.refusals import Breach, Reason
from choral.secagg.server import Server

CHEAT = "c001"


def cheat(w, kind, change):
    """Change one kind of message of the cheat."""

    def forward(client, message):
        if client == CHEAT and isinstance(message, kind):
            return change(w, message)
        return message

    w.forward = forward
    return w.run()


def unmask_with(w, m, revealed):
    m = replace(m, revealed=revealed)
    h1 = w.server._cohort.h1
    return replace(m, signature=w.keys[CHEAT].sign(statements.unmask(h1, m)))


@pytest.mark.parametrize(
    "changes",
    [{"share": bytes(36)}, {"salt": bytes(32)}, {"kind": msg.Kind.MASK_KEY}],
)
def test_a_bad_holder_is_named_and_costs_nothing(world, changes):
    def change(w, m):
        return unmask_with(w, m, (replace(m.revealed[0], **changes), *m.revealed[1:]))

    w = cheat(world(4), msg.Unmask, change)
    assert (CHEAT, Reason.BAD_SHARE, CHEAT) in w.rejected
    w.assert_exact()
    assert w.summed.survivors == w.ids


def test_two_bad_holders_of_four_are_too_many(world):
    w = world(4)

    def forward(client, m):
        if client in ("c001", "c002") and isinstance(m, msg.Unmask):
            wrong = replace(m.revealed[0], share=bytes(36))
            m = replace(m, revealed=(wrong, *m.revealed[1:]))
            what = statements.unmask(w.server._cohort.h1, m)
            return replace(m, signature=w.keys[client].sign(what))
        return m

    w.forward = forward
    w.run()
    assert w.summed is None
    assert {who for who, *_ in w.rejected} == {"c001", "c002"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: (*m.revealed, m.revealed[0]), Reason.REPEATED_ID),
        (lambda m: (*m.revealed, replace(m.revealed[0], dealer="x")), Reason.NOT_A_DEALER),
    ],
)
def test_shares_that_nobody_asked_for(world, change, reason):
    w = cheat(world(4), msg.Unmask, lambda w, m: unmask_with(w, m, change(m)))
    assert reason in {why for _, why, _ in w.rejected}
    w.assert_exact()


@pytest.mark.parametrize("lost", [False, True])
def test_a_bad_dealer_is_named(world, monkeypatch, lost):
    """Its shares match their hashes and stand for another secret than it committed to."""
    inner = shares.deal

    def deal(seed, key, *, dealer, **rest):
        if dealer == CHEAT:
            wrong = SigningKey.random(rest["rand"])._secret
            seed, key = wrong, wrong
        return inner(seed, key, dealer=dealer, **rest)

    monkeypatch.setattr(client_module, "deal", deal)
    w = world(4).drop({CHEAT: 2} if lost else {}).run()
    assert w.abandoned == cmd.Abandon("bad_dealer", (CHEAT,))


def test_a_dealer_whose_share_is_not_the_one_it_signed(world, monkeypatch):
    inner = client_module.seal

    def seal(held, shared, *, holder, h1):
        if held.dealer == CHEAT and holder == "c002":
            held._plain[0] ^= 1
        return inner(held, shared, holder=holder, h1=h1)

    monkeypatch.setattr(client_module, "seal", seal)
    w = world(4).run()
    assert ("c002", Reason.BAD_SHARE, CHEAT) in w.rejected
    w.assert_exact()


def test_a_bad_tag_is_reported_by_the_holder(world):
    def change(w, m):
        sealed = (bytes(len(m.sealed[0])), *m.sealed[1:])
        return replace(m, sealed=sealed)

    w = cheat(world(4), msg.Bundle, change)
    assert ("c000", Reason.BAD_TAG, CHEAT) in w.rejected
    w.assert_exact()
    assert w.summed.survivors == w.ids


@pytest.mark.parametrize("cut", [slice(0, -1), slice(1, None), slice(0, 0)])
def test_a_vector_of_another_length(world, cut):
    def change(w, m):
        w.spools[CHEAT].chunks = w.spools[CHEAT].chunks[cut]
        return m

    w = cheat(world(4), msg.Masked, change)
    assert (CHEAT, Reason.WRONG_VECTOR, CHEAT) in w.rejected
    w.assert_exact()
    assert CHEAT not in w.summed.survivors


@pytest.mark.parametrize(
    "extra", [np.zeros(1, np.uint32), np.zeros(1, np.uint16), np.zeros((1, 1), np.uint32)]
)
def test_a_vector_with_something_more_leaves_the_sum_as_it_was(world, extra):
    def change(w, m):
        w.spools[CHEAT].chunks.append(extra)
        return m

    w = cheat(world(4), msg.Masked, change)
    assert (CHEAT, Reason.WRONG_VECTOR, CHEAT) in w.rejected
    w.assert_exact()
    assert CHEAT not in w.summed.survivors


def test_a_vector_that_was_changed_on_the_way(world):
    def change(w, m):
        w.spools[CHEAT].chunks[0][0] += 1
        return m

    w = cheat(world(4), msg.Masked, change)
    assert (CHEAT, Reason.WRONG_VECTOR, CHEAT) in w.rejected
    w.assert_exact()


def test_a_double_upload_counts_once(world):
    w = world(4)

    def toward(client, m):
        if isinstance(m, msg.Deliveries) and client == "c003":
            spool = w.spools[CHEAT]
            first = next(
                msg.decode(raw) for way, who, raw in w.log
                if (way, who) == ("<", CHEAT) and b"secagg masked" in raw[:30]
            )  # fmt: skip
            assert w.server.receive(cmd.Uploaded(CHEAT, first, lambda: spool.chunks)) == ()
            other = replace(first, digest=bytes(32))
            again = w.server.receive(cmd.Uploaded(CHEAT, other, lambda: spool.chunks))
            assert again == (cmd.Reject(CHEAT, Reason.SECOND_VECTOR, CHEAT),)
        return m

    w.toward = toward
    w.run().assert_exact()
    assert w.summed.survivors == w.ids


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (msg.Advertise, lambda m: replace(m, signature=bytes(64))),
        (msg.Bundle, lambda m: replace(m, signature=bytes(64))),
        (msg.Masked, lambda m: replace(m, signature=bytes(64))),
        (msg.Consent, lambda m: replace(m, signature=bytes(64))),
        (msg.Unmask, lambda m: replace(m, signature=bytes(64))),
    ],
)
def test_a_message_that_it_did_not_sign(world, kind, change):
    w = cheat(world(4), kind, lambda w, m: change(m))
    assert (CHEAT, Reason.BAD_SIGNATURE, CHEAT) in w.rejected
    w.assert_exact()


def test_a_message_in_the_name_of_another(world):
    w = cheat(world(4), msg.Consent, lambda w, m: replace(m, client="c002"))
    assert (CHEAT, Reason.MALFORMED, CHEAT) in w.rejected
    w.assert_exact()


@pytest.mark.parametrize("public", [bytes(32), b"\xff" * 32, b"\1" + bytes(31)])
def test_keys_that_would_give_a_secret_away(world, public):
    def change(w, m):
        m = replace(m, transport=public)
        return replace(m, signature=w.keys[CHEAT].sign(statements.advertise(w.context.h0, m)))

    w = cheat(world(4), msg.Advertise, change)
    assert (CHEAT, Reason.BAD_KEY, CHEAT) in w.rejected
    w.assert_exact()


def test_too_few_shares_in_a_bundle(world):
    w = cheat(world(4), msg.Bundle, lambda w, m: replace(m, hashes=m.hashes[:-1]))
    assert (CHEAT, Reason.BAD_SHARE, CHEAT) in w.rejected
    w.assert_exact()


@pytest.mark.parametrize("step", range(5))
def test_a_complaint_at_any_step_never_gives_a_wrong_sum(world, step):
    """A client that complains after its vector is in the sum stays in it."""
    w = world(4)
    kinds = (msg.Advertise, msg.Bundle, msg.Masked, msg.Consent, msg.Unmask)

    def toward(client, m):
        if client == "c003" and len(said) == step and not told:
            told.append(True)
            complaint = msg.Complaint(CHEAT, Reason.BAD_TAG, "", True, b"")
            w.server_does(w.server.receive(cmd.Received(CHEAT, complaint)))
        return m

    def forward(client, m):
        if client == CHEAT and isinstance(m, kinds):
            said.append(m)
        return m

    said, told = [], []
    w.toward, w.forward = toward, forward
    w.run().assert_exact()


def test_garbage_is_rejected(world):
    w = world(3)
    w.server.receive(cmd.Start())
    commands = w.server.receive(cmd.Received(CHEAT, b"\0\1\2"))
    assert commands == (cmd.Reject(CHEAT, Reason.MALFORMED, CHEAT),)


def test_a_stranger_is_not_heard(world):
    w = world(3)
    w.server.receive(cmd.Start())
    complaint = msg.Complaint("stranger", Reason.BAD_TAG, "", True, b"")
    assert w.server.receive(cmd.Received("stranger", complaint)) == ()
    assert w.server.receive(cmd.Lost("stranger")) == ()
    assert not w.server.lost


def test_a_server_refuses_what_does_not_fit_its_context(world):
    w = world(4)
    with pytest.raises(PlanError):
        Server(w.context, w.ids[:3], key=w.server_key, authority=b"")
    with pytest.raises(PlanError):
        Server(w.context, w.ids, key=None, authority=b"")
    weak = replace(w.context, parameters=replace(w.parameters, t=2))
    with pytest.raises(Breach, match="weak_parameters"):
        Server(weak, w.ids, key=w.server_key, authority=b"")
