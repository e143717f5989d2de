"""`choral coordinator`: the process that clients call."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from choral.cli.simulate import storage_root
from choral.config.build import Place
from choral.config.federation import FederationFile, TlsSection, parse, read_file
from choral.config.yaml import load
from choral.core.errors import ChoralError, ConfigError, NotBuilt, RunFailed, by_code
from choral.core.selection import Strata
from choral.pki.addresses import check_insecure
from choral.system import SystemClock, SystemRand, arm_failpoint
from choral.telemetry.log import RunLog, log_to

if TYPE_CHECKING:
    from choral.pki.credentials import ServerFiles

DEFAULT: Final = "127.0.0.1:50051"
LOG: Final = logging.getLogger("choral.coordinator")
LINGER_S: Final = 3.0


def command(
    config: Annotated[
        Path | None, typer.Option(envvar="CHORAL_CONFIG", help="A federation file, in YAML.")
    ] = None,
    listen: Annotated[
        str, typer.Option(envvar="CHORAL_LISTEN", help="HOST:PORT to listen on; port 0 takes any.")
    ] = DEFAULT,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text, on a loopback address.")
    ] = False,
    credentials: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="CHORAL_CREDENTIALS",
            help="Folder of `choral pki coordinator`; replaces the file's `tls`.",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(envvar="CHORAL_METRICS", help="HOST:PORT of metrics for Prometheus."),
    ] = None,
    dashboard: Annotated[
        str | None, typer.Option(envvar="CHORAL_DASHBOARD", help="Not built yet.")
    ] = None,
    max_model_bytes: Annotated[
        int,
        typer.Option(
            min=1,
            envvar="CHORAL_MAX_MODEL_BYTES",
            help="Largest built-in model that may be submitted.",
        ),
    ] = 1 << 30,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the file."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Log JSON lines; print the run as JSON.")
    ] = False,
) -> None:
    """Coordinate a federation; its clients call this process."""
    if dashboard is not None:
        raise NotBuilt("the dashboard is not built yet", hint="`--metrics HOST:PORT` is there")
    file = _file(config, list(set_ or []))
    place = Place((config or Path("federation.yaml")).parent)
    if insecure:
        check_insecure(listen)
    log_to(as_json=as_json)
    arm_failpoint(os.environ)
    outcome = asyncio.run(
        _serve(
            file,
            place,
            listen=listen,
            credentials=None if insecure else _credentials(file, place, credentials),
            roster=_roster(),
            metrics=metrics,
            model_bytes=max_model_bytes,
        )
    )
    if outcome is None:
        return
    body, error = outcome
    if as_json and body is not None:
        print(json.dumps(body))
    if error is not None:
        raise error
    if body is None or body["status"] != "completed":
        raise typer.Exit(1)


async def _serve(
    file: FederationFile,
    place: Place,
    *,
    listen: str,
    credentials: Callable[[], Any] | None,
    roster: Mapping[str, Strata] | None,
    metrics: str | None,
    model_bytes: int,
) -> tuple[dict[str, Any] | None, ChoralError | None] | None:
    """Serve until the file's run has ended, or until a signal; return how the run ended."""
    from choral.coordinator.archive import Ending
    from choral.coordinator.runs import Run
    from choral.coordinator.server import Server, Settings
    from choral.tasks.threads import one_thread

    def observers(run: Run) -> tuple[RunLog, ...]:
        return (RunLog(LOG, run.id, run.file.rounds or 0),)

    settings = Settings(
        listen,
        storage_root(file),
        place,
        credentials,
        roster,
        observers,
        model_bytes,
        database=os.environ.get("CHORAL_DATABASE") or file.storage.database,
        blobs=os.environ.get("CHORAL_BLOBS") or file.storage.blobs,
    )
    file = _without_places(file)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    with one_thread():
        server = Server(settings, clock=SystemClock(), rand=SystemRand())
        await server.start(ready=False)
        run: Run | Ending | None = None
        try:
            _publish(server, metrics)
            before = len(server.archive.endings())
            if not server.leading.is_set():
                LOG.info("standing by on %s", server.address, extra=_extra(address=server.address))
            if await _leads(server, stopping) and file.rounds is not None:
                run = await asyncio.to_thread(_begin, server, file, place, before=before)
            await server.ready()
            how = "mutual TLS" if credentials is not None else "plain text, identities not verified"
            address = server.address
            LOG.info("listening on %s (%s)", address, how, extra=_extra(address=address))
            if run is None:
                await stopping.wait()
            elif isinstance(run, Run):
                run = await _until(server, run, stopping)
        finally:
            await server.stop(linger_s=0.0 if stopping.is_set() else LINGER_S)
    return None if run is None else _outcome(run)


def _without_places(file: FederationFile) -> FederationFile:
    """Return a file without where its runs rest: that is the coordinator's, and may hold a key."""
    storage = file.storage.model_copy(update={"database": None, "blobs": None})
    return file.model_copy(update={"storage": storage})


async def _leads(server: Any, stopping: asyncio.Event) -> bool:
    """Wait until this coordinator leads, or is asked to stop; return whether it leads."""
    while not (server.leading.is_set() or stopping.is_set()):
        await asyncio.sleep(0.05)
    return bool(server.leading.is_set())


