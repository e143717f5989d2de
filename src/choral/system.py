"""The machine's time and randomness, and the signal that ends a process in a test."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Final

from choral.core.errors import ConfigError, did_you_mean
from choral.core.failpoints import FAILPOINTS, LEDGER_FAILPOINTS, arm

FAILPOINT: Final = "CHORAL_FAILPOINT"
"""Environment variable that names a failpoint, and after a colon at which reach of it to end."""


def arm_failpoint(environment: Mapping[str, str]) -> None:
    """End this process by SIGKILL at the failpoint that the environment names, if any.

    Args:
        environment: Such as `os.environ`; `CHORAL_FAILPOINT=client.trained:2` ends it when
            `client.trained` is reached for the second time.

    Raises:
        ConfigError: There is no such failpoint.
    """
    asked = environment.get(FAILPOINT)
    if not asked:
        return
    name, _, count = asked.partition(":")
    known = (*FAILPOINTS, *LEDGER_FAILPOINTS)
    if name not in known or not (count or "1").isdecimal():
        raise ConfigError(f"{FAILPOINT}={asked}", hint=did_you_mean(name, known))
    left = int(count or 1)

    def reached(which: str) -> None:
        nonlocal left
        if which == name:
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    arm(reached)


class SystemClock:
    """The machine's time."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start."""
        return time.perf_counter()

    def wall(self) -> float:
        """Return seconds since 1970-01-01 UTC."""
        return time.time()


class SystemRand:
    """Secret randomness of the operating system."""

    def token(self, size: int) -> bytes:
        """Return `size` bytes that nobody can predict."""
        return os.urandom(size)
