"""`choral run`: runs of a coordinator, from afar."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from choral.cli.output import print_result
from choral.config.federation import read_file
from choral.core.errors import BudgetExhausted, ConfigError, Refused, RunFailed, by_code

if TYPE_CHECKING:
    from choral.client.admin import Admin, Event

DEFAULT: Final = "127.0.0.1:50051"
WIDE: Final = 200
ENDED: Final = ("completed", "failed", "stopped")

app = typer.Typer(
    help="Submit, watch and stop runs of a coordinator.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Coordinator = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        envvar=["CHORAL_COORDINATOR", "COORDINATOR"],
        help="The coordinator to call.",
    ),
]
Credentials = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        envvar="CHORAL_CREDENTIALS",
        help="Your folder of `choral pki request`, with certificate and federation.json.",
    ),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Plain text, to a loopback address, as an operator.")
]
_Run = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@app.callback()
def _group() -> None:
    """Submit, watch and stop runs of a coordinator."""


@app.command("submit")
def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The federation file, in YAML.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the file."),
    ] = None,
    coordinator: Coordinator = DEFAULT,
    credentials: Credentials = None,
    insecure: Insecure = False,
    as_json: _Json = False,
) -> None:
    """Begin a run; its clients get their work when enough of them are there."""
    body = read_file(file, set_).as_json()
    with _calls(coordinator, credentials, insecure=insecure) as calls:
        run_id = calls.submit(body, request_id=secrets.token_hex(16))
    print(json.dumps({"run_id": run_id}) if as_json else run_id)


@app.command("prune")
def prune_runs(
    keep: Annotated[int, typer.Option(min=0, help="How many of the newest runs stay.")],
    path: Annotated[
        Path | None,
        typer.Option(
            "--path",
            metavar="DIR",
            envvar="CHORAL_STORAGE_PATH",
            help="Folder of the runs; default `storage.path` of the federation file, else `runs`.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", envvar="CHORAL_CONFIG", help="The federation file, in YAML."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Remove the oldest completed runs from the storage on this machine.

    Unfinished runs stay, and so does each run whose model is or was in use.
    """
    from choral.cli.audit import record
    from choral.cli.simulate import storage_root
    from choral.stores.prune import prune

    root = path or (Path("runs") if config is None else storage_root(read_file(config)))
    found = prune(root, keep=keep, dry_run=dry_run)
    if found.removed and not dry_run:
        record(root, "runs.pruned", runs=list(found.removed))
    if as_json:
        print(json.dumps({**asdict(found), "dry_run": dry_run}))
        return
    word = "would be removed" if dry_run else "removed"
    for run in found.removed:
        print(f"{word}: {run}")
    print(
        f"{len(found.removed)} {word}, {found.freed_bytes} bytes; {len(found.kept)} are new "
        f"enough, {len(found.promoted)} stay for their models"
    )


@app.command("list")
def list_runs(
    coordinator: Coordinator = DEFAULT,
    credentials: Credentials = None,
    insecure: Insecure = False,
    as_json: _Json = False,
) -> None:
    """List the runs that you may see."""
    with _calls(coordinator, credentials, insecure=insecure) as calls:
        runs = calls.runs()
    if as_json:
        print(json.dumps({"runs": runs}))
        return
    table = _table("run", "status", "round", "created", "reason")
    for run in runs:
        row = (
            run["run_id"],
            run["status"],
            f"{run['round']}/{run['rounds']}",
            run["created"][:16].replace("T", " "),
            run["reason"],
        )
        table.add_row(*(escape(cell) for cell in row))
    _console().print(table)


@app.command("show")
def show(
    run: _Run,
    coordinator: Coordinator = DEFAULT,
    credentials: Credentials = None,
    insecure: Insecure = False,
    as_json: _Json = False,
) -> None:
    """Show a run: its result, or as much of it as there is by now."""
    with _calls(coordinator, credentials, insecure=insecure) as calls:
        body = calls.run(run)
    if as_json:
        print(json.dumps(body))
        return
    _print(body)


@app.command("watch")
def watch(
    run: _Run,
    coordinator: Coordinator = DEFAULT,
    credentials: Credentials = None,
    insecure: Insecure = False,
    as_json: _Json = False,
) -> None:
    """Show what happens in a run until it has ended; exit with its code: 3 where a budget ends it.

    With --json the events go to stderr, and stdout gets the run.
    """
    stream = sys.stderr if as_json else sys.stdout
    with _calls(coordinator, credentials, insecure=insecure) as calls:
        end: dict[str, Any] = {}
        body: dict[str, Any] = {}
        for event in calls.watch(run):
            print(line_of(event), file=stream, flush=True)
            if event.kind == "Finish":
                end = {**end, **event.body}
            elif event.kind == "OverBudget":
                end = {"code": BudgetExhausted.code}
        if as_json or "status" not in end:
            body = calls.run(run)
            told = {"status": body["status"], "reason": body.get("reason", "")}
            end = {"code": body.get("code", ""), **end, **told}
    if as_json:
        print(json.dumps(body))
    if end["status"] == "completed":
        return
    kind = Refused if issubclass(by_code(str(end.get("code", ""))), Refused) else RunFailed
    failed = kind(f"run {run} {_how(end)}", hint=f"`choral run show {run}` says more")
    if as_json:
        print(f"error: {failed.message}", file=sys.stderr)
        raise typer.Exit(failed.exit_code)
    raise failed


