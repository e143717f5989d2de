"""`choral doctor`: what is installed, reachable, expired and misconfigured, and how to mend it."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape

from choral._version import __version__
from choral.core.errors import ChoralError, ConfigError

if TYPE_CHECKING:
    from choral.client.settings import Settings
    from choral.pki.credentials import ClientFiles, ServerFiles
    from choral.pki.names import Role

PACKAGES: Final = ("grpcio", "protobuf", "numpy", "cryptography", "SQLAlchemy", "pydantic")
EXTRAS: Final = {
    "torch": "torch",
    "scikit-learn": "sklearn",
    "pyarrow": "parquet",
    "onnx": "onnx",
}
"""Package to the extra that brings it."""
MARKS: Final = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[bold red]✗[/]"}
PRIVATE: Final = ("signing_key.pem", "coordinator.json", "key.pem")


class Status(StrEnum):
    """How a thing is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        status: `error` must be mended; `warning` not yet.
        message: What was found.
        hint: How to mend it; empty where nothing is to be done.
    """

    name: str
    status: Status
    message: str
    hint: str = ""


def command(
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="CHORAL_CONFIG",
            help="A client's file, a federation file or a site policy.",
        ),
    ] = None,
    credentials: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="CHORAL_CREDENTIALS",
            help="A folder of `choral pki request` or `choral pki coordinator`.",
        ),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            envvar=["CHORAL_COORDINATOR", "COORDINATOR"],
            help="A coordinator to reach; default that of a client's file.",
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text, to a loopback address.")
    ] = False,
    store: Annotated[
        list[str] | None,
        typer.Option(
            "--store", metavar="URL", help="A database, an S3 bucket or a folder of blobs to reach."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Say what is installed, reachable, expired or misconfigured, and how to mend it.

    Exits with 2 where something must be mended.
    """
    found: list[Check] = []
    checks = _all(config, credentials, coordinator, insecure=insecure)
    for check in chain(checks, _stores(list(store or []))):
        found.append(check)
        if not as_json:
            _print(check)
    bad = sum(check.status is Status.ERROR for check in found)
    if as_json:
        print(json.dumps({"ok": not bad, "checks": [asdict(check) for check in found]}))
    elif bad:
        print(f"{bad} to be mended", file=sys.stderr)
    if bad:
        raise typer.Exit(ConfigError.exit_code)


def _all(
    config: Path | None, folder: Path | None, address: str | None, *, insecure: bool
) -> Iterator[Check]:
    """Yield all checks, in the order in which one depends on the other."""
    from choral.pki.credentials import ClientFiles

    yield from installed()
    where: ClientFiles | None = None
    if config is not None:
        found: list[Settings] = []
        yield from config_checks(config, insecure=insecure, settled=found.append)
        if found:
            where = found[0].files
            address = address or found[0].coordinators[0]
    if folder is not None:
        files = files_of(folder)
        yield from certificate_checks(files)
        where = files if isinstance(files, ClientFiles) else where
    if address is not None:
        yield from _reach(address, None if insecure else where)


def _stores(urls: list[str]) -> Iterator[Check]:
    from choral.cli.doctor_stores import store_check

    for url in urls:
        name, status, message, hint = store_check(url)
        yield Check(name, Status(status), message, hint)


# --- what is installed ----------------------------------------------------------------------------


def installed() -> Iterator[Check]:
    """Yield Python, Choral and the packages that matter."""
    yield Check("Python", Status.OK, f"{platform.python_version()} in {sys.prefix}")
    yield Check("choral", Status.OK, __version__)
    for package in PACKAGES:
        version = _version(package)
        if version is None:
            yield Check(package, Status.ERROR, "not installed", "pip install --upgrade choral")
        else:
            yield Check(package, Status.OK, version)
    for package, extra in EXTRAS.items():
        version = _version(package)
        how = "" if version else f"pip install 'choral[{extra}]', where a task needs it"
        yield Check(package, Status.OK, version or "not installed", how)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# --- certificates ---------------------------------------------------------------------------------


def files_of(folder: Path) -> ClientFiles | ServerFiles:
    """Return the files of a folder: a coordinator's, or another party's."""
    from choral.pki.credentials import ClientFiles, ServerFiles

    server = ServerFiles.inside(folder)
    return server if server.revoked.exists() else ClientFiles.inside(folder)


