"""Every cheat of a client on Choral's server."""

import pytest

from choral.secagg.server import Server
from choral.testing.secagg import CHEATS, HONEST


def each(trials):
    """Return the trials as parameters; those on a random graph are nightly."""
    return [
        pytest.param(t, id=t.name, marks=pytest.mark.nightly if t.clients > 12 else ())
        for t in trials
    ]


@pytest.mark.parametrize("cheat", each(CHEATS))
def test_each_cheat_is_named_and_never_makes_a_wrong_sum(cheat):
    net = cheat.network()
    cheat.play(net)
    assert cheat.faults(net) == []


@pytest.mark.parametrize("trial", each(HONEST))
def test_each_honest_attempt_sums(trial):
    net = trial.network()
    trial.play(net)
    assert trial.faults(net) == []


class Credulous(Server):
    """A server that checks no signature."""

    def _verify(self, client, what, signature):
        pass


def test_a_server_without_signatures_is_found_out():
    failed = []
    for cheat in (c for c in CHEATS if c.clients == 4):
        net = cheat.network(server=Credulous)
        cheat.play(net)
        if cheat.faults(net):
            failed.append(cheat.name)
    assert {"shares without a signature", "answer without a signature", "other survivors"} <= set(
        failed
    )
    assert "bad share" not in failed
