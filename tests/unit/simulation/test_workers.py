"""The engine with processes, where it can go wrong."""

import os
import signal

import numpy as np
import pytest

import choral
from choral.core.errors import ClientError, ConfigError, DataError
from choral.core.update import Update


class Deadly:
    """Kills its own process for one client in one round, as an out-of-memory killer would."""

    def init(self, key):
        return {"w": np.zeros(4, np.float32)}

    def train(self, params, data, plan, key):
        if data[0] == "kill" and plan.round == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if data[0] == "raise":
            raise ValueError("no luck")
        if data[0] == "data":
            raise DataError("a bad row")
        return Update(np.ones(4, np.float32), 1.0)

    def evaluate(self, params, data):
        return {"w0": float(params["w"][0])}


def run(clients, **options):
    return choral.simulate(
        Deadly(),
        clients={f"c{i:02d}": choral.ClientData([name]) for i, name in enumerate(clients)},
        **{"rounds": 3, "seed": 1, "engine": "workers", "evaluate_clients": False, **options},
    )


def test_a_client_that_kills_its_worker_costs_itself_alone():
    result = run(["ok"] * 20 + ["kill"], round_policy={"quorum": 5})
    assert result.status == "completed"
    assert [(f["round"], f["client"], f["code"]) for f in result.failures] == [
        (2, "c20", "worker_lost")
    ]
    assert [r["completed"] for r in result.rounds] == [21, 20, 21]


def test_a_client_s_error_comes_back_with_its_traceback():
    seen = []
    result = run(["ok", "ok", "ok", "raise"], observers=[seen.append])
    assert {f["message"] for f in result.failures} == {"ValueError: no luck"}
    assert any("in train" in getattr(item, "details", "") for item in seen)


def test_more_clients_than_slots():
    result = run(["ok"] * 300, rounds=2)
    assert [r["completed"] for r in result.rounds] == [300, 300]
    np.testing.assert_allclose(result.params["w"], 2.0, atol=1e-5)


class BadSource:
    """A source whose second client cannot be read."""

    ids = ("a", "b", "c")

    def load(self, client):
        if client == "b":
            raise DataError("row 7 is bad", hint="mend it")
        return choral.ClientData(["ok"])

    def strata(self, client):
        return {}

    def examples(self, client):
        return 1


@pytest.mark.parametrize("engine", ["inline", "workers"])
def test_data_that_cannot_be_read_ends_the_run_by_name(engine):
    with pytest.raises(DataError, match="row 7 is bad") as caught:
        choral.simulate(Deadly(), clients=BadSource(), rounds=1, engine=engine, seed=1)
    assert caught.value.hint == "mend it"


class Shaky:
    """A task and a source whose own code fails where a client's number says so."""

    ids = ("a", "b", "c", "d")

    def __init__(self, load=(), evaluate=(), metric=0.5):
        self.bad_load, self.bad_evaluate, self.metric = load, evaluate, metric

    def init(self, key):
        return {"w": np.zeros(4, np.float32)}

    def train(self, params, data, plan, key):
        return Update(np.ones(4, np.float32), 1.0)

    def evaluate(self, params, data):
        if data[0] in self.bad_evaluate:
            raise ValueError("cannot evaluate")
        return {"loss": self.metric if data[0] == "a" else 0.5}

    def load(self, client):
        if client in self.bad_load:
            return {}[client]
        return choral.ClientData([client], [client])

    def strata(self, client):
        return {}

    def examples(self, client):
        return 1


@pytest.mark.parametrize("engine", ["inline", "workers"])
class TestOwnCode:
    """Both engines treat a client's own faults alike."""

    def run(self, shaky, engine, **options):
        return choral.simulate(shaky, clients=shaky, rounds=1, engine=engine, seed=1, **options)

    def test_loading_that_raises_costs_that_client_alone(self, engine):
        result = self.run(Shaky(load="b"), engine, evaluate_clients=False)
        assert [(f["client"], f["message"]) for f in result.failures] == [("b", "KeyError: 'b'")]
        assert result.rounds[0]["completed"] == 3

    def test_an_evaluation_that_raises_ends_the_run_with_its_traceback(self, engine):
        with pytest.raises(ClientError, match="client `c` failed: ValueError") as caught:
            self.run(Shaky(evaluate="c"), engine)
        assert "in evaluate" in caught.value.details

    @pytest.mark.parametrize("metric", [float("nan"), float("inf")])
    def test_what_is_no_finite_number_is_null_and_so_is_its_mean(self, engine, metric):
        result = self.run(Shaky(metric=metric), engine)
        assert result.client_metrics["a"] == {"loss": None}
        assert result.client_metrics["b"] == {"loss": 0.5}
        assert result.metrics == {"loss": None}


def test_a_task_that_cannot_be_sent_is_named():
    task = Deadly()
    task.hook = lambda: None
    with pytest.raises(ConfigError, match="cannot be handed to a worker"):
        choral.simulate(
            task,
            clients={"a": ([0.0], [0]), "b": ([0.0], [0])},
            rounds=1,
            engine="workers",
            seed=1,
            test_fraction=0,
        )


def test_shared_memory_that_is_not_there_is_named(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(choral.RunFailed, match="no shared memory of") as caught:
        run(["ok", "ok"])
    assert "container" in caught.value.hint


def test_at_least_one_worker():
    with pytest.raises(ConfigError, match="workers 0"):
        run(["ok", "ok"], workers=0)


class Heavy:
    """Keeps personal tensors that no pipe holds at once."""

    def __init__(self):
        self.roles = {"head": "personal"}

    def init(self, key):
        return {"w": np.zeros(1, np.float32), "head": np.zeros(100_000, np.float32)}

    def train(self, params, data, plan, key):
        kept = choral.Params({"head": params["head"] + np.float32(1)})
        return Update(np.ones(1, np.float32), 1.0, {}, kept)

    def evaluate(self, params, data):
        return {}


def test_large_personal_tensors_do_not_block_the_pipes():
    clients = {f"c{i:02d}": choral.ClientData(["ok"]) for i in range(24)}
    shared = {"rounds": 3, "seed": 1, "evaluate_clients": False}
    result = choral.simulate(Heavy(), clients=clients, engine="workers", **shared)
    assert [r["completed"] for r in result.rounds] == [24, 24, 24]
    assert result.model_sha256 == choral.simulate(Heavy(), clients=clients, **shared).model_sha256
