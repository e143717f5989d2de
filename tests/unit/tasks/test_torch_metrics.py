import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from choral.core.keys import Key
from choral.tasks.torch import TorchTask
from choral.tasks.torch_metrics import aligned

KEY = Key.root(2)


def identity(loss, **arguments):
    """A task whose model gives its inputs back."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return x * self.one

    return TorchTask(Model, loss, **arguments)


def evaluate(task, outputs, targets):
    return task.evaluate(task.init(KEY), (np.array(outputs, np.float32), np.array(targets)))


def test_classes_give_accuracy():
    found = evaluate(identity(functional.cross_entropy), [[0, 1.0], [2, 1], [0, 3]], [1, 1, 1])
    assert set(found) == {"loss", "accuracy"}
    assert found["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("targets", [[1, 0, 0], [1.0, 0.0, 0.0], [True, False, False]])
@pytest.mark.parametrize("outputs", [[[1.0], [-1.0], [0.5]], [1.0, -1.0, 0.5]])
def test_one_logit_gives_accuracy(outputs, targets):
    task = identity(functional.binary_cross_entropy_with_logits)
    found = evaluate(task, outputs, targets)
    assert found["accuracy"] == pytest.approx(2 / 3)
    expected = np.mean(np.logaddexp(0, [-1.0, -1.0, 0.5]))
    assert found["loss"] == pytest.approx(expected)


@pytest.mark.parametrize("loss", [nn.BCELoss(), functional.binary_cross_entropy])
def test_probabilities_are_split_at_a_half(loss):
    assert evaluate(identity(loss), [0.6, 0.4, 0.2, 0.9], [1, 1, 0, 0])["accuracy"] == 0.5


def test_other_numbers_give_errors():
    found = evaluate(identity(functional.mse_loss), [[1.0], [2.0]], [3.0, 1.0])
    assert found == {"loss": 2.5, "mse": 2.5, "mae": 1.5}


def test_what_fits_no_rule_gives_the_loss_alone():
    task = identity(lambda output, target: output.mean() + target.mean())
    assert set(evaluate(task, [[1.0, 2.0]], [3.0])) == {"loss"}


def test_outputs_that_are_no_tensor_are_the_loss_business():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    task = TorchTask(lambda: Pair(1, 1), lambda output, target: (output[0][:, 0] - target).mean())
    assert set(evaluate(task, [[1.0]], [3.0])) == {"loss"}


def test_own_metrics_are_weighted_by_batch():
    task = identity(
        functional.mse_loss, metrics={"mean": lambda o, t: o.mean(), "mae": lambda o, t: 7}
    )
    values = np.arange(300.0)
    found = evaluate(task, values, values)
    assert found["mean"] == pytest.approx(149.5)
    assert found["mae"] == 7


def test_nothing_broadcasts():
    output, target = aligned(torch.zeros(3, 1), torch.zeros(3))
    assert output.shape == target.shape == (3,)
    output, target = aligned(torch.zeros(3), torch.zeros(3, 1, dtype=torch.int64))
    assert output.shape == target.shape == (3, 1)
    assert target.dtype == torch.float32
    output, target = aligned(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    assert output.shape == (3, 2)
    assert target.dtype == torch.int64
