import pytest
import torch

from choral.tasks import torch_step
from choral.tasks.torch_step import backward

CPU = torch.device("cpu")


@pytest.fixture
def engine():
    torch_step._engine.cache_clear()
    yield torch.autograd.Variable._execution_engine
    torch_step._engine.cache_clear()


class Engine:
    def __init__(self, run) -> None:
        self.run_backward = run


def nothing(*arguments, **options):
    return ()


def other_signature(tensors):
    raise TypeError(tensors)


def test_the_engine_is_called_directly(engine):
    assert backward(CPU) is not torch.autograd.backward
    assert backward(torch.device("cuda")) is torch.autograd.backward


@pytest.mark.parametrize("run", [nothing, other_signature])
def test_an_engine_of_another_kind_is_left_alone(engine, monkeypatch, run):
    monkeypatch.setattr(torch.autograd.Variable, "_execution_engine", Engine(run))
    assert backward(CPU) is torch.autograd.backward


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_autograd(dtype):
    x = torch.tensor([1.0, 2.0], dtype=dtype, requires_grad=True)
    run = backward(CPU)
    run((x * x).sum())
    run((x * x).sum())
    assert x.grad is not None
    assert x.grad.tolist() == [4.0, 8.0]


class Labelled(torch.Tensor):
    pass


def test_subclasses_of_tensor_take_the_public_way():
    x = torch.ones(2, requires_grad=True)
    backward(CPU)((x * 3).sum().as_subclass(Labelled))
    assert x.grad is not None
    assert x.grad.tolist() == [3.0, 3.0]


def test_a_loss_without_gradient_is_an_error():
    with pytest.raises(RuntimeError, match="does not require grad"):
        backward(CPU)(torch.ones(()))
