"""A reference coordinator: one function a step, each step ended by `close`.

Written from docs/reference/secure-aggregation-wire.md. `start` and `close` return pairs of a
client and the bytes for it; `receive` takes what clients answered.
"""

from types import SimpleNamespace

import secagg_client
import secagg_primitives as p
import secagg_wire as w
from secagg_primitives import Refusal, check


def new_server(context, invited, seed, authority, beacon=b""):
    """A coordinator before R0; `seed` is its private signing key, None in `semi_honest`."""
    secagg_client.acceptable(context)
    return SimpleNamespace(
        context=context,
        h0=w.h0_of(context),
        seed=seed,
        authority=authority,
        beacon=beacon,
        waiting=set(invited),
        answers={},
        step="secagg advertise",
        adverts={},
        accused=set(),
        rejected=[],
        aborted=None,
        total=None,
        survivors=None,
        result=None,
    )


def signature(s, what):
    return p.sign(s.seed, what) if secagg_client.signed(s) else b""


def ascending(ids):
    return sorted(ids, key=str.encode)


def start(s):
    said = w.say_invitation(s.h0)
    m = {"context": s.context, "signature": signature(s, said)}
    raw = w.write("secagg invitation", m)
    return [(name, raw) for name in ascending(s.waiting)]


def receive(s, sender, raw, vector=None):
    """Take one client's answer to the present step; a bad one is noted and not taken."""
    if sender not in s.waiting or s.step is None:
        return
    try:
        label, m = w.read_message(raw)
        check(m.get("client") == sender, "malformed_message")
        if label == "secagg complaint":
            complained(s, m)
            return
        if label != s.step:
            return
        if sender in s.answers:
            same = label != "secagg masked" or s.answers[sender]["digest"] == m["digest"]
            check(same, "second_masked_vector")
            return
        CHECKS[label](s, m, vector)
        s.answers[sender] = m
    except Refusal as refusal:
        s.rejected.append((sender, refusal.reason, refusal.about or sender))


def complained(s, m):
    """Note a complaint: once for each client and whom it is about, unless it is its last word."""
    who, known = m["client"], m["client"] in s.adverts
    if known:
        check_signed(s, m, w.say_complaint(s.h0, m))
    about = m["about"] if known and m["about"] in s.adverts else ""
    if m["ends"] or (who, about) not in s.accused:
        s.rejected.append((who, m["reason"], about))
    s.accused.add((who, about))


def close(s):
    """End the present step; return what is to be sent."""
    ended, s.step = s.step, None
    return CLOSES[ended](s)


def go_on(s, step, least):
    """Whether enough answered; those that did are in the next step."""
    if len(s.answers) < least:
        s.aborted = f"too few for {step}"
        return False
    answers, s.answers = s.answers, {}
    s.waiting, s.step = set(answers), step
    s.last = answers
    return True


# --- R0 -------------------------------------------------------------------------------------------


def check_advertise(s, m, _):
    secagg_client.check_advertise(s, m)
    secagg_client.check_distinct([m])
    known = {a[kind] for a in s.answers.values() for kind in ("transport", "mask", "verify_key")}
    fresh = not {m["transport"], m["mask"], m["verify_key"]} - {b""} & known
    check(fresh, "repeated_key")
    s.adverts[m["client"]] = m


def close_advertise(s):
    floor = max(secagg_client.quorum(s.context), p.least_listed(s.context["parameters"]))
    if not go_on(s, "secagg bundle", floor):
        return []
    s.ids = ascending(s.adverts)
    count, k = len(s.ids), s.context["parameters"]["k"]
    levels = p.tree_levels([w.write("secagg advertise", s.adverts[name]) for name in s.ids])
    root = levels[-1][0]
    s.h1 = w.h1_of(s.h0, count, root, s.beacon)
    seed = w.graph_seed(s.h0, count, root, s.beacon)
    s.complete = k >= count - 1
    s.near = {name: p.holders_of(i, count, k, seed) for i, name in enumerate(s.ids)}
    s.holders = {name: [s.ids[i] for i in near] for name, near in s.near.items()}
    signed = signature(s, w.say_roster(s.h0, count, root, s.beacon))
    told = []
    for name in s.ids:
        members = [
            {
                "index": i,
                "advertise": s.adverts[s.ids[i]],
                "proof": [] if s.complete else p.tree_proof(levels, i),
            }
            for i in s.near[name]
        ]
        m = {"count": count, "root": root, "beacon": s.beacon}
        m |= {"members": members, "signature": signed}
        told.append((name, w.write("secagg roster", m)))
    return told


