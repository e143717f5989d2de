"""Named places where a test ends the process, to see that nothing is lost.

Nothing happens at any of them unless the rim has armed one: see `choral.system.arm_failpoint`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FAILPOINTS: Final[dict[str, str]] = {
    "coordinator.restored": "an open attempt is taken up again, and nobody is told",
    "coordinator.round.planned": "a round has its cohort and plan, not yet stored",
    "coordinator.round.stored": "a round is stored, and nobody is told",
    "coordinator.round.told": "clients can see their work",
    "coordinator.upload.whole": "an upload is whole, and not yet kept",
    "coordinator.upload.kept": "an upload is on disk under its digest, and not in the log",
    "coordinator.upload.counted": "a contribution is in the sum, not in the log",
    "coordinator.upload.stored": "a contribution is in the log, and its receipt is not sent",
    "coordinator.upload.answered": "a receipt is sent",
    "coordinator.said.taken": "a message of secure aggregation is taken, and not in the log",
    "coordinator.said.stored": "it is in the log, and not acknowledged",
    "coordinator.sealed.fixed": "the survivors are fixed, and not in the log",
    "coordinator.sealed.stored": "the survivors are in the log, and nobody is told",
    "coordinator.sum.closed": "the sum is decoded, and not in the log",
    "coordinator.released": "the sum is released, and not in the log",
    "coordinator.state.stored": "the new model is on disk, and not in the log",
    "coordinator.committed.made": "the round is committed, not yet in the log",
    "coordinator.committed.stored": "the commit is in the log, and nobody is told",
    "coordinator.published": "the new model can be downloaded",
    "coordinator.evaluation.told": "clients can see that they are to measure",
    "coordinator.evaluation.reported": "a client has told what it measured",
    "coordinator.evaluated": "the evaluation is made, and not in the log",
    "coordinator.finish.stored": "the run's last event is in the log",
    "run.model.written": "the final model is in the run's folder, and no result",
    "run.result.written": "the result is written, and the folder has not its name",
    "client.assigned": "a client has its work, and has done nothing",
    "client.downloaded": "a client has the model",
    "client.trained": "a plain contribution is on the client's disk",
    "client.sent": "a contribution is sent, and its receipt not checked",
    "client.receipted": "a client has checked its receipt",
    "client.secure.heard": "a client has a message of secure aggregation, and has not acted",
    "client.secure.acted": "a client has acted on it, and has not answered",
    "client.secure.masked": "a masked vector is fixed and on disk, and not sent",
    "client.measured": "a client has measured a model, and not reported",
}
"""Every failpoint, with what is so when it is reached."""

LEDGER_FAILPOINTS: Final[dict[str, str]] = {
    "ledger.opened.made": "a population's limit is decided, and not in its privacy ledger",
    "ledger.opened.stored": "it is in the ledger, and nothing is declared",
    "ledger.run.made": "a run's terms are decided, and not in the ledger",
    "ledger.run.stored": "they are in the ledger, and the run has not begun",
    "ledger.reserved.made": "a reservation is decided, and not in the ledger",
    "ledger.reserved.stored": "it is in the ledger, and nobody is invited",
    "ledger.spent.made": "a release is decided, and its reservation is not spent",
    "ledger.spent.stored": "its reservation is spent, and nothing is released",
    "ledger.voided.made": "an attempt released nothing, and its reservation still counts",
    "ledger.voided.stored": "its reservation is given back",
}
"""Those of a privacy ledger, of a coordinator or a client: reached in runs with privacy alone."""

_ARMED: Final[list[Callable[[str], None]]] = []


def arm(reached: Callable[[str], None] | None) -> None:
    """Call `reached` with the name of every failpoint from now on; None for nothing."""
    _ARMED[:] = [] if reached is None else [reached]


def known(name: str) -> str:
    """Return what is so at a failpoint.

    Raises:
        KeyError: There is none of this name.
    """
    return FAILPOINTS[name] if name in FAILPOINTS else LEDGER_FAILPOINTS[name]


def reach(name: str) -> None:
    """Say that a failpoint is reached.

    Raises:
        KeyError: It is not in the table, where one is armed.
    """
    for reached in _ARMED:
        known(name)
        reached(name)
