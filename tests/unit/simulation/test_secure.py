"""Runs whose coordinator learns sums alone: the real protocol, end to end."""

import numpy as np
import pytest

import choral
from choral.core.aggregation import Secure
from choral.core.errors import NoQuorum, PlanError
from choral.core.keys import Key
from choral.secagg import commands as cmd
from choral.secagg.refusals import Breach, Reason
from choral.simulation.availability import Availability
from choral.simulation.secure import Instance
from choral.tasks.numpy import LinearTask

D = 5


def federation(clients, examples=20):
    rng = np.random.default_rng(3)
    return {
        f"c{i:03}": (
            rng.standard_normal((examples + i % 7, D)).astype(np.float32),
            rng.integers(0, 2, examples + i % 7),
        )
        for i in range(clients)
    }


def run(clients=7, **options):
    settings = {"rounds": 3, "seed": 11, "local": {"lr": 0.1}, "aggregation": "secure", **options}
    return choral.simulate(
        LinearTask("logistic", input_dim=D), clients=federation(clients), **settings
    )


@pytest.fixture(scope="module")
def plain():
    return run(aggregation="plain")


@pytest.fixture(scope="module")
def secure():
    return run()


class Losing:
    """Named clients are lost in every attempt; the others answer in an order of their own."""

    def __init__(self, lost, *, clients, seed=0):
        self.seed = seed
        self.lost = {
            Key.root(11).fold("arrival", round_, attempt).fold(client).state
            for round_ in range(1, 4)
            for attempt in range(1, 4)
            for client in lost
        }
        assert set(lost) <= set(federation(clients))

    def __call__(self, key):
        return None if key.state in self.lost else key.fold("mine", self.seed).uniform() * 100


def test_the_model_is_that_of_a_plain_sum(plain, secure):
    assert plain.model_sha256 != secure.model_sha256  # another grid, other rounding
    for name, array in plain.params.items():
        np.testing.assert_allclose(secure.params[name], array, atol=1e-4)
    assert secure.metrics["accuracy"] == pytest.approx(plain.metrics["accuracy"], abs=0.01)
    for ours, theirs in zip(secure.rounds, plain.rounds, strict=True):
        assert ours["weight"] == theirs["weight"]
        assert ours["metrics"]["train_loss"] == pytest.approx(
            theirs["metrics"]["train_loss"], abs=1e-5
        )
        assert ours["update_norm"]["max"] is None
        assert ours["update_norm"]["mean"] == pytest.approx(theirs["update_norm"]["mean"], abs=1e-4)


def test_a_result_says_what_was_promised(secure):
    assert secure.to_json()["aggregation"] == {
        "kind": "secure",
        "suite": "full",
        "threat_model": "active",
        "threshold": 5,
        "tolerated_losses": 2,
    }
    assert secure.privacy["level"] == "L2"


def test_a_second_run_gives_the_same_model(secure):
    assert run().model_sha256 == secure.model_sha256


def test_workers_give_the_same_model(secure):
    assert run(engine="workers").model_sha256 == secure.model_sha256


@pytest.mark.parametrize("modulus", [16, 24, 64])
def test_every_modulus(plain, modulus):
    result = run(aggregation={"secure": {"modulus_bits": modulus}}, encoding={"range": 4})
    tolerance = 0.2 if modulus == 16 else 1e-3
    for name, array in plain.params.items():
        np.testing.assert_allclose(result.params[name], array, atol=tolerance)


@pytest.mark.parametrize("seed", range(4))
def test_equal_survivors_give_equal_models(seed):
    lost = ["c001", "c004"]
    result = run(arrival=Losing(lost, clients=7, seed=seed))
    assert {r["completed"] for r in result.rounds} == {5}
    reference = run(arrival=Losing(lost, clients=7, seed=99))
    assert result.model_sha256 == reference.model_sha256


def test_too_many_losses_are_no_quorum():
    arrival = Losing(["c000", "c001", "c002"], clients=7)
    with pytest.raises(NoQuorum, match="round 1"):
        run(arrival=arrival, round_policy={"retries": 1, "backoff_s": 0.0})


def test_a_client_that_fails_costs_its_own_contribution(secure):
    class Faulty(LinearTask):
        def train(self, params, data, plan, key):
            if len(data[1]) == 19 and plan.round == 2:  # the clients with 24 examples: one
                raise RuntimeError("no")
            return super().train(params, data, plan, key)

    result = choral.simulate(
        Faulty("logistic", input_dim=D),
        clients=federation(7),
        rounds=3,
        seed=11,
        local={"lr": 0.1},
        aggregation="secure",
    )
    failed = {f["client"] for f in result.failures}
    assert result.rounds[1]["completed"] == 7 - len(failed)
    assert 1 <= len(failed) <= 2


def test_a_cheating_client_side_is_refused_by_name(monkeypatch):
    """A site that refuses takes no part, and the run says who and why."""
    own = Instance.take

    def take(self, client, vector):
        if client == "c002":
            self._parties[client].deliveries = b"garbage"
        return own(self, client, vector)

    monkeypatch.setattr(Instance, "take", take)
    result = run(rounds=1)
    assert result.rounds[0]["completed"] == 6
    (failure,) = result.failures
    assert failure["client"] == "c002"
    assert failure["code"] == Breach.code
    assert Reason.MALFORMED in failure["message"]


