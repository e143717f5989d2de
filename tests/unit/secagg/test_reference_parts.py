"""Parts of the reference beside those of the product, on seeded inputs."""

import importlib.util
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from choral.core.errors import ChoralError
from choral.core.keys import Key
from choral.crypto import merkle, shamir, signatures
from choral.crypto.agreement import AgreementKey
from choral.crypto.derivation import Purpose, derive_key
from choral.crypto.encoding import digest, frame
from choral.crypto.fixed_point import GRANULE, FixedPoint
from choral.crypto.prg import Generator, Mask
from choral.crypto.ring import Ring
from choral.crypto.secret import Secret
from choral.secagg import messages as msg
from choral.secagg.enrolment import authority_id
from choral.secagg.graph import Graph, graph_seed
from choral.secagg.parameters import Suite, find, verify


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


def test_every_frozen_message_reads_and_writes_the_same():
    for _, _, text in both.FROZEN["messages"]:
        raw = bytes.fromhex(text)
        label, m = w.read_message(raw)
        assert w.write(label, m) == raw == msg.encode(msg.decode(raw))


def test_both_readers_accept_the_same_bytes():
    accepted = 0
    seen = {
        w.read_message(bytes.fromhex(t))[0]: bytes.fromhex(t) for _, _, t in both.FROZEN["messages"]
    }
    complaint = {"client": "c", "reason": "other_run", "about": "é", "ends": True, "signature": b""}
    seen["secagg complaint"] = w.write("secagg complaint", complaint)
    assert set(seen) == set(w.MESSAGES)
    for label, raw in seen.items():
        chance = both.Bytes("readers", label)
        for _ in range(300):
            changed = both.broken(raw, chance)
            assert reads(w.read_message, changed) == reads(msg.decode, changed), changed.hex()
            if reads(msg.decode, changed):
                accepted += 1
                assert msg.encode(msg.decode(changed)) == changed
    assert accepted > 50


def reads(read, raw):
    try:
        read(raw)
    except (p.Refusal, ChoralError):
        return False
    return True


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -2.0, float("nan"), float("inf"), 5e-324])
def test_both_readers_take_the_same_reals(world, value):
    context = both.context_of(both.cohort(world, "full"))
    raw = w.write("choral secagg context v1", context)
    clip = struct.pack("<d", 1.0)
    assert raw.count(clip) == 1
    m = frame("secagg invitation", raw.replace(clip, struct.pack("<d", value)), b"")
    assert reads(w.read_message, m) == reads(msg.decode, m)


def test_every_reason_is_on_the_page_and_in_the_reference():
    assert [str(r) for r in msg.Reason] == w.REASONS
    section = both.PAGE.read_text().split("## Reasons")[1].split("\n## ")[0]
    assert re.findall(r"`(\w+)`", section.split("The coordinator alone")[0]) == w.REASONS


@pytest.mark.parametrize("sample", range(20))
def test_derivations(sample):
    chance = both.Bytes("derive", sample)
    secret, h1 = chance.token(32), chance.token(32)
    names = [chance.token(2 + chance.below(9)).hex() + "é" for _ in range(2)]
    for purpose, found in (
        (Purpose.TRANSPORT, p.sealing_key(secret, h1, *names)),
        (Purpose.PAIR_MASK, p.pair_mask_key(secret, h1, *names)),
        (Purpose.PAIR_MASK, p.pair_mask_key(secret, h1, *reversed(names))),
    ):
        made = derive_key(Secret(secret), purpose=purpose, transcript=h1, ids=tuple(names))
        assert bytes(made.expose()) == found
    made = derive_key(Secret(secret), purpose=Purpose.SELF_MASK, transcript=h1, ids=(names[0],))
    assert bytes(made.expose()) == p.self_mask_key(secret, h1, names[0])
    assert digest(names[0], secret, b"", h1) == p.hashed(names[0], secret, b"", h1)
    assert authority_id(secret) == w.authority_id(secret)
    mine, theirs = AgreementKey(Secret(secret)), AgreementKey(Secret(h1))
    assert mine.public == p.public_of(secret)
    assert bytes(mine.exchange(theirs.public).expose()) == p.exchange(h1, mine.public)


