"""From a setup to a result: engine, storage and driver put together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from choral._version import __version__
from choral.core.canonical import digest_of
from choral.core.errors import (
    ChoralError,
    ClientError,
    NoQuorum,
    NotBuilt,
    UnknownName,
    did_you_mean,
)
from choral.core.params import Params
from choral.core.ports import Clock, Observer, Rand
from choral.federation.calibration import protected
from choral.federation.conductor import Conductor
from choral.federation.journal import Journal
from choral.federation.participant import Participant
from choral.federation.setup import RunSetup
from choral.selection.coverage import coverage
from choral.simulation.availability import Arrival, Availability
from choral.simulation.driver import Driver
from choral.simulation.engine import Engine
from choral.simulation.inline import InlineEngine
from choral.simulation.worker import Rebuild
from choral.stores.folder import RunFolder
from choral.stores.ledgers import spending_in
from choral.stores.memory import MemoryBlobStore, MemoryRunStore
from choral.system import SystemClock, SystemRand
from choral.tasks.threads import one_thread
from choral.telemetry.result import Result, lineage

ENGINES = ("inline", "workers")

_LISTED = 100_000
"""Clients up to which a resumed run must have the very same ids, and not only as many."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a setup is run on this machine; only `arrival` changes the model, by who is in time.

    Attributes:
        engine: `inline` or `workers`.
        workers: Processes of the engine `workers`.
        rebuild: Makes the clients' side in a worker; None sends the task and the source there.
        out: Folder of the run; None keeps everything in memory.
        storage: Folder of runs, where the ledgers of populations are; None for that of `out`.
        resume: Go on with the unfinished run in `out`.
        arrival: When clients answer.
        observers: See every event and command.
        clock: For durations and dates.
        rand: Secret randomness; the model does not depend on it.
    """

    engine: str = "inline"
    workers: int = 2
    rebuild: Rebuild | None = None
    out: Path | None = None
    storage: Path | None = None
    resume: bool = False
    arrival: Arrival = field(default_factory=Availability)
    observers: Iterable[Observer] = ()
    clock: Clock = field(default_factory=SystemClock)
    rand: Rand = field(default_factory=SystemRand)


def launch(setup: RunSetup, how: Launch) -> Result:
    """Run a federation and return its result.

    Raises:
        RunFailed: Too few clients completed a round; `result` on the error tells the story.
        BudgetExhausted: The privacy budget allows no further round; it has a `result`, too.
        ChoralError: Anything else that is wrong with the setup, the data or the storage.
    """
    if how.engine == "ray":
        raise NotBuilt("engine `ray` is not built yet", hint="use `workers`")
    if how.engine not in ENGINES:
        hint = did_you_mean(how.engine, ENGINES)
        raise UnknownName(f"unknown engine `{how.engine}`", hint=hint)
    folder = None if how.out is None else RunFolder(how.out)
    setup, participant, params = _ready(setup, how)
    try:
        setup, journal = _journal(setup, how, folder)
        storage = how.storage or (None if how.out is None else how.out.absolute().parent)
        spending = spending_in(storage, setup, participant.spec, folder=folder, rand=how.rand)
    except BaseException:
        if folder is not None:
            folder.close()
        raise
    started = how.clock.monotonic()
    kept = False
    try:
        with one_thread():
            engine = _engine(setup, how, participant, params)
            try:
                driver = Driver(
                    setup,
                    engine,
                    participant=participant,
                    first=params,
                    journal=journal,
                    arrival=how.arrival,
                    clock=how.clock,
                    rand=how.rand,
                    spending=spending,
                    observers=how.observers,
                )
                view = driver.run()
            finally:
                engine.close()
        kept = True
    finally:
        if folder is not None and not kept:
            _leave(folder, journal)
    conductor = driver.conductor
    result = Result.of(
        setup,
        view,
        engine=engine.name,
        params=conductor.params,
        spec=conductor.spec,
        coverage=coverage(setup.source, conductor.machine.history, by=setup.strata).as_json(),
        duration_s=how.clock.monotonic() - started,
        finished=datetime.fromtimestamp(how.clock.wall(), UTC).isoformat(timespec="seconds"),
    )
    if view.status == "failed":
        if folder is not None:
            _leave(folder, journal)
        raise _failure(result, conductor)
    return _completed(result, setup, folder, driver)


def _journal(setup: RunSetup, how: Launch, folder: RunFolder | None) -> tuple[RunSetup, Journal]:
    """Return the journal of a new run, or of the one that is resumed, and the setup with its id."""
    header = {
        "config": dict(setup.config),
        "name": setup.name,
        "seed": setup.seed,
        "version": __version__,
    }
    if folder is None:
        store = MemoryRunStore()
        store.create(setup.run_id, header)
        return setup, Journal(store, MemoryBlobStore(), store.acquire(setup.run_id))
    if how.resume:
        lease = folder.resume(setup.config)
        setup = replace(setup, run_id=lease.run_id)
    else:
        lease = folder.create(setup.run_id, header)
    return setup, Journal(folder.store, folder.blobs(), lease)


def _ready(setup: RunSetup, how: Launch) -> tuple[RunSetup, Participant, Params]:
    """Return a setup with its noise and origin, the clients' side, and the first model."""
    participant, params = setup.participant()
    participant = replace(participant, rand=how.rand)
    setup = protected(setup, participant.spec)
    config = {**setup.config, **_origin(setup, participant, params)}
    return replace(setup, config=config), participant, params


