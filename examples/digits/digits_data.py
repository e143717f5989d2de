"""Scikit-learn's 1 797 handwritten digits, dealt out to ten clients by a Dirichlet distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from choral.core.errors import MissingExtra
from choral.core.keys import Key
from choral.data import PartitionSource, dirichlet
from choral.data.split import permutation

SEED = 0
HELD_OUT = 360

Array = npt.NDArray[Any]


def clients() -> PartitionSource:
    """Return ten clients with different mixes of digits."""
    train, _ = _parts()
    return dirichlet(train, clients=10, alpha=0.3, seed=SEED)


def held_out() -> tuple[Array, Array]:
    """Return 360 digits that no client has: float32 `[360, 64]` in [0, 1], and int64 `[360]`."""
    return _parts()[1]


def _parts() -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return the clients' digits and the held-out ones."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra(
            "the digits example needs scikit-learn", hint="pip install 'choral[sklearn]'"
        ) from error
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32), y.astype(np.int64)
    order = permutation(len(y), Key.root(SEED).fold("digits", "held out"))
    test, train = np.sort(order[:HELD_OUT]), np.sort(order[HELD_OUT:])
    return (x[train], y[train]), (x[test], y[test])