# --- R1 -------------------------------------------------------------------------------------------


def check_bundle(s, m, _):
    holders = len(s.holders[m["client"]])
    right = (len(m["hashes"]), len(m["sealed"])) == (holders, holders - 1)
    check(right, "share_does_not_match_its_hash")
    said = w.say_shares(s.h1, m["client"], m["commitment"], p.tree_root(leaves_of(m)))
    check_signed(s, m, said)


def leaves_of(bundle):
    return [w.write_packed("hashes", h) for h in bundle["hashes"]]


def check_signed(s, m, said):
    who = m["client"]
    public = s.adverts[who]["verify_key"]
    secagg_client.check_signature(s, public, said, m["signature"], "bad_signature", who)


def close_bundle(s):
    if not go_on(s, "secagg masked", secagg_client.quorum(s.context)):
        return []
    s.bundles, s.vectors = s.last, {}
    levels = {name: p.tree_levels(leaves_of(bundle)) for name, bundle in s.bundles.items()}
    told = []
    for name in ascending(s.bundles):
        dealers = [d for d in s.holders[name] if d != name and d in s.bundles]
        deliveries = [delivery(s, dealer, name, levels[dealer]) for dealer in dealers]
        told.append((name, w.write("secagg deliveries", {"deliveries": deliveries})))
    return told


def delivery(s, dealer, holder, levels):
    bundle, place = s.bundles[dealer], s.holders[dealer].index(holder)
    others = [name for name in s.holders[dealer] if name != dealer]
    return {
        "dealer": dealer,
        "place": place,
        "commitment": bundle["commitment"],
        "root": levels[-1][0],
        "hashes": bundle["hashes"][place],
        "proof": p.tree_proof(levels, place),
        "sealed": bundle["sealed"][others.index(holder)],
        "signature": bundle["signature"],
    }


# --- R2 and R3 ------------------------------------------------------------------------------------


def check_masked(s, m, vector):
    check_signed(s, m, w.say_masked(s.h1, m))
    told = [d for d in s.holders[m["client"]] if d != m["client"] and d in s.bundles]
    check(m["dealers"] == w.dealers_digest(s.h1, told), "changed_dealers")
    encoding = s.context["encoding"]
    right = len(vector) == encoding["size"] * encoding["modulus_bits"] // 8
    check(right and p.sha256(vector) == m["digest"], "wrong_vector")
    s.vectors[m["client"]] = vector


def close_masked(s):
    signed = secagg_client.signed(s)
    step = "secagg consent" if signed else "secagg unmask"
    if not go_on(s, step, secagg_client.quorum(s.context)):
        return []
    s.alive, s.good = set(s.last), {dealer: {} for dealer in s.bundles}
    for dealer in s.bundles:
        without = {who for who, about in s.accused if about == dealer}
        near = s.alive & set(s.holders[dealer])
        if near and len(near - without) < s.context["parameters"]["t"]:
            s.aborted = f"too few shares of {dealer}"
            return []
    levels = p.tree_levels([w.standing_leaf(name, name in s.alive) for name in s.ids])
    s.root = levels[-1][0]
    told = []
    for name in ascending(s.alive):
        standings = [
            {
                "index": i,
                "alive": s.ids[i] in s.alive,
                "proof": [] if s.complete else p.tree_proof(levels, i),
            }
            for i in s.near[name]
        ]
        m = {"count": len(s.alive), "root": s.root, "standings": standings}
        told.append((name, w.write("secagg survivors", m)))
    return told


def check_consent(s, m, _):
    check_signed(s, m, w.say_survivors(s.h1, len(s.alive), s.root))


def close_consent(s):
    if not go_on(s, "secagg unmask", s.context["parameters"]["t"]):
        return []
    told = []
    for name in ascending(s.last):
        near = [other for other in s.holders[name] if other in s.last]
        consents = [s.last[other] for other in near[: s.context["parameters"]["t"]]]
        told.append((name, w.write("secagg consents", {"consents": consents})))
    return told


