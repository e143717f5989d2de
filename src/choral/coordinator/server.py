"""The process: gRPC in front, runs behind, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from choral.config.build import Place
from choral.coordinator.access import Caller
from choral.coordinator.admin import AdminService
from choral.coordinator.archive import Archive
from choral.coordinator.auditing import Auditor
from choral.coordinator.callers import Callers, by_certificate, by_word
from choral.coordinator.desk import Desk
from choral.coordinator.events import EventLog
from choral.coordinator.guard import Guarded, Reading
from choral.coordinator.leadership import FIRST_POLL_S, LEASE_S, POLL_S, RENEWAL_S, Leadership
from choral.coordinator.leftovers import Leftovers
from choral.coordinator.metrics import Metrics
from choral.coordinator.roster import LiveRoster
from choral.coordinator.runs import Run, Runs, Terms
from choral.coordinator.seat import Seat
from choral.coordinator.service import Service
from choral.coordinator.submissions import MODEL_BYTES
from choral.coordinator.transfers import Uploads
from choral.coordinator.uploads import Kept
from choral.coordinator.watch import Watch
from choral.coordinator.welcome import Welcome
from choral.coordinator.world import Keys, World
from choral.core.errors import CertificateError, ConfigError, Fenced, StoreError, Unavailable
from choral.core.params import Params, Spec
from choral.core.ports import Clock, Observer, Rand
from choral.core.release import Released
from choral.core.selection import Strata
from choral.crypto.signatures import SigningKey
from choral.pki import files, keys
from choral.pki.credentials import ServerCredentials
from choral.stores.audit import Trail, open_trail
from choral.stores.ledgers import seen_in_trail
from choral.wire.rpc import CHANNEL_OPTIONS, coordinator_handler
from choral.wire.v1 import admin_pb2, admin_pb2_grpc, coordinator_pb2

T = TypeVar("T")

LOG: Final = logging.getLogger("choral.coordinator")
THREADS: Final = 4
GRACE_S: Final = 5.0
UPLOADS: Final = "uploads"
OWN_KEYS: Final = "unverified"
"""Folder in the storage of a coordinator without certificates: its keys."""

_CLIENT_CALLS: Final = {
    "join_round": "JoinRound",
    "get_global_model": "GetGlobalModel",
    "exchange": "Exchange",
    "send_update": "SendUpdate",
    "get_upload": "GetUpload",
    "report_failure": "ReportFailure",
    "report_evaluation": "ReportEvaluation",
}
_ADMIN_CALLS: Final = {
    name: name for name in (m.name for m in admin_pb2.DESCRIPTOR.services_by_name["Admin"].methods)
}

LOOKAHEAD_BYTES: Final = 4 << 20
"""Bytes of an upload that are on the way at a time: enough for 320 Mbit/s over 100 ms."""

READ_BYTES: Final = 64 << 10
"""Bytes that are read from a connection at once, and set aside for each, idle or not."""

SERVER_OPTIONS: Final = (
    *CHANNEL_OPTIONS,
    ("grpc.so_reuseport", 0),
    # A busy server looks like a long line, and gRPC would hold most of every upload in memory.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
    # Without it a connection sets aside as much as it has ever brought at once, also when idle.
    ("grpc.experimental.tcp_max_read_buffer_size", READ_BYTES),
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a coordinator is run.

    Attributes:
        listen: Host and port.
        storage: Folder of the runs.
        place: Where the words of federation files are looked up.
        credentials: Reads the certificates; None for plain text on a loopback address.
        roster: Clients that may take part, with their labels; None for whoever has a certificate.
        observers: Makes further observers of a run, such as a progress bar.
        model_bytes: Largest built-in model that can be submitted.
        database: URL of a database that several coordinators may share; None for one in each
            run's own folder.
        blobs: Where states and uploads are kept, such as `s3://bucket`; None for `storage`.
    """

    listen: str
    storage: Path
    place: Place
    credentials: Callable[[], ServerCredentials] | None
    roster: Mapping[str, Strata] | None = None
    observers: Callable[[Run], Iterable[Observer]] = field(default=lambda run: ())
    model_bytes: int = MODEL_BYTES
    database: str | None = None
    blobs: str | None = None


