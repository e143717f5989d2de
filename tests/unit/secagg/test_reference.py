"""A second, independent implementation of the wire format: alone, and together with the product.

Where the two differ, one of them is not what docs/reference/secure-aggregation-wire.md says.
"""

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from choral.secagg.parameters import find
from choral.testing.fakes import SeededRand


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

# --- the reference alone --- ----------------------------------------------------------------------


def test_it_imports_nothing_of_the_product():
    files = sorted(both.REFERENCE.glob("*.py"))
    allowed = {*sys.stdlib_module_names, "cryptography", *(f.stem for f in files)}
    assert len(files) == 4
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, path


def frozen_parties():
    """Both roles as the frozen transcript has them; `SeededRand` gives bytes and nothing else."""
    draw = SeededRand(7).token
    authority, coordinator = draw(32), draw(32)
    seeds = {name: draw(32) for name in ("c000", "c001", "c002", "c003")}
    encoding = {"size": 7, "modulus_bits": 32, "bits": 16, "clip": 1.0}
    encoding |= {"noise_headroom": 0, "generator": 1, "weight_at": 7}
    parameters = {"suite": "full", "clients": 4, "k": 3, "t": 3, "corrupt": 0.05}
    parameters |= {"dropout": 0.0, "sigma": 40, "beacon": False}
    public = p.signing_public_of(authority)
    context = {
        "version": 1, "run_id": "run", "round": 1, "attempt": 1, "models": [bytes(32)],
        "plan": bytes([1]) * 32, "encoding": encoding, "min_cohort": 2, "parameters": parameters,
        "authority": w.authority_id(public), "deadline": 1000,
    }  # fmt: skip
    expected = {k: context[k] for k in ("run_id", "round", "models", "plan", "encoding")}
    clients = {}
    for i, (name, seed) in enumerate(seeds.items()):
        said = w.say_enrolment(name, p.signing_public_of(seed))
        site = {
            "client": name, "seed": seed, "enrolment": p.sign(authority, said),
            "authority": public, "coordinator": p.signing_public_of(coordinator),
            "min_cohort": 2, "suites": {"full"}, "min_corrupt": 0.05, "max_sums": 2,
        }  # fmt: skip
        vector = [(2**32 - 2**16 + 1000 * i + j) % 2**32 for j in range(7)]
        clients[name] = rc.new_client(site, expected | {"beacon": b""}, vector, draw, {})
    return context, rs.new_server(context, seeds, coordinator, public), clients


def test_the_reference_alone_gives_the_frozen_transcript():
    context, state, states = frozen_parties()
    server = both.ReferenceServer(state)
    vectors = {}

    def face(name, one):
        def receive(raw):
            replies = rc.receive(one, raw)
            for _, vector in replies:
                if vector is not None:
                    vectors[name] = vector.hex()
            return replies

        return SimpleNamespace(receive=receive)

    clients = {name: face(name, one) for name, one in states.items()}
    log = both.play(server, clients, lost={"c002": 2})
    assert w.h0_of(context).hex() == both.FROZEN["h0"]
    assert state.h1.hex() == both.FROZEN["h1"]
    for found, wanted in zip(log, both.FROZEN["messages"], strict=True):
        assert w.read_message(bytes.fromhex(found[2])) == w.read_message(bytes.fromhex(wanted[2]))
        assert found == wanted
    assert vectors == both.FROZEN["masked"]
    assert state.total.hex() == both.FROZEN["total"]
    assert [one.counted for one in states.values()] == [True, True, False, True]


# --- both ways ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [None, 0, 1, 2, 3, 4])
@pytest.mark.parametrize(("servers", "clients"), both.PAIRS)
@pytest.mark.parametrize("kind", ["full", "semi-honest", "semi-honest graph"])
def test_they_work_together_with_a_client_lost_at_each_step(world, kind, servers, clients, step):
    built = both.cohort(world, kind)
    server, made = both.parties(built, servers, clients)
    lost = {} if step is None else {built.ids[1]: step}
    both.play(server, made, lost=lost)
    both.check_sum(built, server, made, lost)