# --- R4 and the end -------------------------------------------------------------------------------


def check_unmask(s, m, _):
    check_signed(s, m, w.say_unmask(s.h1, m))
    seen = set()
    for r in m["revealed"]:
        try:
            check(r["dealer"] not in seen, "repeated_id")
            seen.add(r["dealer"])
            take_share(s, m["client"], r)
        except Refusal as refusal:
            s.rejected.append((m["client"], refusal.reason, m["client"]))
    owed = {d for d in s.holders[m["client"]] if d in s.bundles}
    if owed - seen - {about for who, about in s.accused if who == m["client"]}:
        s.rejected.append((m["client"], "share_does_not_match_its_hash", m["client"]))


def take_share(s, holder, r):
    dealer = r["dealer"]
    check(dealer in s.bundles, "survivor_without_shares")
    check(holder in s.holders[dealer], "not_a_neighbour")
    place = s.holders[dealer].index(holder)
    kind = "b" if dealer in s.alive else "s"
    wanted = s.bundles[dealer]["hashes"][place]["self_mask" if kind == "b" else "mask_key"]
    found = w.share_hash(s.h1, dealer, holder, kind, r["salt"], r["share"])
    check(r["kind"] == kind and found == wanted, "share_does_not_match_its_hash")
    s.good[dealer][place + 1] = r["share"]


def recovered(s, dealer):
    """A dealer's secret, checked; or a refusal about it."""
    t, good = s.context["parameters"]["t"], s.good[dealer]
    check(len(good) >= t, "too_few_shares", dealer)
    secret = p.secret_from({x: good[x] for x in sorted(good)[:t]})
    check(secret is not None, "bad_dealer", dealer)
    if dealer in s.alive:
        fits = w.commitment(s.h1, secret) == s.bundles[dealer]["commitment"]
    else:
        fits = p.public_of(secret) == s.adverts[dealer]["mask"]
    check(fits, "bad_dealer", dealer)
    return secret


def close_unmask(s):
    try:
        total = unmasked(s)
    except Refusal as refusal:
        s.aborted = f"{refusal.reason} {refusal.about}"
        return []
    encoding = s.context["encoding"]
    at, size = encoding["weight_at"], encoding["size"]
    packed = p.pack(total, encoding["modulus_bits"])
    m = {"h1": s.h1, "root": s.root, "count": len(s.alive), "total": p.sha256(packed)}
    m["weight"] = total[at] if at < size else 0
    m["signature"] = signature(s, w.say_result(m))
    s.total, s.survivors, s.result = packed, ascending(s.alive), m
    raw = w.write("secagg result", m)
    return [(name, raw) for name in s.survivors]


def unmasked(s):
    encoding = s.context["encoding"]
    m, size, generator = encoding["modulus_bits"], encoding["size"], encoding["generator"]
    total = [0] * size
    for name in s.alive:
        total = p.added(total, p.unpack(s.vectors[name], m), 1, m)
    for dealer in ascending(s.bundles):
        if dealer in s.alive:
            key = p.self_mask_key(recovered(s, dealer), s.h1, dealer)
            total = p.added(total, p.mask_of(generator, key, m, size), -1, m)
            continue
        near = [v for v in s.holders[dealer] if v in s.alive]
        secret = recovered(s, dealer) if near else None
        for v in near:
            shared = p.exchange(secret, s.adverts[v]["mask"], v)
            key = p.pair_mask_key(shared, s.h1, v, dealer)
            sign = 1 if v.encode() < dealer.encode() else -1
            total = p.added(total, p.mask_of(generator, key, m, size), -sign, m)
    return total


CHECKS = {
    "secagg advertise": check_advertise,
    "secagg bundle": check_bundle,
    "secagg masked": check_masked,
    "secagg consent": check_consent,
    "secagg unmask": check_unmask,
}
CLOSES = {
    "secagg advertise": close_advertise,
    "secagg bundle": close_bundle,
    "secagg masked": close_masked,
    "secagg consent": close_consent,
    "secagg unmask": close_unmask,
}
