import json

import pytest

from choral.bench import secagg
from choral.bench.attempt import NEVER, STEPS, Attempt, Workload
from choral.bench.footprint import footprints
from choral.core.errors import ConfigError, PlanError, RunFailed, UnknownName
from choral.secagg.masking import Accumulator
from choral.secagg.parameters import Suite, verify
from choral.testing.fakes import SeededRand


def silent(stage, done, total):
    pass


def attempt(n, *, suite=None, size=1000, modulus_bits=32, dropout=0.0, lost_at="any", turn=0):
    parameters = secagg.plan(n, suite=suite, dropout=dropout, corrupt=0.0)
    lost = secagg.losses(parameters, fraction=dropout, lost_at=lost_at, turn=turn)
    bits = secagg.room_for(n, modulus_bits)
    work = Workload(parameters, size, modulus_bits, bits, lost)
    made = Attempt(work, rand=SeededRand(3), watch=silent, between=lambda: None)
    made.run().finish_work()
    return made


@pytest.mark.parametrize("modulus_bits", [16, 24, 32, 64])
@pytest.mark.parametrize("suite", ["full", "semi_honest"])
def test_the_sum_is_checked_in_every_ring(suite, modulus_bits):
    made = attempt(4, suite=suite, size=600_001, modulus_bits=modulus_bits)
    assert made.survivors == [0, 1, 2, 3]
    width = modulus_bits // 8
    assert all(0 < c.up - 600_001 * width < 6000 for c in made.clients)


@pytest.mark.parametrize("suite", ["full", "semi_honest"])
@pytest.mark.parametrize("turn", range(3))
def test_losses_at_any_step(suite, turn):
    made = attempt(13, suite=suite, dropout=0.3, turn=turn)
    assert 10 <= len(made.survivors) <= 13
    assert sum(c.seconds[-1] > 0 for c in made.clients) == 10


@pytest.mark.parametrize("step", range(5))
def test_who_is_lost_before_its_vector_is_not_in_the_sum(step):
    made = attempt(7, dropout=0.2, lost_at=f"R{step}")
    assert len(made.survivors) == (6 if step < 3 else 7)


@pytest.mark.nightly
def test_a_random_graph_with_losses():
    made = attempt(150, dropout=0.1)
    k = secagg.plan(150, suite=None, dropout=0.1, corrupt=0.0).k
    assert k < 149
    stays = next(c for c in made.clients if c.seconds[-1] > 0)
    assert stays.work["seal"] == k


def test_a_mask_that_stays_on_is_noticed(monkeypatch):
    monkeypatch.setattr(Accumulator, "remove", lambda self, mask, *, sign: None)
    with pytest.raises(RunFailed, match="wrong"):
        attempt(3)


def test_the_floor_counts_what_a_full_cohort_must_do():
    made = attempt(7)
    t = 5
    assert made.clients[0].work == {
        "make_key": 2,
        "agree": 12,
        "seal": 6,
        "open": 6,
        "deal": 1,
        "mask": 7,
        "hash": 1,
        "sign": 5,
        "verify": 1 + 1 + 12 + 6 + t + 1,
    }
    assert made.server.work == {
        "verify": 7 * 6,
        "sign": 3,
        "add": 7,
        "hash": 8,
        "mask": 7,
        "join": 7,
        "weights": 1,
    }


def test_a_client_lost_before_its_vector_costs_the_server_its_pair_masks():
    work = attempt(10, dropout=0.2, lost_at="R2").server.work
    assert work["mask"] == 8 + 2 * 8
    assert (work["agree"], work["make_key"], work["join"]) == (16, 2, 10)


def test_a_client_lost_before_its_shares_costs_nothing():
    work = attempt(10, dropout=0.2, lost_at="R1").server.work
    assert (work["mask"], work["agree"], work["join"]) == (8, 0, 8)


def test_the_semi_honest_suite_signs_nothing():
    made = attempt(5, suite="semi_honest")
    for cost in (made.clients[0], made.server):
        assert not {"sign", "verify"} & set(cost.work)
    assert made.clients[0].seconds[3] == 0


def test_losses_are_the_same_every_time():
    p = secagg.plan(50, suite=None, dropout=0.2, corrupt=0.05)
    lost = secagg.losses(p, fraction=0.2, lost_at="any", turn=0)
    assert lost == secagg.losses(p, fraction=0.2, lost_at="any", turn=0)
    assert lost != secagg.losses(p, fraction=0.2, lost_at="any", turn=1)
    assert len(lost) == 10
    assert set(lost.values()) <= set(range(5))
    with pytest.raises(UnknownName, match="R5"):
        secagg.losses(p, fraction=0.2, lost_at="R5", turn=0)


def test_the_suite_follows_from_the_cohort():
    def suite(n, name):
        return secagg.plan(n, suite=name, dropout=0.1, corrupt=0.05)

    assert suite(100, None).suite is Suite.FULL
    assert (suite(1000, None).k, suite(1000, None).t) == (78, 52)
    assert suite(1000, "semi_honest").k == 36
    whole = suite(300, "full")
    assert (whole.suite, whole.k, whole.t) == (Suite.FULL, 299, 201)
    verify(whole)
    with pytest.raises(PlanError, match="graph for 100"):
        suite(100, "graph")
    with pytest.raises(UnknownName, match="grap"):
        suite(100, "grap")
    with pytest.raises(PlanError, match="lost"):
        secagg.plan(300, suite="full", dropout=0.4, corrupt=0.05)


def test_the_bits_fill_the_ring():
    assert secagg.room_for(1000, 32) == 21
    assert secagg.room_for(2, 64) == 36
    with pytest.raises(ConfigError, match="33"):
        secagg.room_for(2, 33)
    with pytest.raises(PlanError, match="16 bits"):
        secagg.room_for(30_000, 16)


def test_a_client_needs_a_chunk_and_the_server_one_vector():
    size = 6_000_000
    memory = footprints(attempt(3, size=size).recording)
    vector = 4 * size
    assert memory["client"] < vector / 2
    assert vector <= memory["sum"] < 1.3 * vector


def test_the_report():
    stages = []
    report = secagg.bench_secagg(
        clients=5, params=2000, repeat=2, watch=lambda stage, done, total: stages.append(stage)
    )
    rows = {row["workload"]: row for row in json.loads(json.dumps(report))["rows"]}
    assert {"client, CPU", "server, CPU", "client, upload", "client, memory"} <= set(rows)
    client = rows["client, CPU"]
    assert client["repeat"] == 2
    assert 0 < client["ours"] <= client["max"]
    steps = report["steps"]
    assert [s["step"] for s in steps] == list(STEPS)
    assert len(STEPS) == NEVER
    assert sum(s["client_s"] for s in steps) == pytest.approx(client["ours"], rel=0.2)
    floor = sum(p["client_s"] for p in report["primitives"])
    assert floor == pytest.approx(client["floor"], rel=0.5)
    assert rows["client, upload"]["floor"] == 4
    assert report["workload"]["survivors"] == 5
    assert {"enrolment", *STEPS, "taking the masks off", "memory"} <= set(stages)
