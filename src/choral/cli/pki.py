"""`choral pki`: authorities, certificates and enrolments of a federation."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from choral.core.errors import CertificateError
from choral.pki import authorities, certificates, coordinator, enrolment, files, keys, requests, tls
from choral.pki.names import FEDERATION, Role, when
from choral.pki.overview import Row, Status, overview

app = typer.Typer(
    help="Issue, enrol, revoke and show: who belongs to a federation.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the authorities.")]
_Request = Annotated[
    Path, typer.Argument(metavar="REQUEST", help="The `request.json` that its owner sent.")
]
_Days = Annotated[int, typer.Option(help="Days until it expires.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]

_STYLES = {
    Status.SOON: "yellow",
    Status.EXPIRED: "bold red",
    Status.EARLY: "yellow",
    Status.REVOKED: "red",
}


@app.callback()
def _group() -> None:
    """Issue, enrol, revoke and show: who belongs to a federation."""


@app.command("init")
def init(
    dir_: _Folder,
    name: Annotated[str, typer.Option(help="Name of the federation.")] = FEDERATION,
    days: _Days = tls.AUTHORITY_DAYS,
    only: Annotated[
        str | None, typer.Option(help="tls or enrolment, where the other is elsewhere.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Make the two authorities of a federation: for TLS, and for enrolment."""
    first, second = authorities.init(dir_, federation=name, at=_now(), days=days, only=only)
    shown: dict[str, Any] = {"federation": name}
    if first is not None:
        shown["tls"] = str(first.folder)
        shown["end"] = when(first.certificate.not_valid_after_utc)
        shown["tls_fingerprint"] = certificates.fingerprint(first.certificate)
    if second is not None:
        shown["enrolment"] = str(second.folder)
        shown["enrolment_key"] = second.key.public.hex()
    _print(shown, as_json=as_json)
    if first is not None and second is not None:
        _say(
            f"{second.folder} should be with somebody else than the coordinator's operator: "
            "who holds both can enrol clients that are none, and read what should stay hidden."
        )


