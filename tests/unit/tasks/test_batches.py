import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choral.core.errors import EmptyClient
from choral.core.keys import Key
from choral.core.plan import Local
from choral.tasks.batches import batches, passes

KEY = Key.root(4).fold(1, "a", "train")


def indices(count: int, local: Local, key: Key = KEY) -> list[list[int]]:
    return [batch.tolist() for (batch,) in batches((np.arange(count),), local, key)]


@given(
    count=st.integers(1, 40),
    size=st.none() | st.integers(1, 50),
    epochs=st.integers(1, 3),
    shuffle=st.booleans(),
)
def test_every_pass_sees_every_example_once(count, size, epochs, shuffle):
    found = indices(count, Local(epochs=epochs, batch_size=size, shuffle=shuffle))
    per_pass = -(-count // min(size or count, count))
    assert len(found) == epochs * per_pass
    for start in range(0, len(found), per_pass):
        walk = [i for batch in found[start : start + per_pass] for i in batch]
        assert sorted(walk) == list(range(count))
        assert shuffle or walk == list(range(count))


@given(count=st.integers(1, 20), size=st.integers(1, 25), steps=st.integers(1, 30))
def test_steps_cut_the_same_walk_short(count, size, steps):
    per_pass = -(-count // min(size, count))
    epochs = -(-steps // per_pass)
    walk = indices(count, Local(epochs=epochs, batch_size=size))
    assert indices(count, Local(steps=steps, batch_size=size)) == walk[:steps]


def test_last_short_batch_is_kept_and_none_is_everything():
    assert indices(5, Local(batch_size=2, shuffle=False)) == [[0, 1], [2, 3], [4]]
    assert indices(3, Local(batch_size=None, shuffle=False)) == [[0, 1, 2]]
    assert indices(3, Local(batch_size=2, steps=3, shuffle=False)) == [[0, 1], [2], [0, 1]]


def test_passes_and_keys_have_orders_of_their_own():
    first, second = (walk.order.tolist() for walk in passes(50, Local(epochs=2), KEY))
    assert first != second
    assert next(passes(50, Local(), KEY.fold("x"))).order.tolist() != first


def test_the_order_never_changes_between_versions():
    orders = [walk.order for walk in passes(1000, Local(epochs=2), Key.root(1))]
    digest = hashlib.sha256(np.concatenate(orders).astype("<i8").tobytes()).hexdigest()
    assert digest == "fb8d2b58920f7374ca56a0e31020ac1aa24ebbea3b4f5b17002f4b2358bab3a7"


def test_unshuffled_batches_are_views():
    x = np.zeros((5, 2))
    assert all(np.shares_memory(batch, x) for (batch,) in batches((x,), Local(shuffle=False), KEY))


def test_arrays_stay_together():
    x = np.arange(20)
    for a, b in batches((x, x * 2), Local(batch_size=3), KEY):
        assert (b == a * 2).all()


def test_no_examples_are_refused():
    with pytest.raises(EmptyClient):
        indices(0, Local())
