"""Runs with differential privacy: their noise, their ledger, and what ends them."""

import json
import sqlite3

import numpy as np
import pytest

import choral
from choral.core.errors import (
    BudgetExhausted,
    ConfigError,
    NoQuorum,
    PlanError,
    Refused,
    RolledBackLedger,
    TamperedLedger,
)
from choral.core.update import Update
from choral.federation.calibration import protected
from choral.federation.compose import compose
from choral.federation.events import CohortChosen, Committed
from choral.privacy.ledger import PrivacyLedger
from choral.stores.ledgers import LEDGER, ledger_store

SIZE = 4000


class Constant:
    """A task whose update is the same number everywhere, whatever the data is."""

    def __init__(self, value=0.0):
        self.value = value

    def init(self, key):
        return {"w": np.zeros(SIZE, np.float32)}

    def train(self, params, data, plan, key):
        return Update(np.full(SIZE, self.value, np.float32), float(len(data)), {})

    def evaluate(self, params, data):
        return {"loss": 0.0}


def run(value=0.0, clients=8, **changes):
    terms = {"privacy": {"noise_multiplier": 2.0, "max_norm": 1.0}, "rounds": 1, "seed": 1}
    many = {f"c{i}": list(range(5)) for i in range(clients)}
    return choral.simulate(Constant(value), clients=many, **terms | changes)


def near(found, expected, share):
    return abs(found - expected) < share * expected


# --- what measures the models ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "measured", "evaluation", "note"),
    [
        ({}, False, "public", "nothing measured the models"),
        ({"evaluate_clients": True}, True, "none", "reported without noise"),
        ({"evaluate": [1, 2]}, True, "public", ""),
        (
            {"evaluate": [1, 2], "evaluate_clients": True, "test_fraction": 0.2},
            True,
            "none",
            "reported without noise",
        ),
    ],
)
def test_clients_report_what_they_measure_only_where_they_are_asked_to(
    settings, measured, evaluation, note
):
    result = run(**settings)
    assert bool(result.metrics) == measured
    assert bool(result.client_metrics) == settings.get("evaluate_clients", False)
    assert result.privacy["evaluation"] == evaluation
    notes = " ".join(result.privacy["notes"])
    assert note in notes
    assert note or "measure" not in notes


# --- noise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_the_model_of_zero_updates_is_noise_of_the_declared_width(aggregation):
    # False alarms: the deviation of 4000 draws is within 6 % with a probability of 1 - 1e-7.
    result = run(aggregation=aggregation)
    terms = result.protection
    width = terms.multiplier * terms.max_norm / 8
    if aggregation == "secure":  # all 8 add their share, and 6 of 8 - 2 corrupt must be enough
        honest = terms.survivors - terms.corrupt
        width = np.sqrt(terms.variance / honest * 8) / terms.scale / 8
        assert width > terms.multiplier * terms.max_norm / 8
    assert near(np.std(result.params["w"]), width, 0.06)


def test_an_update_is_clipped_and_the_sum_is_divided_by_the_expected_cohort():
    result = run(value=5.0, clients=40, privacy={"noise_multiplier": 0.3, "max_norm": 2.0})
    # Each client's update of norm 5 * sqrt(4000) is clipped to 2; the mean has that norm.
    assert near(np.mean(result.params["w"]) * np.sqrt(SIZE), 2.0, 0.05)


def test_a_client_that_is_lost_leaves_the_denominator_as_it_is():
    result = run(
        value=5.0,
        privacy={"noise_multiplier": 0.3, "max_norm": 2.0},
        arrival=choral.Availability(dropout=0.4),
        round_policy={"quorum": 2},
        clients=40,
    )
    completed = result.rounds[0]["completed"]
    assert completed < 38
    mean = np.mean(result.params["w"]) * np.sqrt(SIZE)
    assert near(mean, 2.0 * completed / 40, 0.1)


def test_two_runs_of_one_seed_have_other_noise():
    assert not np.array_equal(run().params["w"], run().params["w"])


def test_nothing_beside_the_noised_sum_is_told():
    for aggregation in ("plain", "secure"):
        row = run(value=0.1, aggregation=aggregation).rounds[0]
        assert row["update_norm"] == {"mean": None, "max": None}
        assert set(row["metrics"]) <= {"loss"}  # of the evaluation, which says what it is


# --- what is told ---------------------------------------------------------------------------------


def test_a_central_run_says_what_it_promises():
    privacy = run(rounds=3).privacy
    assert privacy["mode"] == "central"
    assert privacy["level"] == "L1"
    assert (privacy["unit"], privacy["relation"], privacy["delta"]) == ("user", "add_remove", 1e-5)
    assert privacy["epsilon"] == pytest.approx(3.709, abs=0.01)  # exact Gaussian, z = 2 / sqrt(3)
    assert privacy["evaluation"] == "public"
    assert privacy["ledger"]["entries"] == 2 + 2 * 3


def test_a_distributed_run_says_what_it_promises():
    privacy = run(aggregation="secure", rounds=2).privacy
    assert privacy["mode"] == "distributed"
    assert privacy["level"] == "L3"
    assert privacy["mechanism"] == "skellam"
    assert privacy["relation"] == "replace"
    semi = run(aggregation={"secure": {"suite": "semi_honest"}}).privacy
    assert semi["level"] == "L2"
    assert semi["epsilon"] is not None


