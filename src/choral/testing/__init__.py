"""For those who extend Choral: fakes of the ports, and the suites that judge an implementation."""

from choral.testing.fakes import SeededRand, VirtualClock
from choral.testing.stores import (
    BLOB_STORE_LAWS,
    LOG_STORE_LAWS,
    RUN_STORE_LAWS,
    SHARED_RUN_STORE_LAWS,
)

__all__ = [
    "BLOB_STORE_LAWS",
    "LOG_STORE_LAWS",
    "RUN_STORE_LAWS",
    "SHARED_RUN_STORE_LAWS",
    "SeededRand",
    "VirtualClock",
]
