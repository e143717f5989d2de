"""What a run's events say to people: the JSON of a run, folded from its log.

A view is an observer, so the same code tells the story of a run that goes on, of one that ended and
of one that is read back from disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from choral.core.release import ReleaseEvent
from choral.federation.events import (
    Aggregated,
    ClientFailed,
    CohortChosen,
    Committed,
    Evaluated,
    Finish,
    ModelReleased,
    RunStarted,
)
from choral.federation.participant import NORM
from choral.federation.rows import Rows


@dataclass(slots=True)
class RunView:
    """The story of a run so far.

    Attributes:
        status: `running`, or what `Finish` said.
        reason: Why it failed or stopped; empty otherwise.
        rounds: One JSON object per committed round.
        metrics: The last evaluation.
        client_metrics: The last evaluation of each client.
        failures: Clients that failed: round, attempt, client, code, message.
        model_sha256: Digest of the newest global model.
        state: Digest of the newest stored state.
        kept: Digests of the blobs with kept personal tensors, oldest first.
        ledger: Population, length and head of the privacy ledger at the newest release, or None.
        released: The record of the newest committed model's release; None before round 1.
    """

    status: str = "running"
    reason: str = ""
    rounds: Rows = field(default_factory=Rows)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    client_metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    failures: Rows = field(default_factory=Rows)
    model_sha256: str = ""
    state: str = ""
    kept: list[str] = field(default_factory=list)
    ledger: Mapping[str, Any] | None = None
    released: ReleaseEvent | None = None
    _open: dict[str, Any] = field(default_factory=dict)
    _releasing: ReleaseEvent | None = None

    def __call__(self, item: Any) -> None:
        """Take note of an event or command."""
        note = _NOTES.get(type(item))
        if note is not None:
            note(self, item)

    def _started(self, event: RunStarted) -> None:
        self.state = event.state
        self.model_sha256 = event.model_sha256

    def _chosen(self, event: CohortChosen) -> None:
        self._open = {
            "round": event.round,
            "attempt": event.attempt,
            "selected": len(event.clients),
        }

    def _failed(self, event: ClientFailed) -> None:
        self.failures.append(
            {
                "round": event.round,
                "attempt": event.attempt,
                "client": event.client,
                "code": event.code,
                "message": event.message,
            }
        )

    def _aggregated(self, event: Aggregated) -> None:
        self._open |= {
            "completed": event.count,
            "dropped": event.dropped,
            "weight": event.weight,
            "update_norm": {"mean": None, "max": event.update_norm_max},
            "bytes_up": event.bytes_up,
            "bytes_down": event.bytes_down,
        }

    def _released(self, event: ModelReleased) -> None:
        self._open |= {"mechanism": event.mechanism, "epsilon": event.epsilon}
        if event.population is not None:
            self.ledger = {
                "population": event.population,
                "entries": event.entries,
                "head": event.head,
            }
        self._releasing = ReleaseEvent(
            "model", event.round, event.attempt, event.mechanism, event.epsilon, event.delta
        )

    def _committed(self, event: Committed) -> None:
        self.state = event.state
        self.model_sha256 = event.model_sha256
        self.released = self._releasing
        if event.kept is not None:
            self.kept.append(event.kept)
        metrics = dict(event.metrics)
        norm = metrics.pop(NORM, None)
        opened = {"selected": 0, "completed": 0, "dropped": 0, **self._open}
        opened["update_norm"] = {**opened.get("update_norm", {"max": None}), "mean": norm}
        self.rounds.append(
            {**opened, "round": event.round, "attempt": event.attempt, "metrics": metrics}
            | {"duration_s": event.duration_s, "model_sha256": event.model_sha256}
        )
        self._open = {}

    def _evaluated(self, event: Evaluated) -> None:
        self.metrics = event.metrics
        if event.client_metrics:
            self.client_metrics = event.client_metrics
        if self.rounds and self.rounds[-1]["round"] == event.round:
            row = self.rounds[-1]
            row["metrics"] |= dict(event.metrics)
            self.rounds.replace_last(row)

    def _finished(self, command: Finish) -> None:
        self.status = command.status
        self.reason = command.reason


_NOTES: dict[type[Any], Any] = {
    RunStarted: RunView._started,
    CohortChosen: RunView._chosen,
    ClientFailed: RunView._failed,
    Aggregated: RunView._aggregated,
    ModelReleased: RunView._released,
    Committed: RunView._committed,
    Evaluated: RunView._evaluated,
    Finish: RunView._finished,
}
