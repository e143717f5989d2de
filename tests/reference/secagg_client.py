"""A reference client: bytes in, bytes out, one function a step; secrets come from `draw(size)`.

Written from docs/reference/secure-aggregation-wire.md. `receive` returns a list of messages; each
is a pair of its bytes and, for a masked vector, the packed vector that follows it.
"""

import itertools
from types import SimpleNamespace

import secagg_primitives as p
import secagg_wire as w
from secagg_primitives import Refusal, check

CHANGED = {
    "secagg invitation": "changed_context",
    "secagg roster": "changed_roster",
    "secagg deliveries": "second_masked_vector",
    "secagg survivors": "two_survivor_sets",
}


def new_client(site, expected, vector, draw, durable):
    """A client before R0.

    `site`: client, seed (private signing key or None), enrolment, authority, coordinator (public
    keys), min_cohort, suites, min_corrupt, max_sums. `expected`: run_id, round, models, plan,
    encoding, beacon. `vector`: elements. `durable`: a dictionary that outlives the attempt.
    """
    return SimpleNamespace(
        **site,
        expected=expected,
        vector=vector,
        draw=draw,
        durable=durable,
        next=("secagg invitation",),
        answered={},
        context=None,
        stopped=None,
        counted=False,
    )


def receive(c, raw):
    if c.stopped or c.counted:
        return []
    try:
        label, m = w.read_message(raw)
        if label in c.answered:
            first, replies = c.answered[label]
            check(raw == first or label == "secagg consents", CHANGED.get(label, w.BAD))
            return replies
        if label not in c.next:
            return []
        replies = STEPS[label](c, m)
    except Refusal as refusal:
        c.stopped = refusal.reason
        return [(complaint(c, refusal, ends=True), None)]
    c.answered[label] = (raw, replies)
    return replies


def signed(c):
    return c.context["parameters"]["suite"] != "semi_honest"


def signature(c, what):
    return p.sign(c.seed, what) if signed(c) else b""


def check_signature(c, public, what, given, reason, about=""):
    good = p.verifies(public, what, given) if signed(c) else given == b""
    check(good, reason, about)


def complaint(c, refusal, *, ends):
    m = {"client": c.client, "reason": refusal.reason, "about": refusal.about, "ends": ends}
    accepted = c.next != ("secagg invitation",)
    said = w.say_complaint(c.h0, m) if accepted else b""
    m["signature"] = signature(c, said) if accepted else b""
    return w.write("secagg complaint", m)


def first_wins(c, place, value, reason):
    check(c.durable.setdefault(place, value) == value, reason)


# --- R0 -------------------------------------------------------------------------------------------


def acceptable(context):
    """What any client checks of a context; the coordinator does, too."""
    check(context["version"] == 1, "unknown_version")
    good = 1 <= context["round"] < 2**31 and 1 <= context["attempt"] < 2**32
    check(good, "malformed_message")
    check(p.strong(context["parameters"]), "weak_parameters")
    n, e = context["parameters"]["clients"], context["encoding"]
    check(2 <= context["min_cohort"] <= n, "cohort_below_floor")
    m, b = e["modulus_bits"], e["bits"]
    log2n = (n - 1).bit_length()
    fits = m in (16, 24, 32, 64) and 2 <= b <= min(36, m) and 2.0**-64 <= e["clip"] <= 2.0**64
    fits = fits and e["generator"] in (1, 2) and m >= b + log2n + 1 + e["noise_headroom"]
    check(fits, "sum_could_overflow")
    check(e["weight_at"] <= e["size"], "other_encoding")


def quorum(context):
    return max(context["parameters"]["t"], context["min_cohort"])


def invited(c, m):
    context, want = m["context"], c.expected
    acceptable(context)
    parameters = context["parameters"]
    suite = parameters["suite"]
    needs_key = suite != "semi_honest"
    check(suite in c.suites and (c.seed or not needs_key), "suite_not_allowed")
    c.context, c.h0 = context, w.h0_of(context)
    said = w.say_invitation(c.h0)
    check_signature(c, c.coordinator, said, m["signature"], "bad_server_signature")
    check((context["run_id"], context["round"]) == (want["run_id"], want["round"]), "other_run")
    for name in ("models", "plan", "encoding"):
        check(context[name] == want[name], f"other_{name.removesuffix('s')}")
    if needs_key:
        check(context["authority"] == w.authority_id(c.authority), "other_authority")
    check(context["min_cohort"] >= c.min_cohort, "cohort_below_floor")
    if parameters["k"] != parameters["clients"] - 1:
        check(parameters["corrupt"] >= c.min_corrupt, "weak_parameters")
        check(parameters["beacon"] == bool(want["beacon"]), "wrong_beacon")
    enter(c)
    c.transport, c.mask = c.draw(32), c.draw(32)
    c.advertise = {
        "client": c.client,
        "transport": p.public_of(c.transport),
        "mask": p.public_of(c.mask),
        "verify_key": p.signing_public_of(c.seed) if needs_key else b"",
        "enrolment": c.enrolment if needs_key else b"",
    }
    c.advertise["signature"] = signature(c, w.say_advertise(c.h0, c.advertise))
    c.next = ("secagg roster",)
    return [(w.write("secagg advertise", c.advertise), None)]