def certificate_checks(files: ClientFiles | ServerFiles) -> Iterator[Check]:
    """Yield what is wrong with a party's files, or whose they are."""
    from choral.pki.check import Level, check
    from choral.pki.credentials import ClientFiles
    from choral.pki.names import Role

    name = "certificates"
    folder = files.certificate.parent
    if not folder.is_dir():
        yield Check(name, Status.ERROR, f"there is no folder {folder}", "`choral pki request DIR`")
        return
    role = _role(files) if isinstance(files, ClientFiles) else Role.COORDINATOR
    enrolled = isinstance(files, ClientFiles) and files.enrolment.exists()
    now = datetime.now(UTC)
    found = check(files, at=now, role=role, enrolled=enrolled)
    for finding in found:
        status = Status.ERROR if finding.level is Level.ERROR else Status.WARNING
        yield Check(name, status, finding.message, finding.hint)
    if role is Role.CLIENT and not enrolled:
        yield Check(
            name,
            Status.WARNING,
            f"{files.certificate.parent} has no enrolment: this client joins no secure sum",
            "`choral pki enroll` by the enrolment authority",
        )
    if not any(finding.level is Level.ERROR for finding in found):
        yield Check(name, Status.OK, _whose(files, role))


def _role(files: ClientFiles) -> Role:
    """Return the role of a certificate; a client's where that cannot be read."""
    from choral.client.admin import role_of
    from choral.pki.names import Role

    try:
        return role_of(files)
    except ChoralError:
        return Role.CLIENT


def _whose(files: ClientFiles | ServerFiles, role: Role) -> str:
    from choral.pki.credentials import load_certificate
    from choral.pki.federation import load_federation
    from choral.pki.names import when

    now = datetime.now(UTC)
    federation = load_federation(files.federation, at=now)
    _, who = load_certificate(files, federation=federation, role=role, at=now)
    return f"{who.role} {who.id} in {who.federation}, until {when(who.end)}"


# --- files of settings ----------------------------------------------------------------------------


def config_checks(
    path: Path, *, insecure: bool, settled: Callable[[Settings], Any]
) -> Iterator[Check]:
    """Yield what is wrong with a file of settings; `settled` gets those of a client."""
    from choral.config.yaml import load

    try:
        body = load(path.read_text(encoding="utf-8"), where=str(path)) or {}
        if not isinstance(body, dict):
            raise ConfigError(f"{path}: expected keys and values", hint="such as `id: hospital-a`")
    except ChoralError as error:
        yield _error("settings", error)
        return
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        yield Check("settings", Status.ERROR, f"cannot read {path}: {reason}", "correct --config")
        return
    kind = _kind(body)
    if kind == "policy":
        yield from policy_checks(path, insecure=False)
    elif kind == "client":
        yield from client_checks(path, insecure=insecure, settled=settled)
    else:
        yield from federation_checks(path, insecure=insecure)


def _kind(body: Mapping[str, Any]) -> str:
    """Return what a file is by the keys that it has: most are of one kind alone."""
    from choral.client.policy import PolicyFile
    from choral.client.settings import ClientFile
    from choral.config.federation import FederationFile, Section

    kinds: dict[str, type[Section]] = {
        "federation": FederationFile,
        "client": ClientFile,
        "policy": PolicyFile,
    }
    known = {
        name: {f.alias or key for key, f in kind.model_fields.items()}
        for name, kind in kinds.items()
    }
    return max(known, key=lambda name: len(known[name] & body.keys()))


def client_checks(
    path: Path, *, insecure: bool, settled: Callable[[Settings], Any]
) -> Iterator[Check]:
    """Yield what is wrong with a client's file and with what it names."""
    from choral.client.settings import read_client_file, settle

    made: list[Settings] = []

    def read() -> str:
        file = read_client_file(path)
        made.append(settle(file, home=path.parent, given={}, insecure=insecure))
        return (
            f"{path}: client {made[0].local.client}, coordinator {', '.join(made[0].coordinators)}"
        )

    yield _tried("settings", read)
    if not made:
        return
    settings = made[0]
    settled(settings)
    if settings.files is not None:
        yield from certificate_checks(settings.files)
        yield from _same_id(settings)
    if settings.policy is not None:
        yield from policy_checks(settings.policy, insecure=insecure)
    elif not insecure:
        hint = "`policy: policy.yaml`; what it does not allow is refused"
        yield Check("policy", Status.ERROR, f"{path} names no site policy", hint)
    yield _tried("data", lambda: _data(settings))
    yield from state_checks(settings.local.state)


def _same_id(settings: Settings) -> Iterator[Check]:
    from choral.pki import certificates, files
    from choral.pki.identity import identity

    where = settings.files
    if where is None or not where.certificate.exists():
        return
    try:
        found = certificates.load(files.read(where.certificate), where=str(where.certificate))
        name = identity(found).id
    except ChoralError:
        return  # said above
    if name != settings.local.client:
        message = (
            f"{where.certificate} is of {name!r}, the client's id is {settings.local.client!r}"
        )
        yield Check("certificates", Status.ERROR, message, "use one of the two for both")


