"""The runs of a coordinator: begun, resumed, watched and ended, each on a thread of its own."""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from choral._version import __version__
from choral.config.build import Deployed, Place, build_setup, name_of, schema_of
from choral.config.federation import FederationFile, parse
from choral.config.fresh import new_run_id, seed_or_drawn
from choral.coordinator.actor import LONGEST_S, Actor
from choral.coordinator.archive import Archive, Ending
from choral.coordinator.desk import Desk, Farewell
from choral.coordinator.fit import Told, Wanted, refusals
from choral.coordinator.gate import Trigger
from choral.coordinator.outbox import PATIENCE_S, PAUSES_S
from choral.coordinator.population import Population
from choral.coordinator.tickets import Drain, Message, Stop
from choral.coordinator.uploads import Kept
from choral.coordinator.world import World
from choral.core.errors import ChoralError, ConfigError, Fenced, StoreError, StoreUnavailable
from choral.core.params import Params
from choral.core.ports import Observer
from choral.core.release import Released
from choral.core.selection import History, Strata
from choral.core.tensors import encode_tensors
from choral.federation.calibration import protected
from choral.federation.journal import Journal
from choral.federation.setup import RunSetup
from choral.federation.spending import Witness
from choral.selection.coverage import coverage
from choral.stores.files import FolderBlobStore
from choral.stores.folder import RunFolder
from choral.stores.ledgers import spending_in
from choral.telemetry.result import Result, lineage
from choral.wire.joining import Join

T = TypeVar("T")

LOG: Final = logging.getLogger("choral.coordinator")
ENGINE: Final = "grpc"
"""What results call a deployment."""

MAX_CLIENTS: Final = 1_000_000
"""Most clients that a round can ask for."""


