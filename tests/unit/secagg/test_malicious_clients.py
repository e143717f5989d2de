"""What a server makes of bytes, strangers and settings; `tests/unit/testing` has the cheats."""

from dataclasses import replace

import pytest

from choral.core.errors import PlanError
from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg.refusals import Breach, Reason
from choral.secagg.server import Server

CHEAT = "c001"


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
