"""`choral audit`: what a coordinator did, and whether somebody has changed the account of it."""

from __future__ import annotations

import getpass
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from choral.core.errors import NotBuilt, Refused, StoreError, TamperedAudit
from choral.federation.audit import Checked, Head, check

app = typer.Typer(
    help="Read the audit trail of a coordinator, and find out whether it was changed.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

OWN_KEY: Final = "unverified/server.pem"
"""In the storage of a coordinator without certificates: its key."""

_Storage = Annotated[
    Path | None,
    typer.Option(
        "--storage",
        metavar="DIR",
        envvar="CHORAL_STORAGE_PATH",
        help="Folder of the runs; default `storage.path` of the federation file, else `runs`.",
    ),
]
_Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", envvar="CHORAL_CONFIG", help="The federation file, in YAML."
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@app.callback()
def _group() -> None:
    """Read the audit trail of a coordinator, and find out whether it was changed."""


@app.command("verify")
def verify(
    storage: _Storage = None,
    config: _Config = None,
    federation: Annotated[
        Path | None,
        typer.Option(
            "--federation",
            metavar="FILE",
            help="federation.json, for the coordinator's key; default that of `tls` in the "
            "federation file.",
        ),
    ] = None,
    witness: Annotated[
        list[Path] | None,
        typer.Option("--witness", metavar="FILE", help="audit.jsonl from a client's state folder."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Find edits, gaps, swaps and cuts in the trail.

    Exits with 1 where something was changed.
    """
    from choral.stores.audit import read_trail

    root = _root(storage, config)
    keys = _keys(root, config, federation)
    records = read_trail(root)
    heads, faults = _heads(list(witness or []), keys)
    found = check(records, keys=keys, witnessed=heads)
    faults = [*found.faults, *faults]
    if as_json:
        body = _body(found, faults, keys)
        print(json.dumps(body))
    else:
        _print(found, faults, keys)
    if faults:
        if as_json:
            raise typer.Exit(TamperedAudit.exit_code)
        raise TamperedAudit(
            f"the audit trail in {root} was changed",
            hint="the guide on operations says what to do",
        )


@app.command("show")
def show(
    storage: _Storage = None,
    config: _Config = None,
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="Entries of one run alone.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Print the entries, oldest first; nothing is checked."""
    from choral.stores.audit import read_trail

    records = read_trail(_root(storage, config))
    shown = [r for r in records if run is None or r.body.get("run") == run]
    if as_json:
        print(json.dumps({"entries": [{"kind": r.kind, **r.body} for r in shown]}))
        return
    for record in shown:
        rest = {k: v for k, v in record.body.items() if k not in _CHAIN}
        words = "  ".join(f"{name}={_word(value)}" for name, value in sorted(rest.items()))
        print(f"{record.body['number']:>6}  {record.body['at']}  {record.kind}  {words}".rstrip())


@app.command("privacy")
def privacy(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")],
) -> None:
    """Attack a run's model to measure what it reveals. Not built yet."""
    raise NotBuilt(
        "`choral audit privacy` is not built yet", hint=f"`choral run show {run}` says its epsilon"
    )


def record(root: Path, kind: str, **fields: Any) -> None:
    """Add what an operator did to the trail beside the runs, where a coordinator keeps one.

    The coordinator's next checkpoint vouches for it.
    """
    from choral.stores.audit import DATABASE, open_trail
    from choral.system import SystemClock

    if not (root / DATABASE).exists():
        return
    trail, store = open_trail(root, key=None, now=SystemClock().wall)
    try:
        trail.note(kind, by=user(), **fields)
        trail.flush()
    finally:
        store.close()


def user() -> str:
    """Return who works on this machine."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


_CHAIN: Final = ("number", "previous", "hash", "at", "signature")


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _root(storage: Path | None, config: Path | None) -> Path:
    if storage is not None or config is None:
        return storage or Path("runs")
    from choral.cli.simulate import storage_root
    from choral.config.federation import read_file

    return storage_root(read_file(config))


def _keys(root: Path, config: Path | None, federation: Path | None) -> set[bytes]:
    """Return the coordinator's verification key, from where one can be found; else nothing."""
    from choral.pki import keys
    from choral.pki.federation import load_federation

    if federation is None and config is not None:
        from choral.cli.coordinator import server_files
        from choral.config.federation import read_file

        tls = read_file(config).tls
        federation = None if tls is None else server_files(tls, config.parent).federation
    if federation is not None:
        return {load_federation(federation, at=datetime.now(UTC)).coordinator}
    own = root / OWN_KEY
    return {keys.load_signing_key(own).public} if own.exists() else set()


def _heads(paths: list[Path], keys: set[bytes]) -> tuple[list[Head], list[str]]:
    """Return what witnesses saw; a receipt that no key of the coordinator signed is a fault."""
    from choral.client.witness import read_witness
    from choral.crypto import signatures

    heads, faults = [], []
    for path in paths:
        if not path.exists():
            raise StoreError(f"there is no {path}", hint="it is in the state folder of a client")
        for one in read_witness(path):
            try:
                for key in keys:
                    signatures.verify(key, one.receipt.stated(), one.receipt.signature)
            except Refused:
                faults.append(f"{path}: the receipt of {one.head.length} entries is not signed")
                continue
            heads.append(one.head)
    return heads, faults


def _body(found: Checked, faults: list[str], keys: set[bytes]) -> dict[str, Any]:
    return {
        "ok": not faults,
        "entries": found.head.length,
        "head": asdict(found.head),
        "signed": found.signed,
        "checkpoints": found.checkpoints,
        "witnessed": found.witnessed,
        "key_known": bool(keys),
        "faults": faults,
    }


def _print(found: Checked, faults: list[str], keys: set[bytes]) -> None:
    print(f"{found.head.length} entries, the first {found.signed} of them signed")
    if found.witnessed:
        print(f"witnesses have seen {found.witnessed}")
    if not keys:
        print("the coordinator's key is not known here: `--federation FILE`", file=sys.stderr)
    for fault in faults:
        print(f"changed: {fault}", file=sys.stderr)
    if not faults:
        print("nothing was changed")
