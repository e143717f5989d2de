import numpy as np
import pytest
import torch

from choral.core.errors import DataError, EmptyClient
from choral.tasks.arrays import labels, pair, table


def test_table_flattens_images_and_casts():
    x, y = table((np.ones((3, 2, 2)), np.zeros((3, 1))), 4)
    assert x.dtype == np.float32
    assert x.shape == (3, 4)
    assert y.shape == (3,)


def test_table_does_not_copy_float32():
    x = np.zeros((3, 4), np.float32)
    assert np.shares_memory(table((x, np.zeros(3)), 4)[0], x)


def test_table_takes_tensors_and_lists():
    x, _ = table((torch.ones(2, 3), torch.zeros(2)), 3)
    assert x.sum() == 6
    assert table(([[1, 2]], [0]), 2)[0].tolist() == [[1.0, 2.0]]


def test_wrong_width_names_shape_and_input_dim():
    with pytest.raises(DataError, match=r"\[3, 5\]: 5 features.*input_dim is 4"):
        table((np.zeros((3, 5)), np.zeros(3)), 4)
    with pytest.raises(DataError, match=r"\[3\]: no features.*input_dim is 1"):
        table((np.zeros(3), np.zeros(3)), 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((3, 2)), "of type ndarray, expected a pair"),
        ((1, 2, 3), "a tuple of 3"),
        ((3, 4), "a tuple of 2, expected a pair"),
        ([(1, 0), (2, 1)], "a list of 2, expected a pair"),
        ((np.zeros((3, 2)), np.zeros(4)), "3 examples and y has 4"),
        ((np.array([["a", "b"]]), np.zeros(1)), "dtype <U1, expected numbers"),
        (([[1], [1, 2]], [0, 0]), "X cannot be read as an array"),
        ((np.array(1.0), np.array(1.0)), "a pair of.*expected arrays"),
        ((np.zeros((3, 2)), np.zeros((3, 2))), r"y has shape \[3, 2\]"),
    ],
)
def test_bad_data_is_named(data, message):
    with pytest.raises(DataError, match=message):
        table(data, 2)


def test_no_examples():
    with pytest.raises(EmptyClient):
        pair((np.zeros((0, 2)), np.zeros(0)))


@pytest.mark.parametrize("bad", [3.0, -1.0, 0.5, np.nan])
def test_labels_name_the_stranger(bad):
    with pytest.raises(DataError, match=f"label {bad} is not one of the 3 classes 0, 1, 2"):
        labels(np.array([0.0, bad, 2.0]), range(3))


def test_many_classes_are_named_short():
    with pytest.raises(DataError, match="10 classes 0, 1, 2, 3, …, 9"):
        labels(np.array([10]), range(10))
