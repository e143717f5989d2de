"""Commands, errors and exit codes of `choral`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from choral._version import __version__
from choral.cli import (
    audit,
    backup,
    bench,
    client,
    coordinator,
    demo,
    doctor,
    health,
    ledger,
    models,
    pki,
    secagg,
    simulate,
    unbuilt,
)
from choral.cli.output import say_error
from choral.cli.run import app as run_group
from choral.core.errors import ChoralError

app = typer.Typer(
    name="choral",
    help="Train one model on data that stays where it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train one model on data that stays where it is."""


app.command("demo")(demo.command)
app.command("simulate")(simulate.command)
app.command("coordinator")(coordinator.command)
app.command("client")(client.command)
app.command("bench")(bench.command)
app.command("doctor")(doctor.command)
app.command("backup")(backup.command)
app.command("health", hidden=True)(health.command)
app.add_typer(run_group, name="run")
app.add_typer(models.app, name="models")
app.add_typer(audit.app, name="audit")
app.add_typer(secagg.app, name="secagg")
app.add_typer(pki.app, name="pki")
app.add_typer(ledger.app, name="ledger")
unbuilt.add_to(app)


def run() -> None:
    """Run the command line: 0 done, 1 failed, 2 wrong usage, 3 refused, 130 interrupted."""
    try:
        app(standalone_mode=True)
    except ChoralError as error:
        say_error(error)
        if "--json" in sys.argv:
            _print_error_json(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _print_error_json(error: ChoralError) -> None:
    """Print the run that failed, or the error alone where there is no run to show."""
    result = getattr(error, "result", None)
    if result is not None:
        print(json.dumps(result.to_json()))
        return
    body = {"code": error.code, "message": error.message, "hint": error.hint}
    failures = [{"code": error.code, "message": error.message}]
    print(json.dumps({"status": "failed", "failures": failures, "error": body}))