def _origin(setup: RunSetup, participant: Participant, params: Params) -> dict[str, Any]:
    """Return what a resumed run must share with its beginning, whatever its configuration says."""
    ids = setup.source.ids
    return {
        "clients": len(ids),
        "client_ids": digest_of(list(ids)) if len(ids) <= _LISTED else None,
        "first_model": params.sha256,
        "spec": participant.spec.digest,
    }


def _engine(setup: RunSetup, how: Launch, participant: Participant, params: Params) -> Engine:
    if how.engine == "inline":
        return InlineEngine(participant, setup.source)
    from choral.simulation.workers import WorkersEngine

    rebuild = how.rebuild or Fixed(participant, setup.source)
    return WorkersEngine(
        rebuild,
        params=params,
        payload_bytes=setup.payload_bytes(participant.spec),
        workers=how.workers,
    )


@dataclass(frozen=True, slots=True)
class Fixed:
    """Hands a worker the very objects, where they can be sent to it."""

    participant: Participant
    source: Any

    def __call__(self) -> tuple[Participant, Any]:
        """Return the clients' side."""
        return self.participant, self.source


def _leave(folder: RunFolder, journal: Journal) -> None:
    """Keep an unfinished run that has committed a round, so that it can be resumed.

    A folder that another process has taken over is that process's.
    """
    if journal.lost or any(record.kind == "Committed" for record in journal.read()):
        folder.close()
    else:
        folder.discard()


def _failure(result: Result, conductor: Conductor) -> ChoralError:
    """Return the error of a failed run, with the first client's own traceback as its cause."""
    if conductor.refused is not None:
        conductor.refused.result = result
        return conductor.refused
    failed = conductor.failed
    reached = len(result.rounds)
    words = {f.message for f in failed}
    why = f": {next(iter(words))}" if len(words) == 1 else ""
    error = NoQuorum(
        f"round {reached + 1} found no quorum ({result.reason}){why}",
        hint="look at `failures`; completed rounds are kept" if reached else "look at `failures`",
    )
    error.result = result
    details = next((f for f in failed if f.details), None)
    if details is not None:
        error.__cause__ = ClientError(f"client `{details.client}` failed:\n{details.details}")
    return error


def _completed(result: Result, setup: RunSetup, folder: RunFolder | None, driver: Driver) -> Result:
    if folder is None:
        return result
    conductor = driver.conductor
    origin = lineage(result, setup, conductor.first_sha256)
    path = folder.complete(result.to_json(), conductor.released, origin)
    return replace(result, model_path=path)
