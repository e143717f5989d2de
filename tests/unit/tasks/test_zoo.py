import subprocess
import sys

import numpy as np
import pytest

from choral.core.errors import ConfigError, DataError, MissingExtra, UnknownKey, UnknownName
from choral.core.keys import Key
from choral.core.task import Task, spec_of
from choral.tasks.zoo import MODELS, build

KEY = Key.root(6).fold(1, "a", "train")
ARGUMENTS = {
    "linear": {"input_dim": 10},
    "logistic": {"input_dim": 10, "classes": 3},
    "mlp": {"input_dim": 784, "classes": 10},
    "cnn": {"classes": 62},
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_a_task(name):
    task = build(name, **ARGUMENTS[name])
    assert isinstance(task, Task)


def test_sizes():
    sizes = {
        name: spec_of(task, task.init(KEY)).vector_size
        for name, task in ((name, build(name, **ARGUMENTS[name])) for name in MODELS)
    }
    assert sizes["linear"] == 11
    assert sizes["logistic"] == 33
    assert sizes["mlp"] == 784 * 200 + 200 + 200 * 200 + 200 + 200 * 10 + 10
    assert sizes["cnn"] == 1_690_046


@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 8, 8)])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_networks_take_flat_and_shaped_examples(make_plan, rng, name, shape):
    own = {"mlp": {"input_dim": 64, "hidden": [8]}, "cnn": {"input_shape": [1, 8, 8]}}[name]
    task = build(name, classes=3, **own)
    params = task.init(KEY)
    x, y = rng.normal(size=(6, 64)).astype(np.float32), rng.integers(0, 3, 6)
    flat = task.train(params, (x, y), make_plan(batch_size=4), KEY)
    shaped = task.train(params, (x.reshape(6, *shape), y), make_plan(batch_size=4), KEY)
    assert np.array_equal(flat.delta, shaped.delta)
    assert "accuracy" in task.evaluate(params, (x, y))


def test_examples_of_another_size_are_named():
    task = build("mlp", input_dim=64, classes=3)
    with pytest.raises(DataError, match=r"shape \[63\], but the model takes \[64\]"):
        task.evaluate(task.init(KEY), (np.zeros((2, 63), np.float32), np.zeros(2, int)))


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "message"),
    [
        ("logistik", {}, UnknownName, "unknown model `logistik`.*did you mean `logistic`"),
        (
            "linear",
            {"input_dims": 3},
            UnknownKey,
            "no argument `input_dims`.*did you mean `input_dim`",
        ),
        ("linear", {}, ConfigError, "needs `input_dim`"),
        ("mlp", {}, ConfigError, "needs `input_dim`, `classes`"),
        ("linear", {"input_dim": "ten"}, ConfigError, "model.input_dim 'ten'"),
        ("linear", {"input_dim": True}, ConfigError, "model.input_dim True"),
        ("logistic", {"input_dim": 3, "classes": 1}, ConfigError, "whole number from 2"),
        ("mlp", {"input_dim": 3, "classes": 2, "hidden": 5}, ConfigError, "expected a list"),
        ("mlp", {"input_dim": 3, "classes": 2, "hidden": ["9"]}, ConfigError, "model.hidden '9'"),
        ("mlp", {"input_dim": 3, "classes": 2, "hidden": [0]}, ConfigError, "model.hidden 0"),
        ("cnn", {"classes": 2, "input_shape": [28, 28]}, ConfigError, "channels, height, width"),
        ("cnn", {"classes": 2, "input_shape": [1, 3, 28]}, ConfigError, "at least 4 x 4"),
    ],
)
def test_bad_settings_are_named(name, arguments, kind, message):
    with pytest.raises(kind, match=message):
        build(name, **arguments)


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("extra", "package", "code"),
    [
        ("torch", "torch", "from choral.tasks.zoo import build; build('cnn', classes=2)"),
        ("torch", "torch", "import choral.tasks.torch"),
        ("sklearn", "sklearn", "import choral.tasks.sklearn"),
    ],
)
def test_a_missing_extra_says_how_to_install_it(extra, package, code):
    program = f"""
import sys
sys.modules[{package!r}] = None
from choral.core.errors import MissingExtra
try:
    {code}
except MissingExtra as error:
    print(error)
"""
    done = run(program)
    assert f"pip install 'choral[{extra}]'" in done.stdout, done.stderr
    assert issubclass(MissingExtra, ConfigError)


def test_frameworks_are_imported_on_first_use_alone():
    program = """
import sys
import choral.tasks as tasks
tasks.zoo.build("linear", input_dim=2)
tasks.numpy.LinearTask("linear", input_dim=2)
print(sorted({"torch", "sklearn"} & set(sys.modules)))
tasks.sklearn.SklearnTask
print("sklearn" in sys.modules, hasattr(tasks, "nothing"))
"""
    done = run(program)
    assert done.stdout.split("\n")[:2] == ["[]", "True False"], done.stderr