def round_of(c):
    return (c.client, c.context["run_id"], c.context["round"])


def serial(c):
    return c.context["round"] * 2**32 + c.context["attempt"]


def places_of(c, model):
    return [("model", c.client, model, i) for i in range(c.max_sums)]


def enter(c):
    place = ("attempt", *round_of(c)[:2])
    check(serial(c) > c.durable.get(place, -1), "attempt_already_answered")
    c.durable[place] = serial(c)
    check(("joined", *round_of(c)) not in c.durable, "another_attempt_was_joined")
    for model in c.context["models"]:
        held = [c.durable.get(place) for place in places_of(c, model)]
        free = None in held or round_of(c) in held
        check(free, "too_many_sums_on_one_model")


def check_latest(c):
    latest = c.durable[("attempt", *round_of(c)[:2])]
    check(latest == serial(c), "a_later_attempt_was_entered")


# --- R1 -------------------------------------------------------------------------------------------


def check_advertise(c, m):
    """Keys of another client: well formed, enrolled, signed."""
    who = m["client"]
    check(bool(who), "malformed_message")
    check(p.canonical(m["transport"]) and p.canonical(m["mask"]), "bad_public_key", who)
    if signed(c):
        said = w.say_enrolment(who, m["verify_key"])
        check(p.verifies(c.authority, said, m["enrolment"]), "not_enrolled", who)
    else:
        check(not m["verify_key"] and not m["enrolment"], "bad_signature", who)
    said = w.say_advertise(c.h0, m)
    check_signature(c, m["verify_key"], said, m["signature"], "bad_signature", who)


def listed(c, m):
    n, k = c.context["parameters"]["clients"], c.context["parameters"]["k"]
    beacon = c.expected["beacon"] if c.context["parameters"]["beacon"] else b""
    count, root = m["count"], m["root"]
    said = w.say_roster(c.h0, count, root, m["beacon"])
    check_signature(c, c.coordinator, said, m["signature"], "bad_server_signature")
    check(m["beacon"] == beacon, "wrong_beacon")
    floor = max(quorum(c.context), p.least_listed(c.context["parameters"]))
    check(count >= floor, "cohort_below_floor")
    check(count <= n, "more_clients_than_invited")
    indices = [entry["index"] for entry in m["members"]]
    check(indices and indices == sorted(set(indices)), "malformed_message")
    own = [entry["index"] for entry in m["members"] if entry["advertise"] == c.advertise]
    check(len(own) == 1, "own_entry_missing_or_changed")
    check_tree_of_members(m, complete=k >= count - 1)
    check(own[0] < count, "malformed_message")
    seed = w.graph_seed(c.h0, count, root, beacon)
    near = p.holders_of(own[0], count, k, seed)
    check(indices == near, "wrong_neighbourhood")
    check_distinct([entry["advertise"] for entry in m["members"]])
    for entry in m["members"]:
        if entry["advertise"] != c.advertise:
            check_advertise(c, entry["advertise"])
    c.h1 = w.h1_of(c.h0, count, root, beacon)
    c.count, c.complete = count, k >= count - 1
    c.members = {entry["index"]: entry["advertise"] for entry in m["members"]}
    c.peers = {a["client"]: a for a in c.members.values()}
    c.holders = list(c.peers)
    sides = p.sides_of(own[0], count, k, seed) or ()
    c.sides = [{c.members[i]["client"] for i in side} for side in sides]
    c.next = ("secagg deliveries",)
    return [(deal(c), None)]


