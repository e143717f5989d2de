"""What every partition promises: nothing lost, nothing used twice, nobody empty, equal keys equal.

A new partition enters the table below.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choral.core.errors import ConfigError
from choral.core.keys import Key
from choral.data import PARTITIONERS
from choral.data import partition as ways

counts = st.integers(1, 4)
alphas = st.floats(1e-4, 1e4)

PARTITIONS = {
    "iid": lambda y, clients, draw, key: ways.iid(len(y), clients=clients, key=key),
    "shards": lambda y, clients, draw, key: ways.shards(
        y, clients=clients, per_client=draw(counts), key=key
    ),
    "dirichlet": lambda y, clients, draw, key: ways.dirichlet(
        y, clients=clients, alpha=draw(alphas), min_examples=draw(counts), key=key
    ),
    "labels_per_client": lambda y, clients, draw, key: ways.labels_per_client(
        y, clients=clients, count=draw(counts), key=key
    ),
    "by_column": lambda y, clients, draw, key: ways.by_column(y % clients),
    "by_quantity": lambda y, clients, draw, key: ways.by_quantity(
        len(y),
        clients=clients,
        **draw(
            st.one_of(
                st.fixed_dictionaries({"alpha": alphas}),
                st.fixed_dictionaries({"exponent": st.floats(0, 5)}),
                st.just({}),
            )
        ),
        min_examples=draw(counts),
        key=key,
    ),
}

labels = st.lists(st.integers(0, 9), min_size=1, max_size=200).map(np.array)


def test_the_table_lists_every_partition():
    assert set(PARTITIONS) == set(PARTITIONERS)


@pytest.mark.parametrize("name", PARTITIONS)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), y=labels, clients=st.integers(1, 30), seed=st.integers(0, 2**64 - 1))
def test_every_example_has_one_owner(name, data, y, clients, seed):
    drawn = []

    def draw(strategy):
        drawn.append(data.draw(strategy))
        return drawn[-1]

    try:
        found = PARTITIONS[name](y, clients, draw, Key.root(seed))
    except ConfigError:
        return
    assert np.array_equal(np.sort(found.indices), np.arange(len(y)))
    assert found.indices.dtype == found.offsets.dtype == np.int64
    assert (found.offsets[0], found.offsets[-1]) == (0, len(y))
    assert found.sizes.min() >= 1
    assert all(np.all(np.diff(found.part(c)) > 0) for c in range(len(found)))
    assert found.names is None or len(set(found.names)) == len(found)

    again = iter(drawn)
    same = PARTITIONS[name](y, clients, lambda _: next(again), Key.root(seed))
    assert np.array_equal(found.indices, same.indices)
    assert np.array_equal(found.offsets, same.offsets)


@pytest.mark.parametrize("name", sorted(set(PARTITIONS) - {"by_column"}))
def test_another_key_gives_another_partition(name):
    y = np.arange(400) % 10
    arguments = {"exponent": 1.0} if name == "by_quantity" else 2
    found = []
    for seed in (1, 2):
        answers = iter([arguments, 2])
        found.append(PARTITIONS[name](y, 10, lambda _, a=answers: next(a), Key.root(seed)))
    assert not np.array_equal(found[0].indices, found[1].indices)


@settings(max_examples=60, deadline=None)
@given(y=labels, clients=st.integers(1, 30), alpha=alphas, least=counts)
def test_dirichlet_keeps_its_minimum_and_equal_sizes(y, clients, alpha, least):
    try:
        found = ways.dirichlet(y, clients=clients, alpha=alpha, min_examples=least, key=Key.root(0))
    except ConfigError:
        assert clients * least > len(y)
        return
    assert found.sizes.min() >= least
    assert np.ptp(found.sizes) <= 1


@settings(max_examples=60, deadline=None)
@given(y=labels, clients=st.integers(1, 30), count=counts)
def test_labels_per_client_is_exact(y, clients, count):
    try:
        found = ways.labels_per_client(y, clients=clients, count=count, key=Key.root(0))
    except ConfigError:
        return
    assert {len(np.unique(y[found.part(c)])) for c in range(clients)} == {count}
