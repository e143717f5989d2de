"""What a new run is given where nobody said: a seed and a name."""

from __future__ import annotations

import secrets

from choral.core.errors import ConfigError

MAX_SEED = 2**63 - 1


def seed_or_drawn(seed: int | None) -> int:
    """Return the seed, drawn from the system where none is given.

    Raises:
        ConfigError: It is not a whole number from 0 to 2^63 - 1.
    """
    if seed is None:
        return secrets.randbits(32)
    if type(seed) is not int or not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed {seed!r}: expected a whole number from 0 to 2^63 - 1")
    return seed


def new_run_id(name: str) -> str:
    """Return a name for a run that no other run has."""
    return f"{name}-{secrets.token_hex(4)}"
