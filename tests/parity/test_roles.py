"""Personal, frozen and buffer tensors through whole runs, on both engines, across a restart."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import choral

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def task():
    """Return the task from a module that worker processes can import, too."""
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    spec = importlib.util.find_spec("torch_task")
    module = importlib.util.module_from_spec(spec)
    sys.modules["torch_task"] = module
    spec.loader.exec_module(module)
    yield module.task
    sys.path.remove(folder)


def clients():
    rng = np.random.default_rng(0)
    return {
        f"c{i}": (
            rng.standard_normal((24 + i, 6)).astype(np.float32),
            rng.integers(0, 3, 24 + i),
        )
        for i in range(5)
    }


def run(task, **options):
    return choral.simulate(
        task, **{"clients": clients(), "rounds": 4, "clients_per_round": 3, "seed": 3, **options}
    )


class Stop(Exception):
    pass


def stop_after(round):
    def observe(item):
        if type(item).__name__ == "Evaluated" and item.round == round:
            raise Stop

    return observe


def test_roles_are_kept(task):
    first = run(task, rounds=1)
    last = run(task)
    for name in ("frozen.weight", "head.weight", "head.bias", "body.1.num_batches_tracked"):
        np.testing.assert_array_equal(first.params[name], last.params[name])
    for name in ("body.0.weight", "body.1.weight", "body.1.running_mean", "body.1.running_var"):
        assert not np.array_equal(first.params[name], last.params[name])


def test_personal_heads_are_each_client_s_own(task):
    result = run(task, rounds=12, local={"epochs": 4})
    uniform = run(task, rounds=12, local={"epochs": 4}, evaluate_clients=True)
    assert result.client_metrics == uniform.client_metrics
    losses = {round(m["loss"], 6) for m in result.client_metrics.values()}
    assert len(losses) == 5


def test_workers_are_byte_equal(task):
    inline, workers = run(task), run(task, engine="workers", workers=2)
    assert workers.model_sha256 == inline.model_sha256
    assert workers.client_metrics == inline.client_metrics


@pytest.mark.parametrize("after", [1, 3])
def test_a_resumed_run_remembers_every_clients_head(task, tmp_path, after):
    whole = run(task)
    with pytest.raises(Stop):
        run(task, out=tmp_path / "run", observers=[stop_after(after)])
    resumed = run(task, out=tmp_path / "run", resume=True)
    assert resumed.model_sha256 == whole.model_sha256
    assert resumed.client_metrics == whole.client_metrics


def test_a_run_in_workers_may_be_resumed_inline(task, tmp_path):
    with pytest.raises(Stop):
        run(task, out=tmp_path / "run", engine="workers", observers=[stop_after(2)])
    resumed = run(task, out=tmp_path / "run", resume=True)
    assert resumed.model_sha256 == run(task).model_sha256