@app.command("stop")
def stop(
    run: _Run,
    reason: Annotated[str, typer.Option(help="Why; the run's result says it.")] = "",
    coordinator: Coordinator = DEFAULT,
    credentials: Credentials = None,
    insecure: Insecure = False,
    as_json: _Json = False,
) -> None:
    """End a run where it is; a run that has ended stays as it is."""
    with _calls(coordinator, credentials, insecure=insecure) as calls:
        status = calls.stop(run, reason)
    if as_json:
        print(json.dumps({"run_id": run, "status": status}))
        return
    print(f"run {run} {'is' if status in ENDED else 'will stop soon; it is'} {status}")


@app.command("open")
def open_round(
    run: _Run,
    coordinator: Coordinator = DEFAULT,
    credentials: Credentials = None,
    insecure: Insecure = False,
    as_json: _Json = False,
) -> None:
    """Release the next round of a run with `start: {manual: true}`."""
    with _calls(coordinator, credentials, insecure=insecure) as calls:
        calls.open(run)
    print(json.dumps({"run_id": run}) if as_json else f"the next round of {run} may begin")


@contextmanager
def _calls(address: str, folder: Path | None, *, insecure: bool) -> Iterator[Admin]:
    """Give the calls to a coordinator.

    Raises:
        ConfigError: Nothing says who calls.
    """
    from choral.client.admin import admin
    from choral.pki.credentials import ClientFiles

    if folder is None and not insecure:
        raise ConfigError(
            "no certificate",
            hint="`--credentials DIR` with your folder of `choral pki request`, or `--insecure` "
            "for plain text to a loopback address",
        )
    where = None if insecure or folder is None else ClientFiles.inside(folder)
    with admin(address, where) as calls:
        yield calls


# --- for people -----------------------------------------------------------------------------------


def line_of(event: Event) -> str:
    """Return an event in one line, without what only a program wants.

    >>> from choral.client.admin import Event
    >>> line_of(Event(3, "CohortChosen", {"round": 1, "attempt": 1, "clients": ["a", "b"]}))
    '   3  CohortChosen  round 1  attempt 1  clients a, b'
    """
    shown = [
        f"{name} {_word(value)}"
        for name, value in event.body.items()
        if value not in (None, "", [], {}) and name not in _UNSHOWN
    ]
    return "  ".join([f"{event.sequence:4}", event.kind, *shown])


_UNSHOWN: Final = frozenset({"state", "kept"})


def _word(value: Any) -> str:
    """Return a value of an event in words; what came over the network stays on its line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_word(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{k} {_word(v)}" for k, v in value.items())
    text = str(value)
    text = "".join(c if c.isprintable() else " " for c in text)
    return text[:12] + "…" if len(text) == 64 and text.isalnum() else text


def _how(end: Mapping[str, Any]) -> str:
    """Return in words how a run ended, or that it has not."""
    word = {"failed": "failed", "stopped": "was stopped"}.get(
        end["status"], f"has not ended: it is {end['status']}"
    )
    return f"{word}: {end['reason']}" if end.get("reason") else word


def _print(body: Mapping[str, Any]) -> None:
    """Print a run for people."""
    console = _console()
    console.print(f"[bold]run[/]      {escape(body['run_id'])}")
    if body.get("reason"):
        console.print(f"[bold]reason[/]   {escape(body['reason'])}")
    print_result(body)
    for title, table in (
        ("failures", _failures(body.get("failures", []))),
        ("refused at this coordinator", _refusals(body.get("refusals", {}))),
    ):
        if table.row_count:
            console.print()
            console.print(f"[bold]{title}[/]")
            console.print(table)


def _failures(failures: list[Mapping[str, Any]]) -> Table:
    names = ("round", "attempt", "client", "code", "message")
    table = _table(*names)
    for failure in failures[:20]:
        table.add_row(*(escape(str(failure.get(name, ""))) for name in names))
    if len(failures) > 20:
        table.add_row(f"… {len(failures) - 20} more")
    return table


def _refusals(refusals: Mapping[str, str]) -> Table:
    table = _table("client", "why")
    for client, why in refusals.items():
        table.add_row(escape(client), escape(why))
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _console() -> Console:
    """Return where tables go; in a file or a pipe their cells keep to one line."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    return console
