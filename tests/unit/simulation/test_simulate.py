"""`choral.simulate` on federations whose sums can be worked out by hand."""

import os

import numpy as np
import pytest

import choral
from choral.core.errors import (
    ClientError,
    ConfigError,
    NoQuorum,
    NotBuilt,
    PlanError,
    UnknownKey,
    UnknownName,
)
from choral.federation.events import Committed, Evaluated
from choral.federation.participant import Failed


def run(task, clients, **options):
    return choral.simulate(task, **{"clients": clients, "rounds": 1, "seed": 7, **options})


def test_fedavg_weighs_by_examples(counting, numbered_clients):
    result = run(counting(), numbered_clients(3))
    mean = (0 * 1 + 1 * 2 + 2 * 3) / 6
    np.testing.assert_allclose(result.params["w"], mean, atol=1e-6)
    assert result.rounds[0]["metrics"]["train_loss"] == pytest.approx(mean, abs=1e-9)
    assert result.rounds[0]["completed"] == 3


def test_uniform_weighting(counting, numbered_clients):
    strategy = choral.FedAvg(weighting="uniform")
    result = run(counting(), numbered_clients(3), strategy=strategy)
    np.testing.assert_allclose(result.params["w"], 1.0, atol=1e-6)


def test_rounds_add_up(counting, numbered_clients):
    result = run(counting(), numbered_clients(3), rounds=4)
    np.testing.assert_allclose(result.params["w"], 4 * 8 / 6, atol=1e-5)
    assert [r["round"] for r in result.rounds] == [1, 2, 3, 4]


def test_metrics_are_those_of_all_clients_together(counting, numbered_clients):
    result = run(counting(), numbered_clients(3))
    assert result.metrics["w0"] == pytest.approx(8 / 6, abs=1e-6)
    assert set(result.client_metrics) == {"c0", "c1", "c2"}


def test_a_held_out_set_gives_the_metrics(counting, numbered_clients):
    result = run(counting(), numbered_clients(3), evaluate=(0.0, [0]), evaluate_clients=False)
    assert set(result.metrics) == {"w0"}
    assert result.client_metrics == {}


def test_the_order_of_clients_does_not_matter(counting, numbered_clients):
    clients = numbered_clients(6)
    backwards = dict(reversed(list(clients.items())))
    options = {"rounds": 3, "clients_per_round": 4}
    first = run(counting(), clients, **options)
    second = run(counting(), backwards, **options)
    assert first.model_sha256 == second.model_sha256
    assert first.to_json()["rounds"][0]["selected"] == 4


def test_another_seed_selects_others(counting, numbered_clients):
    hashes = {
        run(counting(), numbered_clients(6), clients_per_round=2, seed=seed).model_sha256
        for seed in range(5)
    }
    assert len(hashes) > 1


def test_a_seed_that_is_not_given_is_drawn_and_reported(counting, numbered_clients):
    first = run(counting(), numbered_clients(6), clients_per_round=2, seed=None)
    again = run(counting(), numbered_clients(6), clients_per_round=2, seed=first.seed)
    assert first.model_sha256 == again.model_sha256


def test_a_client_that_raises_is_left_out_and_named(counting, numbered_clients):
    seen = []
    result = run(counting(fail=[1.0]), numbered_clients(4), observers=[seen.append])
    np.testing.assert_allclose(result.params["w"], (2 * 3 + 3 * 4) / 8, atol=1e-6)
    assert result.failures == (
        {
            "round": 1,
            "attempt": 1,
            "client": "c1",
            "code": "client_error",
            "message": "ValueError: no training with 1.0",
        },
    )
    (failed,) = [item for item in seen if isinstance(item, Failed)]
    assert "in train" in failed.details
    assert result.rounds[0]["dropped"] == 1


def test_too_many_failures_end_the_run_with_the_clients_own_traceback(counting, numbered_clients):
    with pytest.raises(NoQuorum, match="round 1 found no quorum") as caught:
        run(counting(fail=[0.0, 1.0, 2.0]), numbered_clients(4), round_policy={"retries": 1})
    assert "in train" in str(caught.value.__cause__)
    result = caught.value.result
    assert result.status == "failed"
    assert {f["attempt"] for f in result.failures} == {1, 2}


def test_a_later_failure_keeps_what_was_reached(counting, numbered_clients):
    fail = [(value, 3) for value in (0.0, 1.0, 2.0)]
    with pytest.raises(NoQuorum, match="round 3") as caught:
        run(counting(fail=fail), numbered_clients(3), rounds=5, round_policy={"retries": 0})
    assert len(caught.value.result.rounds) == 2


