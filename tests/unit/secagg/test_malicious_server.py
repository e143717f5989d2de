"""What a cheating server may try on a client: each ends in a named refusal."""

from dataclasses import replace

import pytest

from choral.core.errors import Refused
from choral.crypto.signatures import SigningKey
from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg import statements
from choral.secagg.parameters import Parameters, Suite
from choral.secagg.refusals import HINTS, Reason
from choral.secagg.roster import standings
from choral.testing.fakes import SeededRand

VICTIM = "c000"


def cheat(w, kind, change, *, only=VICTIM):
    """Change one kind of message on its way to the victim."""

    def toward(client, message):
        if isinstance(message, kind) and only in (client, None):
            return change(w, message)
        return message

    w.toward = toward
    return w.run()


def signed(w, context):
    return msg.Invitation(context, w.server_key.sign(statements.invitation(context.h0)))


def context_with(**changes):
    return lambda w, m: signed(w, replace(m.context, **changes))


def encoding_with(**changes):
    return lambda w, m: signed(
        w, replace(m.context, encoding=replace(m.context.encoding, **changes))
    )


def parameters_with(**changes):
    return lambda w, m: signed(
        w, replace(m.context, parameters=replace(m.context.parameters, **changes))
    )


INVITATIONS = [
    (context_with(version=2), Reason.VERSION),
    (context_with(run_id="other"), Reason.OTHER_RUN),
    (context_with(round=2), Reason.OTHER_RUN),
    (context_with(round=0), Reason.MALFORMED),
    (context_with(models=(bytes([9]) * 32,)), Reason.OTHER_MODEL),
    (context_with(plan=bytes(32)), Reason.OTHER_PLAN),
    (context_with(authority=bytes(32)), Reason.OTHER_AUTHORITY),
    (context_with(min_cohort=1), Reason.SMALL_COHORT),
    (encoding_with(clip=2.0), Reason.OTHER_ENCODING),
    (encoding_with(clip=0.5), Reason.OTHER_ENCODING),
    (encoding_with(size=6), Reason.OTHER_ENCODING),
    (encoding_with(modulus_bits=16), Reason.OVERFLOW),
    (encoding_with(modulus_bits=24), Reason.OTHER_ENCODING),
    (encoding_with(modulus_bits=31), Reason.OVERFLOW),
    (encoding_with(generator=9), Reason.OVERFLOW),
    (encoding_with(weight_at=7), Reason.OTHER_ENCODING),
    (parameters_with(t=2), Reason.WEAK_PARAMETERS),
    (parameters_with(k=2), Reason.WEAK_PARAMETERS),
    (parameters_with(clients=100_001), Reason.WEAK_PARAMETERS),
    (parameters_with(suite=Suite.GRAPH, k=2, t=2), Reason.WEAK_PARAMETERS),
    (lambda w, m: replace(m, signature=bytes(64)), Reason.BAD_SERVER_SIGNATURE),
    (lambda w, m: replace(m, signature=b""), Reason.BAD_SERVER_SIGNATURE),
]


@pytest.mark.parametrize(("change", "reason"), INVITATIONS)
def test_a_context_that_is_not_the_clients(world, change, reason):
    w = cheat(world(4), msg.Invitation, change)
    assert w.stopped[VICTIM].reason is reason
    w.assert_exact()
    assert VICTIM not in w.summed.survivors


def test_a_suite_that_the_policy_does_not_name(world):
    w = world(4)
    w.sites[VICTIM] = replace(w.sites[VICTIM], suites=frozenset({Suite.GRAPH}))
    w.begin()
    w.run()
    assert w.stopped[VICTIM].reason is Reason.SUITE


def test_downgrade_to_semi_honest(world):
    w = world(4)
    weak = replace(w.parameters, suite=Suite.SEMI_HONEST)
    w.sites[VICTIM] = replace(w.sites[VICTIM], suites=frozenset({Suite.FULL}))
    w.begin()
    cheat(w, msg.Invitation, lambda _, m: msg.Invitation(replace(m.context, parameters=weak), b""))
    assert w.stopped[VICTIM].reason is Reason.SUITE


def test_a_site_with_a_larger_floor(world):
    w = world(4)
    w.sites[VICTIM] = replace(w.sites[VICTIM], min_cohort=5)
    w.begin()
    w.run()
    assert w.stopped[VICTIM].reason is Reason.SMALL_COHORT


# --- R1 -------------------------------------------------------------------------------------------