def test_epsilon_grows_round_by_round_to_what_was_planned():
    result = run(rounds=3, privacy={"epsilon": 2})
    spent = [r["epsilon"] for r in result.rounds]
    assert spent == sorted(set(spent))
    assert spent[-1] == pytest.approx(result.privacy["planned_epsilon"])
    assert 1.9 < spent[-1] <= 2.0


def test_a_run_without_privacy_is_what_it_was():
    privacy = run(privacy=None).privacy
    assert privacy == {
        "mode": "none", "epsilon": None, "delta": None, "unit": None, "level": "L0"
    }  # fmt: skip


# --- sampling -------------------------------------------------------------------------------------


def setup_of(**changes):
    terms = {"privacy": {"noise_multiplier": 1.0, "max_norm": 1.0}, "clients_per_round": 10}
    source = choral.data.as_source({f"c{i}": list(range(5)) for i in range(100)}, seed=1)
    setup = compose(
        Constant(), source, run_id="r", seed=1, name="n", task_name="t", rounds=5,
        **terms | changes,
    )  # fmt: skip
    return protected(setup, setup.participant()[0].spec)


def test_a_central_run_draws_by_coins_and_takes_credit_for_them():
    setup = setup_of()
    assert setup.selector.name == "poisson"
    assert setup.policy.round.whole
    assert setup.protection.sampling["kind"] == "poisson"
    assert setup.protection.sampling["q"] == 0.1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"round": {"over_selection": 1.5}}, "first to answer"),
        ({"round": {"goal": 5}}, "first to answer"),
        ({"round": {"quorum": 5}}, "draws anew"),
        ({"selection": "uniform"}, "not a draw"),
        ({"selection": "round_robin"}, "not a draw"),
        ({"population": 100}, "when they can"),
        ({"clients_per_round": None}, "everybody"),
    ],
)
def test_what_is_not_the_accountants_draw_gets_no_credit(changes, why):
    setup = setup_of(**changes)
    assert setup.protection.sampling == {"kind": "none"}
    assert why in " ".join(setup.notes)
    assert setup.protection.epsilon > setup_of().protection.epsilon


def test_a_cohort_with_credit_cannot_be_known_from_the_seed():
    drawn = []

    def observe(item):
        if isinstance(item, CohortChosen):
            drawn.append(item.clients)

    for _ in range(2):
        run(clients=40, clients_per_round=20, observers=[observe], evaluate_clients=False)
    assert drawn[0] != drawn[1]


def test_a_cohort_of_nobody_is_a_round_of_noise(monkeypatch):
    monkeypatch.setattr("choral.selection.poisson.Poisson.__call__", lambda *_: (), raising=True)
    result = run(clients=40, clients_per_round=20)
    assert [r["completed"] for r in result.rounds] == [0]
    assert near(np.std(result.params["w"]), 2.0 / 20, 0.06)


def test_a_cohort_of_which_nobody_answers_is_a_round_of_noise():
    """Drawn anew, it would show that somebody was drawn: a cohort of nobody is not drawn anew."""
    events = []
    result = run(
        clients=40,
        clients_per_round=2,
        rounds=2,
        arrival=choral.Availability(dropout=0.999999),
        observers=[events.append],
        evaluate_clients=False,
    )
    drawn = [e.clients for e in events if isinstance(e, CohortChosen)]
    assert [r["completed"] for r in result.rounds] == [0, 0]
    assert len(drawn) == 2, "no cohort is drawn again"


def test_what_travels_with_a_model_does_not_tell_who_was_there(tmp_path):
    """The relation is add_remove; the realised cohort and the list of clients would say it."""
    run(clients=40, clients_per_round=20, rounds=3, out=tmp_path / "one")
    told = json.loads((tmp_path / "one" / "model.json").read_text())
    assert told["cohort_sizes"] == [20, 20, 20]
    assert not {"clients", "client_ids", "population"} & set(told["config"])
    terms = {"noise_multiplier": 2.0, "max_norm": 1.0, "relation": "replace"}
    result = run(clients=40, clients_per_round=20, privacy=terms, out=tmp_path / "two")
    told = json.loads((tmp_path / "two" / "model.json").read_text())
    assert told["cohort_sizes"] == [r["completed"] for r in result.rounds]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"privacy": {"epsilon": 1, "noise_multiplier": 0.5, "max_norm": 1}}, PlanError, "above"),
        ({"privacy": {"epsilon": 1, "mode": "central"}, "aggregation": "secure"}, PlanError, "sum"),
        (
            {"privacy": {"epsilon": 1, "relation": "add_remove"}, "aggregation": "secure"},
            PlanError,
            "who takes part",
        ),
        (
            {
                "privacy": {"epsilon": 1},
                "aggregation": {"secure": {"groups": 2, "rule": "median"}},
            },
            PlanError,
            "groups",
        ),
        ({"privacy": {"epsilon": 1, "budget": {"epsilon": 2}}}, ConfigError, "out="),
    ],
)
def test_what_does_not_compose_is_named(changes, kind, words):
    with pytest.raises(kind, match=words):
        run(**changes)