class Bad:
    """Gives one client's update a defect."""

    def __init__(self, inner, change):
        self.inner, self.change = inner, change

    def init(self, key):
        return self.inner.init(key)

    def evaluate(self, params, data):
        return self.inner.evaluate(params, data)

    def train(self, params, data, plan, key):
        update = self.inner.train(params, data, plan, key)
        return self.change(update) if data[0] == 1.0 else update


def with_delta(delta):
    return lambda update: choral.Update(delta, update.weight, update.metrics)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (with_delta(np.array([1, np.nan, 0], np.float32)), "not_finite", "tensor `w`"),
        (with_delta(np.array([1, np.inf, 0], np.float32)), "not_finite", "tensor `w`"),
        (with_delta(np.zeros(4, np.float32)), "wrong_shape", "expected [3]"),
        (with_delta(np.zeros(3)), "wrong_shape", "float64"),
        (with_delta(np.full(3, 1e6, np.float32)), "out_of_range", "beyond the declared range"),
        (lambda u: choral.Update(u.delta, -1.0), "update_rejected", "weight -1"),
        (lambda u: choral.Update(u.delta, 1e12), "out_of_range", "above the round's cap"),
        (lambda u: choral.Update(u.delta, float("nan")), "not_finite", "weight nan"),
        (lambda u: choral.Update(u.delta, 1.0, {"x": float("inf")}), "not_finite", "metric `x`"),
        (lambda _: None, "update_rejected", "NoneType"),
    ],
)
def test_a_bad_update_is_refused_and_the_others_count(
    counting, numbered_clients, change, code, words
):
    result = run(Bad(counting(), change), numbered_clients(4))
    (failure,) = result.failures
    assert (failure["client"], failure["code"]) == ("c1", code)
    assert words in failure["message"]
    np.testing.assert_allclose(result.params["w"], (2 * 3 + 3 * 4) / 8, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"clients": {}}, ConfigError, "client"),
        ({"clients_per_round": 9}, ConfigError, "9 of 3 clients"),
        ({"rounds": 0}, ConfigError, "rounds 0"),
        ({"strategy": "fedavgg"}, UnknownName, "fedavgg"),
        ({"selection": "unifrom"}, UnknownName, "unifrom"),
        ({"engine": "rays"}, UnknownName, "rays"),
        ({"local": {"lrr": 1}}, UnknownKey, "local.lrr"),
        ({"local": {"lr": -1}}, ConfigError, "local.lr"),
        ({"round_policy": {"qorum": 1}}, UnknownKey, "round.qorum"),
        ({"encoding": {"rnage": 1}}, UnknownKey, "encoding.rnage"),
        ({"aggregation": "robust"}, NotBuilt, "robust"),
        ({"rounds": 2.5}, ConfigError, "rounds 2.5"),
        ({"strategy": choral.FedAvg}, ConfigError, "class FedAvg"),
        ({"seed": 1.5}, ConfigError, "seed 1.5"),
        ({"aggregation": "sekure"}, ConfigError, "sekure"),
        ({"privacy": {"epsilon": 0}}, ConfigError, "epsilon"),
        ({"privacy": {"epsilon": 1, "delta": 1}}, ConfigError, "delta"),
        ({"privacy": {"epsilom": 1}}, UnknownKey, "epsilon"),
        ({"privacy": {"noise_multiplier": 1}}, PlanError, "without a clip"),
        ({"privacy": {"epsilon": 1, "mode": "distributed"}}, PlanError, "plain"),
        (
            {"privacy": {"epsilon": 1, "mode": "record", "mechanism": "skellam"}},
            PlanError,
            "Gaussian",
        ),
        ({"seed": -1}, ConfigError, "seed -1"),
        ({"test_fraction": 2}, ConfigError, "2"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(counting, numbered_clients, options, error, words):
    with pytest.raises(error, match=words.replace(".", r"\.")):
        run(counting(), options.pop("clients", numbered_clients(3)), **options)


def test_a_model_with_nothing_to_share_is_refused(counting, numbered_clients):
    task = counting()
    task.roles = {"w": "personal"}
    with pytest.raises(PlanError, match="no shared tensor"):
        run(task, numbered_clients(3))


class Exploding:
    """A strategy whose second step overflows."""

    name = "exploding"

    def __init__(self):
        self.inner = choral.FedAvg()

    def init(self, params):
        return self.inner.init(params)

    def plan(self, state, round):
        return self.inner.plan(state, round)

    def step(self, state, aggregate):
        scale = np.float32(np.inf if aggregate.round == 2 else 1)
        return type(state)(params=state.params + scale * aggregate.delta)


def test_a_divergence_at_the_server_is_named(counting, numbered_clients):
    with pytest.raises(choral.ChoralError, match="NaN or infinity after round 2"):
        run(counting(), numbered_clients(3), rounds=3, strategy=Exploding())


def test_observers_see_events_in_order(counting, numbered_clients):
    seen = []
    run(counting(), numbered_clients(2), rounds=2, observers=[seen.append])
    kinds = [type(item) for item in seen if isinstance(item, Committed | Evaluated)]
    assert kinds == [Committed, Evaluated, Committed, Evaluated]


def test_lost_clients_wait_for_the_deadline_in_virtual_time(counting, numbered_clients):
    result = run(
        counting(),
        numbered_clients(6),
        rounds=20,
        arrival=choral.Availability(dropout=0.2),
        round_policy={"quorum": 2},
    )
    assert result.status == "completed"
    assert sum(r["dropped"] for r in result.rounds) > 5
    assert result.duration_s < 10


def test_over_selection_takes_the_first_answers(counting, numbered_clients):
    result = run(
        counting(),
        numbered_clients(6),
        clients_per_round=2,
        rounds=10,
        arrival=choral.Availability(latency_s=10, spread=1),
        round_policy={"over_selection": 3},
    )
    assert {r["selected"] for r in result.rounds} == {6}
    assert {r["completed"] for r in result.rounds} == {2}


def test_poisson_cohorts_may_be_empty_and_the_run_goes_on(counting, numbered_clients):
    result = run(
        counting(),
        numbered_clients(6),
        clients_per_round=1,
        selection="poisson",
        rounds=5,
        round_policy={"retries": 20},
    )
    assert result.status == "completed"
    assert max(r["attempt"] for r in result.rounds) > 1


def test_coverage_is_reported(counting, numbered_clients):
    result = run(counting(), numbered_clients(4), rounds=4, clients_per_round=1)
    assert 0 < result.coverage["jain"] <= 1


def test_a_lazy_population_loads_only_who_is_asked(counting):
    loaded = []

    class Lazy:
        def __len__(self):
            return 1_000_000

        def __getitem__(self, i):
            loaded.append(i)
            return choral.ClientData((1.0, [0]))

    result = run(
        counting(),
        Lazy(),
        clients_per_round=20,
        rounds=3,
        evaluate_clients=False,
        strategy=choral.FedAvg(weighting="uniform"),
    )
    assert result.status == "completed"
    assert len(set(loaded)) <= 60


def test_privacy_is_asked_for_by_name():
    assert choral.Privacy(epsilon=4).delta == 1e-5


def test_every_public_name_is_there():
    for name in choral.__all__:
        assert getattr(choral, name) is not None
    assert set(choral.__all__) <= set(dir(choral))
    with pytest.raises(AttributeError, match="nonsense"):
        choral.nonsense  # noqa: B018


def test_time_that_cannot_be_told_is_a_lost_client(counting, numbered_clients):
    result = run(
        counting(),
        numbered_clients(6),
        rounds=2,
        arrival=choral.Availability(latency_s=10, spread=1000),
        round_policy={"quorum": 1, "retries": 2000, "backoff_s": 1e6},
    )
    assert result.status == "completed"


@pytest.mark.parametrize(
    ("init", "error", "words"),
    [
        (lambda key: None, ConfigError, "returned NoneType"),
        (lambda key: [1], ConfigError, "returned list"),
        (lambda key: {1: np.zeros(3, np.float32)}, ConfigError, "returned dict"),
        (lambda key: {"w": "text"}, ConfigError, "dtype"),
        (lambda key: 1 / 0, ClientError, "ZeroDivisionError"),
        (lambda key: exit(0), ClientError, "SystemExit"),
    ],
)
def test_a_first_model_that_is_none_is_named(counting, numbered_clients, init, error, words):
    task = counting()
    task.init = init
    with pytest.raises(error, match=words):
        run(task, numbered_clients(3))


def test_scalars_of_a_tensor_without_dimensions_are_arrays(numbered_clients):
    class Scalar:
        def init(self, key):
            return {"b": np.zeros((), np.float32)}

        def train(self, params, data, plan, key):
            spec = choral.Spec.of(params)
            new = {"b": params["b"] + np.float64(1)}
            return choral.Update.between(spec, params, new, weight=1.0, metrics={})

        def evaluate(self, params, data):
            return {}

    result = run(Scalar(), numbered_clients(3), rounds=2)
    assert float(result.params["b"]) == pytest.approx(2.0, abs=1e-5)


def test_a_library_that_a_task_loads_takes_one_thread(counting, numbered_clients):
    class Loads(counting):
        def train(self, params, data, plan, key):
            seen.append(os.environ.get("OMP_NUM_THREADS"))
            return super().train(params, data, plan, key)

    seen = []
    before = os.environ.get("OMP_NUM_THREADS")
    run(Loads(), numbered_clients(2))
    assert set(seen) == {"1"}
    assert os.environ.get("OMP_NUM_THREADS") == before