def relist(w, m, members):
    """Return a roster over other members, with its root and the server's signature."""
    from choral.crypto.merkle import Tree

    leaves = [msg.ADVERTISE.write(x.advertise) for x in members]
    root, count = Tree(leaves).root, len(members)
    what = statements.roster(w.context.h0, count=count, root=root, beacon=m.beacon)
    members = tuple(replace(x, index=i) for i, x in enumerate(members))
    return msg.Roster(count, root, m.beacon, members, w.server_key.sign(what))


def forge(w, m, index, **changes):
    members = list(m.members)
    members[index] = replace(members[index], advertise=replace(members[index].advertise, **changes))
    return relist(w, m, members)


def sybil(w, m):
    """Replace a client by one whose keys the server made."""
    key = SigningKey.random(SeededRand(99))
    advert = replace(m.members[1].advertise, verify_key=key.public, transport=bytes([9]) * 32)
    advert = replace(advert, signature=key.sign(statements.advertise(w.context.h0, advert)))
    return relist(w, m, [m.members[0], replace(m.members[1], advertise=advert), *m.members[2:]])


def swapped(w, m):
    a, b = m.members[1].advertise, m.members[2].advertise
    first = replace(m.members[1], advertise=replace(a, transport=b.transport))
    second = replace(m.members[2], advertise=replace(b, transport=a.transport))
    return relist(w, m, [m.members[0], first, second, *m.members[3:]])


def low_order(w, m):
    """A colluding client signs a key of small order."""
    advert = replace(m.members[1].advertise, transport=bytes(32))
    what = statements.advertise(w.context.h0, advert)
    advert = replace(advert, signature=w.keys["c001"].sign(what))
    return relist(w, m, [m.members[0], replace(m.members[1], advertise=advert), *m.members[2:]])


def not_canonical(w, m):
    advert = replace(m.members[1].advertise, mask=b"\xff" * 32)
    what = statements.advertise(w.context.h0, advert)
    advert = replace(advert, signature=w.keys["c001"].sign(what))
    return relist(w, m, [m.members[0], replace(m.members[1], advertise=advert), *m.members[2:]])


ROSTERS = [
    (sybil, Reason.NOT_ENROLLED),
    (swapped, Reason.BAD_SIGNATURE),
    (low_order, Reason.BAD_KEY),
    (not_canonical, Reason.BAD_KEY),
    (lambda w, m: forge(w, m, 1, mask=bytes([3]) * 32), Reason.BAD_SIGNATURE),
    (lambda w, m: forge(w, m, 1, signature=b""), Reason.BAD_SIGNATURE),
    (lambda w, m: forge(w, m, 0, mask=bytes([3]) * 32), Reason.NOT_LISTED),
    (lambda w, m: forge(w, m, 1, client="c002"), Reason.REPEATED_ID),
    (lambda w, m: relist(w, m, m.members[1:]), Reason.NOT_LISTED),
    (lambda w, m: relist(w, m, m.members[:2]), Reason.SMALL_COHORT),
    (lambda w, m: relist(w, m, [*m.members, m.members[3]]), Reason.TOO_MANY),
    (lambda w, m: relist(w, m, [m.members[0], *m.members[:3]]), Reason.NOT_LISTED),
    (lambda w, m: relist(w, m, [m.members[i] for i in (0, 1, 1, 2)]), Reason.REPEATED_ID),
    (lambda w, m: relist(w, m, [m.members[i] for i in (0, 2, 1, 3)]), Reason.REPEATED_ID),
    (lambda w, m: replace(m, signature=bytes(64)), Reason.BAD_SERVER_SIGNATURE),
    (lambda w, m: replace(m, members=m.members[:3]), Reason.WRONG_GRAPH),
    (lambda w, m: replace(m, members=m.members[::-1]), Reason.MALFORMED),
    (lambda w, m: replace(m, beacon=b"chosen"), Reason.BAD_SERVER_SIGNATURE),
]


@pytest.mark.parametrize(("change", "reason"), ROSTERS)
def test_a_roster_that_is_not_that_of_the_cohort(world, change, reason):
    w = cheat(world(4), msg.Roster, change)
    assert w.stopped[VICTIM].reason is reason
    w.assert_exact()


def test_a_key_that_two_clients_share(world):
    def shared(w, m):
        key = m.members[2].advertise.transport
        advert = replace(m.members[1].advertise, transport=key)
        what = statements.advertise(w.context.h0, advert)
        advert = replace(advert, signature=w.keys["c001"].sign(what))
        first = replace(m.members[1], advertise=advert)
        return relist(w, m, [m.members[0], first, *m.members[2:]])

    w = cheat(world(4), msg.Roster, shared)
    assert w.stopped[VICTIM].reason is Reason.REPEATED_KEY