def check_tree_of_members(m, *, complete):
    leaves = [w.write("secagg advertise", entry["advertise"]) for entry in m["members"]]
    if complete:
        check(len(leaves) == m["count"], "wrong_neighbourhood")
        check(p.tree_root(leaves) == m["root"], "bad_inclusion_proof")
        return
    for entry, leaf in zip(m["members"], leaves, strict=True):
        good = p.included(leaf, entry["index"], m["count"], entry["proof"], m["root"])
        check(good, "bad_inclusion_proof")


def check_distinct(adverts):
    """Ids ascend and no public key is there twice; the later entry is to blame."""
    for before, after in itertools.pairwise(adverts):
        ascending = before["client"].encode() < after["client"].encode()
        check(ascending, "repeated_id", after["client"])
    known = set()
    for a in adverts:
        for name in ("transport", "mask", "verify_key"):
            check(a[name] not in known, "repeated_key", a["client"])
            known |= {a[name]} - {b""}


def deal(c):
    """Draw b, share b and s, and seal each holder's part."""
    c.b = c.draw(32)
    t = c.context["parameters"]["t"]
    rows = p.shares_of([c.b, c.mask], t, len(c.holders), c.draw)
    salts = c.draw(64 * len(c.holders))
    hashes, sealed, c.held, c.shared = [], [], {}, {}
    for i, (holder, (of_b, of_s)) in enumerate(zip(c.holders, rows, strict=True)):
        salt_b, salt_s = salts[64 * i : 64 * i + 32], salts[64 * i + 32 : 64 * i + 64]
        parts = (of_b, of_s, salt_b, salt_s)
        hashes.append(both_hashes(c, c.client, holder, parts))
        if holder == c.client:
            c.held[c.client] = parts
            continue
        c.shared[holder] = p.exchange(c.transport, c.peers[holder]["transport"], holder)
        key = p.sealing_key(c.shared[holder], c.h1, c.client, holder)
        sealed.append(p.seal(key, b"".join(parts), c.h1, c.client, holder))
    m = {"client": c.client, "commitment": w.commitment(c.h1, c.b)}
    m |= {"hashes": hashes, "sealed": sealed}
    root = p.tree_root([w.write_packed("hashes", h) for h in hashes])
    m["signature"] = signature(c, w.say_shares(c.h1, c.client, m["commitment"], root))
    return w.write("secagg bundle", m)


def both_hashes(c, dealer, holder, parts):
    of_b, of_s, salt_b, salt_s = parts
    return {
        "self_mask": w.share_hash(c.h1, dealer, holder, "b", salt_b, of_b),
        "mask_key": w.share_hash(c.h1, dealer, holder, "s", salt_s, of_s),
    }


# --- R2 -------------------------------------------------------------------------------------------


def delivered(c, m):
    names = [d["dealer"] for d in m["deliveries"]]
    good = len(set(names)) == len(names) and set(names) <= set(c.holders) - {c.client}
    check(good, "not_a_neighbour")
    check(len(names) + 1 >= c.context["parameters"]["t"], "too_few_share_dealers")
    reports = []
    for d in m["deliveries"]:
        who = d["dealer"]
        said = w.say_shares(c.h1, who, d["commitment"], d["root"])
        check_signature(c, c.peers[who]["verify_key"], said, d["signature"], "bad_signature", who)
        leaf = w.write_packed("hashes", d["hashes"])
        good = p.included(leaf, d["place"], len(c.holders), d["proof"], d["root"])
        check(good, "bad_inclusion_proof", who)
        try:
            c.held[who] = opened(c, d)
        except Refusal as refusal:
            reports.append((complaint(c, refusal, ends=False), None))
    c.dealers = {*names, c.client}
    for model in c.context["models"]:
        held = (c.durable.setdefault(place, round_of(c)) for place in places_of(c, model))
        check(any(h == round_of(c) for h in held), "too_many_sums_on_one_model")
    packed = masked(c)
    digest = p.sha256(packed)
    place = ("masked", *round_of(c), c.context["attempt"])
    first_wins(c, place, digest, "second_masked_vector")
    answer = {"client": c.client, "digest": digest, "dealers": w.dealers_digest(c.h1, names)}
    answer["signature"] = signature(c, w.say_masked(c.h1, answer))
    c.transport = c.mask = c.b = c.shared = None
    c.next = ("secagg survivors",)
    return [*reports, (w.write("secagg masked", answer), packed)]


