"""Tails of the hypergeometric distribution in log space: how bad a neighbourhood can be by chance.

Who neighbours whom is uniform, so the number of marked clients (corrupt, or lost) among `draws`
others is hypergeometric. Probabilities of 2^-80 and a union over 100 000 clients do not fit beside
1 in a float, hence logarithms to base 2.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

_LN2 = float(np.log(2.0))


@lru_cache(maxsize=4)
def _log_factorials(most: int) -> npt.NDArray[np.float64]:
    """Return ln i! for i = 0 to `most`."""
    table = np.zeros(most + 1)
    np.cumsum(np.log(np.arange(1, most + 1, dtype=np.float64)), out=table[1:])
    table.flags.writeable = False
    return table


def log2_tails(*, population: int, marked: int, draws: int) -> npt.NDArray[np.float64]:
    """Return log2 P(X >= x) for x = 0 to `draws` + 1, X the marked ones among `draws`.

    Args:
        population: How many there are.
        marked: How many of them are marked.
        draws: How many are drawn without putting back, at most `population`.

    Returns:
        float64, shape `[draws + 2]`; -inf where X cannot be that large.

    >>> log2_tails(population=4, marked=2, draws=1)[1].round(6)
    np.float64(-1.0)
    """
    least, most = max(0, draws - (population - marked)), min(draws, marked)
    x = np.arange(least, most + 1)
    table = _log_factorials(population)
    log_p = table[marked] - table[x] - table[marked - x]
    log_p += table[population - marked] - table[draws - x] - table[population - marked - draws + x]
    log_p -= table[population] - table[draws] - table[population - draws]
    tails = np.full(draws + 2, -np.inf)
    tails[: most + 1] = 0.0
    tails[least : most + 1] = np.logaddexp.accumulate(log_p[::-1])[::-1] / _LN2
    tails[: least + 1] = 0.0  # certain, and free of rounding
    return tails
