"""A party of each implementation with the same secrets: both say the same, byte for byte.

So they refuse the same things with the same word, in the order of checks of the page.
"""

import functools
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from choral.secagg.ports import MemoryOnce


def load(name):
    """Return a module of this folder that is no test."""
    if name not in sys.modules:
        path = Path(__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


both = load("reference_parties")
p, w, rc, rs = both.p, both.w, both.rc, both.rs

SMALL = ["full", "full of 7", "semi-honest", "semi-honest graph"]
VICTIM = "c000"


def twins(built, memories=None):
    memories = memories or {}
    return both.TwinServers(built), {
        name: both.Twins(built, name, i, memories.get(name)) for i, name in enumerate(built.ids)
    }


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("sample", range(6))
def test_twins_say_the_same_whoever_is_lost(world, kind, sample):
    built = both.cohort(world, kind)
    chance = both.Bytes("lost", kind, sample)
    steps = [0, 1, 2, 3, 4, *[both.NEVER] * (18 if "graph" in kind or "7" in kind else 8)]
    lost = {name: steps[chance.below(len(steps))] for name in built.ids}
    server, made = twins(built)
    both.play(server, made, lost=lost)
    if server.total is not None:
        both.check_sum(built, server, made, {n: s for n, s in lost.items() if s != both.NEVER})


ACCEPTED = "bad_server_signature"
"""The context is taken, and then the roster that was recorded is under another one."""

CHANGES = {
    "secagg invitation": [
        ("unknown_version", lambda c, m: m["context"].update(version=2)),
        ("malformed_message", lambda c, m: m["context"].update(round=0)),
        ("other_run", lambda c, m: m["context"].update(run_id="other")),
        ("other_model", lambda c, m: m["context"].update(models=[])),
        ("other_plan", lambda c, m: m["context"].update(plan=bytes(32))),
        ("other_authority", lambda c, m: m["context"].update(authority=bytes(32))),
        ("cohort_below_floor", lambda c, m: m["context"].update(min_cohort=1)),
        ("cohort_below_floor", lambda c, m: m["context"].update(min_cohort=99)),
        (ACCEPTED, lambda c, m: m["context"].update(deadline=0)),
        ("other_encoding", lambda c, m: m["context"]["encoding"].update(clip=2.0)),
        ("sum_could_overflow", lambda c, m: m["context"]["encoding"].update(clip=2.0**65)),
        ("sum_could_overflow", lambda c, m: m["context"]["encoding"].update(bits=1)),
        (
            "sum_could_overflow",
            lambda c, m: m["context"]["encoding"].update(bits=37, modulus_bits=64),
        ),
        ("sum_could_overflow", lambda c, m: m["context"]["encoding"].update(modulus_bits=31)),
        ("sum_could_overflow", lambda c, m: m["context"]["encoding"].update(noise_headroom=60)),
        ("sum_could_overflow", lambda c, m: m["context"]["encoding"].update(generator=3)),
        ("other_encoding", lambda c, m: m["context"]["encoding"].update(weight_at=99)),
        ("weak_parameters", lambda c, m: m["context"]["parameters"].update(t=2)),
        ("weak_parameters", lambda c, m: m["context"]["parameters"].update(t=99)),
        ("weak_parameters", lambda c, m: m["context"]["parameters"].update(k=2, t=2)),
        ("weak_parameters", lambda c, m: m["context"]["parameters"].update(clients=3)),
        ("weak_parameters", lambda c, m: m["context"]["parameters"].update(corrupt=0.9)),
        (ACCEPTED, lambda c, m: m["context"]["parameters"].update(sigma=1)),
        ("weak_parameters", lambda c, m: m["context"]["parameters"].update(suite="graph")),
        (
            "bad_server_signature",
            lambda c, m: m["context"]["parameters"].update(suite="semi_honest"),
        ),
        (ACCEPTED, lambda c, m: m["context"]["parameters"].update(beacon=True)),
    ],
    "secagg roster": [
        ("wrong_beacon", lambda c, m: m.update(beacon=b"x")),
        ("cohort_below_floor", lambda c, m: m.update(count=1)),
        ("cohort_below_floor", lambda c, m: m.update(count=m["count"] - 2)),
        ("more_clients_than_invited", lambda c, m: m.update(count=m["count"] + 1)),
        ("more_clients_than_invited", lambda c, m: m.update(count=2**64 - 1)),
        ("bad_inclusion_proof", lambda c, m: m.update(root=bytes(32))),
        ("malformed_message", lambda c, m: m["members"].reverse()),
        ("wrong_neighbourhood", lambda c, m: m["members"].pop()),
        ("own_entry_missing_or_changed", lambda c, m: m["members"].pop(0)),
        ("malformed_message", lambda c, m: m.update(members=[])),
        (
            "bad_inclusion_proof",
            lambda c, m: m["members"][1]["advertise"].update(transport=bytes(32)),
        ),
        ("bad_inclusion_proof", lambda c, m: m["members"][1]["advertise"].update(client="c0005")),
        ("", lambda c, m: m["members"][0]["proof"].append(bytes(32))),
        ("malformed_message", lambda c, m: m["members"][0].update(index=99)),
        ("bad_public_key", lambda c, m: rebuilt(c, m, 1, transport=b"\xff" * 32)),
        ("bad_public_key", lambda c, m: rebuilt(c, m, 1, mask=bytes(32))),
        ("bad_signature", lambda c, m: rebuilt(c, m, 1, mask=bytes([9]) * 32)),
        ("repeated_id", lambda c, m: rebuilt(c, m, 1, client="")),
        ("repeated_id", lambda c, m: rebuilt(c, m, 1, client="c00")),
        ("not_enrolled", lambda c, m: rebuilt(c, m, 1, enrolment=bytes(64))),
        ("not_enrolled", lambda c, m: rebuilt(c, m, 1, verify_key=bytes(32))),
        ("not_enrolled", lambda c, m: rebuilt(c, m, 1, verify_key=b"")),
        ("bad_signature", lambda c, m: rebuilt(c, m, 1, signature=b"")),
        ("repeated_id", lambda c, m: rebuilt(c, m, 2, **m["members"][1]["advertise"])),
        (
            "repeated_key",
            lambda c, m: rebuilt(c, m, 2, mask=m["members"][1]["advertise"]["transport"]),
        ),
    ],
    "secagg deliveries": [
        ("", lambda c, m: m["deliveries"].reverse()),
        ("survivor_without_shares", lambda c, m: m["deliveries"].pop()),
        ("too_few_share_dealers", lambda c, m: m.update(deliveries=[])),
        ("too_few_share_dealers", lambda c, m: m.update(deliveries=m["deliveries"][:1])),
        ("not_a_neighbour", lambda c, m: m["deliveries"].append(m["deliveries"][0])),
        ("not_a_neighbour", lambda c, m: m["deliveries"][0].update(dealer="c000")),
        ("not_a_neighbour", lambda c, m: m["deliveries"][0].update(dealer="x")),
        ("bad_inclusion_proof", lambda c, m: m["deliveries"][0].update(place=99)),
        ("bad_inclusion_proof", lambda c, m: m["deliveries"][0].update(place=1)),
        ("bad_signature", lambda c, m: m["deliveries"][0].update(commitment=bytes(32))),
        ("bad_signature", lambda c, m: m["deliveries"][0].update(root=bytes(32))),
        (
            "bad_inclusion_proof",
            lambda c, m: m["deliveries"][0]["hashes"].update(mask_key=bytes(32)),
        ),
        ("bad_inclusion_proof", lambda c, m: m["deliveries"][0]["proof"].pop()),
        ("bad_inclusion_proof", lambda c, m: m["deliveries"][0]["proof"].append(bytes(32))),
        ("sealed_share_does_not_open", lambda c, m: m["deliveries"][0].update(sealed=bytes(152))),
        (
            "sealed_share_does_not_open",
            lambda c, m: m["deliveries"][0].update(sealed=m["deliveries"][1]["sealed"]),
        ),
        ("bad_signature", lambda c, m: m["deliveries"][0].update(signature=bytes(64))),
        ("bad_signature", lambda c, m: m["deliveries"][0].update(signature=b"")),
    ],
    "secagg survivors": [
        ("bad_inclusion_proof", lambda c, m: m.update(count=m["count"] - 1)),
        ("bad_inclusion_proof", lambda c, m: m.update(count=99)),
        ("bad_inclusion_proof", lambda c, m: m.update(root=bytes(32))),
        ("bad_inclusion_proof", lambda c, m: m["standings"].reverse()),
        ("bad_inclusion_proof", lambda c, m: m["standings"].pop()),
        ("bad_inclusion_proof", lambda c, m: m["standings"][0].update(alive=False)),
        ("", lambda c, m: m["standings"][0]["proof"].append(bytes(32))),
        ("own_vector_left_out", lambda c, m: stand(c, m, "c000")),
        ("consent_of_an_outsider", lambda c, m: stand(c, m, "c001")),
        ("too_few_survivors", lambda c, m: stand(c, m, *[f"c{i:03}" for i in range(1, 12)])),
    ],
    "secagg consents": [
        ("", lambda c, m: m["consents"].reverse()),
        ("too_few_consents", lambda c, m: m["consents"].pop()),
        ("too_few_consents", lambda c, m: m.update(consents=m["consents"][:2])),
        ("repeated_id", lambda c, m: m["consents"].append(m["consents"][0])),
        ("consent_of_an_outsider", lambda c, m: m["consents"][0].update(client="x")),
        ("bad_signature", lambda c, m: m["consents"][0].update(signature=bytes(64))),
        ("bad_signature", lambda c, m: m["consents"][0].update(signature=b"")),
    ],
    "secagg result": [
        ("not_counted", lambda c, m: m.update(count=m["count"] - 1)),
        ("not_counted", lambda c, m: m.update(h1=bytes(32))),
        ("not_counted", lambda c, m: m.update(root=bytes(32))),
        ("", lambda c, m: m.update(weight=5)),
    ],
}
"""What a cheating coordinator may write to the victim, and what a client of `full` says to it.

Where the coordinator signs a message, it signs the changed one."""


def rebuilt(built, m, at, **fields):
    """Change an entry of U1 and rebuild the tree over it, where all entries are there."""
    m["members"][at]["advertise"].update(fields)
    if len(m["members"]) == m["count"]:
        leaves = [w.write("secagg advertise", e["advertise"]) for e in m["members"]]
        m["root"] = p.tree_root(leaves)


def stand(built, m, *gone):
    """Say that some are not in U3, and rebuild the tree where all entries are there."""
    for s in m["standings"]:
        if built.ids[s["index"]] in gone:
            s["alive"] = False
    if len(m["standings"]) == len(built.ids):
        leaves = [w.standing_leaf(built.ids[s["index"]], s["alive"]) for s in m["standings"]]
        m["root"], m["count"] = p.tree_root(leaves), sum(s["alive"] for s in m["standings"])


def signed_again(built, label, m):
    if not built.signed:
        return
    h0 = w.h0_of(both.context_of(built))
    said = {
        "secagg invitation": lambda: w.say_invitation(w.h0_of(m["context"])),
        "secagg roster": lambda: w.say_roster(h0, m["count"], m["root"], m["beacon"]),
        "secagg result": lambda: w.say_result(m),
    }.get(label)
    if said is not None:
        m["signature"] = p.sign(bytes(built.server_key._secret.expose()), said())


CASES = [(label, *change) for label, changes in CHANGES.items() for change in changes]
PLACES = range(len(CASES))


@functools.cache
def recorded(world, kind):
    """A cohort, and all that its coordinator sends to the victim when nothing is wrong."""
    built = both.cohort(world, kind)
    server, made = both.parties(built, "product", "product")
    made[VICTIM] = both.Twins(built, VICTIM, 99)
    log = both.play(server, made)
    assert made[VICTIM].counted
    return built, [bytes.fromhex(raw) for way, name, raw in log if (way, name) == (">", VICTIM)]


@pytest.mark.parametrize("kind", list(both.KINDS))
@pytest.mark.parametrize("case", PLACES, ids=[f"{c[0]} {c[1]}" for c in CASES])
def test_twins_refuse_the_same_with_the_same_word(world, kind, case):
    built, sent = recorded(world, kind)
    victim = both.Twins(built, VICTIM, 99)
    label, word, wrong = CASES[case]
    for raw in sent:
        found, m = w.read_message(raw)
        if found == label:
            wrong(built, m)
            signed_again(built, label, m)
        victim.receive(w.write(found, m))
    if kind == "full":
        assert victim.complaints == [word] * bool(word)


def test_the_changes_reach_the_checks_of_what_the_coordinator_says():
    never = set(w.REASONS) - {word for _, word, _ in CASES}
    assert never == {
        # by those below
        "suite_not_allowed", "share_does_not_match_its_hash", "changed_context", "changed_roster",
        "second_masked_vector", "two_survivor_sets", "attempt_already_answered",
        "another_attempt_was_joined", "too_many_sums_on_one_model",
        "a_later_attempt_was_entered", "too_few_survivors_on_one_side",
        # of the coordinator
        "wrong_vector", "changed_dealers",
        # of the product's own inner state
        "check_failed", "out_of_order",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("label", "word"),
    [
        ("secagg invitation", "changed_context"),
        ("secagg roster", "changed_roster"),
        ("secagg deliveries", "second_masked_vector"),
        ("secagg survivors", "two_survivor_sets"),
        ("secagg consents", ""),
        ("secagg result", ""),
    ],
)
def test_twins_stop_at_a_second_message_of_a_kind(world, label, word):
    built, sent = recorded(world, "full")
    victim = both.Twins(built, VICTIM, 99)
    second = {
        "secagg invitation": lambda m: m["context"].update(deadline=0),
        "secagg deliveries": lambda m: m["deliveries"].reverse(),
        "secagg survivors": lambda m: m.update(count=3),
        "secagg consents": lambda m: m["consents"].reverse(),
    }.get(label, lambda m: m.update(signature=bytes(64)))
    for raw in sent:
        found, m = w.read_message(raw)
        first = victim.receive(raw)
        if found == label:
            assert victim.receive(raw) == first
            second(m)
            victim.receive(w.write(label, m))
    assert victim.complaints == [word] * bool(word)


def test_twins_refuse_a_suite_that_their_site_does_not_join(world):
    built = both.cohort(world, "full")
    _, sent = recorded(world, "full")
    site = built.sites[VICTIM]
    for changes in ({"suites": frozenset()}, {"key": None}):
        built.sites[VICTIM] = replace(site, **changes)
        victim = both.Twins(built, VICTIM, 99)
        victim.receive(sent[0])
        assert victim.complaints == ["suite_not_allowed"]


def test_twins_refuse_to_be_a_cut_off_end_of_the_circle(world):
    """All on one side of the victim are said to be lost; enough holders are left to unmask."""
    built = both.cohort(world, "graph")
    _, sent = recorded(world, "graph")
    (roster,) = [m for label, m in map(w.read_message, sent) if label == "secagg roster"]
    (own,) = [e["index"] for e in roster["members"] if e["advertise"]["client"] == VICTIM]
    assert own == built.ids.index(VICTIM)
    h0 = w.h0_of(both.context_of(built))
    seed = w.graph_seed(h0, roster["count"], roster["root"], roster["beacon"])
    for side in p.sides_of(own, roster["count"], both.GRAPH.k, seed):
        server, made = both.parties(built, "product", "product")
        made[VICTIM] = both.Twins(built, VICTIM, 99)
        both.play(server, made, lost={built.ids[i]: 2 for i in side})
        assert made[VICTIM].complaints == ["too_few_survivors_on_one_side"]
        built.begin()


CHEATS = {
    "secagg advertise": [
        lambda m: m.update(client=""),
        lambda m: m.update(client="c000"),
        lambda m: m.update(transport=bytes(32)),
        lambda m: m.update(mask=b"\xff" * 32),
        lambda m: m.update(mask=m["transport"]),
        lambda m: m.update(enrolment=b""),
        lambda m: m.update(signature=bytes(64)),
    ],
    "secagg bundle": [
        lambda m: m["sealed"].pop(),
        lambda m: m["hashes"].pop(),
        lambda m: m.update(commitment=bytes(32)),
        lambda m: m["hashes"][0].update(self_mask=bytes(32)),
        lambda m: m.update(sealed=[bytes(152)] * len(m["sealed"])),
        lambda m: m.update(signature=bytes(64)),
    ],
    "secagg masked": [
        lambda m: m.update(digest=bytes(32)),
        lambda m: m.update(dealers=bytes(32)),
        lambda m: m.update(signature=bytes(64)),
    ],
    "secagg consent": [lambda m: m.update(signature=bytes(64))],
    "secagg unmask": [
        lambda m: m.update(revealed=[]),
        lambda m: m["revealed"].append(m["revealed"][0]),
        lambda m: m["revealed"].reverse(),
        lambda m: m["revealed"][0].update(dealer="x"),
        lambda m: m["revealed"][0].update(kind="s"),
        lambda m: m["revealed"][0].update(salt=bytes(32)),
        lambda m: m["revealed"][1].update(share=bytes(36)),
        lambda m: m.update(signature=bytes(64)),
    ],
}
"""What a cheating client may write to the coordinator."""


@pytest.mark.parametrize("kind", ["full", "semi-honest", "semi-honest graph"])
@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("label", list(CHEATS))
def test_twin_coordinators_take_and_blame_the_same(world, kind, signs, label):
    for cheat in CHEATS[label]:
        built = both.cohort(world, kind)
        _, made = both.parties(built, "product", "product")
        server = both.TwinServers(built)

        def change(name, raw, cheat=cheat, built=built, server=server):
            found, m = w.read_message(raw)
            if name != "c001" or found != label:
                return raw
            cheat(m)
            if signs and built.signed:
                seed = bytes(built.keys[name]._secret.expose())
                m["signature"] = p.sign(seed, said(built, server, label, m))
            return w.write(label, m)

        both.play(server, made, cheat=change)
        if server.total is not None:
            wanted = built.total(server.survivors)
            assert server.total == bytes(built.encoding.ring.pack(wanted))


def said(built, server, label, m):
    """The statement that a client signs with a message."""
    if label == "secagg advertise":
        return w.say_advertise(w.h0_of(both.context_of(built)), m)
    state = server.reference.state
    if label == "secagg bundle":
        return w.say_shares(state.h1, m["client"], m["commitment"], p.tree_root(rs.leaves_of(m)))
    if label == "secagg masked":
        return w.say_masked(state.h1, m)
    if label == "secagg consent":
        return w.say_survivors(state.h1, len(state.alive) - 1, state.root)
    return w.say_unmask(state.h1, m)


def test_twins_remember_the_same(world):
    """A second attempt after the sum, a replay after a loss, a third sum on one model."""
    built = both.cohort(world, "full")
    memories = {name: (MemoryOnce(), {}) for name in built.ids}
    seen = []

    def attempt(round, number, lost=None):
        built.context = replace(built.context, round=round)
        built.expected = replace(built.expected, round=round)
        built.begin(attempt=number)
        server, made = twins(built, memories)
        both.play(server, made, lost=lost)
        seen.append(
            (server.total is not None, *sorted({r for c in made.values() for r in c.complaints}))
        )

    attempt(1, 1, lost={"c000": 2, "c001": 2})
    attempt(1, 1)
    attempt(1, 2)
    attempt(1, 3)
    attempt(2, 1)
    attempt(3, 1)
    assert seen == [
        (False,),
        (False, "attempt_already_answered"),
        (True,),
        (False, "another_attempt_was_joined"),
        (True,),
        (False, "too_many_sums_on_one_model"),
    ]


@pytest.mark.parametrize("at", ["secagg survivors", "secagg consents"])
def test_twins_are_silent_once_a_later_attempt_was_entered(world, at):
    built, sent = recorded(world, "full")
    memory = (MemoryOnce(), {})
    victim = both.Twins(built, VICTIM, 99, memory)
    later = w.read_message(sent[0])[1]
    later["context"]["attempt"] = 2
    signed_again(built, "secagg invitation", later)
    for raw in sent:
        if w.read_message(raw)[0] == at:
            both.Twins(built, VICTIM, 5, memory).receive(w.write("secagg invitation", later))
        victim.receive(raw)
    assert victim.complaints == ["a_later_attempt_was_entered"]


@pytest.mark.parametrize("kind", ["full", "semi-honest graph"])
@pytest.mark.parametrize("label", list(CHANGES))
def test_twins_on_bytes_that_were_broken(world, kind, label):
    built, sent = recorded(world, kind)
    for sample in range(40):
        victim = both.Twins(built, VICTIM, 99)
        chance = both.Bytes("broken", kind, label, sample)
        for raw in sent:
            there = w.read_message(raw)[0] == label
            victim.receive(both.broken(raw, chance) if there else raw)