def opened(c, d):
    key = p.sealing_key(c.shared[d["dealer"]], c.h1, d["dealer"], c.client)
    plain = p.unseal(key, d["sealed"], c.h1, d["dealer"], c.client)
    parts = (plain[:36], plain[36:72], plain[72:104], plain[104:136])
    good = both_hashes(c, d["dealer"], c.client, parts) == d["hashes"]
    check(good, "share_does_not_match_its_hash", d["dealer"])
    return parts


def masked(c):
    encoding = c.context["encoding"]
    m, size, generator = encoding["modulus_bits"], encoding["size"], encoding["generator"]
    check(len(c.vector) == size, "wrong_vector")
    key = p.self_mask_key(c.b, c.h1, c.client)
    y = p.added(c.vector, p.mask_of(generator, key, m, size), 1, m)
    for peer in sorted(c.dealers - {c.client}, key=str.encode):
        shared = p.exchange(c.mask, c.peers[peer]["mask"], peer)
        key = p.pair_mask_key(shared, c.h1, c.client, peer)
        sign = 1 if c.client.encode() < peer.encode() else -1
        y = p.added(y, p.mask_of(generator, key, m, size), sign, m)
    return p.pack(y, m)


# --- R3, R4, the end ------------------------------------------------------------------------------


def surviving(c, m):
    check_latest(c)
    count, root = m["count"], m["root"]
    indices = [s["index"] for s in m["standings"]]
    check(indices == list(c.members), "bad_inclusion_proof")
    leaves = [w.standing_leaf(c.members[s["index"]]["client"], s["alive"]) for s in m["standings"]]
    alive = {c.members[s["index"]]["client"] for s in m["standings"] if s["alive"]}
    if c.complete:
        check(p.tree_root(leaves) == root and len(alive) == count, "bad_inclusion_proof")
    else:
        for s, leaf in zip(m["standings"], leaves, strict=True):
            good = p.included(leaf, s["index"], c.count, s["proof"], root)
            check(good, "bad_inclusion_proof")
    check(alive <= c.dealers, "survivor_without_shares")
    check(c.client in alive, "own_vector_left_out")
    t = c.context["parameters"]["t"]
    large = quorum(c.context) <= count <= c.count and len(alive) >= t
    check(large, "too_few_survivors")
    floor = p.side_floor(c.context["parameters"])
    check(all(len(side & alive) >= floor for side in c.sides), "too_few_survivors_on_one_side")
    said = w.say_survivors(c.h1, count, root)
    place = ("survivors", *round_of(c), c.context["attempt"])
    first_wins(c, place, said, "two_survivor_sets")
    c.alive, c.survivors = alive, (count, root)
    if not signed(c):
        return unmask(c)
    c.next = ("secagg consents", "secagg result")
    consent = {"client": c.client, "signature": signature(c, said)}
    return [(w.write("secagg consent", consent), None)]


def agreed(c, m):
    names = [consent["client"] for consent in m["consents"]]
    check(set(names) <= c.alive, "consent_of_an_outsider")
    check(len(set(names)) == len(names), "repeated_id")
    check(len(names) >= c.context["parameters"]["t"], "too_few_consents")
    said = w.say_survivors(c.h1, *c.survivors)
    for consent in m["consents"]:
        who = consent["client"]
        good = p.verifies(c.peers[who]["verify_key"], said, consent["signature"])
        check(good, "bad_signature", who)
    return unmask(c)


def join(c):
    check_latest(c)
    first_wins(c, ("joined", *round_of(c)), c.h0, "another_attempt_was_joined")
    check_latest(c)


def unmask(c):
    join(c)
    revealed = []
    for dealer in sorted(c.held, key=str.encode):
        of_b, of_s, salt_b, salt_s = c.held[dealer]
        kind, salt, share = ("b", salt_b, of_b) if dealer in c.alive else ("s", salt_s, of_s)
        revealed.append({"dealer": dealer, "kind": kind, "salt": salt, "share": share})
    m = {"client": c.client, "revealed": revealed}
    m["signature"] = signature(c, w.say_unmask(c.h1, m))
    c.held = None
    c.next = ("secagg result",)
    return [(w.write("secagg unmask", m), None)]


def told(c, m):
    check_signature(c, c.coordinator, w.say_result(m), m["signature"], "bad_server_signature")
    mine = (c.h1, *c.survivors)
    check((m["h1"], m["count"], m["root"]) == mine, "not_counted")
    c.counted = True
    c.next = ()
    return []


STEPS = {
    "secagg invitation": invited,
    "secagg roster": listed,
    "secagg deliveries": delivered,
    "secagg survivors": surviving,
    "secagg consents": agreed,
    "secagg result": told,
}