def policy_checks(path: Path, *, insecure: bool) -> Iterator[Check]:
    """Yield what is wrong with a site policy."""
    from choral.client.policy import Policy, read_policy

    made: list[Policy] = []

    def read() -> str:
        made.append(read_policy(path))
        file = made[0].file
        tasks = ", ".join(file.tasks) or "none"
        return f"{path}: secure aggregation {file.secure_aggregation}, tasks {tasks}"

    yield _tried("policy", read)
    if made and not made[0].file.tasks:
        hint = "`tasks: [heart_task:task]`"
        yield Check("policy", Status.WARNING, f"{path} allows no task: nothing runs here", hint)
    if made and not insecure and path.stat().st_mode & 0o022:
        message = f"{path}: others may write to it"
        yield Check("policy", Status.ERROR, message, f"chmod 644 {path}")


def _data(settings: Settings) -> str:
    """Return in words what a client's data is; user's code is imported, and not run."""
    from choral.config.references import is_reference, resolve
    from choral.data import Schema, read_examples

    local = settings.local
    if is_reference(local.data):
        resolve(local.data, local.folder, what="data")
        return f"{local.data} can be imported; it is not read here"
    schema = None if local.schema is None else Schema.from_yaml(local.schema)
    if local.missing not in ("raise", "drop"):
        raise ConfigError(f"missing {local.missing!r}", hint="`raise` or `drop`")
    missing: Any = local.missing
    x, _ = read_examples(local.data, target=local.target, schema=schema, missing=missing)
    return f"{local.data}: {len(x)} examples with {x.shape[1]} features"


def state_checks(folder: Path) -> Iterator[Check]:
    """Yield what is wrong with a client's state folder."""
    name = "state"
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Check(name, Status.ERROR, f"{there} cannot be written to", "`state: DIR` elsewhere")
        return
    if there != folder:
        yield Check(name, Status.OK, f"{folder} will be made")
        return
    mode = folder.stat().st_mode
    if mode & 0o022:
        hint = f"chmod 700 {folder}"
        yield Check(name, Status.ERROR, f"{folder}: others may write to this folder", hint)
    elif mode & 0o077:
        hint = f"chmod 700 {folder}"
        yield Check(name, Status.WARNING, f"{folder}: others may look into this folder", hint)
    open_ = [p for n in PRIVATE if (p := folder / n).exists() and p.stat().st_mode & 0o077]
    for path in open_:
        yield Check(name, Status.ERROR, f"{path}: others may read it", f"chmod 600 {path}")
    if not mode & 0o077 and not open_:
        yield Check(name, Status.OK, f"{folder}, for its owner alone")


def federation_checks(path: Path, *, insecure: bool) -> Iterator[Check]:
    """Yield what is wrong with a federation file and with what it names."""
    from choral.cli.coordinator import server_files
    from choral.cli.doctor_stores import folder_checks
    from choral.cli.simulate import storage_root
    from choral.config.federation import FederationFile, read_file

    made: list[FederationFile] = []

    def read() -> str:
        made.append(read_file(path))
        return f"{path}: {made[0].rounds or 'no'} rounds"

    yield _tried("settings", read)
    if not made:
        return
    file = made[0]
    if file.rounds is not None:
        yield _tried("federation", lambda: _setup(file, path))
    if file.tls is not None:
        yield from certificate_checks(server_files(file.tls, path.parent))
    elif not insecure and not file.simulation.data:
        hint = "`tls: {folder: …}`, or `--insecure` for plain text on a loopback address"
        yield Check("certificates", Status.ERROR, f"{path} names no certificates", hint)
    root = storage_root(file)
    for name, status, message, hint in folder_checks(root):
        yield Check(name, Status(status), message, hint)


def _setup(file: Any, path: Path) -> str:
    """Put a run together without beginning it; return in words what it is."""
    from choral.config.build import Deployed, Place, build_setup
    from choral.coordinator.population import Population

    deployed = None if file.simulation.data else Deployed(Population(), 3)
    setup = build_setup(file, Place(path.parent), deployed=deployed)
    kind = setup.aggregation_json()["kind"]
    return f"{setup.task_name}, strategy {setup.strategy.name}, {kind} aggregation"


# --- the coordinator ------------------------------------------------------------------------------


def _reach(address: str, where: ClientFiles | None) -> Iterable[Check]:
    from choral.client.reach import reach

    for step in reach(address, where):
        status = Status.OK if step.good else Status.ERROR
        yield Check(f"coordinator: {step.name}", status, step.message, step.hint)


# --- parts ----------------------------------------------------------------------------------------


def _tried(name: str, look: Callable[[], str]) -> Check:
    """Return what was found, or the error that came instead."""
    try:
        return Check(name, Status.OK, look())
    except ChoralError as error:
        return _error(name, error)


def _error(name: str, error: ChoralError) -> Check:
    return Check(name, Status.ERROR, error.message, error.hint)


def _print(check: Check) -> None:
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    mark = MARKS[check.status]
    console.print(f"{mark} [bold]{escape(check.name)}[/]  {escape(check.message)}")
    if check.hint:
        console.print(f"    {escape(check.hint)}", style="dim")
