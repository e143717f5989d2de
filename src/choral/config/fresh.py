"""What a new run is given where nobody said: a seed and a name."""

from __future__ import annotations

import secrets

from choral.core.checks import whole

MAX_SEED = 2**63 - 1


def seed_or_drawn(seed: int | None) -> int:
    """Return the seed, drawn from the system where none is given.

    Raises:
        ConfigError: It is not a whole number from 0 to 2^63 - 1.
    """
    if seed is None:
        return secrets.randbits(32)
    return whole("seed", seed, least=0, most=MAX_SEED)


def new_run_id(name: str) -> str:
    """Return a name for a run that no other run has."""
    return f"{name}-{secrets.token_hex(4)}"
