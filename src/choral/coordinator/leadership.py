"""Which of several coordinators on one database works: the others stand by.

The one that leads holds a lease in the database, by the database's own clock. Runs are fenced by
their own epochs besides: one that leads no more, and does not know it, writes nothing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from choral.core.errors import Fenced, RunExists
from choral.core.ports import Lease, SharedRunStore

LEADER: Final = "_coordinator"
"""The name in the store that stands for all of a database's runs."""
LEASE_S: Final = 10.0
"""How long a coordinator leads without a sign of life."""
RENEWAL_S: Final = 2.5
FIRST_POLL_S: Final = 0.1
POLL_S: Final = 1.0
"""How soon one that has just started looks again, and how often one that stands by does."""


class Leadership:
    """One coordinator's claim to lead.

    Args:
        store: The database.
        owner: Unique name of this process.
    """

    def __init__(self, store: SharedRunStore, *, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._lease: Lease | None = None

    @property
    def lease(self) -> Lease | None:
        """The last lease that it held, None before the first: others may have taken over since."""
        return self._lease

    def claim(self) -> bool:
        """Lead, if nobody else does; return whether this coordinator leads now.

        Raises:
            StoreError: The database cannot be used now.
        """
        if LEADER not in self._store.runs():
            with suppress(RunExists):  # another one came first
                self._store.create(LEADER, {})
        found = self._store.claim(LEADER, owner=self._owner, seconds=LEASE_S)
        self._lease = found or self._lease
        return found is not None

    def renew(self) -> None:
        """Go on leading.

        Raises:
            Fenced: Another coordinator leads.
            StoreError: The database cannot be used now.
        """
        if self._lease is None:
            raise Fenced("this coordinator does not lead")
        self._store.renew(self._lease, seconds=LEASE_S)

    def resign(self) -> None:
        """Let another coordinator lead at once."""
        if self._lease is not None:
            self._store.release(self._lease)
