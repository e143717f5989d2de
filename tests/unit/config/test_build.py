"""From a federation file to the setup of a run."""

import numpy as np
import pytest

from choral.config.build import Place, build_setup
from choral.config.federation import parse
from choral.core.errors import (
    ChoralError,
    ConfigError,
    NotBuilt,
    PlanError,
    UnknownKey,
    UnknownName,
)

BODY = {
    "model": {"type": "logistic", "input_dim": 2},
    "rounds": 3,
    "simulation": {"data": "data/"},
    "seed": 5,
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("a", "b", "c"):
        rows = [f"{i % 5},{i % 3},{i % 2}" for i in range(20)]
        (tmp_path / "data" / f"{name}.csv").write_text("x,z,y\n" + "\n".join(rows) + "\n")
    return tmp_path


def build(folder, **changes):
    return build_setup(parse({**BODY, **changes}, where="test"), Place(folder))


def test_a_small_file(folder):
    setup = build(folder)
    assert (setup.name, setup.seed, setup.policy.rounds) == (folder.name, 5, 3)
    assert list(setup.source.ids) == ["a", "b", "c"]
    assert setup.policy.round.clients == 3
    assert (setup.strategy.name, setup.selector.name) == ("fedavg", "uniform")
    assert setup.source.examples("a") == 20
    assert len(setup.source.load("a").train[1]) == 16
    assert setup.evaluation.clients


def test_local_settings_win_over_the_task_s_own(folder):
    (folder / "own_task.py").write_text(
        "from choral.tasks.numpy import LinearTask\n"
        "task = LinearTask('logistic', input_dim=2)\n"
        "task.local_defaults = {'lr': 0.5, 'epochs': 7}\n"
    )
    setup = build(folder, model=None, task="own_task:task", local={"lr": 0.25})
    assert (setup.local.lr, setup.local.epochs, setup.local.batch_size) == (0.25, 7, 32)
    assert setup.task_name == "own_task:task"


def test_a_held_out_set_keeps_all_clients_examples_for_training(folder):
    (folder / "pooled.csv").write_text("x,z,y\n1,2,0\n2,3,1\n")
    setup = build(folder, evaluation={"held_out": "pooled.csv"})
    assert len(setup.source.load("a").train[1]) == 20
    x, y = setup.evaluation.held_out
    np.testing.assert_array_equal(x, [[1, 2], [2, 3]])
    np.testing.assert_array_equal(y, [0, 1])


def test_one_file_with_a_partition(folder):
    (folder / "all.csv").write_text((folder / "data" / "a.csv").read_text())
    partition = {"name": "iid", "clients": 4}
    setup = build(folder, simulation={"data": "all.csv", "partition": partition})
    assert len(setup.source.ids) == 4


def test_a_function_with_a_partition(folder):
    (folder / "own_data.py").write_text(
        "import numpy as np\n"
        "def both():\n    return np.zeros((12, 2), np.float32), np.arange(12) % 2\n"
    )
    partition = {"name": "shards", "clients": 3, "per_client": 2}
    setup = build(folder, simulation={"data": "own_data:both", "partition": partition})
    assert len(setup.source.ids) == 3


def test_data_from_the_command_line_is_relative_to_the_working_folder(folder, monkeypatch):
    monkeypatch.chdir(folder / "data")
    setup = build_setup(
        parse({**BODY, "simulation": {"data": "nowhere"}}, where="test"), Place(folder, ".")
    )
    assert list(setup.source.ids) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"rounds": None}, ConfigError, "`rounds` is missing"),
        ({"model": None}, ConfigError, "either `task` or `model`"),
        ({"task": "a:b"}, ConfigError, "either `task` or `model`"),
        ({"model": {"input_dim": 2}}, ConfigError, "no `type`"),
        ({"simulation": {}}, ConfigError, "`simulation.data` is missing"),
        ({"simulation": {"data": "data/", "partition": {"name": "iid"}}}, ConfigError, "a folder"),
        ({"simulation": {"data": "data/a.csv"}}, ConfigError, "is one file"),
        ({"simulation": {"data": "data/", "missing": "ignore"}}, ConfigError, "missing 'ignore'"),
        ({"simulation": {"data": "os:sep"}}, ChoralError, "clients"),
        ({"task": "os:sep", "model": None}, ConfigError, "init"),
        (
            {"privacy": {"epsilon": 1, "mode": "record", "budget": {"epsilon": 2}}},
            PlanError,
            "max_epsilon",
        ),
        ({"compression": {"name": "x"}}, NotBuilt, "compression"),
        ({"aggregation": {"secure": {"suit": "full"}}}, UnknownKey, "suit"),
        ({"aggregation": {"secure": {"suite": "ful"}}}, UnknownName, "full"),
        ({"aggregation": {"secure": {"rule": "median"}}}, PlanError, "every client"),
        ({"aggregation": {"secure": {"groups": 2}}}, PlanError, "without a rule"),
        ({"aggregation": {"rule": "median"}}, NotBuilt, "rule"),
        ({"encoding": {"range": 1e99}}, ConfigError, "range"),
        ({"evaluation": {"held_out": "nowhere.csv"}}, ChoralError, "nowhere.csv"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_named(folder, changes, kind, words):
    with pytest.raises(kind) as caught:
        build(folder, **changes)
    assert words in str(caught.value)