def test_an_attempt_that_cannot_be_unmasked_is_tried_again(monkeypatch):
    own, seen = Instance._tell, []

    def tell(self, client, message):
        if type(message).__name__ == "Consents" and self._context.attempt == 1:
            seen.append(client)
            return ()
        return own(self, client, message)

    monkeypatch.setattr(Instance, "_tell", tell)
    result = run(rounds=1)
    assert result.rounds[0]["attempt"] == 2
    assert len(seen) == 7


def test_clients_that_revealed_shares_join_no_second_attempt(monkeypatch):
    own = Instance._sent

    def sent(self, client, message):
        lost = type(message).__name__ == "Unmask" and self._context.attempt == 1
        return cmd.Lost(client) if lost else own(self, client, message)

    monkeypatch.setattr(Instance, "_sent", sent)
    with pytest.raises(NoQuorum) as caught:
        run(rounds=1, round_policy={"retries": 1, "backoff_s": 0.0})
    messages = {f["message"] for f in caught.value.result.failures}
    assert messages == {f"{Reason.JOINED}: an attempt of this round reached its end"}


# --- groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule", ["median", {"name": "trimmed_mean", "trim": 0.34}, "geometric_median"]
)
def test_groups_withstand_a_group_with_a_liar(rule):
    class Liar(LinearTask):
        def train(self, params, data, plan, key):
            update = super().train(params, data, plan, key)
            if abs(float(data[0][0, 0]) - liar) < 1e-9:
                return choral.Update(np.full_like(update.delta, 200.0), update.weight)
            return update

    clients = federation(12)
    arrays = dict(clients)
    liar = float(arrays["c003"][0][0, 0])

    def go(task, aggregation):
        return choral.simulate(
            task("logistic", input_dim=D),
            clients=clients,
            rounds=1,
            seed=5,
            local={"lr": 0.1, "shuffle": False},
            aggregation=aggregation,
            test_fraction=0.0,
            evaluate_clients=False,
        )

    honest = go(LinearTask, "plain")
    robust = go(Liar, {"secure": {"groups": 3, "rule": rule}})
    fooled = go(Liar, "secure")
    distance = {
        name: max(float(np.abs(r.params[k] - honest.params[k]).max()) for k in honest.params)
        for name, r in {"robust": robust, "fooled": fooled}.items()
    }
    assert distance["robust"] < 0.5
    assert distance["fooled"] > 5
    assert robust.aggregation["groups"] == 3
    assert robust.aggregation["group_size"] == 4


def test_a_group_below_its_quorum_is_left_out():
    # 9 clients in 3 groups of 3, each of which needs all 3
    arrival = Losing(["c004"], clients=9)
    result = run(
        clients=9, arrival=arrival, aggregation={"secure": {"groups": 3, "rule": "median"}}
    )
    for round_ in result.rounds:
        assert round_["completed"] == 6
        assert round_["selected"] - round_["completed"] == round_["dropped"] == 3


def test_a_majority_of_groups_is_needed():
    arrival = Losing(["c000", "c001", "c002", "c003", "c004"], clients=9)
    with pytest.raises(NoQuorum):
        run(
            clients=9,
            arrival=arrival,
            aggregation={"secure": {"groups": 3, "rule": "median"}},
            round_policy={"retries": 1, "backoff_s": 0.0},
        )


# --- what does not compose ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clients": 2}, "floor of 3"),
        ({"clients_per_round": 2}, "floor of 3"),
        ({"round_policy": {"quorum": 3}}, "below what a secure sum needs, 5"),
        ({"aggregation": {"secure": {"groups": 3, "rule": "median"}}}, "floor of 3"),
        ({"aggregation": {"secure": {"rule": "trimmed_mean"}}}, "only the sum"),
        ({"aggregation": Secure(suite="graph")}, "above 128"),
    ],
    ids=str,
)
def test_plans_that_are_refused_before_anyone_is_invited(options, words):
    with pytest.raises(PlanError, match=words):
        run(**options)


def test_two_clients_by_name():
    result = run(clients=2, aggregation=Secure(min_cohort=2))
    assert result.aggregation["threshold"] == 2


def test_semi_honest_by_name():
    result = run(aggregation={"secure": {"suite": "semi_honest"}})
    assert result.aggregation["threat_model"] == "semi-honest"
    assert result.model_sha256 == run().model_sha256


def test_a_weight_above_the_cap_is_told_without_its_number():
    result_or = pytest.raises(NoQuorum, match="declared cap")
    with result_or as caught:
        run(encoding={"weight_cap": 10}, round_policy={"retries": 0})
    assert all("2" not in f["message"].split("cap")[0] for f in caught.value.result.failures)


def test_declared_metrics_come_out_of_the_sum():
    class Measuring(LinearTask):
        def train(self, params, data, plan, key):
            update = super().train(params, data, plan, key)
            metrics = {**update.metrics, "seen": 0.25, "hidden": 1.0}
            return choral.Update(update.delta, update.weight, metrics)

    result = choral.simulate(
        Measuring("logistic", input_dim=D),
        clients=federation(4),
        rounds=1,
        seed=1,
        aggregation="secure",
        encoding={"metrics": {"seen": 1}},
    )
    metrics = result.rounds[0]["metrics"]
    assert metrics["seen"] == pytest.approx(0.25, abs=1e-6)
    assert "hidden" not in metrics


@pytest.mark.nightly
def test_a_graph_of_many_clients_with_losses():
    result = run(
        clients=200,
        rounds=2,
        aggregation={"secure": {"min_cohort": 64}},
        arrival=Availability(dropout=0.05),
        evaluate_clients=False,
        test_fraction=0.0,
    )
    assert result.aggregation["suite"] == "graph"
    assert all(150 < r["completed"] < 200 for r in result.rounds)