@dataclass(slots=True, eq=False)
class Run:
    """A run of this coordinator.

    Attributes:
        id: Unique name.
        owner: Who submitted it.
        file: The federation.
        place: Where its words are looked up.
        created: When, seconds since 1970.
        resumed: It goes on with what is on disk.
        status: waiting, running, paused, completed, failed or stopped.
        reason: Why; empty where there is nothing to say.
        actor: What drives it, once it has begun.
        wanted: What it asks of clients, once that is known.
        setup: Its setup, once its clients are known.
        started: When it began to work, seconds since 1970.
        over: When its thread was done with it.
        result: How it ended.
        error: What ended it, where that was a fault.
        request_id: Name of the request that began it; empty where it has none.
        ended: Set when the thread is done with it.
        left: This process has let go of it, and another one may go on.
    """

    id: str
    owner: str
    file: FederationFile
    place: Place
    created: float
    resumed: bool = False
    status: str = "waiting"
    reason: str = ""
    actor: Actor | None = None
    wanted: Wanted | None = None
    setup: RunSetup | None = None
    started: float | None = None
    over: float | None = None
    result: dict[str, Any] | None = None
    error: ChoralError | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    request_id: str = ""
    left: bool = False
    inbox: queue.SimpleQueue[Message] = field(default_factory=queue.SimpleQueue)

    @property
    def name(self) -> str:
        """The federation's name."""
        return name_of(self.file, self.place)

    def post(self, message: Message) -> None:
        """Tell the run something, whether it has begun or not."""
        actor = self.actor
        (self.inbox.put if actor is None else actor.post)(message)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a coordinator adds to every run.

    Attributes:
        archive: Where the runs are kept.
        roster: Clients that may take part, with their labels; None for whoever has a certificate.
        verified: Whether clients' identities are proved by certificates.
        begun: Told of every run that was submitted or is resumed.
        auditing: Makes what notes a run's events on the audit trail; None for no trail.
        ahead: Makes the audit trail durable; called before a run's own log is.
        seen: Privacy ledgers as the audit trail has seen them.
    """

    archive: Archive
    roster: Mapping[str, Strata] | None = None
    verified: bool = True
    begun: Callable[[Run], None] = lambda _: None
    auditing: Callable[[Run], Observer] | None = None
    ahead: Callable[[], None] = lambda: None
    seen: Callable[[], Iterable[Witness]] = tuple


class Runs:
    """All runs of a process.

    Args:
        terms: What holds for every run.
        desk: The clients.
        world: From how a run publishes its models, and its uploads, to what is outside it.
        observers: Makes the observers of a run; they see what is durable.
    """

    def __init__(
        self,
        terms: Terms,
        *,
        desk: Desk,
        world: Callable[[Callable[[Released[Params]], int], Kept], World],
        observers: Callable[[Run], Iterable[Observer]],
    ) -> None:
        self._terms = terms
        self._desk = desk
        self._world = world
        self._observers = observers
        self._lock = threading.Lock()
        self._runs: dict[str, Run] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._submitting = threading.Lock()
        self._recovered_ids: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._models: dict[tuple[str, str], Path] = {}

    # --- from outside -----------------------------------------------------------------------------

    def all(self) -> list[Run]:
        """Return the runs of this process, oldest first."""
        with self._lock:
            return list(self._runs.values())

    def get(self, run_id: str) -> Run | None:
        """Return a run, None where there is none of this name."""
        return self._runs.get(run_id)

    def refusals(self, join: Join) -> tuple[list[Told], bool]:
        """Return which runs that go on do not ask a client, and whether another one would."""
        going = [run for run in self.all() if not run.ended.is_set()]
        known = [(run.id, run.wanted) for run in going if run.wanted is not None]
        told, taken = refusals(known, join)
        return told, taken or len(known) < len(going)  # one that has just come may ask it

    def model(self, run_id: str, sha256: str) -> Path | None:
        """Return the file of a run's model that can be downloaded now."""
        return self._models.get((run_id, sha256))

    def submit(
        self, file: FederationFile, place: Place, *, owner: str, request_id: str = ""
    ) -> Run:
        """Begin a run; the same request of the same owner begins no second one.

        Raises:
            ConfigError: It cannot work; nothing was begun.
        """
        with self._submitting:
            known = self._requests.get((owner, request_id)) if request_id else None
            if known is not None:
                return self._runs[known]
            if file.storage.database is not None or file.storage.blobs is not None:
                raise ConfigError(
                    "`storage.database` and `storage.blobs` are the coordinator's own",
                    hint="leave them out of a file that is submitted",
                )
            file = file.model_copy(update={"seed": seed_or_drawn(file.seed)})
            self._setup(file, place, Population(), self._size(file) or 3)
            trigger_of(file)
            now = datetime.now(UTC).timestamp()
            run = Run(new_run_id(name_of(file, place)), owner, file, place, now)
            run.request_id = request_id
            self._terms.archive.submitted(run.id, self._origin(run))
            if request_id:
                self._requests[owner, request_id] = run.id
            return self._begin(run)

    @staticmethod
    def _origin(run: Run) -> dict[str, Any]:
        """Return where a run comes from: what it needs to go on after a restart."""
        return {
            "version": __version__,
            "federation": run.file.as_json(),
            "folder": str(run.place.folder),
            "owner": run.owner,
            "created": run.created,
            "request_id": run.request_id,
        }

    def resume(self, file: FederationFile, place: Place, *, owner: str) -> Run | None:
        """Return the newest run of this file that goes on, if there is one.

        Args:
            file: The federation.
            place: Where its words are looked up.
            owner: Who asks for it.
        """
        asked = file.as_json()
        for run in reversed(self.all()):
            stored = run.file.as_json()
            if file.seed is None:
                stored.pop("seed", None)
            goes_on = run.id in self._recovered_ids
            if goes_on and run.owner == owner and stored == asked:
                run.place = place
                return run
        return None

    def recover(self) -> list[Run]:
        """Go on with every unfinished run in the storage; return them, oldest first.

        Their clients' work is known a moment later; until then nobody is told that it is over.
        """
        found = [
            run
            for run_id, header in self._terms.archive.unfinished()
            if (run := self._recovered(run_id, header)) is not None
        ]
        self._recovered_ids = {run.id for run in found}
        for run in found:
            self._desk.expect(run.id)
        return [self._begin(run) for run in found]

    def _recovered(self, run_id: str, header: dict[str, Any]) -> Run | None:
        """Return an unfinished run; None where this version cannot read its file."""
        try:
            file = parse(dict(header["federation"]), where=run_id)
        except ChoralError as error:
            LOG.error("run %s cannot go on: %s", run_id, error)
            return None
        run = Run(
            run_id,
            str(header.get("owner", "")),
            file,
            Place(Path(str(header.get("folder", ".")))),
            float(header.get("created", 0.0)),
            resumed=not header.get("waits", False),
            request_id=str(header.get("request_id", "")),
        )
        if run.request_id:
            self._requests[run.owner, run.request_id] = run.id
        return run

    def drain(self, timeout_s: float) -> None:
        """Leave every run as it is, to be resumed; wait for the threads."""
        for run in self.all():
            run.post(Drain())
        for thread in self._threads:
            thread.join(timeout_s)

    def abandon(self, timeout_s: float) -> None:
        """Let go of every run: another coordinator goes on with them."""
        for run in self.all():
            run.left = True
        self.drain(timeout_s)
        with self._lock:
            self._runs, self._threads, self._models = {}, [], {}
            self._requests = {}

    # --- a run's thread ---------------------------------------------------------------------------

    def _begin(self, run: Run) -> Run:
        self._terms.begun(run)
        thread = threading.Thread(target=self._drive, args=(run,), name=run.id, daemon=True)
        with self._lock:
            self._runs[run.id] = run
            self._threads.append(thread)
        thread.start()
        return run

    def _drive(self, run: Run) -> None:
        try:
            self._drive_to_its_end(run)
        except Fenced:
            run.status, run.reason = "waiting", "another coordinator goes on with it"
            LOG.warning("run %s: %s", run.id, run.reason)
        except ChoralError as error:
            run.error, run.status, run.reason = error, "failed", str(error)
        except BaseException as error:  # noqa: BLE001  # one run never takes the others with it
            text = "".join(traceback.format_exception(error))
            run.error = ChoralError(f"the coordinator failed: {error!r}", details=text)
            run.status, run.reason = "failed", str(run.error)
        finally:
            self._desk.returned(run.id)
            self._say_goodbye(run)
            run.over = datetime.now(UTC).timestamp()
            run.ended.set()

    def _drive_to_its_end(self, run: Run) -> None:
        population = Population(self._terms.roster)
        folder = self._terms.archive.folder(run.id)
        header = self._insist(run, folder.header)[1] if run.resumed else None
        size = self._size(run.file)
        if header is not None:
            size = int(header["config"]["population"])
        if size is None:
            size = self._gather(run)
            if size is None:
                if run.status == "stopped":
                    body = run.file.as_json()
                    ending = Ending(run.id, run.status, run.reason, body)
                    self._terms.archive.withdrawn(ending)
                return
        setup, actor = self._prepared(run, population, folder, size)
        finished = False
        try:
            while not run.inbox.empty():
                actor.post(run.inbox.get())
            run.started = datetime.now(UTC).timestamp()
            actor.run(ready=lambda: self._desk.returned(run.id))
            finished = not actor.drained
            self._finish(run, setup, folder, started=run.started)
        finally:
            if not finished or run.status != "completed":
                folder.close()

    def _prepared(
        self, run: Run, population: Population, folder: RunFolder, size: int
    ) -> tuple[RunSetup, Actor]:
        """Return a run's setup and its driver; whole models that it needs no more are gone then."""
        setup = replace(self._setup(run.file, run.place, population, size), run_id=run.id)
        participant, first = setup.participant()
        setup = protected(setup, participant.spec)
        origin = {
            "population": size,
            "first_model": first.sha256,
            "spec": participant.spec.digest,
        }
        setup = replace(setup, config={**setup.config, **origin})
        journal = self._journal(run, setup, folder)
        world = self._world(
            self._publisher(run, self._terms.archive.downloads(run.id)),
            Kept(folder.blobs(), folder.partial),
        )
        actor = Actor(
            setup,
            population=population,
            trigger=trigger_of(run.file),
            participant=participant,
            first=first,
            journal=journal,
            world=world,
            suits=self._suits(run, setup),
            spending=spending_in(
                self._terms.archive.root,
                setup,
                participant.spec,
                folder=folder,
                rand=world.rand,
                database=self._terms.archive.database,
                seen=() if setup.privacy is None else self._terms.seen(),
            ),
            auditing=() if self._terms.auditing is None else (self._terms.auditing(run),),
            observers=self._observers(run),
            step_s=run.file.round.step_s or 30.0,
        )
        run.setup, run.actor, run.status = setup, actor, "running"
        return setup, actor

    def _gather(self, run: Run) -> int | None:
        """Wait until there are clients and nobody new has come for a while; return their number.

        None where the run was stopped or the process ends.
        """
        trigger = trigger_of(run.file)
        secure = run.file.aggregation not in (None, "plain")
        least = run.file.round.quorum or (3 if secure else 2)
        suits = self._suits(run, self._setup(run.file, run.place, Population(), max(3, least)))
        desk = self._desk
        desk.watch(run.inbox.put)
        before = -1
        try:
            while True:
                found = sum(1 for join in desk.offers() if not suits(join))
                if found >= least and found == before:
                    return found
                run.reason = f"waiting for clients: {found} are there, at least {least} are needed"
                before = found
                try:
                    settle_s = min(trigger.settle_s, LONGEST_S) if found >= least else None
                    message = run.inbox.get(timeout=settle_s)
                except queue.Empty:
                    continue
                before = -1
                if isinstance(message, Stop | Drain):
                    run.status = "stopped" if isinstance(message, Stop) else "waiting"
                    run.reason = getattr(message, "reason", "")
                    return None
        finally:
            run.reason = "" if run.status == "waiting" else run.reason
            desk.unwatch(run.inbox.put)

    def _journal(self, run: Run, setup: RunSetup, folder: RunFolder) -> Journal:
        if run.resumed:
            lease = self._insist(run, lambda: folder.resume(setup.config))
        else:
            header = {
                "config": dict(setup.config),
                "name": setup.name,
                "seed": setup.seed,
                **self._origin(run),
            }
            lease = folder.create(run.id, header)
            self._terms.archive.begun(run.id)
        return Journal(folder.store, folder.blobs(), lease, ahead=self._terms.ahead)

    @staticmethod
    def _insist(run: Run, call: Callable[[], T]) -> T:
        """Read what a run goes on with; wait where the storage says no.

        One that was stopped in the middle of a write may hold its lock a little longer.

        Raises:
            Fenced: This process has let go of the run meanwhile, and must not take it from whoever
                goes on with it.
        """
        tries, patience = 0, time.monotonic() + PATIENCE_S
        while True:
            if run.left:
                raise Fenced("this process has let go of the run")
            try:
                found = call()
            except StoreUnavailable as error:
                if time.monotonic() > patience:
                    raise
                run.reason = f"waiting for the storage: {error.message}"
                time.sleep(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
                tries += 1
            else:
                run.reason = ""
                return found

    def _publisher(self, run: Run, blobs: FolderBlobStore) -> Callable[[Released[Params]], int]:
        """Return what makes a run's newest models ready to be downloaded: the last two."""
        published: list[str] = []

        def publish(model: Released[Params]) -> int:
            params = model.value
            digest = blobs.put(encode_tensors(params))
            if digest != params.sha256:
                raise StoreError(f"the model of {run.id} was stored under another digest")
            path = blobs.path(digest)
            self._models[run.id, digest] = path
            if digest not in published:
                published.append(digest)
            while len(published) > 2:
                old = published.pop(0)
                self._models.pop((run.id, old), None)
                blobs.delete(old)
            return path.stat().st_size

        return publish

    def _finish(self, run: Run, setup: RunSetup, folder: RunFolder, *, started: float) -> None:
        """Write what came out of a run."""
        actor = run.actor
        if actor is None or actor.drained:
            return
        conductor, now = actor.conductor, datetime.now(UTC)
        result = Result.of(
            setup,
            conductor.view,
            engine=ENGINE,
            params=conductor.params,
            spec=conductor.spec,
            coverage=reached(setup, conductor.machine.history),
            duration_s=now.timestamp() - started,
            finished=now.isoformat(timespec="seconds"),
            identity="verified" if self._terms.verified else "unverified",
        )
        view = conductor.view
        for name in [name for name in self._models if name[0] == run.id]:
            self._models.pop(name, None)
        if view.status == "completed":
            origin = lineage(result, setup, conductor.first_sha256)
            path = folder.complete(result.to_json(), conductor.released, origin)
            result = replace(result, model_path=path)
        if view.status in {"completed", "stopped"}:
            body = run.file.as_json()
            self._terms.archive.ended(Ending(run.id, view.status, view.reason, body))
        run.result = result.to_json()
        run.status, run.reason = view.status, view.reason

    def _say_goodbye(self, run: Run) -> None:
        if run.actor is None or run.actor.drained:
            return
        desk = self._desk
        desk.farewell(run.actor.took_part, Farewell(run.id, run.status, run.reason))

    # --- parts ------------------------------------------------------------------------------------

    def _size(self, file: FederationFile) -> int | None:
        """Return how many clients a run has, None where that is not said anywhere."""
        asked, roster = file.clients_per_round, self._terms.roster
        if roster is not None:
            return len(roster)
        if asked is None or asked < 1:
            return None
        if asked > MAX_CLIENTS:
            raise ConfigError(f"clients_per_round {asked}: expected at most {MAX_CLIENTS}")
        return int(asked)

    def _setup(
        self, file: FederationFile, place: Place, population: Population, size: int
    ) -> RunSetup:
        return build_setup(file, place, deployed=Deployed(population, size))

    def _suits(self, run: Run, setup: RunSetup) -> Callable[[Join], str]:
        """Return what says why a client does not suit a run; nothing where it does."""
        schema = schema_of(run.file, run.place) if run.file.schema_ is not None else None
        wanted = Wanted(setup.task_name, self._terms.roster, setup.strata, schema)
        run.wanted = wanted

        def suits(join: Join) -> str:
            error = wanted.refusal(join)
            return "" if error is None else error.message

        return suits


def reached(setup: RunSetup, history: History) -> dict[str, Any]:
    """Return whom a run has reached so far, of all that were ever there."""
    copied = History(dict(history.completed), dict(history.last_seen))  # its thread goes on
    source = setup.source
    if isinstance(source, Population):
        return coverage(source.everybody(copied.completed), copied, by=setup.strata).as_json()
    return coverage(source, copied, by=setup.strata).as_json()


def trigger_of(file: FederationFile) -> Trigger:
    """Return when rounds of a federation open."""
    given = file.start.model_dump(exclude_none=True)
    try:
        return Trigger(**given)
    except TypeError as error:
        raise ConfigError(f"`start`: {error}") from None
