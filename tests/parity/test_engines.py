"""One code path: every engine, order and interruption gives the same bytes."""

import numpy as np
import pytest

import choral
from choral.core.keys import Key
from choral.tasks.numpy import LinearTask

CLIENTS = 7


class Shuffled:
    """Answers arrive in an order of their own, and all of them do."""

    def __init__(self, seed):
        self.seed = seed

    def __call__(self, key):
        return Key(self.seed, key.state).fold(self.seed).uniform() * 100


def federation(examples=20):
    rng = np.random.default_rng(3)
    return {
        f"c{i}": (
            rng.standard_normal((examples + i, 5)).astype(np.float32),
            rng.integers(0, 2, examples + i),
        )
        for i in range(CLIENTS)
    }


def run(**options):
    return choral.simulate(
        LinearTask("logistic", input_dim=5),
        **{"clients": federation(), "rounds": 4, "seed": 11, "local": {"lr": 0.1}, **options},
    )


@pytest.fixture(scope="module")
def reference():
    return run()


def same(result, reference):
    assert result.model_sha256 == reference.model_sha256
    for name, array in reference.params.items():
        np.testing.assert_array_equal(result.params[name], array)
    assert result.metrics == reference.metrics
    assert result.client_metrics == reference.client_metrics
    assert [r["metrics"] for r in result.rounds] == [r["metrics"] for r in reference.rounds]


def test_a_second_run(reference):
    same(run(), reference)


@pytest.mark.parametrize("seed", range(5))
def test_reports_in_any_order(reference, seed):
    same(run(arrival=Shuffled(seed)), reference)


@pytest.mark.parametrize("workers", [1, 3])
def test_worker_processes(reference, workers):
    same(run(engine="workers", workers=workers), reference)


def test_worker_processes_with_over_selection_and_losses():
    options = {
        "clients_per_round": 3,
        "rounds": 6,
        "round_policy": {"over_selection": 2, "quorum": 2},
        "arrival": choral.Availability(dropout=0.2, latency_s=5, spread=1),
    }
    inline, workers = run(**options), run(engine="workers", **options)
    same(workers, inline)
    assert [r["completed"] for r in workers.rounds] == [r["completed"] for r in inline.rounds]


def test_clients_in_any_order(reference):
    items = list(federation().items())
    same(run(clients=dict(reversed(items))), reference)


def test_a_folder_changes_nothing(reference, tmp_path):
    same(run(out=tmp_path / "run"), reference)


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_an_interrupted_run_resumes_to_the_same_model(tmp_path, after, strategy):
    def stop(item):
        if type(item).__name__ == "Evaluated" and item.round == after:
            raise Stop

    with pytest.raises(Stop):
        run(out=tmp_path / "run", strategy=strategy, observers=[stop])
    assert not (tmp_path / "run").exists()
    resumed = run(out=tmp_path / "run", strategy=strategy, resume=True)
    same(resumed, run(strategy=strategy))
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert not (tmp_path / "run.partial").exists()