@pytest.mark.parametrize(("servers", "clients"), both.PAIRS)
def test_two_of_seven_lost_at_different_steps(world, servers, clients):
    built = both.cohort(world, "full of 7")
    server, made = both.parties(built, servers, clients)
    lost = {built.ids[0]: 2, built.ids[5]: 4}
    both.play(server, made, lost=lost)
    both.check_sum(built, server, made, lost)


@pytest.mark.parametrize(("servers", "clients"), both.PAIRS)
def test_too_many_lost_is_no_sum(world, servers, clients):
    for step in range(5):
        built = both.cohort(world, "full")
        server, made = both.parties(built, servers, clients)
        both.play(server, made, lost=dict.fromkeys(built.ids[:2], step))
        assert server.over
        assert server.total is None


@pytest.mark.parametrize(
    ("servers", "kind"), [("reference", "graph"), ("product", "graph with a beacon")]
)
def test_a_graph_with_a_client_lost_at_each_step_after_the_roster(world, servers, kind):
    built = both.cohort(world, kind)
    server, made = both.parties(built, servers, "mixed")
    lost = {built.ids[20 * step]: step for step in (1, 2, 3, 4)}
    both.play(server, made, lost=lost)
    both.check_sum(built, server, made, lost)


@pytest.mark.nightly
def test_a_real_graph_of_both(world):
    parameters = find(130, dropout=0.2, corrupt=0.02)
    built = world(130, parameters=parameters)
    rand = SeededRand(3)
    few = {built.ids[i] for i in (0, 17, 64, 129)}
    made = {
        name: (both.ReferenceClient if name in few else both.ProductClient)(built, name, rand)
        for name in built.ids
    }
    server = both.ProductServer(built)
    lost = {name: step for step, name in enumerate(built.ids[16:21])}
    both.play(server, made, lost=lost)
    both.check_sum(built, server, made, lost)


# --- the page's own numbers -----------------------------------------------------------------------


def worked_values():
    """The values of the page's last section, made anew."""
    secret, h1 = bytes(range(32)), b"\1" * 32
    leaves = [b"a", b"b", b"c"]
    coefficients = (i.to_bytes(4, "little") for i in range(1, 10))
    shares = p.shares_of([secret], 2, 2, lambda size: b"".join(coefficients))
    key = p.sealing_key(secret, h1, "a", "b")
    sealed = p.seal(key, bytes(136), h1, "a", "b")
    return {
        "F(61, empty)": p.frame("a", b""),
        "H(61, 6263)": p.hashed("a", b"bc"),
        "S(61, 6263)": p.statement("a", b"bc"),
        "enrolment authority": w.authority_id(secret),
        "commitment to secret": w.commitment(h1, secret),
        "X25519 public key": p.public_of(secret),
        "Ed25519 public key": p.signing_public_of(secret),
        "Ed25519 over S(61, 6263)": p.sign(secret, p.statement("a", b"bc")),
        "K(share transport, a, b)": key,
        "K(share transport, b, a)": p.sealing_key(secret, h1, "b", "a"),
        "K(pair mask, a, b)": p.pair_mask_key(secret, h1, "b", "a"),
        "K(self mask, a)": p.self_mask_key(secret, h1, "a"),
        "sealed zeros, first 16 and tag": sealed[:16] + sealed[-16:],
        "stream 1 under secret": p.key_stream(1, secret, 32),
        "stream 2 under secret": p.key_stream(2, secret, 32),
        "share at 1": shares[0][0],
        "share at 2": shares[1][0],
        "root of a, b, c": p.tree_root(leaves),
        "proof of b": b"".join(p.tree_proof(p.tree_levels(leaves), 1)),
        "holders of 0": bytes(p.holders_of(0, 10, 4, secret)),
    }


def test_the_worked_values_of_the_page():
    section = both.PAGE.read_text().split("## Worked values")[1]
    lines = re.search(r"```text\n(.*?)```", section, re.DOTALL).group(1).splitlines()
    given, name = {}, ""
    for line in lines:
        if line.startswith("  "):
            given[name] += line.strip()
        else:
            name = line
            given[name] = ""
    assert given == {name: value.hex() for name, value in worked_values().items()}
    # Anchors that others publish or that another test of ours freezes.
    assert given["holders of 0"] == bytes([0, 1, 3, 4, 7]).hex()
