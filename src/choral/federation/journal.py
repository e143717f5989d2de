"""What a run leaves behind as it goes: its log, its states, its clients' tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from choral.core.errors import Conflict, Fenced
from choral.core.params import ClientId, Params
from choral.core.ports import BlobStore, Lease, Record, RunStore
from choral.core.release import Released
from choral.core.tensors import decode_tensors, encode_tensors
from choral.federation.events import CohortChosen, Committed, Event, to_record
from choral.federation.model import GlobalModel

_SEPARATOR = "\x1f"

STEP = "Step"
"""Kind of the records that an open attempt needs to go on after a crash, and nobody later."""


class Journal:
    """A run's log and blobs. Events gather until `flush`, which is one durable transaction.

    Beside events there are the steps of the open attempt: what a driver must know to go on with
    it. They are forgotten when the attempt has committed, or another one has begun.

    Args:
        store: Where the log is.
        blobs: Where states are.
        lease: The right to write.
        ahead: Called by every `flush` before anything is stored: what must be durable sooner.

    Attributes:
        lost: Whether another process has taken the run over.
    """

    def __init__(
        self,
        store: RunStore,
        blobs: BlobStore,
        lease: Lease,
        *,
        ahead: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._lease = lease
        self._ahead = ahead
        self._waiting: list[Record] = []
        self._states: list[str] = []
        self._kept_in: dict[ClientId, str] = {}
        self._garbage: set[str] = set()
        self._forget = False
        self._count: int | None = None
        self.lost = False

    @property
    def run_id(self) -> str:
        """The run."""
        return self._lease.run_id

    def read(self) -> list[Record]:
        """Return the events of the log so far."""
        records = self._store.read(self._lease.run_id)
        return [record for record in records if record.kind != STEP]

    def steps(self) -> list[dict[str, Any]]:
        """Return the steps of the open attempt, oldest first."""
        records = self._store.read(self._lease.run_id)
        return [record.body for record in records if record.kind == STEP]

    def note(self, event: Event) -> None:
        """Remember an event for the next `flush`."""
        if isinstance(event, CohortChosen | Committed):
            self._waiting = [record for record in self._waiting if record.kind != STEP]
            self._forget = True
        self._waiting.append(to_record(event))

    def step(self, body: dict[str, Any]) -> None:
        """Remember a step of the open attempt, a JSON object, for the next `flush`."""
        self._waiting.append(Record(STEP, body))

    @property
    def waits(self) -> bool:
        """Whether something is to be made durable."""
        return bool(self._waiting)

    def flush(self) -> None:
        """Make all that was noted durable; only then remove what it has replaced.

        Raises:
            Fenced: Another process has taken the run over.
            StoreError: It cannot be stored now; it still waits.
        """
        try:
            self._ahead()
            self._count = self._store.append(
                self._lease,
                self._waiting,
                expect=self._count,
                forget=STEP if self._forget else None,
            )
        except Fenced:
            self.lost = True
            raise
        except Conflict:  # an attempt before this one may have been written after all
            stored = list(self._store.read(self._lease.run_id))
            if self._count is None or stored[-len(self._waiting) :] != self._waiting:
                raise
            self._count += len(self._waiting)
        self._waiting, self._forget = [], False
        while len(self._states) > 2:
            self._garbage.add(self._states.pop(0))
        for digest in self._garbage - set(self._states) - set(self._kept_in.values()):
            self._blobs.delete(digest)
        self._garbage.clear()

    def put_state(self, model: Released[GlobalModel]) -> str:
        """Store a released model with its strategy's state; return the digest."""
        digest = self._blobs.put(model.value.encode())
        if digest not in self._states:
            self._states.append(digest)
        return digest

    def get_state(self, digest: str) -> memoryview:
        """Return a stored state."""
        if digest not in self._states:
            self._states.append(digest)
        return self._blobs.get(digest)

    def put_kept(self, kept: Mapping[ClientId, Params]) -> str | None:
        """Store the personal tensors that clients kept in one round; return the digest, if any."""
        if not kept:
            return None
        arrays: dict[str, np.ndarray[Any, Any]] = {
            f"{client}{_SEPARATOR}{name}": array
            for client, params in kept.items()
            for name, array in params.items()
        }
        digest = self._blobs.put(encode_tensors(arrays))
        self._refer(kept, digest)
        return digest

    def _refer(self, clients: Iterable[ClientId], digest: str) -> None:
        """Note where clients' newest tensors are; blobs that hold nobody's go at the next flush."""
        self._garbage |= {self._kept_in[c] for c in clients if c in self._kept_in}
        self._kept_in.update(dict.fromkeys(clients, digest))

    def get_kept(self, digests: Iterable[str]) -> dict[ClientId, Params]:
        """Return every client's newest personal tensors, from blobs given oldest first."""
        found: dict[ClientId, Params] = {}
        for digest in digests:
            if not self._blobs.has(digest):
                continue
            clients: dict[ClientId, dict[str, np.ndarray[Any, Any]]] = {}
            for name, array in decode_tensors(self._blobs.get(digest)).items():
                client, tensor = name.split(_SEPARATOR, 1)
                clients.setdefault(ClientId(client), {})[tensor] = array
            found |= {client: Params(arrays) for client, arrays in clients.items()}
            self._refer(tuple(clients), digest)
        return found