def _begin(server: Any, file: FederationFile, place: Place, *, before: int) -> Any:
    """Go on with the file's unfinished run, or begin one.

    A run of the file that another coordinator has finished since this one stands by is its run.
    """
    for ending in server.archive.endings(start=before):
        stored = dict(ending.federation)
        if file.seed is None:
            stored.pop("seed", None)
        if stored == file.as_json():
            return ending
    run = server.runs.resume(file, place, owner="operator")
    if run is not None:
        LOG.info("run %s goes on", run.id, extra=_extra(run=run.id))
        return run
    run = server.runs.submit(file, place, owner="operator")
    LOG.info("run %s waits for its clients", run.id, extra=_extra(run=run.id))
    return run


async def _until(server: Any, run: Any, stopping: asyncio.Event) -> Any:
    """Return how the run has ended, here or elsewhere, or that the process is asked to stop."""
    while not stopping.is_set():
        here = server.runs.get(run.id)
        if here is not None:
            run = here
            if server.ended(run):
                return run
            await asyncio.sleep(0.05)
        else:
            endings = await asyncio.to_thread(server.archive.endings)
            for ending in endings:
                if ending.run_id == run.id:
                    return ending
            await asyncio.sleep(1.0)
    return run


def _outcome(run: Any) -> tuple[dict[str, Any] | None, ChoralError | None]:
    """Say how a run ended, on the last line of the log."""
    from choral.coordinator.archive import Ending

    if isinstance(run, Ending):
        extra = _extra(run=run.run_id, status=run.status)
        LOG.info("run %s %s on another coordinator", run.run_id, run.status, extra=extra)
        return {"run_id": run.run_id, "status": run.status}, None
    extra = _extra(run=run.id, status=run.status)
    if run.status == "completed":
        LOG.info("run %s completed", run.id, extra=extra)
        return run.result, None
    if not run.ended.is_set() or run.status in {"waiting", "running"}:
        LOG.info("run %s stopped before its end; start again to go on", run.id, extra=extra)
        return run.result, None
    LOG.error("run %s failed: %s", run.id, run.reason, extra=extra)
    if run.error is not None and run.error.details:
        LOG.error("%s", run.error.details)
    return run.result, run.error or _failed(run)


def _failed(run: Any) -> ChoralError:
    kind = by_code(run.reason)
    known = issubclass(kind, RunFailed)
    return (kind if known else RunFailed)(f"run {run.id} failed: {run.reason}")


def _publish(server: Any, metrics: str | None) -> None:
    """Give metrics to whoever asks at an address."""
    if metrics is None:
        return
    from prometheus_client import start_http_server

    host, _, port = metrics.rpartition(":")
    if not port.isdigit():
        raise ConfigError(f"--metrics {metrics}: expected HOST:PORT", hint="127.0.0.1:9464")
    try:
        start_http_server(int(port), host or "127.0.0.1", registry=server.metrics.registry)
    except OSError as error:
        raise ConfigError(f"--metrics {metrics}: {error.strerror}") from None


def _extra(**fields: Any) -> dict[str, Any]:
    return {"choral": fields}


# --- settings -------------------------------------------------------------------------------------


def _file(config: Path | None, settings: list[str]) -> FederationFile:
    """Return the federation file with what the environment says."""
    said = [
        f"{key}={value}"
        for key, name in (("rounds", "ROUNDS"), ("aggregation", "AGGREGATION"))
        if (value := os.environ.get(f"CHORAL_{name}") or os.environ.get(name))
    ]
    if config is not None:
        return read_file(config, said + settings)
    body: dict[str, Any] = {}
    for setting in said + settings:
        key, _, text = setting.partition("=")
        body[key] = load(text, where=key)
    return parse(body, where="the environment")


def _roster() -> Mapping[str, Strata] | None:
    from choral.coordinator.roster import LiveRoster

    path = os.environ.get("CHORAL_CLIENTS_CONFIG") or os.environ.get("CLIENTS_CONFIG")
    return LiveRoster(Path(path)) if path else None


def _credentials(file: FederationFile, place: Place, folder: Path | None) -> Callable[[], Any]:
    """Return what reads the coordinator's certificates, read once to see that they are there.

    Args:
        file: Its `tls` says where they are.
        place: Where its paths start.
        folder: Replaces `tls`; starts at the working folder.

    Raises:
        ConfigError: Nothing says where they are.
        CertificateError: They cannot be used.
    """
    from choral.pki.credentials import load_server
    from choral.pki.federation import check_authority

    tls = file.tls if folder is None else TlsSection(folder=str(folder.absolute()))
    if tls is None:
        raise ConfigError(
            "no certificates",
            hint="`--credentials DIR` or `tls: {folder: DIR}` with a folder of `choral pki "
            "coordinator`, or `--insecure` for plain text on a loopback address",
        )
    where = server_files(tls, place.folder)

    def read() -> Any:
        return load_server(where, at=datetime.now(UTC))

    found = read()
    if tls.authority is not None:
        authority = place.folder / tls.authority
        check_authority(authority, found.federation, where=where.federation)
    return read


def server_files(tls: TlsSection, home: Path) -> ServerFiles:
    """Return where a coordinator's certificates and keys are.

    Args:
        tls: What its federation file says.
        home: The file's folder; relative paths start there.
    """
    from choral.pki.credentials import ServerFiles

    where = ServerFiles.inside(home / (tls.folder or "."))
    given = {
        name: home / value
        for name in ("federation", "certificate", "key", "signing_key", "revoked")
        if (value := getattr(tls, name)) is not None
    }
    return ServerFiles(
        **{name: given.get(name, getattr(where, name)) for name in ServerFiles.__slots__}
    )