@pytest.mark.parametrize(("t", "holders"), [(2, 2), (2, 5), (3, 4), (5, 9), (20, 37)])
def test_shamir(t, holders):
    chance = both.Bytes("shamir", t, holders)
    secrets = [chance.token(32), b"\xff" * 32]
    made = shamir.share(
        [Secret(s) for s in secrets], threshold=t, holders=holders, rand=both.Bytes("coefficients")
    )
    rows = p.shares_of(secrets, t, holders, both.Bytes("coefficients").token)
    assert [shamir.pack_share(row) for row in made] == [b"".join(row) for row in rows]
    order = sorted(range(holders), key=lambda _: chance.token(8))[:t]
    for i, secret in enumerate(secrets):
        assert p.secret_from({x + 1: rows[x][i] for x in order}) == secret
    found = shamir.combine(made[order], positions=[x + 1 for x in order], threshold=t)
    assert [bytes(f.expose()) for f in found] == secrets
    rows[order[0]][0] = bytes(36)
    assert p.secret_from({x + 1: rows[x][0] for x in order}) != secrets[0]


def test_a_coefficient_that_is_the_prime_is_drawn_again():
    class Rare(both.Bytes):
        def token(self, size):
            raw = bytearray(super().token(size))
            if self.count == 1:
                raw[8:12] = b"\xff\xff\xff\xff"
                raw[20:24] = b"\xff\xff\xff\x7f"
            return bytes(raw)

    secret = bytes(range(32))
    made = shamir.share([Secret(secret)], threshold=3, holders=4, rand=Rare("r"))
    rows = p.shares_of([secret], 3, 4, Rare("r").token)
    assert [shamir.pack_share(row) for row in made] == [row[0] for row in rows]


@pytest.mark.parametrize("m", [16, 24, 32, 64])
@pytest.mark.parametrize("generator", [1, 2])
def test_masks_of_every_ring_and_generator(m, generator):
    chance = both.Bytes("masks", m, generator)
    ring = Ring(m)
    for size in (0, 1, 5, 63, 64, 65, 1000):
        key = chance.token(32)
        vector = [chance.below(2**m) for _ in range(size)]
        for sign in (1, -1):
            masked = np.array(vector, ring.dtype)
            mask = Mask(Generator(generator), Secret(key), ring=ring)
            half = size // 3
            mask.add_into(masked[half:], start=half, sign=sign)
            mask.add_into(masked[:half], start=0, sign=sign)
            found = p.added(vector, p.mask_of(generator, key, m, size), sign, m)
            assert masked.tolist() == found
            assert bytes(ring.pack(masked)) == p.pack(found, m)
            assert p.unpack(p.pack(found, m), m) == found