def test_a_large_delta_is_warned_of():
    with pytest.warns(UserWarning, match="1/8"):
        run(privacy={"epsilon": 3, "delta": 0.2})


def test_fewer_survivors_than_the_noise_is_made_for_release_nothing():
    with pytest.raises(NoQuorum):
        run(
            aggregation="secure",
            arrival=choral.Availability(dropout=0.9),
            round_policy={"retries": 0},
        )


# --- the ledger -----------------------------------------------------------------------------------

BUDGET = {
    "noise_multiplier": 2.0,
    "max_norm": 1.0,
    "budget": {"epsilon": 5, "population": "people"},
}


def ledger_of(folder):
    return PrivacyLedger(ledger_store(folder / LEDGER), "people")


def test_the_round_that_would_pass_the_budget_is_not_sent(tmp_path):
    run(privacy=BUDGET, rounds=3, out=tmp_path / "one")
    trained = []
    with pytest.raises(BudgetExhausted, match="left") as caught:
        run(privacy=BUDGET, rounds=9, out=tmp_path / "two", observers=[trained.append])
    result = caught.value.result
    assert result.status == "failed"
    assert "has used epsilon" in result.reason
    done = len(result.rounds)
    assert 0 < done < 6
    assert sum(isinstance(item, Committed) for item in trained) == done
    standing = ledger_of(tmp_path).standing()
    assert standing.spent == 3 + done
    assert standing.reserved == 0
    assert 4 < standing.epsilon.value <= 5


def test_an_attempt_that_released_nothing_is_given_back(tmp_path):
    with pytest.raises(NoQuorum):
        run(
            privacy=BUDGET,
            arrival=choral.Availability(dropout=0.999),
            out=tmp_path / "one",
            round_policy={"retries": 1},
        )
    standing = ledger_of(tmp_path).standing()
    assert (standing.spent, standing.reserved, standing.voided) == (0, 0, 2)


class Killed(BaseException):
    """The process dies."""


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_a_round_that_dies_after_its_release_is_charged_again(tmp_path, aggregation, monkeypatch):
    from choral.federation import conductor

    whole = conductor.Conductor._commit
    budget = {**BUDGET, "budget": {"epsilon": 60, "population": "people"}}

    def die(self, command):
        if command.round == 2:
            raise Killed
        return whole(self, command)

    monkeypatch.setitem(conductor._DO, conductor.ev.Commit, die)
    terms = {"privacy": budget, "rounds": 3, "out": tmp_path / "one", "aggregation": aggregation}
    with pytest.raises(Killed):
        run(**terms)
    monkeypatch.setitem(conductor._DO, conductor.ev.Commit, whole)
    result = run(**terms, resume=True)
    assert [(r["round"], r["attempt"]) for r in result.rounds] == [(1, 1), (2, 2), (3, 1)]
    assert ledger_of(tmp_path).standing().spent == 4
    assert result.rounds[-1]["epsilon"] > result.privacy["planned_epsilon"]


def test_an_edited_ledger_is_refused(tmp_path):
    run(privacy=BUDGET, out=tmp_path / "one")
    with sqlite3.connect(tmp_path / LEDGER) as base:
        base.execute("UPDATE log_records SET body = replace(body, '2.0', '9.0') WHERE seq = 1")
    with pytest.raises(TamperedLedger):
        run(privacy=BUDGET, out=tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_ledger_that_was_rolled_back_is_refused(tmp_path):
    run(privacy=BUDGET, out=tmp_path / "one")
    with sqlite3.connect(tmp_path / LEDGER) as base:
        base.execute("DELETE FROM log_records WHERE seq > 1")
    with pytest.raises(RolledBackLedger):
        run(privacy=BUDGET, out=tmp_path / "two")


def test_another_limit_for_the_same_people_is_refused(tmp_path):
    run(privacy=BUDGET, out=tmp_path / "one")
    more = {**BUDGET, "budget": {"epsilon": 50, "population": "people"}}
    with pytest.raises(Refused, match="was opened with"):
        run(privacy=more, out=tmp_path / "two")


def test_the_lineage_and_the_result_tell_the_same(tmp_path):
    result = run(privacy={"epsilon": 3}, rounds=2, out=tmp_path / "one")
    for name in ("result.json", "model.json"):
        told = json.loads((tmp_path / "one" / name).read_text())["privacy"]
        assert told == json.loads(json.dumps(result.privacy))
    assert not (tmp_path / LEDGER).exists()  # a run without a budget keeps its own


def test_worker_processes_add_noise_of_their_own():
    result = choral.simulate(
        choral.tasks.numpy.LinearTask("linear", input_dim=2),
        clients={f"c{i}": (np.ones((4, 2), np.float32), np.ones(4)) for i in range(4)},
        rounds=1, engine="workers", aggregation="secure", seed=1,
        privacy={"noise_multiplier": 2.0, "max_norm": 1.0},
    )  # fmt: skip
    assert result.privacy["level"] == "L3"