def test_two_rosters_for_one_client(world):
    w = world(4)
    w.toward = lambda client, m: m
    w.run()
    raw = [m for m in w.log if m[0] == ">" and m[1] == VICTIM]
    other = w.client(VICTIM)
    w.once[VICTIM].__init__()
    other.receive(raw[0][2])
    first = msg.decode(raw[1][2])
    assert other.receive(first)[-1].breach.reason is Reason.NOT_LISTED  # keys of another attempt


# --- graph ----------------------------------------------------------------------------------------


def graph_world(world):
    return world(12, parameters=Parameters(Suite.GRAPH, 12, 4, 3, 0.0, 0.0, 80))


def other_graph(w, m):
    """Show entries that are under the root, but not those the seed gives."""
    mine = next(x for x in m.members if x.advertise.client == VICTIM)
    tree = w.server._cohort._tree
    others = [i for i in range(12) if i not in {x.index for x in m.members}][:4]
    chosen = [msg.Member(i, w.server._adverts[w.ids[i]], tree.proof(i)) for i in others]
    return replace(m, members=tuple(sorted([mine, *chosen], key=lambda x: x.index)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_graph, Reason.WRONG_GRAPH),
        (lambda w, m: replace(m, members=m.members[1:]), Reason.NOT_LISTED),
        (lambda w, m: replace(m, members=m.members[:-1]), Reason.WRONG_GRAPH),
        (
            lambda w, m: replace(
                m, members=tuple(replace(x, proof=x.proof[::-1]) for x in m.members)
            ),
            Reason.BAD_PROOF,
        ),
        (lambda w, m: replace(m, count=11), Reason.BAD_SERVER_SIGNATURE),
    ],
)
def test_a_chosen_graph(world, change, reason):
    w = cheat(graph_world(world), msg.Roster, change)
    assert w.stopped[VICTIM].reason is reason


def test_consents_from_outside_the_neighbourhood(world):
    def foreign(w, m):
        near = set(w.server._cohort.closed(VICTIM))
        others = [c for name, c in w.server._consents.items() if name not in near]
        return msg.Consents(tuple(others[:3]))

    w = cheat(graph_world(world), msg.Consents, foreign)
    assert w.stopped[VICTIM].reason is Reason.FOREIGN_CONSENT


# --- R2 -------------------------------------------------------------------------------------------


def first_delivery(m, **changes):
    return replace(m, deliveries=(replace(m.deliveries[0], **changes), *m.deliveries[1:]))


def flipped(raw):
    return bytes([raw[0] ^ 1]) + raw[1:]


DELIVERIES = [
    (lambda w, m: replace(m, deliveries=m.deliveries[:1]), Reason.TOO_FEW_SHARES),
    (lambda w, m: replace(m, deliveries=m.deliveries[:1] * 3), Reason.NOT_A_NEIGHBOUR),
    (lambda w, m: first_delivery(m, dealer="stranger"), Reason.NOT_A_NEIGHBOUR),
    (lambda w, m: first_delivery(m, dealer=VICTIM), Reason.NOT_A_NEIGHBOUR),
    (lambda w, m: first_delivery(m, commitment=bytes(32)), Reason.BAD_SIGNATURE),
    (lambda w, m: first_delivery(m, signature=bytes(64)), Reason.BAD_SIGNATURE),
    (lambda w, m: first_delivery(m, proof=()), Reason.BAD_PROOF),
    (lambda w, m: first_delivery(m, place=1), Reason.BAD_PROOF),
    (lambda w, m: first_delivery(m, hashes=m.deliveries[1].hashes), Reason.BAD_PROOF),
]


@pytest.mark.parametrize(("change", "reason"), DELIVERIES)
def test_deliveries_that_the_dealers_did_not_make(world, change, reason):
    w = cheat(world(4), msg.Deliveries, change)
    assert w.stopped[VICTIM].reason is reason
    w.assert_exact()


def test_a_changed_ciphertext_loses_one_share_and_is_reported(world):
    w = cheat(
        world(4),
        msg.Deliveries,
        lambda w, m: first_delivery(m, sealed=flipped(m.deliveries[0].sealed)),
    )
    assert (VICTIM, Reason.BAD_TAG, "c001") in w.rejected
    w.assert_exact()
    assert w.summed.survivors == w.ids


def test_a_truncated_ciphertext_is_malformed(world):
    w = world(4)

    def toward(client, m):
        if client == VICTIM and isinstance(m, msg.Deliveries):
            cut = first_delivery(m, sealed=m.deliveries[0].sealed[:-1])
            w.client_does(client, w.clients[client].receive(msg.encode(cut)))
            return None
        return m

    w.toward = toward
    w.run()
    assert w.stopped[VICTIM].reason is Reason.MALFORMED