@pytest.mark.parametrize(("m", "bits"), [(16, 8), (24, 16), (32, 20), (64, 36)])
@pytest.mark.parametrize("weight", [1.0, 0.37])
def test_fixed_point(m, bits, weight):
    ring, key, clip, size = Ring(m), Key.root(m), 0.7, 3000
    x = (np.random.default_rng(m).normal(size=size) / 2).astype(np.float32)
    x[:4] = (0.7, -0.7, 9, -9)
    point = FixedPoint(ring, bits, clip)
    made = ring.zeros(size)
    start = GRANULE - 1000
    point.encode_into(x, made, start=start, key=key, weight=weight)
    draws = []
    for i in range(start, start + size):
        number, place = divmod(i, GRANULE)
        if not draws or not place:
            words = key.fold(number).bits().random_raw(GRANULE // 4).astype("<u8").view("<u2")
        draws.append(int(words[place]))
    found = [p.encoded(float(v), m, bits, clip, u, weight) for v, u in zip(x, draws, strict=True)]
    assert made.tolist() == found
    back = [p.decoded(e, m, bits, clip) for e in found]
    assert point.decode(made, count=1, slack=0).tolist() == back


@pytest.mark.parametrize("size", range(1, 18))
def test_merkle_trees(size):
    leaves = [both.Bytes("leaf", size, i).token(i) for i in range(size)]
    tree, levels = merkle.Tree(leaves), p.tree_levels(leaves)
    assert tree.root == p.tree_root(leaves)
    for i, leaf in enumerate(leaves):
        proof = p.tree_proof(levels, i)
        assert list(tree.proof(i)) == proof
        assert p.included(leaf, i, size, proof, tree.root)
        for index, of, path in (
            (i + 1, size, proof),
            (i, size + 1, proof),
            (i, size, proof[:-1]),
            (i, size, [*proof, bytes(32)]),
        ):
            try:
                merkle.verify_inclusion(leaf, index=index, size=of, proof=path, root=tree.root)
                there = True
            except ChoralError:
                there = False
            assert p.included(leaf, index, of, path, tree.root) == there


def test_the_root_of_nothing():
    assert p.tree_root([]) == merkle.Tree([]).root


@pytest.mark.parametrize(("count", "k"), [(2, 1), (5, 4), (5, 9), (6, 2), (13, 4), (40, 10)])
def test_graphs(count, k):
    h0, root = both.Bytes("h0", count).token(32), both.Bytes("root", k).token(32)
    seed = graph_seed(h0, count=count, root=root, beacon=b"x")
    assert seed == w.graph_seed(h0, count, root, b"x")
    graph = Graph(count, k, seed=seed)
    for node in range(count):
        assert list(graph.closed(node)) == p.holders_of(node, count, k, seed)


@pytest.mark.parametrize("sample", range(60))
def test_both_judge_parameters_alike(sample):
    chance = both.Bytes("parameters", sample)
    n = [3, 7, 100, 128, 129, 200, 1000][chance.below(7)]
    semi_honest, beacon = bool(chance.below(2)), bool(chance.below(2))
    found = find(n, semi_honest=semi_honest, beacon=beacon, corrupt=0.05, dropout=0.0)
    for change in (
        {}, {"t": found.t - 1}, {"t": found.t + 1}, {"t": found.k + 2}, {"k": found.k - 2},
        {"sigma": 39}, {"sigma": 79}, {"corrupt": 0.3}, {"dropout": 0.5}, {"clients": n + 1},
        {"suite": Suite.GRAPH}, {"suite": Suite.SEMI_HONEST}, {"suite": Suite.FULL},
        {"beacon": not found.beacon},
    ):  # fmt: skip
        parameters = replace(found, **change)
        if parameters.k < 1:
            continue
        fields = ("clients", "k", "t", "corrupt", "dropout", "sigma", "beacon")
        given = {name: getattr(parameters, name) for name in fields}
        strong = p.strong(given | {"suite": str(parameters.suite)})
        try:
            verify(parameters)
        except ChoralError:
            assert not strong, parameters
        else:
            assert strong, parameters


def test_both_refuse_the_same_signing_keys():
    what = signatures.statement("x", b"y")
    assert what == p.statement("x", b"y")
    seed = bytes(range(32))
    good, signature = p.signing_public_of(seed), p.sign(seed, what)
    keys = [good, good[:31], b"\xff" * 32]
    keys += [y.to_bytes(32, "little") for y in (0, 1, p.FIELD - 1, p.FIELD, p.FIELD + 1, p.ORDER_8)]
    keys += [(2**255 + y).to_bytes(32, "little") for y in (0, 1, p.FIELD - 1, p.ORDER_8)]
    for key in keys:
        try:
            signatures.verify(key, what, signature)
            there = True
        except ChoralError:
            there = False
        assert p.verifies(key, what, signature) == there == (key == good)
