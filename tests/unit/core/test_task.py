"""What the core knows about tasks and local data."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from choral.core.errors import ConfigError
from choral.core.keys import Key
from choral.core.params import Array, Params
from choral.core.plan import Plan
from choral.core.task import ClientData, Task, count_examples, is_columns, spec_of
from choral.core.update import Update


class Toy:
    """A task without roles."""

    def init(self, key: Key) -> Mapping[str, Array]:
        return {"w": np.zeros(2, np.float32), "head": np.zeros(1, np.float32)}

    def train(self, params: Params, data: Any, plan: Plan, key: Key) -> Update:
        return Update(np.zeros(3, np.float32), float(count_examples(data)))

    def evaluate(self, params: Params, data: Any) -> Mapping[str, float]:
        return {"loss": 0.0}


class Personal(Toy):
    """The same with a personal head."""

    roles = {"head": "personal"}  # noqa: RUF012 - a task declares its roles as a plain mapping


def test_anything_with_three_methods_is_a_task() -> None:
    assert isinstance(Toy(), Task)
    assert not isinstance(object(), Task)


def test_spec_of_reads_the_roles_that_a_task_declares() -> None:
    params = Toy().init(Key.root(0))
    assert [t.role.value for t in spec_of(Toy(), params).tensors] == ["shared", "shared"]
    assert [t.role.value for t in spec_of(Personal(), params).tensors] == ["shared", "personal"]


def test_spec_of_refuses_a_role_that_fits_no_tensor() -> None:
    task = Personal()
    with pytest.raises(ConfigError, match="`head` matches no tensor"):
        spec_of(task, {"w": np.zeros(1, np.float32)})


class Sized:
    """A dataset with a length and nothing else."""

    def __len__(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("data", "count"),
    [
        ((np.zeros((3, 2)), np.zeros(3)), 3),
        ([np.zeros((3, 2)), np.zeros(3)], 3),
        ((np.zeros((0, 2)), np.zeros(0)), 0),
        (([[1.0], [2.0]], [0, 1]), 2),
        (np.zeros((5, 2)), 5),
        (Sized(), 7),
        ([], 0),
        ((), 0),
        ([1.0, 2.0, 3.0], 3),
    ],
)
def test_count_examples(data: Any, count: int) -> None:
    assert count_examples(data) == count


def test_count_examples_of_a_list_of_pairs() -> None:
    """A list of examples is a dataset with a length, as PyTorch's loader takes it."""
    assert count_examples([(np.zeros(4), 0), (np.zeros(4), 1), (np.zeros(4), 0)]) == 3


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        ((np.zeros((3, 2)), np.zeros(3)), True),
        ([np.zeros((3, 2)), np.zeros(3)], True),
        (([[1.0], [2.0]], [0, 1]), True),
        ((np.zeros(3),), True),
        ((np.zeros(4), 0), False),
        ([[1.0], [2.0]], False),
        ([(np.zeros(4), 0), (np.zeros(4), 1)], False),
        (np.zeros((5, 2)), False),
        (Sized(), False),
        ((), False),
        ([], False),
    ],
)
def test_columns_are_a_tuple_or_a_list_of_arrays(data: Any, columns: bool) -> None:
    assert is_columns(data) is columns


def test_client_data_has_no_test_part_and_no_labels_by_default() -> None:
    data = ClientData(train=[1, 2])
    assert data.test is None
    assert data.strata == {}
