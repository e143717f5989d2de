"""The monitor fails on every planted fault, and on none that is not there."""

from dataclasses import fields, replace

import pytest

from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg.client import Client
from choral.secagg.messages import Kind
from choral.secagg.refusals import Reason
from choral.testing.secagg import Monitor, Network, Violation
from choral.testing.secagg.attack import survivors
from choral.testing.secagg.naive import Obliging

A = msg.Advertise("a", b"t" * 32, b"m" * 32, b"", b"", b"")
B = msg.Advertise("b", b"u" * 32, b"n" * 32, b"", b"", b"")
A2 = msg.Advertise("a", b"v" * 32, b"o" * 32, b"", b"", b"")


def masked(content):
    blank = {f.name: b"" for f in fields(msg.Masked)}
    return msg.Masked(**{**blank, "client": "a", "digest": content})


def unmask(client, *given):
    parts = tuple(msg.Revealed(dealer, kind, bytes(32), bytes(36)) for dealer, kind in given)
    return msg.Unmask(client, parts, b"")


B_SHARE, S_SHARE = Kind.SELF_MASK, Kind.MASK_KEY
ENDS = msg.Complaint("a", Reason.BAD_TAG, "", True, b"")
GOES_ON = replace(ENDS, ends=False)
ONE_ANSWER = unmask("a", ("b", B_SHARE), ("c", S_SHARE))


def started(*messages, threshold=2):
    monitor = Monitor()
    monitor.begin(run_id="run", round=1, threshold=threshold)
    for m in messages:
        monitor.saw(m.client, m)
    return monitor


PLANTED = {
    "both kinds in one answer": ([A, unmask("a", ("b", B_SHARE), ("b", S_SHARE))], "both kinds"),
    "both kinds in two answers": (
        [A, unmask("a", ("b", B_SHARE)), unmask("a", ("b", S_SHARE))],
        "both kinds",
    ),
    "another answer": (
        [A, unmask("a", ("b", B_SHARE)), unmask("a", ("c", B_SHARE))],
        "two answers",
    ),
    "another vector": (
        [A, masked(bytes(32)), masked(b"x" * 32)],
        "two masked vectors",
    ),
    "another survivor set": (
        [A, msg.Consent("a", b"x"), msg.Consent("a", b"y")],
        "two survivor sets",
    ),
    "a key again": ([A, replace(A2, mask=A.mask)], "one key twice"),
    "a key for two uses": ([A, replace(A2, mask=A.transport)], "one key twice"),
    "the same keys, other words": ([A, replace(A, signature=b"x")], "one key twice"),
    "two sums of one round": ([A, ONE_ANSWER, A2, ONE_ANSWER], "two sums of one round"),
    "a vector after the end": ([A, ENDS, masked(bytes(32))], "after it stopped"),
    "a threshold of each kind": (
        [
            A, unmask("a", ("d", B_SHARE)), B, unmask("b", ("d", B_SHARE)),
            replace(A2, client="e"), unmask("e", ("d", S_SHARE)),
            msg.Advertise("f", b"1" * 32, b"2" * 32, b"", b"", b""), unmask("f", ("d", S_SHARE)),
        ],
        "2 clients give out each kind",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("messages", "fault"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_fails(messages, fault):
    started(*messages[:-1])
    with pytest.raises(Violation, match=fault):
        started(*messages)


HARMLESS = {
    "everything twice": [A, A, masked(bytes(32)), masked(bytes(32)),
                         msg.Consent("a", b"x"), msg.Consent("a", b"x"), ONE_ANSWER, ONE_ANSWER],
    "new keys": [A, masked(bytes(32)), A2, masked(b"x" * 32)],
    "a report": [A, GOES_ON, masked(bytes(32))],
    "another attempt after a stop": [A, ENDS, A2, masked(bytes(32))],
    "kinds of different dealers": [A, ONE_ANSWER],
    "kinds of different holders": [A, unmask("a", ("d", B_SHARE)), B, unmask("b", ("d", S_SHARE))],
}  # fmt: skip


@pytest.mark.parametrize("messages", HARMLESS.values(), ids=HARMLESS)
def test_what_is_allowed_passes(messages):
    assert started(*messages).faults == []


def test_the_bytes_count_and_not_what_is_said_of_them():
    monitor = started(A)
    said = masked(bytes(32))
    monitor.saw("a", said, content=b"1")
    with pytest.raises(Violation, match="two masked vectors"):
        monitor.saw("a", said, content=b"2")


def test_without_halting_faults_are_kept_once():
    monitor = Monitor(halt=False)
    monitor.begin(run_id="run", round=1, threshold=2)
    for _ in range(3):
        monitor.saw("a", unmask("a", ("b", B_SHARE), ("b", S_SHARE)))
    assert monitor.faults == ["a gives out both kinds of share of b"]
    assert monitor.kinds == {("a", "b"): {B_SHARE, S_SHARE}}


def test_a_client_that_obliges_halts_the_network():
    net = Network(4, client=Obliging)
    net.toward = lambda client, m: None if isinstance(m, msg.Result) else m
    net.run().assert_exact()
    with pytest.raises(Violation, match="both kinds of share of c000"):
        net.deliver("c001", survivors(net, net.ids[1:]))


class Tireless(Client):
    """Masks once more when it is asked again."""

    def receive(self, event):
        commands = super().receive(event)
        for command in commands:
            if isinstance(command, cmd.Upload):
                return (*commands, cmd.Upload(replace(command.message, digest=bytes(32))))
        return commands


def test_a_client_that_uploads_twice_halts_the_network():
    with pytest.raises(Violation, match="two masked vectors"):
        Network(4, client=Tireless).run()


def test_attempts_of_different_rounds_may_both_be_joined():
    net = Network(3)
    net.run().assert_exact()
    net.context = replace(net.context, round=2)
    net.expected = replace(net.expected, round=2)
    net.begin()
    net.run().assert_exact()
    assert net.monitor.faults == []
