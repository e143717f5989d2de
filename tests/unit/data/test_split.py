import numpy as np
import pytest

from choral.core.errors import ConfigError, DataError, EmptyClient
from choral.core.keys import Key
from choral.core.task import ClientData
from choral.data import Subset, iid
from choral.data.sources import MappingSource, SequenceSource
from choral.data.split import (
    check_fraction,
    count,
    held_out_size,
    labels_of,
    permutation,
    split,
    take,
)

X, Y = np.arange(20).reshape(10, 2), np.arange(10)


class Pairs:
    """A dataset in the sense of PyTorch: a length and items."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, at):
        if not 0 <= at < self.size:
            raise IndexError(at)
        return np.full(2, at), np.int64(at % 3)


@pytest.mark.parametrize(
    ("size", "fraction", "held_out"),
    [
        (10, 0, 0),
        (10, 0.2, 2),
        (10, 0.25, 3),
        (10, 0.999, 9),
        (1, 0.9, 0),
        (2, 0.2, 0),
        (3, 0.2, 1),
        (2, 0.9, 1),
        (0, 0.5, 0),
    ],
)
def test_held_out_size_by_hand(size, fraction, held_out):
    assert held_out_size(size, fraction) == held_out


@pytest.mark.parametrize("bad", [-0.1, 1, 1.5, float("nan"), "0.2", True, None])
def test_fractions_out_of_range(bad):
    with pytest.raises(ConfigError, match="test_fraction"):
        check_fraction(bad)


@pytest.mark.parametrize("bad", [-1, 2**64, 1.0, "1", True, None])
def test_seeds_out_of_range(bad):
    data = {"a": (np.zeros((2, 1)), np.zeros(2))}
    whole = r"seed .*: expected a whole number from 0 to 2\^64 - 1"
    with pytest.raises(ConfigError, match=whole):
        MappingSource(data, seed=bad)
    with pytest.raises(ConfigError, match=whole):
        SequenceSource([data["a"]], seed=bad)
    with pytest.raises(ConfigError, match=whole):
        iid(data["a"], clients=1, seed=bad)


def test_a_seed_of_numpy_is_the_same_seed():
    data = (np.arange(40.0).reshape(20, 2), np.arange(20))
    a, b = (iid(data, clients=2, seed=seed) for seed in (3, np.int64(3)))
    assert type(b.seed) is int
    for client in a.ids:
        np.testing.assert_array_equal(a.load(client).train[1], b.load(client).train[1])


def test_parts_cover_everything_once_and_keep_pairs_together():
    data = split((X, Y), "a", test_fraction=0.3, seed=1)
    assert len(data.train[1]) == 7
    assert len(data.test[1]) == 3
    assert sorted([*data.train[1], *data.test[1]]) == list(range(10))
    for x, y in (data.train, data.test):
        assert np.array_equal(x, X[y])


def test_split_hangs_on_seed_and_client_alone():
    def test_part(client, seed):
        return split((X, Y), client, test_fraction=0.3, seed=seed).test[1].tolist()

    assert test_part("a", 1) == test_part("a", 1)
    assert len({tuple(test_part(c, s)) for c in "abc" for s in (1, 2)}) > 3


def test_split_is_pinned():
    assert split((X, Y), "a", test_fraction=0.3, seed=1).test[1].tolist() == [1, 7, 9]
    order = permutation(10, Key.root(1).fold("a", "split"))
    assert sorted(order[:3].tolist()) == [1, 7, 9]


def test_without_a_fraction_nothing_is_copied():
    data = split((X, Y), "a", test_fraction=0, seed=1, strata={"region": "north"})
    assert data.train[0] is X
    assert data.test is None
    assert data.strata == {"region": "north"}


def test_client_data_is_split_already():
    given = ClientData((X, Y), None, {"region": "north"})
    assert split(given, "a", test_fraction=0.5, seed=1) is given
    assert split(ClientData((X, Y)), "a", test_fraction=0.5, seed=1, strata={"r": "s"}).strata


@pytest.mark.parametrize("empty", [(X[:0], Y[:0]), [], Pairs(0), ClientData((X[:0], Y[:0]))])
def test_empty_clients_are_named(empty):
    with pytest.raises(EmptyClient, match="client `lone`"):
        split(empty, "lone", test_fraction=0.2, seed=0)


@pytest.mark.parametrize("bad", [(X, Y[:3]), {"x": X}, 7, None, iter([1])])
def test_data_that_is_no_data(bad):
    with pytest.raises(DataError, match="client `odd`"):
        split(bad, "odd", test_fraction=0.2, seed=0)


def test_datasets_become_subsets_of_the_same_dataset():
    data = split(Pairs(10), "a", test_fraction=0.3, seed=1)
    assert isinstance(data.train, Subset)
    assert (len(data.train), len(data.test)) == (7, 3)
    seen = [int(part[i][0][0]) for part in (data.train, data.test) for i in range(len(part))]
    assert sorted(seen) == list(range(10))
    inner = take(data.train, np.array([0, 2]))
    assert inner.dataset is data.train.dataset
    assert inner[1][0].tolist() == data.train[2][0].tolist()


def test_lists_in_columns_are_rows_too():
    x, y = take(([[0], [1], [2]], ["a", "b", "c"]), np.array([2, 0]))
    assert (x, y) == ([[2], [0]], ["c", "a"])
    assert count([X, Y], "it") == 10
    assert count([(X[0], 1), (X[1], 2), (X[2], 0)], "it") == 3


def test_labels_of_every_kind():
    want = (np.arange(6) % 3).tolist()
    targets = Pairs(6)
    targets.targets = want
    tensors = Pairs(6)
    tensors.tensors = (np.zeros((6, 1)), np.array(want)[:, None])
    for data in ((np.zeros(6), want), Pairs(6), targets, tensors, Subset(Pairs(9), np.arange(6))):
        assert labels_of(data).tolist() == want
    with pytest.raises(DataError, match="no labels"):
        labels_of((X,))
    with pytest.raises(DataError, match="pair"):
        labels_of([1.0, 2.0])


def test_torch_tensors_and_datasets_are_accepted():
    torch = pytest.importorskip("torch")
    x, y = torch.arange(20.0).reshape(10, 2), torch.arange(10)
    data = split((x, y), "a", test_fraction=0.3, seed=1)
    assert isinstance(data.train[0], torch.Tensor)
    assert torch.equal(data.test[0], x[data.test[1]])
    dataset = torch.utils.data.TensorDataset(x, y)
    assert labels_of(dataset).tolist() == list(range(10))
    part = split(dataset, "a", test_fraction=0.3, seed=1).test
    batch = next(iter(torch.utils.data.DataLoader(part, batch_size=3)))
    assert batch[1].tolist() == data.test[1].tolist()


def test_arrays_without_labels_are_examples_too():
    data = split(X, "a", test_fraction=0.3, seed=1)
    assert data.train.shape == (7, 2)
    assert sorted([*data.train[:, 0], *data.test[:, 0]]) == X[:, 0].tolist()
    short = Pairs(10)
    short.targets = [0, 1, 2]
    with pytest.raises(DataError, match="10 examples and 3 labels"):
        labels_of(short)
