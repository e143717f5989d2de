"""The report on Choral's machines, on broken ones, and on those that raise."""

import pytest

from choral.secagg.client import Client
from choral.secagg.ports import MemoryOnce
from choral.secagg.server import Server
from choral.testing.secagg import HONEST, TRIALS, Report, judge
from choral.testing.secagg.attempts import ATTEMPTS
from choral.testing.secagg.invitations import INVITATIONS
from choral.testing.secagg.naive import Obedient, Obliging
from choral.testing.secagg.unmasking import UNMASKING


def names(report):
    return {finding.name for finding in report.failed}


def quick(trials):
    return [t for t in trials if t.clients <= 12]


def some(*wanted):
    return [t for t in TRIALS if t.name in wanted]


def test_a_sample_of_trials_holds_and_is_a_table():
    seen = []
    trials = some("nobody cheats", "sybil", "two unmask requests", "bad tag")
    report = judge(Client, server=Server, trials=trials, watch=seen.append)
    assert report.held
    assert seen == list(report.findings)
    assert str(report).splitlines() == [
        "trial                verdict  found                                      faults",
        "nobody cheats        held     a sum of 4",
        "sybil                held     not_enrolled",
        "two unmask requests  held     3 answers",
        "bad tag              held     sealed_share_does_not_open of c001, a sum",
        "held in 4 of 4 trials",
    ]


@pytest.mark.nightly
def test_everything_holds():
    assert judge().held


def test_a_client_that_forgets_is_found_out():
    def forgetful(site, expected, **ports):
        return Client(site, expected, **{**ports, "once": MemoryOnce()})

    report = judge(forgetful, trials=[*HONEST[:1], *ATTEMPTS])
    assert names(report) == {a.name for a in ATTEMPTS} - {"second context"}
    joined = next(f for f in report.findings if f.name == "difference of two sums")
    assert "c000 joins two sums of one round" in joined.faults


def test_a_client_that_obliges_is_found_out():
    failed = names(judge(Obliging, trials=[*HONEST[:1], *quick(UNMASKING)]))
    assert {"dead, then alive", "two survivor sets before the result"} <= failed
    assert "nobody cheats" not in failed


def test_a_client_that_obeys_is_found_out():
    failed = names(judge(Obedient, trials=quick(INVITATIONS)))
    assert {"lowered t", "t of one", "m of 16"} <= failed
    assert "other model" not in failed


def test_a_client_that_refuses_everything_is_found_out():
    class Mute:
        def receive(self, event):
            return ()

    report = judge(lambda *_, **__: Mute(), trials=quick(HONEST))
    assert names(report) == {t.name for t in quick(HONEST)}


def test_what_a_client_raises_is_a_finding():
    class Broken:
        def receive(self, event):
            raise ZeroDivisionError("of its own")

    report = judge(lambda *_, **__: Broken(), trials=HONEST[:1])
    assert report.failed[0].faults == ("ZeroDivisionError: of its own",)
    assert not report.held


def test_a_report_of_nothing_has_not_held():
    assert not Report(()).held
