"""Which examples a client's steps see, from a key and the round's local hyper-parameters.

A pass walks over all examples once; every pass has a random stream of its own, so the order does
not depend on what else was drawn. The same walk serves every framework.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from choral.core.errors import EmptyClient
from choral.core.keys import Key
from choral.core.params import Array
from choral.core.plan import Local


@dataclass(frozen=True, slots=True)
class Pass:
    """One walk over a client's examples.

    Attributes:
        order: int64 indices of the examples in the order of the walk, or None for the data's own
            order.
        used: Examples that the walk takes before it stops.
        size: Examples of a batch; the last one of a walk may be shorter.
    """

    order: npt.NDArray[np.int64] | None
    used: int
    size: int


def passes(count: int, local: Local, key: Key) -> Iterator[Pass]:
    """Yield the walks that `local` asks for.

    With `steps`, walks follow each other until that many batches are drawn; the last one stops
    early. Otherwise there are `epochs` of them.

    Args:
        count: Examples of the client, at least 1.
        local: Hyper-parameters; `batch_size` None, or above `count`, stands for all examples.
        key: Key of (run, round, client, "train").

    Raises:
        EmptyClient: There are no examples.

    >>> local = Local(steps=3, batch_size=2, shuffle=False)
    >>> [(walk.used, walk.size) for walk in passes(3, local, Key.root(1))]
    [(3, 2), (2, 2)]
    """
    if count < 1:
        raise EmptyClient("a client without training examples")
    size = count if local.batch_size is None else min(local.batch_size, count)
    per_pass = -(-count // size)
    left = local.epochs * per_pass if local.steps is None else local.steps
    index = 0
    while left > 0:
        used = min(count, left * size)
        yield Pass(
            _order(count, key.fold("pass", index))[:used] if local.shuffle else None, used, size
        )
        left -= per_pass
        index += 1


def batches(arrays: tuple[Array, ...], local: Local, key: Key) -> Iterator[tuple[Array, ...]]:
    """Yield the batches of `arrays`, cut along their first axis.

    A shuffled walk gathers once and then slices; an unshuffled one only slices. For indices
    instead of examples, pass `(np.arange(count),)`.

    Args:
        arrays: Arrays of equal length, such as `(X, y)`.
        local: Hyper-parameters.
        key: Key of (run, round, client, "train").

    >>> local = Local(epochs=1, batch_size=2, shuffle=False)
    >>> [batch.tolist() for batch, in batches((np.arange(3),), local, Key.root(1))]
    [[0, 1], [2]]
    """
    for walk in passes(len(arrays[0]), local, key):
        order = walk.order
        picked = arrays if order is None else tuple(a[order] for a in arrays)
        for start in range(0, walk.used, walk.size):
            stop = min(start + walk.size, walk.used)
            yield tuple(a[start:stop] for a in picked)


def _order(count: int, key: Key) -> npt.NDArray[np.int64]:
    """Return a random order from raw bits, which stay the same in every version of NumPy."""
    return np.argsort(key.bits().random_raw(count), kind="stable")
