"""Checks at the edge: what a user wrote becomes a plain int, float, bool or word, or an error.

Each takes the name as the user writes it and returns the value in Python's own type, so that a
plan hashes the same whether a file says 0 or 0.0, and a NumPy scalar never widens a float32 array.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Collection
from typing import Any

import numpy as np

from choral.core.errors import ConfigError, UnknownName, did_you_mean


def whole(name: str, value: Any, *, least: int | None = None, most: int | None = None) -> int:
    """Return a whole number as an int.

    Args:
        name: What the user calls it, such as `local.epochs`.
        value: An int or an integer of NumPy; neither a bool nor 3.0 is one.
        least: Smallest value allowed; None for no bound.
        most: Largest value allowed; None for no bound.

    Raises:
        ConfigError: It is no whole number, or out of its bounds.

    >>> whole("rounds", np.int64(3), least=1)
    3
    >>> whole("rounds", 2.5, least=1)
    Traceback (most recent call last):
    choral.core.errors.ConfigError: rounds 2.5: expected a whole number from 1
    """
    try:
        found = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        found = None
    low = found is not None and (least is None or found >= least)
    if found is None or not low or (most is not None and found > most):
        bounds = "" if least is None else f" from {_shown(least)}"
        bounds += "" if most is None else f" to {_shown(most)}"
        raise ConfigError(f"{name} {value!r}: expected a whole number{bounds}")
    return found


def real(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """Return a finite number as a float; -0.0 becomes 0.0.

    Args:
        name: What the user calls it, such as `local.lr`.
        value: An int, a float or a real scalar of NumPy; a bool is none.
        above: Lower bound, itself not allowed; None for no such bound.
        least: Smallest value allowed; None for no such bound.
        most: Largest value allowed; None for no such bound.
        below: Upper bound, itself not allowed; None for no such bound.

    Raises:
        ConfigError: It is no number, NaN, infinite, or out of its bounds.

    >>> real("fedprox.mu", 0, least=0, most=1e6)
    0.0
    >>> real("fedprox.mu", "0.1", least=0, most=1e6)
    Traceback (most recent call last):
    choral.core.errors.ConfigError: fedprox.mu '0.1': expected a number in [0, 1e6]
    """
    try:
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        found = float(value) + 0.0 if number else math.nan
    except OverflowError:
        found = math.nan
    high_enough = (above is None or found > above) and (least is None or found >= least)
    low_enough = (below is None or found < below) and (most is None or found <= most)
    if not (math.isfinite(found) and high_enough and low_enough):
        expected = _interval(above=above, least=least, most=most, below=below)
        raise ConfigError(f"{name} {value!r}: expected {expected}")
    return found


def flag(name: str, value: Any) -> bool:
    """Return a truth value as a bool; raise `ConfigError` for 0, 1, a word or anything else.

    >>> flag("local.shuffle", np.bool_(False))
    False
    """
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{name} {value!r}: expected true or false")
    return bool(value)


def one_of(name: str, value: Any, known: Collection[str]) -> str:
    """Return a word that is one of those known.

    Args:
        name: What the user calls it, such as `fedavg.weighting`.
        value: What the user wrote.
        known: The words, in the order in which a message lists them.

    Raises:
        UnknownName: It is none of them; the hint names the nearest.

    >>> one_of("fedavg.weighting", "unifrom", ("examples", "uniform"))
    Traceback (most recent call last):
    choral.core.errors.UnknownName: fedavg.weighting 'unifrom': expected `examples` or `uniform` \
(did you mean `uniform`?)
    """
    if isinstance(value, str) and value in known:
        return str(value)
    words = [f"`{word}`" for word in known]
    listed = " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    hint = did_you_mean(value, known) if isinstance(value, str) else ""
    near = hint if hint.endswith("?") else ""  # else it lists again what the message has
    raise UnknownName(f"{name} {value!r}: expected {listed}", hint=near)


def _interval(
    *, above: float | None, least: float | None, most: float | None, below: float | None
) -> str:
    """Return the bounds of a number in words, or in the usual notation where there are two."""
    low, high = (least if above is None else above), (most if below is None else below)
    if low is None and high is None:
        return "a finite number"
    if high is None:
        words = f"of at least {_shown(low)}" if above is None else f"above {_shown(low)}"
        return f"a finite number {words}"
    if low is None:
        words = f"of at most {_shown(high)}" if below is None else f"below {_shown(high)}"
        return f"a finite number {words}"
    ends = ("[" if above is None else "("), ("]" if below is None else ")")
    return f"a number in {ends[0]}{_shown(low)}, {_shown(high)}{ends[1]}"


def _shown(bound: Any) -> str:
    """Return a bound as people write it: `2^40` and `2^63 - 1` by their powers, `1e6`."""
    if isinstance(bound, int) and bound >= 2**16 and not bound & (bound + 1):
        return f"2^{bound.bit_length()} - 1"
    fraction, exponent = math.frexp(bound)
    if fraction == 0.5 and abs(exponent - 1) >= 16:
        return f"2^{exponent - 1}"
    return str(bound) if isinstance(bound, int) else f"{bound:g}".replace("e+0", "e")