def test_other_dealers_after_the_vector_left(world):
    w = world(4)

    def toward(client, m):
        if client == VICTIM and isinstance(m, msg.Survivors):
            first = next(
                raw for way, who, raw in w.log
                if (way, who) == (">", VICTIM) and b"secagg deliveries" in raw[:40]
            )  # fmt: skip
            fewer = msg.decode(first)
            fewer = replace(fewer, deliveries=fewer.deliveries[:-1])
            w.client_does(client, w.clients[client].receive(fewer))
        return m

    w.toward = toward
    w.run()
    assert w.stopped[VICTIM].reason is Reason.SECOND_VECTOR


# --- R3 and R4 ------------------------------------------------------------------------------------


def survivors_of(w, alive, count=None):
    tree, entries = standings(w.ids, frozenset(alive))
    return msg.Survivors(len(alive) if count is None else count, tree.root, entries)


SURVIVORS = [
    (lambda w, m: survivors_of(w, w.ids[1:]), Reason.LEFT_OUT),
    (lambda w, m: survivors_of(w, w.ids[:2]), Reason.TOO_FEW_SURVIVORS),
    (lambda w, m: survivors_of(w, w.ids[:3], count=4), Reason.BAD_PROOF),
    (lambda w, m: replace(m, root=bytes(32)), Reason.BAD_PROOF),
    (lambda w, m: replace(m, standings=m.standings[:3]), Reason.BAD_PROOF),
    (lambda w, m: replace(m, standings=m.standings[::-1]), Reason.BAD_PROOF),
]


@pytest.mark.parametrize(("change", "reason"), SURVIVORS)
def test_survivors_that_are_not_those_of_the_sum(world, change, reason):
    w = cheat(world(4), msg.Survivors, change)
    assert w.stopped[VICTIM].reason is reason
    w.assert_exact()


def test_a_survivor_that_never_dealt(world):
    w = world(4).drop({"c003": 1})
    cheat(w, msg.Survivors, lambda w, m: survivors_of(w, w.ids))
    assert w.stopped[VICTIM].reason is Reason.NOT_A_DEALER


def test_a_victim_named_alive_and_dead_to_different_clients(world):
    """Neither side gathers a threshold of consents, so no share leaves anybody."""
    w = world(6)
    half = set(w.ids[:3])

    def toward(client, m):
        if isinstance(m, msg.Survivors) and client in half:
            return survivors_of(w, w.ids[:5])
        return m

    w.toward = toward
    w.run()
    assert w.summed is None
    assert not w.monitor.kinds


def test_a_victim_named_alive_and_dead_with_forwarded_consents(world):
    """Consents over the other set do not verify."""
    w = world(4)
    consents = {}
    inner = w.forward

    def forward(client, m):
        if isinstance(m, msg.Consent):
            consents[client] = m
        return inner(client, m)

    def toward(client, m):
        if isinstance(m, msg.Survivors) and client == VICTIM:
            return survivors_of(w, w.ids[:3])
        if isinstance(m, msg.Result) and client == VICTIM:
            given = msg.Consents(tuple(consents[name] for name in w.ids[:3]))
            w.client_does(client, w.clients[client].receive(given))
        return m

    w.toward, w.forward = toward, forward
    w.run()
    assert w.stopped[VICTIM].reason is Reason.BAD_SIGNATURE
    assert not any(holder == VICTIM for holder, _ in w.monitor.kinds)


@pytest.mark.parametrize("after", [msg.Consents, msg.Result])
def test_two_survivor_sets_for_one_client(world, after):
    w = world(4)

    def toward(client, m):
        if isinstance(m, after) and client == VICTIM:
            w.client_does(client, w.clients[client].receive(survivors_of(w, w.ids[:3])))
        return m

    w.toward = toward
    w.run()
    assert w.stopped[VICTIM].reason is Reason.TWO_SURVIVOR_SETS


CONSENTS = [
    (lambda w, m: replace(m, consents=m.consents[:2]), Reason.TOO_FEW_CONSENTS),
    (lambda w, m: replace(m, consents=m.consents[:1] * 4), Reason.REPEATED_ID),
    (
        lambda w, m: replace(m, consents=(replace(m.consents[0], client="x"), *m.consents[1:])),
        Reason.FOREIGN_CONSENT,
    ),
    (
        lambda w, m: replace(m, consents=(replace(m.consents[1], client="c000"), *m.consents[1:])),
        Reason.BAD_SIGNATURE,
    ),
]


