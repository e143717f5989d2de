"""Messages over calls that are lost, repeated and answered late: each once, and in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.core.errors import OutOfOrder
from choral.wire.mailbox import Mailbox
from choral.wire.v1 import coordinator_pb2 as pb

TOKEN = b"token"


def call(client, server, *, lose=False):
    """Make one call; return what each side took. A lost answer reaches nobody."""
    request = client.message(TOKEN, wait_s=1.0)
    there = server.take(request)
    answer = server.message(TOKEN)
    return there, ([] if lose else client.take(answer))


def test_an_empty_mailbox_sends_nothing():
    message = Mailbox().message(TOKEN, wait_s=2.5)
    assert (message.sequence, message.body, message.received, message.wait_s) == (0, b"", 0, 2.5)
    assert message.token == TOKEN
    assert not message.ended


def test_messages_go_one_by_one_and_in_order():
    client, server = Mailbox(), Mailbox()
    for body in (b"1", b"2", b"3"):
        client.post(body)
    assert [call(client, server)[0] for _ in range(4)] == [[b"1"], [b"2"], [b"3"], []]
    assert not client.waiting


def test_both_ways_in_one_call():
    client, server = Mailbox(), Mailbox()
    client.post(b"up")
    server.post(b"down")
    assert call(client, server) == ([b"up"], [b"down"])
    assert server.waiting  # it does not know yet that it arrived
    assert call(client, server) == ([], [])
    assert not server.waiting


def test_a_repeated_message_is_taken_once():
    client, server = Mailbox(), Mailbox()
    client.post(b"up")
    server.post(b"down")
    assert call(client, server, lose=True) == ([b"up"], [])
    assert call(client, server) == ([], [b"down"])


def test_an_old_answer_changes_nothing():
    client, server = Mailbox(), Mailbox()
    server.post(b"1")
    old = server.message(TOKEN)
    call(client, server)
    server.post(b"2")
    call(client, server)
    assert client.take(old) == []
    assert client.received == 2


def test_a_gap_is_refused():
    message = pb.ProtocolMessage(token=TOKEN, sequence=2, body=b"x")
    with pytest.raises(OutOfOrder, match="message 2, expected 1"):
        Mailbox().take(message)


def test_what_was_never_sent_cannot_be_there():
    with pytest.raises(OutOfOrder, match="sent were 0"):
        Mailbox().take(pb.ProtocolMessage(token=TOKEN, received=1))


def test_the_end_is_said():
    assert Mailbox().message(TOKEN, ended=True).ended


@given(
    st.lists(
        st.sampled_from(["client posts", "server posts", "call", "lost request", "lost answer"]),
        max_size=60,
    )
)
def test_whatever_is_lost_everything_arrives_once_and_in_order(steps):
    client, server = Mailbox(), Mailbox()
    up, down, got_up, got_down = [], [], [], []

    def post(box, sent):
        sent.append(b"%d" % len(sent))
        box.post(sent[-1])

    def one(lose):
        there, here = call(client, server, lose=lose)
        got_up.extend(there)
        got_down.extend(here)

    for step in steps:
        if step == "client posts":
            post(client, up)
        elif step == "server posts":
            post(server, down)
        elif step == "call":
            one(lose=False)
        elif step == "lost answer":
            one(lose=True)
    while client.waiting or server.waiting:
        one(lose=False)
    assert (got_up, got_down) == (up, down)
