"""Every attack of a cheating server on Choral's machines, and on machines with one check less."""

import importlib
import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from choral.crypto.agreement import FIELD, AgreementKey, check_public_key
from choral.crypto.secret import Secret
from choral.secagg import refusals, statements
from choral.secagg.client import Client
from choral.secagg.refusals import Reason
from choral.secagg.server import Server
from choral.testing.secagg import ATTACKS, CHEATS, HONEST, TRIALS, Ending
from choral.testing.secagg.attack import VICTIM, answers
from choral.testing.secagg.invitations import INVITATIONS
from choral.testing.secagg.judge import try_one
from choral.testing.secagg.rosters import LOW_ORDER

QUICK = 12
"""Clients up to which an attempt takes a fraction of a second."""
ALWAYS = {"chosen graph", "stretch cut off"}


def each(trials):
    """Return the trials as parameters; most of those on a random graph are nightly."""
    return [
        pytest.param(
            t,
            id=t.name,
            marks=() if t.clients <= QUICK or t.name in ALWAYS else pytest.mark.nightly,
        )
        for t in trials
    ]


@pytest.mark.parametrize("attack", each(ATTACKS))
def test_each_attack_ends_in_the_refusal_it_names(attack):
    net = attack.network()
    attack.play(net)
    assert attack.faults(net) == []
    for victim in attack.victims:
        if attack.ending is Ending.STOPS:
            assert net.stopped[victim].reason is attack.refusals[0]
    assert (net.summed is None) is not attack.sums


@pytest.mark.parametrize("attack", each(a for a in ATTACKS if not a.sums))
def test_where_the_sum_is_lost_nobody_learns_another(attack):
    net = attack.network()
    attack.play(net)
    assert net.summed is None
    assert not net.counted


@pytest.mark.parametrize("attack", each(INVITATIONS))
def test_a_client_that_refused_its_invitation_is_in_no_sum(attack):
    net = attack.network()
    attack.play(net)
    assert net.summed is None or not set(attack.victims) & set(net.summed.survivors)


def test_where_one_is_named_alive_and_dead_no_victim_gives_a_share():
    attacks = [a for a in ATTACKS if a.name.startswith("alive and dead")]
    assert len(attacks) == 3
    for attack in attacks:
        net = attack.network()
        attack.play(net)
        assert not {holder for holder, _ in net.monitor.kinds} & set(attack.victims)


def test_two_unmask_requests_are_played_and_get_one_answer():
    attack = next(a for a in ATTACKS if a.ending is Ending.REPEATS)
    net = attack.network()
    attack.play(net)
    given = answers(net, VICTIM)
    assert len(given) == 3
    assert given[1:] == given[:-1]


def test_names_and_descriptions_are_unique_and_short():
    names = [trial.name for trial in TRIALS]
    assert len(names) == len(set(names))
    assert len(TRIALS) == len(HONEST) + len(ATTACKS) + len(CHEATS)
    for trial in TRIALS:
        assert 5 < len(trial.tries) <= 100
        assert trial.expects


@pytest.mark.parametrize("public", LOW_ORDER)
def test_keys_of_small_order_are_canonical_and_give_no_secret(public):
    assert int.from_bytes(public, "little") < FIELD
    with pytest.raises(refusals.Refused, match="low order"):
        check_public_key(public)
    for private in (bytes(range(32)), b"\x55" * 32):
        with pytest.raises(refusals.Refused, match="low order"):
            AgreementKey(Secret(private)).exchange(public)
        with pytest.raises(ValueError, match="shared key"):  # what it would have given: zeros
            X25519PrivateKey.from_private_bytes(private).exchange(
                X25519PublicKey.from_public_bytes(public)
            )


MODULES = (
    "client", "context", "masking", "opening", "recovery", "roster", "server", "shares", "site",
)  # fmt: skip


def skip_checks(monkeypatch, skipped):
    """Let every machine pass over the checks of these names."""
    check, check_signature = refusals.check, statements.check_signature

    def lax(holds, why, message, *, about=""):
        check(holds or why in skipped, why, message, about=about)

    def lax_signature(signed, public, what, given, *, reason: Reason, about=""):
        if reason not in skipped:
            check_signature(signed, public, what, given, reason=reason, about=about)

    for name in MODULES:
        module = importlib.import_module(f"choral.secagg.{name}")
        if hasattr(module, "check"):
            monkeypatch.setattr(module, "check", lax)
    monkeypatch.setattr(statements, "check_signature", lax_signature)

    for where, name in itertools.chain(*(BELOW.get(reason, ()) for reason in skipped)):
        module = importlib.import_module(f"choral.secagg.{where}")
        monkeypatch.setattr(module, name, lambda *args, **kwargs: None)


BELOW = {
    Reason.BAD_PROOF: (("roster", "verify_inclusion"), ("opening", "verify_inclusion")),
    Reason.WEAK_PARAMETERS: (("context", "verify"),),
}
"""Checks that are functions of the layers below."""
RAISED = {Reason.BAD_KEY, Reason.BAD_TAG, Reason.MALFORMED, Reason.OVERFLOW}
"""Without these checks there is no key, share, message or ring to go on with."""
FIRST = {a.refusals[0] for a in ATTACKS if a.refusals}


@pytest.mark.parametrize(
    "attack", each(a for a in ATTACKS if a.refusals and a.refusals[0] not in RAISED)
)
def test_without_its_check_an_attack_is_noticed(monkeypatch, attack):
    """The suite bites: an attack on a missing check is a fault of the machine without it."""
    skip_checks(monkeypatch, attack.refusals)
    assert not try_one(attack, client=Client, server=Server).held


def test_the_list_of_the_design_is_covered():
    wanted = {
        Reason.TWO_SURVIVOR_SETS, Reason.TOO_FEW_CONSENTS, Reason.NOT_ENROLLED,
        Reason.BAD_SIGNATURE, Reason.REPLAYED, Reason.JOINED, Reason.BAD_KEY, Reason.OTHER_MODEL,
        Reason.WEAK_PARAMETERS, Reason.SMALL_COHORT, Reason.OTHER_ENCODING, Reason.OVERFLOW,
        Reason.WRONG_GRAPH, Reason.MALFORMED, Reason.LEFT_OUT, Reason.TOO_FEW_SURVIVORS,
        Reason.ONE_SIDED, Reason.SUPERSEDED,
    }  # fmt: skip
    assert wanted <= FIRST
