"""What a coordinator counts, from the events that its log is made of; no client has a label."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from choral.core.ports import Observer
from choral.federation import events as ev
from choral.federation.participant import Failed

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200)


class Metrics:
    """Prometheus metrics of a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        on = self.registry
        self._rounds = Counter(
            "choral_rounds", "Attempts at rounds by outcome", ["outcome"], registry=on
        )
        self._seconds = Histogram(
            "choral_round_seconds", "Seconds of a committed round", buckets=_SECONDS, registry=on
        )
        self._clients = Counter(
            "choral_clients", "Clients of rounds by stage", ["stage"], registry=on
        )
        self._failures = Counter(
            "choral_failures", "Clients that failed, by code", ["code"], registry=on
        )
        self._rejects = Counter(
            "choral_rejected_calls", "Calls that were refused", ["call", "code"], registry=on
        )
        self._bytes = Counter("choral_bytes", "Bytes of committed rounds", ["way"], registry=on)
        self._runs = Counter("choral_runs", "Runs by how they ended", ["status"], registry=on)
        self._round = Gauge("choral_round", "Newest committed round of any run", registry=on)
        self._tasks = Gauge("choral_tasks", "Tasks of the event loop", registry=on)
        ProcessCollector(registry=on)

    def refused(self, call: str, code: str) -> None:
        """Count a call that was refused."""
        self._rejects.labels(call, code).inc()

    def on_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count the tasks of a loop whenever somebody asks."""
        self._tasks.set_function(lambda: len(asyncio.all_tasks(loop)))

    def observer(self) -> Observer:
        """Return an observer of one run."""
        counts: dict[type[Any], Any] = {
            ev.CohortChosen: self._chosen,
            ev.Aggregated: self._aggregated,
            ev.Committed: self._committed,
            ev.Abandon: self._abandoned,
            ev.Finish: self._finished,
            Failed: self._failed,
        }

        def observe(item: Any) -> None:
            count = counts.get(type(item))
            if count is not None:
                count(item)

        return observe

    def text(self) -> bytes:
        """Return everything in the text format of Prometheus."""
        found: bytes = generate_latest(self.registry)
        return found

    def _chosen(self, event: ev.CohortChosen) -> None:
        self._clients.labels("selected").inc(len(event.clients))

    def _aggregated(self, event: ev.Aggregated) -> None:
        self._clients.labels("completed").inc(event.count)
        self._clients.labels("dropped").inc(event.dropped)
        self._bytes.labels("up").inc(event.bytes_up)
        self._bytes.labels("down").inc(event.bytes_down)

    def _committed(self, event: ev.Committed) -> None:
        self._rounds.labels("committed").inc()
        self._seconds.observe(event.duration_s)
        self._round.set(event.round)

    def _abandoned(self, command: ev.Abandon) -> None:
        self._rounds.labels(command.reason.partition(":")[0][:40]).inc()

    def _finished(self, command: ev.Finish) -> None:
        self._runs.labels(command.status).inc()

    def _failed(self, failed: Failed) -> None:
        self._failures.labels(failed.code).inc()
