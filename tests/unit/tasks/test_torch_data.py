import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, Subset, TensorDataset

from choral.core.errors import DataError, EmptyClient
from choral.core.keys import Key
from choral.core.plan import Local
from choral.tasks.torch import TorchTask
from choral.tasks.torch_data import batches, examples
from choral.tasks.torch_replica import Replica

KEY = Key.root(6).fold(1, "a", "train")


@pytest.fixture
def replica():
    return Replica(lambda: nn.Linear(3, 2), {}, device=torch.device("cpu"))


class Rows(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return torch.full((3,), float(index)), index % 2


class Noisy(Rows):
    def __getitem__(self, index: int):
        return torch.randn(3), index % 2


def test_arrays_are_taken_without_a_copy(replica):
    x, y = np.zeros((4, 3), np.float32), np.zeros(4, np.int64)
    a, b = examples((x, y), replica)
    assert np.shares_memory(a.numpy(), x)
    assert np.shares_memory(b.numpy(), y)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "x",
    [
        np.zeros((4, 3)),
        np.zeros((4, 3), np.float16),
        np.zeros((4, 3), ">f4"),
        np.zeros((4, 3), np.float32)[::-1],
        np.broadcast_to(np.float32(0), (4, 3)),
        torch.zeros(4, 3, dtype=torch.float64, requires_grad=True),
        [[0, 0, 0.0]] * 4,
        np.zeros((4, 3), bool),
    ],
    ids=["float64", "float16", "big-endian", "reversed", "read-only", "tensor", "list", "bool"],
)
def test_inputs_become_the_models_dtype(replica, x):
    a, _ = examples((x, [0, 1, 0, 1]), replica)
    assert a.dtype == torch.float32
    assert not a.requires_grad
    assert a.shape == (4, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint32, np.int64])
def test_whole_targets_become_int64(replica, dtype):
    _, y = examples((np.zeros((2, 3)), np.array([0, 1], dtype)), replica)
    assert y.dtype == torch.int64


def test_whole_inputs_stay_whole(replica):
    x, _ = examples((np.zeros((2, 3), np.int32), np.zeros(2)), replica)
    assert x.dtype == torch.int32


@pytest.mark.parametrize(
    "data",
    [
        Rows(6),
        [Rows(6)[index] for index in range(6)],
        Subset(Rows(8), [0, 1, 2, 3, 4, 5]),
        TensorDataset(torch.arange(6.0)[:, None].expand(6, 3), torch.arange(6) % 2),
    ],
)
def test_datasets_give_what_their_arrays_give(data, make_plan):
    task = TorchTask(lambda: nn.Linear(3, 2), functional.cross_entropy)
    x = np.repeat(np.arange(6, dtype=np.float32)[:, None], 3, axis=1)
    expected = task.train(task.init(KEY), (x, np.arange(6) % 2), make_plan(batch_size=4), KEY)
    update = task.train(task.init(KEY), data, make_plan(batch_size=4), KEY)
    assert np.array_equal(update.delta, expected.delta)
    assert update.weight == 6


def test_random_datasets_follow_the_key(make_plan):
    task = TorchTask(lambda: nn.Linear(3, 2), functional.cross_entropy)
    params = task.init(KEY)
    a, b, c = (
        task.train(params, Noisy(5), make_plan(), key).delta for key in (KEY, KEY, KEY.fold("x"))
    )
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


class Ragged(Rows):
    def __getitem__(self, index: int):
        return torch.zeros(index + 1), 0


class Triples(Rows):
    def __getitem__(self, index: int):
        return 0, 0, 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (iter([1]), "of type list_iterator.*or a dataset with a length"),
        (Ragged(2), "items of Ragged do not stack"),
        (Triples(2), r"items of Triples are not pairs"),
        ((np.zeros((2, 3)), np.zeros(3)), "2 examples and y has 3"),
        ((np.array([["a"]]), np.zeros(1)), "dtype <U1"),
        (TensorDataset(torch.zeros(2, 3)), "expected a pair"),
        ((np.zeros((2, 3)), np.zeros(2), np.zeros(2)), "a tuple of 3, expected a pair"),
        (np.zeros((2, 3)), r"items of ndarray are not pairs"),
    ],
)
def test_bad_data_is_named(replica, data, message):
    with pytest.raises(DataError, match=message):
        examples(data, replica)


@pytest.mark.parametrize("data", [Rows(0), (np.zeros((0, 3)), np.zeros(0))])
def test_no_examples(replica, data):
    with pytest.raises(EmptyClient):
        examples(data, replica)


def test_batches_are_views_of_one_gather():
    x, y = torch.arange(10.0)[:, None], torch.arange(10)
    plain = list(batches((x, y), Local(batch_size=4, shuffle=False), KEY))
    assert [len(b) for b, _ in plain] == [4, 4, 2]
    assert all(b.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for b, _ in plain)
    short = list(batches((x, y), Local(batch_size=4, shuffle=False, steps=2), KEY))
    assert [len(b) for b, _ in short] == [4, 4]
    shuffled = list(batches((x, y), Local(batch_size=4, steps=2), KEY))
    assert [len(b) for b, _ in shuffled] == [4, 4]
    assert len({b.untyped_storage().data_ptr() for b, _ in shuffled}) == 1
    assert all((b[:, 0] == t).all() for b, t in shuffled)
