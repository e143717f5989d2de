"""`choral simulate`: a federation file on one machine."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from choral.cli.output import RoundProgress, planned, print_result
from choral.config.build import Place, build_setup, name_of
from choral.config.federation import FederationFile, parse, read_file
from choral.core.errors import BudgetExhausted, ConfigError, NothingToResume, RunFailed
from choral.core.task import ClientSource
from choral.federation.participant import Participant
from choral.simulation.availability import Availability
from choral.simulation.launch import Launch, launch
from choral.stores.folder import RunFolder
from choral.telemetry.result import Result


def command(
    file: Annotated[Path, typer.Argument(help="The federation file, in YAML.")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set a key of the file, such as local.lr=0.1."
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(envvar="CHORAL_ROUNDS", min=1, help="Rounds to commit.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(envvar="CHORAL_SEED", min=0, help="Seed of the run.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(envvar="CHORAL_DATA", help="Replaces `simulation.data`.")
    ] = None,
    engine: Annotated[
        str, typer.Option(envvar="CHORAL_ENGINE", help="inline or workers.")
    ] = "inline",
    workers: Annotated[
        int, typer.Option(envvar="CHORAL_WORKERS", min=1, help="Processes of engine workers.")
    ] = 2,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; default a new one in storage.path.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write a page with plots and tables.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as JSON.")] = False,
) -> None:
    """Run a federation on this machine, with the very code of a deployment."""
    settings = list(set_ or [])
    settings += [f"rounds={rounds}"] if rounds is not None else []
    settings += [f"seed={seed}"] if seed is not None else []
    place = Place(file.parent, data)
    if report is not None and not report.parent.is_dir():
        raise ConfigError(f"--report {report}: there is no folder {report.parent}")
    how = Launch(engine=engine, workers=workers, out=out, resume=resume)
    try:
        result = simulate_file(read_file(file, settings), place, how)
    except (RunFailed, BudgetExhausted) as error:
        if report is not None and error.result is not None:
            error.result.report(report)
        raise
    show(result, report=report, as_json=as_json)


def simulate_file(file: FederationFile, place: Place, how: Launch) -> Result:
    """Run a federation file and show its progress on stderr."""
    out = how.out
    if how.resume:
        out = out or newest_partial(storage_root(file), name_of(file, place))
        if file.seed is None:
            _, header = RunFolder(out).header()
            file = file.model_copy(update={"seed": header["seed"]})
    setup = build_setup(file, place)
    simulation = file.simulation
    # stdout carries the result alone; what a task prints goes where the progress goes.
    console = Console(stderr=True)
    invited = setup.policy.round.invited(len(setup.source.ids))
    note = planned(setup.aggregation_json(), invited)
    if note:
        console.print(note, highlight=False, soft_wrap=True)
    shown = RoundProgress(setup.policy.rounds, console)
    with redirect_stdout(sys.stderr), shown as progress:
        return launch(
            setup,
            replace(
                how,
                out=out or storage_root(file) / setup.run_id,
                storage=storage_root(file).absolute(),
                rebuild=partial(rebuild, file.as_json(), place, setup.seed),
                arrival=Availability(simulation.dropout, simulation.latency_s, simulation.spread),
                observers=(progress, *how.observers),
            ),
        )


def rebuild(body: dict[str, Any], place: Place, seed: int) -> tuple[Participant, ClientSource]:
    """Make the clients' side of a file anew, in a worker process."""
    file = parse({**body, "seed": seed}, where="the federation file")
    setup = build_setup(file, place, held_out=False)
    participant, _ = setup.participant()
    return participant, setup.source


def storage_root(file: FederationFile) -> Path:
    """Return the folder in which runs are kept."""
    return Path(os.environ.get("CHORAL_STORAGE_PATH") or file.storage.path or "runs")


def newest_partial(root: Path, name: str) -> Path:
    """Return the unfinished run of this name that was written to last.

    Raises:
        NothingToResume: There is none.
    """
    pattern = re.compile(re.escape(name) + r"-[0-9a-f]{8}\.partial")
    partials = [path for path in root.glob("*.partial") if pattern.fullmatch(path.name)]
    found = sorted(partials, key=lambda path: path.stat().st_mtime)
    if not found:
        raise NothingToResume(
            f"no unfinished run of `{name}` in {root}", hint="name its folder by `--out`"
        )
    return found[-1].with_suffix("")


def show(result: Result, *, report: Path | None, as_json: bool, clients: str = "client") -> None:
    """Print a result for people or programs, and write its page."""
    body = result.to_json()
    if report is not None:
        result.report(report)
    if as_json:
        print(json.dumps(body))
        return
    print_result(body, clients=clients)
    if report is not None:
        print(f"report   {report}", file=sys.stderr)
