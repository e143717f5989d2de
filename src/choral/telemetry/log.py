"""A run's events as lines of a log: for people, or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from choral.federation import events as ev
from choral.federation.participant import NORM, Failed


class RunLog:
    """Observer that logs a run.

    Args:
        logger: Where to.
        run_id: The run.
        rounds: Rounds that were asked for.
    """

    def __init__(self, logger: logging.Logger, run_id: str, rounds: int) -> None:
        self._logger = logger
        self._run_id = run_id
        self._rounds = rounds
        self._selected = 0

    def __call__(self, item: Any) -> None:
        """Log an event."""
        note = _NOTES.get(type(item))
        if note is not None:
            note(self, item)

    def _say(self, level: int, text: str, /, **fields: Any) -> None:
        self._logger.log(level, "%s", text, extra={"choral": {"run": self._run_id, **fields}})

    def _chosen(self, event: ev.CohortChosen) -> None:
        self._selected = len(event.clients)
        again = f", attempt {event.attempt}" if event.attempt > 1 else ""
        self._say(
            logging.INFO,
            f"round {event.round}/{self._rounds}{again}: {self._selected} clients are invited",
            event="cohort_chosen",
            round=event.round,
            attempt=event.attempt,
            clients=self._selected,
        )

    def _failed(self, failed: Failed) -> None:
        self._say(
            logging.WARNING,
            f"client {failed.client} failed: {failed.code}: {failed.message}",
            event="client_failed",
            client=failed.client,
            code=failed.code,
            message=failed.message,
        )

    def _committed(self, event: ev.Committed) -> None:
        metrics = {k: v for k, v in event.metrics.items() if k != NORM}
        words = "  ".join(f"{k} {v:.4g}" for k, v in sorted(metrics.items()))
        self._say(
            logging.INFO,
            f"round {event.round}/{self._rounds}: committed in {event.duration_s:.2f} s  {words}",
            event="committed",
            round=event.round,
            attempt=event.attempt,
            duration_s=event.duration_s,
            metrics=metrics,
            model_sha256=event.model_sha256,
        )

    def _evaluated(self, event: ev.Evaluated) -> None:
        if not event.metrics:
            return
        words = "  ".join(f"{k} {v:.4g}" for k, v in sorted(event.metrics.items()) if v is not None)
        self._say(
            logging.INFO,
            f"round {event.round}/{self._rounds}: measured  {words}",
            event="evaluated",
            round=event.round,
            metrics=dict(event.metrics),
        )

    def _abandoned(self, command: ev.Abandon) -> None:
        self._say(
            logging.WARNING,
            f"round {command.round}, attempt {command.attempt} is given up: {command.reason}",
            event="abandoned",
            round=command.round,
            attempt=command.attempt,
            reason=command.reason,
        )


_NOTES: Final[dict[type[Any], Any]] = {
    ev.CohortChosen: RunLog._chosen,
    Failed: RunLog._failed,
    ev.Committed: RunLog._committed,
    ev.Evaluated: RunLog._evaluated,
    ev.Abandon: RunLog._abandoned,
}


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON."""
        body: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        body |= getattr(record, "choral", {})
        if record.exc_info:
            body["traceback"] = self.formatException(record.exc_info)
        return json.dumps(body, default=str, ensure_ascii=False)


def log_to(stream: TextIO | None = None, *, as_json: bool, level: int = logging.INFO) -> None:
    """Send the package's log to a stream, by default stderr; for a process that owns it."""
    handler = logging.StreamHandler(stream or sys.stderr)
    text = logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    handler.setFormatter(JsonLines() if as_json else text)
    logger = logging.getLogger("choral")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
