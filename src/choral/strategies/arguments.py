"""Checks of the arguments of strategies."""

from __future__ import annotations

from choral.core.errors import ConfigError, did_you_mean

WEIGHTINGS = ("examples", "uniform")


def checked_weighting(strategy: str, value: object) -> str:
    """Return `value` where it names a weighting, else raise `ConfigError`."""
    if value not in WEIGHTINGS:
        raise ConfigError(
            f"{strategy}: weighting is {value!r}, expected `examples` or `uniform`",
            hint=did_you_mean(str(value), WEIGHTINGS),
        )
    return str(value)


def checked_number(argument: str, value: object, interval: str) -> float:
    """Return `value` as a float where it lies in `interval`, else raise `ConfigError`.

    Whole numbers become floats, so that a plan hashes the same whether a file says 0 or 0.0.

    Args:
        argument: What the message calls it, such as `fedprox: mu`.
        value: What the user gave.
        interval: Two bounds in the usual notation, such as `[0, 1)`.

    >>> checked_number("fedprox: mu", 0, "[0, 1)")
    0.0
    """
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    if isinstance(value, int | float) and not isinstance(value, bool):
        above = low < value if interval[0] == "(" else low <= value
        below = value < high if interval[-1] == ")" else value <= high
        if above and below:
            return float(value)
    raise ConfigError(f"{argument} is {value!r}, expected a number in {interval}")