@pytest.mark.parametrize(("change", "reason"), CONSENTS)
def test_consents_that_were_not_given(world, change, reason):
    w = cheat(world(4), msg.Consents, change)
    assert w.stopped[VICTIM].reason is reason
    w.assert_exact()


def test_consent_of_somebody_named_dead(world):
    w = world(5).drop({"c004": 2})

    def dead(w, m):
        made = statements.survivors(w.server._cohort.h1, count=4, root=w.server._root)
        return msg.Consents((msg.Consent("c004", w.keys["c004"].sign(made)), *m.consents[:3]))

    cheat(w, msg.Consents, dead)
    assert w.stopped[VICTIM].reason is Reason.FOREIGN_CONSENT


def test_two_unmask_requests_get_one_answer(world):
    w = world(4)
    answers = []

    def toward(client, m):
        if isinstance(m, msg.Result) and client == VICTIM:
            consents = w.server._cohort.consents(VICTIM, w.server._consents)
            fewer = replace(consents, consents=consents.consents[:3])
            answers.extend([w.clients[client].receive(c) for c in (consents, fewer)])
        return m

    w.toward = toward
    w.run()
    assert len(answers) == 2
    assert answers[0] == answers[1]
    assert isinstance(answers[0][0].message, msg.Unmask)


@pytest.mark.parametrize(
    "changes",
    [{"count": 3}, {"root": bytes(32)}, {"h1": bytes(32)}],
)
def test_a_result_of_another_sum(world, changes):
    def other(w, m):
        changed = replace(m, **changes)
        return replace(changed, signature=w.server_key.sign(statements.result(changed)))

    w = cheat(world(4), msg.Result, other)
    assert w.stopped[VICTIM].reason is Reason.NOT_COUNTED


def test_a_result_that_the_server_did_not_sign(world):
    w = cheat(world(4), msg.Result, lambda w, m: replace(m, total=bytes(32)))
    assert w.stopped[VICTIM].reason is Reason.BAD_SERVER_SIGNATURE


# --- attempts -------------------------------------------------------------------------------------


def test_a_replayed_attempt(world):
    w = world(4).drop({"c001": 2, "c002": 2}).run()
    w.drop({}).begin()
    w.run()
    assert {b.reason for b in w.stopped.values()} == {Reason.REPLAYED}


def test_an_older_attempt(world):
    w = world(4).drop({"c001": 2, "c002": 2})
    w.begin(attempt=2)
    w.run()
    w.drop({}).begin(attempt=1)
    w.run()
    assert {b.reason for b in w.stopped.values()} == {Reason.REPLAYED}


def test_a_second_sum_of_the_same_round(world):
    w = world(4).run()
    w.begin(attempt=2)
    w.run()
    assert {b.reason for b in w.stopped.values()} == {Reason.JOINED}


def test_too_many_sums_on_one_model(world):
    w = world(3)
    for number in (1, 2, 3):
        w.context = replace(w.context, round=number)
        w.expected = replace(w.expected, round=number)
        w.begin()
        w.run()
        if number < 3:
            w.assert_exact()
    assert {b.reason for b in w.stopped.values()} == {Reason.MODEL_CAP}


def test_a_second_context_in_one_attempt(world):
    w = world(4)

    def toward(client, m):
        if isinstance(m, msg.Roster) and client == VICTIM:
            other = signed(w, replace(w.context, deadline=2000))
            w.client_does(client, w.clients[client].receive(other))
        return m

    w.toward = toward
    w.run()
    assert w.stopped[VICTIM].reason is Reason.CHANGED_CONTEXT


def test_bytes_that_are_no_message(world):
    client = world(3).client(VICTIM)
    commands = client.receive(b"\x01\x00garbage")
    assert commands[-1].breach.reason is Reason.MALFORMED
    assert client.receive(b"") == ()


def test_complaints_are_signed_and_say_why(world):
    w = world(4)
    seen = []
    w.forward = lambda client, m: (seen.append(m), m)[1]
    cheat(w, msg.Roster, sybil)
    complaint = next(m for m in seen if isinstance(m, msg.Complaint))
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
    from choral.secagg.shares import Held

    held = Held("a", bytes(136))
    held.reveal(msg.Kind.SELF_MASK)
    assert held.reveal(msg.Kind.SELF_MASK)
    with pytest.raises(Refused, match="both shares"):
        held.reveal(msg.Kind.MASK_KEY)


def test_every_hint_belongs_to_a_reason():
    assert set(HINTS) <= set(Reason)
    assert len({str(r) for r in Reason}) == len(Reason)
