"""What a coordinator does, as entries of its audit trail."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final

from choral._version import __version__
from choral.core.canonical import digest_of
from choral.core.params import ClientId
from choral.core.ports import Observer
from choral.crypto.signatures import SigningKey
from choral.federation import events as ev
from choral.federation.audit import pseudonym, pseudonym_key
from choral.stores.audit import Trail

if TYPE_CHECKING:
    from choral.coordinator.runs import Run

MAX_TEXT: Final = 300
_WORD: Final = re.compile(r"[\w.@:-]+")


class Auditor:
    """Notes what happens on an audit trail. No tensor and no client's name goes there.

    Args:
        trail: The trail.
        key: The coordinator's signing key; clients' pseudonyms follow from it.
    """

    def __init__(self, trail: Trail, key: SigningKey) -> None:
        self.trail = trail
        self._key = key
        self._pseudonyms = pseudonym_key(key)
        self._lock = threading.Lock()
        self._refused: Counter[str] = Counter()

    def head(self) -> bytes:
        """Return the head of what is durable, as receipts carry it."""
        return self.trail.head.encode()

    def name(self, client: str) -> str:
        """Return what the trail calls a client."""
        return pseudonym(self._pseudonyms, client)

    def names(self, clients: Collection[str]) -> list[str]:
        """Return what the trail calls some clients, in an order that tells nothing."""
        return sorted(map(self.name, clients))

    def flush(self) -> None:
        """Make everything durable.

        Raises:
            StoreError: It cannot be stored now.
        """
        with self._lock:
            refused, self._refused = self._refused, Counter()
        if refused:
            self.trail.note("calls.refused", counts=dict(sorted(refused.items())))
        self.trail.flush()

    # --- the process ------------------------------------------------------------------------------

    def started(self) -> None:
        """Note that the process serves."""
        self.trail.note(
            "coordinator.started", choral=__version__, key=self._key.public.hex(), sign=True
        )

    def stopped(self) -> None:
        """Note that the process ends in good order."""
        self.trail.note("coordinator.stopped", sign=True)

    def refused(self, call: str, code: str) -> None:
        """Count a call that was refused; the next `flush` writes how many there were."""
        with self._lock:
            self._refused[f"{call} {code}"] += 1

    # --- a run ------------------------------------------------------------------------------------

    def begun(self, run: Run) -> None:
        """Note that a run was created, or is taken up again."""
        self.trail.note(
            "run.resumed" if run.resumed else "run.created",
            run=run.id,
            by=run.owner,
            federation=digest_of(run.file.as_json()),
        )

    def observer(self, run: Run) -> Observer:
        """Return what notes a run's events."""
        return _RunNotes(self, run.id)


class _RunNotes:
    """Turns the events of one run into entries: a few for each round, whatever its size."""

    def __init__(self, auditor: Auditor, run_id: str) -> None:
        self._auditor = auditor
        self._run_id = run_id
        self._cohort: tuple[ClientId, ...] = ()
        self._failed: Counter[str] = Counter()
        self._count = 0

    def __call__(self, item: Any) -> None:
        note = _NOTES.get(type(item))
        if note is not None:
            note(self, item)

    def _note(self, kind: str, *, sign: bool = False, **fields: Any) -> None:
        self._auditor.trail.note(kind, sign=sign, run=self._run_id, **fields)

    def _chosen(self, event: ev.CohortChosen) -> None:
        self._cohort, self._count = event.clients, 0
        self._failed.clear()
        self._note(
            "round.opened", round=event.round, attempt=event.attempt, cohort=len(event.clients)
        )

    def _client_failed(self, event: ev.ClientFailed) -> None:
        self._failed[event.code] += 1

    def _aggregated(self, event: ev.Aggregated) -> None:
        self._count = event.count

    def _released(self, event: ev.ModelReleased) -> None:
        seen: dict[str, Any] = {}
        if event.population is not None:  # so that whoever sees the trail sees the ledger, too
            seen = {
                "population": event.population,
                "entries": event.entries,
                "head": event.head,
            }
        self._note(
            "round.released",
            round=event.round,
            attempt=event.attempt,
            mechanism=event.mechanism,
            epsilon=event.epsilon,
            delta=event.delta,
            **seen,
        )

    def _committed(self, event: ev.Committed) -> None:
        self._note(
            "round.committed",
            sign=True,
            round=event.round,
            attempt=event.attempt,
            model_sha256=event.model_sha256,
            survivors=self._count,
            failed=dict(sorted(self._failed.items())),
        )

    def _abandoned(self, command: ev.Abandon) -> None:
        self._note(
            "round.aborted",
            sign=True,
            round=command.round,
            attempt=command.attempt,
            reason=self._unnamed(command.reason),
            failed=dict(sorted(self._failed.items())),
        )

    def _stop(self, event: ev.StopRequested) -> None:
        self._note("run.stopped", reason=event.reason[:MAX_TEXT])

    def _finished(self, command: ev.Finish) -> None:
        reason = self._unnamed(command.reason)
        self._note("run.ended", sign=True, status=command.status, reason=reason)

    def _unnamed(self, text: str) -> str:
        """Return a reason with pseudonyms instead of clients' names."""
        clients = set(self._cohort)

        def replaced(word: re.Match[str]) -> str:
            bare = word[0].rstrip(".:-")
            if bare not in clients:
                return word[0]
            return self._auditor.name(bare) + word[0][len(bare) :]

        return _WORD.sub(replaced, text)[:MAX_TEXT]


_NOTES: Final[dict[type[Any], Callable[[_RunNotes, Any], None]]] = {
    ev.CohortChosen: _RunNotes._chosen,
    ev.ClientFailed: _RunNotes._client_failed,
    ev.Aggregated: _RunNotes._aggregated,
    ev.ModelReleased: _RunNotes._released,
    ev.Committed: _RunNotes._committed,
    ev.Abandon: _RunNotes._abandoned,
    ev.StopRequested: _RunNotes._stop,
    ev.Finish: _RunNotes._finished,
}
