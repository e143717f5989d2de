"""What a client leaves behind when it stops or ends; `tests/unit/testing` has the attacks."""

import pytest

from choral.core.errors import Refused
from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg import statements
from choral.secagg.refusals import HINTS, Reason
from choral.secagg.shares import Held
from choral.testing.secagg import ATTACKS

VICTIM = "c000"


def test_complaints_are_signed_and_say_why():
    sybil = next(a for a in ATTACKS if a.name == "sybil")
    w = sybil.network()
    sybil.play(w)
    complaint = w.said[VICTIM][msg.Complaint]
    assert (complaint.reason, complaint.about, complaint.ends) == (
        Reason.NOT_ENROLLED,
        "c001",
        True,
    )
    statements.check_signature(
        True,
        w.keys[VICTIM].public,
        statements.complaint(w.context.h0, complaint),
        complaint.signature,
        reason=Reason.BAD_SIGNATURE,
    )


def test_nothing_is_signed_under_a_context_that_was_refused(world):
    client = world(3).client(VICTIM)
    complaint, stopped = client.receive(b"\x01\x00garbage")
    assert stopped.breach.reason is Reason.MALFORMED
    assert complaint.message.signature == b""
    assert client.receive(b"") == ()


def test_a_client_that_stopped_has_erased_its_secrets(world):
    w = world(4)
    w.toward = lambda name, m: b"" if (name, type(m)) == (VICTIM, msg.Deliveries) else m
    w.run()
    client = w.clients[VICTIM]
    assert w.stopped[VICTIM].reason is Reason.MALFORMED
    assert not client._held
    assert client._mask.secret.erased
    assert client._transport.secret.erased
    assert client._seed.erased


def test_the_end_erases_and_silences(world):
    w = world(3).run()
    for name, client in w.clients.items():
        assert not client._held
        assert client._mask.secret.erased
        assert client._transport.secret.erased
        assert client._seed.erased
        assert client.receive(cmd.Ended()) == ()
        assert client.receive(w.log[0][2]) == ()
        assert name in w.counted


def test_a_held_share_is_given_out_in_one_kind_only():
    held = Held("a", bytes(136))
    held.reveal(msg.Kind.SELF_MASK)
    assert held.reveal(msg.Kind.SELF_MASK)
    with pytest.raises(Refused, match="both shares"):
        held.reveal(msg.Kind.MASK_KEY)


def test_every_hint_belongs_to_a_reason():
    assert set(HINTS) <= set(Reason)
    assert len({str(r) for r in Reason}) == len(Reason)