class Server:
    """A coordinator.

    Args:
        settings: How it is run.
        clock: Time.
        rand: Secret randomness.

    Attributes:
        runs: Its runs.
        metrics: What it counts.
        audit: What goes on its audit trail.
        watch: Looks at what changes around it.
        address: Where it listens, once it does.
        leading: Whether it works, rather than stands by for another coordinator.
    """

    def __init__(self, settings: Settings, *, clock: Clock, rand: Rand) -> None:
        self._settings = settings
        self._clock = clock
        self._rand = rand
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="choral-io")
        self._desk = Desk(asyncio.get_running_loop(), clock)
        self._tidying: asyncio.Task[None] | None = None
        self._logs: dict[str, EventLog] = {}
        self._welcome: Welcome | None = None
        self.metrics = Metrics()
        self.archive = Archive(settings.storage, database=settings.database, blobs=settings.blobs)
        self.leading = asyncio.Event()
        self._announced = False
        self._standing: asyncio.Task[None] | None = None
        self._leadership: Leadership | None = None
        self._seat: Seat | None = None
        if self.archive.database is not None:
            self._seat = Seat(settings.storage, rand=rand)
            self._leadership = Leadership(self.archive.database, owner=self._seat.owner)
        self._uploads = settings.storage / UPLOADS
        if self._seat is not None:  # others work in the same storage
            self._uploads /= self._seat.folder
        self._leftovers = Leftovers(self._uploads)
        self.address = ""
        self._keys = self._own_keys()
        self.audit = self._audited()
        self.runs = Runs(
            Terms(
                self.archive,
                settings.roster,
                verified=settings.credentials is not None,
                begun=self.audit.begun,
                auditing=self.audit.observer,
                ahead=self.audit.flush,
                seen=lambda: seen_in_trail(self._audit_store),
            ),
            desk=self._desk,
            world=self._world,
            observers=self._observers,
        )
        roster = settings.roster
        self.watch = Watch(
            self._desk,
            self.audit,
            credentials=settings.credentials,
            roster=roster if isinstance(roster, LiveRoster) else None,
            pool=self._pool,
        )
        self._watching: asyncio.Task[None] | None = None
        self._service = self._coordinator()
        self._server = aio.server(options=SERVER_OPTIONS, interceptors=(Reading(),))
        self._health = health_aio.HealthServicer()

    def _own_keys(self) -> Keys:
        """Return the coordinator's keys: from its files, or fresh ones without certificates."""
        if self._settings.credentials is not None:
            found = self._settings.credentials()
            return Keys(found.signing_key, found.federation.enrolment_authority)
        folder = self._settings.storage / OWN_KEYS
        signing, authority = (own_key(folder / f"{name}.pem") for name in ("server", "authority"))
        self._welcome = Welcome(authority, signing.public)
        return Keys(signing, authority.public)

    def _audited(self) -> Auditor:
        """Open the audit trail, or begin one."""
        key, now = self._keys.signing, self._clock.wall
        self._audit_store: Any = self.archive.database
        leadership = self._leadership
        if self.archive.database is not None and leadership is not None:
            logs = self.archive.database.fenced(lambda: leadership.lease)
            trail = Trail(logs, key=key, now=now)
        else:
            trail, self._audit_store = open_trail(self.archive.root, key=key, now=now)
        return Auditor(trail, key)

    def _world(self, publish: Callable[[Released[Params]], int], kept: Kept) -> World:
        return World(
            self._desk,
            self._clock,
            self._rand,
            self._keys,
            publish,
            kept,
            pause=time.sleep,
            audit_head=self.audit.head,
            left=self._leftovers.take,
        )

    def _observers(self, run: Run) -> tuple[Observer, ...]:
        log = self._logs[run.id] = EventLog()
        return (log, self.metrics.observer(), *self._settings.observers(run))

    def _coordinator(self) -> Service:
        self._uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
        tls = self._settings.credentials is not None
        return Service(
            self._desk,
            callers=self._callers,
            welcome=self._welcome,
            uploads=Uploads(self._uploads, self._clock, self._pool, without_crc=tls),
            model=self.runs.model,
            spec=self._spec,
            refusals=self.runs.refusals,
            note=self._refused,
            audit_head=self.audit.head,
            clock=self._clock,
            pool=self._pool,
            tls=tls,
        )

    def _refused(self, call: str, code: str) -> None:
        self.metrics.refused(call, code)
        self.audit.refused(call, code)

    @property
    def _callers(self) -> Callers:
        credentials = self._settings.credentials
        known = by_word
        if credentials is not None:
            known = by_certificate(credentials, self._clock, admitted=self.watch.admitted)

        def callers(context: Any) -> Caller:
            if not self.leading.is_set():
                raise Unavailable("this coordinator stands by", hint="ask the one that leads")
            return known(context)

        return callers

    def _spec(self, run_id: str) -> Spec | None:
        run = self.runs.get(run_id)
        return None if run is None or run.actor is None else run.actor.conductor.spec

    # --- start and end ----------------------------------------------------------------------------

    async def start(self, *, ready: bool = True) -> None:
        """Go on with the runs that are not finished, and listen.

        Args:
            ready: Say so to those who ask for its health; else `ready` does it later.

        Raises:
            ConfigError: The address cannot be listened on.
        """
        self._add_services()
        await self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        listen, credentials = self._settings.listen, self._settings.credentials
        try:
            if credentials is None:
                port = self._server.add_insecure_port(listen)
            else:
                port = self._server.add_secure_port(listen, tls_of(credentials()))
        except RuntimeError:
            port = 0
        if not port:
            raise ConfigError(
                f"cannot listen on {listen}", hint="is the port in use? `--listen HOST:PORT`"
            )
        self.metrics.on_loop(asyncio.get_running_loop())
        self._watching = asyncio.create_task(self.watch.run())
        host = listen.rsplit(":", 1)[0]
        self.address = f"{host}:{port}"
        if self._leadership is None:
            await self._lead()
            await self._server.start()
        else:
            await self._server.start()
            self._standing = asyncio.create_task(self._stand_by(self._leadership))
        if ready:
            await self.leading.wait()
            await self.ready()

    async def ready(self) -> None:
        """Tell those who ask for its health that it serves, whenever it leads."""
        self._announced = True
        if self.leading.is_set():
            await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    # --- one of several ---------------------------------------------------------------------------

    def ended(self, run: Run) -> bool:
        """Return whether a run of this process has ended, here or for now.

        One that another coordinator has taken goes on there, and ends here with it.
        """
        taken = self._leadership is not None and run.status == "waiting"
        return run.ended.is_set() and self.leading.is_set() and not taken

    async def _lead(self) -> None:
        """Go on with all runs that are not finished."""
        self.audit.started()
        await self._on_thread(self.audit.flush)
        await self._on_thread(self._leftovers.look)
        await self._on_thread(self.runs.recover)
        self.leading.set()
        if self._announced:  # it leads again
            await self.ready()
        self._tidying = asyncio.create_task(self._tidy())

    async def _tidy(self) -> None:
        """Remove uploads of work that no run goes on with."""
        while not self._desk.complete:
            await asyncio.sleep(POLL_S)
        await self._on_thread(self._leftovers.clear)

    async def _stand_by(self, leadership: Leadership) -> None:
        """Lead whenever nobody else does."""
        pause = FIRST_POLL_S  # what a process was about when it was killed may hold a lock still
        while True:
            try:
                if await self._on_thread(leadership.claim):
                    await self._lead()
                    await self._while_leading(leadership)
            except StoreError as error:
                LOG.warning("the database: %s", error.message)
            await asyncio.sleep(pause)
            pause = min(2 * pause, POLL_S)

    async def _while_leading(self, leadership: Leadership) -> None:
        """Return once another coordinator leads, or may."""
        renewed = self._clock.monotonic()
        while self._clock.monotonic() - renewed < LEASE_S:
            await asyncio.sleep(RENEWAL_S)
            try:
                await self._on_thread(leadership.renew)
                renewed = self._clock.monotonic()
            except Fenced:
                break
            except StoreError as error:
                LOG.warning("the lease could not be renewed: %s", error.message)
        LOG.warning("another coordinator goes on; this one stands by")
        self.leading.clear()
        await self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._on_thread(self.runs.abandon, GRACE_S)
        await self._on_thread(self.audit.trail.forget)

    async def _on_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)

    def _add_services(self) -> None:
        admin = AdminService(
            self.runs,
            self._desk,
            callers=self._callers,
            place=self._settings.place,
            events=self._logs.get,
            clock=self._clock,
            pool=self._pool,
            verified=self._settings.credentials is not None,
            model_bytes=self._settings.model_bytes,
            note=self.audit.trail.note,
        )
        note = self._refused
        streams = frozenset({"get_global_model", "WatchRun"})
        guarded: Any = Guarded(self._service, note=note, calls=_CLIENT_CALLS, streams=streams)
        self._server.add_generic_rpc_handlers((coordinator_handler(guarded),))
        of_admin: Any = Guarded(admin, note=note, calls=_ADMIN_CALLS, streams=streams)
        admin_pb2_grpc.add_AdminServicer_to_server(of_admin, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (
            coordinator_pb2.DESCRIPTOR.services_by_name["Coordinator"].full_name,
            admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        )
        reflection.enable_server_reflection(names, self._server)

    async def stop(self, *, linger_s: float = 0.0) -> None:
        """Leave unfinished runs to be resumed, and end.

        Args:
            linger_s: How long clients are still told that their run has ended.
        """
        self._service.draining = True
        await self._health.enter_graceful_shutdown()
        if linger_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._everybody_told(), linger_s)
        for task in (self._standing, self._tidying):
            if task is not None:
                task.cancel()
        await self._on_thread(self.runs.drain, GRACE_S)
        if self._leadership is not None:
            await self._close_trail()  # while it may still write to it
            with suppress(StoreError):
                await self._on_thread(self._leadership.resign)
        if self._seat is not None:
            self._seat.leave()
        self._service.leaving = True
        self._desk.ring()
        self._desk.wake()
        await self._server.stop(grace=GRACE_S)
        if self._leadership is None:
            await self._close_trail()
        self._audit_store.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _close_trail(self) -> None:
        """Write the last entries; that they cannot be written is no reason to stay."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        self.audit.stopped()
        with suppress(StoreError):
            await self._on_thread(self.audit.flush)

    async def _everybody_told(self) -> None:
        """Return once no client has a farewell waiting for it."""
        while any(p.farewells for p in self._desk.presences().values()):
            await asyncio.sleep(0.05)


def own_key(path: Path) -> SigningKey:
    """Return a signing key that stays the same as long as its file does; clients remember it."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            files.write_new(path, keys.private_pem(keys.new_signing_key()), private=True)
        except CertificateError:
            if not path.exists():  # else another coordinator was here first
                raise
    return keys.load_signing_key(path)


def tls_of(credentials: ServerCredentials) -> grpc.ServerCredentials:
    """Return TLS that lets in only whom the federation's authority has signed.

    The certificate stays until the process ends: gRPC's credentials that change while they serve
    free the old ones under a handshake that still uses them, and that ends the process.
    """
    tls = credentials.tls
    return grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)],
        root_certificates=tls.authority,
        require_client_auth=True,
    )