@app.command("coordinator")
def issue_coordinator(
    dir_: _Folder,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[HOST]...", help="More hosts.")
    ] = None,
    *,
    name: Annotated[
        list[str], typer.Option(metavar="HOST", help="DNS name or IP address of the coordinator.")
    ],
    enrolment_authority: Annotated[
        Path | None,
        typer.Option(
            "--enrolment",
            metavar="PEM",
            help="The enrolment authority's `authority.pem`, where it is not in DIR.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to make; default `coordinator` in DIR.")
    ] = None,
    days: _Days = tls.CERTIFICATE_DAYS,
    renew: Annotated[
        bool, typer.Option("--renew", help="Issue another certificate; keys in OUT stay.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Make the coordinator's folder: certificate, keys, and `federation.json` for all parties."""
    public = enrolment_authority or dir_ / enrolment.FOLDER / tls.AUTHORITY
    if not public.exists():
        raise CertificateError(
            f"{public} is missing: no enrolment authority is known",
            hint="`choral pki init --only enrolment` on its operator's machine makes one; "
            "give its authority.pem by --enrolment",
        )
    folder = out or dir_ / Role.COORDINATOR
    federation, certificate = coordinator.issue_coordinator(
        tls.open_tls(dir_),
        folder,
        names=[*name, *(more or [])],
        enrolment_authority=keys.load_verify_key(public),
        at=_now(),
        days=days,
        renew=renew,
    )
    shown = {
        "folder": str(folder),
        "certificate": str(folder / coordinator.CERTIFICATE),
        "hosts": certificates.hosts_of(certificate),
        "end": when(certificate.not_valid_after_utc),
        "federation": str(folder / coordinator.FEDERATION_FILE),
        "federation_fingerprint": federation.fingerprint,
    }
    _print(shown, as_json=as_json)
    _say(f"give {shown['federation']} to every party, and let each compare its fingerprint.")


@app.command("request")
def request(
    dir_: Annotated[Path, typer.Argument(metavar="DIR", help="Your own folder; keys stay in it.")],
    id_: Annotated[str, typer.Option("--id", metavar="ID", help="Your id in the federation.")],
    role: Annotated[
        str, typer.Option(help="client, operator, researcher or auditor.")
    ] = Role.CLIENT.value,
    as_json: _Json = False,
) -> None:
    """Make your keys, and the request to send to the authorities."""
    made = requests.make_request(dir_, id=id_, role=requests.requested_role(role))
    shown = {
        "id": made.id,
        "role": str(made.role),
        "request": str(dir_ / requests.REQUEST),
        "request_fingerprint": made.fingerprint,
    }
    _print(shown, as_json=as_json)
    _say(f"send {shown['request']} to the authorities, and nothing else from {dir_}.")


@app.command("sign")
def sign(
    dir_: _Folder,
    request: _Request,
    role: Annotated[
        str, typer.Option(help="The role that you mean to give; the request must ask for it.")
    ] = Role.CLIENT.value,
    days: _Days = tls.CERTIFICATE_DAYS,
    renew: Annotated[
        bool, typer.Option("--renew", help="The id may have had a certificate before.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the certificate here, too.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Issue the certificate that a request asks for."""
    found = requests.load_request(request)
    authority = tls.open_tls(dir_)
    _check_out(out)
    given = requests.requested_role(role)
    certificate = tls.sign(authority, found, at=_now(), days=days, role=given, renew=renew)
    kept = authority.folder / tls.ISSUED / f"{found.id}.pem"
    shown = {
        "id": found.id,
        "role": str(found.role),
        "certificate": str(_copy(kept, out)),
        "end": when(certificate.not_valid_after_utc),
        "serial": f"{certificate.serial_number:x}",
        "request_fingerprint": found.fingerprint,
    }
    _print(shown, as_json=as_json)


@app.command("enroll")
def enroll(
    dir_: _Folder,
    request: _Request,
    replace: Annotated[
        bool, typer.Option("--replace", help="Revoke the client's other key, and enrol this one.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the enrolment here, too.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Sign that the signing key of a request is the client's, for secure aggregation."""
    found = requests.load_request(request)
    authority = enrolment.open_enrolment(dir_)
    _check_out(out)
    made = enrolment.enrol(authority, found, at=_now(), replace=replace)
    kept = authority.folder / tls.ISSUED / f"{found.id}.json"
    shown = {
        "id": found.id,
        "enrolment": str(_copy(kept, out)),
        "verify_key": made.verify_key.hex(),
        "enrolment_key": made.authority.hex(),
        "request_fingerprint": found.fingerprint,
    }
    _print(shown, as_json=as_json)


@app.command("revoke")
def revoke(
    dir_: _Folder,
    id_: Annotated[str, typer.Argument(metavar="ID", help="Whose certificates and enrolments.")],
    as_json: _Json = False,
) -> None:
    """Revoke all certificates and enrolments of an id, for ever."""
    done = authorities.revoke(dir_, id_, at=_now())
    listed = dir_ / tls.FOLDER / tls.REVOKED
    has_list = listed.exists()
    shown = {
        "id": id_,
        "certificates": [f"{entry.serial:x}" for entry in done.certificates],
        "enrolments": [entry.key for entry in done.enrolments],
        "revocation_list": str(listed) if has_list else None,
    }
    _print(shown, as_json=as_json)
    if not done.certificates and not done.enrolments:
        _say(f"all of {id_!r} was revoked before.")
    if has_list:
        _say(f"copy {listed} into the coordinator's folder: it keeps out whoever is listed.")


@app.command("show")
def show(
    dir_: _Folder,
    as_json: _Json = False,
) -> None:
    """Show the authorities, and what each has issued and when it expires."""
    rows = overview(dir_, at=_now())
    if as_json:
        print(json.dumps({"rows": [row.as_json() for row in rows]}))
        return
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    for row in rows:
        if not row.role:
            console.print(_authority(row))
    issued = [row for row in rows if row.role]
    if issued:
        console.print()
        console.print(_table(issued))


def _now() -> datetime:
    """Return the time; the room of certificates gets it as an argument."""
    return datetime.now(UTC)


def _check_out(out: Path | None) -> None:
    """Refuse a place that cannot be written before anything is issued."""
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        what = "is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise CertificateError(f"--out {out}: {what}", hint="name a file in a folder that is there")


def _copy(kept: Path, out: Path | None) -> Path:
    """Copy what an authority keeps to where it was asked for; return the place to name."""
    if out is None:
        return kept
    files.write(out, files.read(kept))
    return out


def _say(text: str) -> None:
    """Print what to do next, on stderr."""
    print(text, file=sys.stderr)


def _print(shown: dict[str, Any], *, as_json: bool) -> None:
    """Print the outcome of a command."""
    if as_json:
        print(json.dumps(shown))
        return
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    width = max(map(len, shown))
    for name, value in shown.items():
        text = ", ".join(value) if isinstance(value, list) else value
        console.print(f"[bold]{name.replace('_', ' '):<{width}}[/]  {escape(text or 'none')}")


def _authority(row: Row) -> str:
    """Return an authority in one line, with all of its fingerprint: people compare it."""
    of = f" of {escape(row.id)}" if row.id else ""
    style = _STYLES.get(row.status)
    status = f"[{style}]{row.status}[/]" if style else str(row.status)
    end = "" if row.end is None else f", until {when(row.end)}, {row.days_left} days left"
    word = "SHA-256" if row.serial else "key"
    return f"[bold]{row.kind}[/]{of}: {status}{end}\n  {word} {row.fingerprint}"


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("what", "id", "role", "status", "until", "days left"):
        table.add_column(name, justify="right" if name == "days left" else "left")
    for row in rows:
        table.add_row(
            row.kind,
            escape(row.id),
            row.role,
            str(row.status),
            "" if row.end is None else f"{row.end:%Y-%m-%d}",
            "" if row.days_left is None else str(row.days_left),
            style=_STYLES.get(row.status),
        )
    return table
