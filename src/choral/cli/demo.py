"""`choral demo`: four hospitals train one classifier, each in a process of its own."""

from __future__ import annotations

import json
import queue
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml
from rich.console import Console

import choral
from choral.cli.demo_view import DemoView
from choral.cli.output import print_result
from choral.cli.processes import Line, Process, end
from choral.core.errors import ConfigError, RunExists, RunFailed
from choral.pki.trial import trial_federation

HOSPITALS: Final = ("cleveland", "hungarian", "switzerland", "va")
PATIENCE_S: Final = 170.0
"""Longest time that the whole demo may take."""

_INTRODUCTION = """\
Four hospitals train one classifier of heart disease: one coordinator and four clients, each in a
process and a folder of its own, over mutual TLS on this machine. Each hospital trains on its own
patients; what it sends is the change of the model under masks, and the coordinator learns the sum
alone. Real data (UCI Heart Disease, CC BY 4.0).
"""
_PLAIN = """\
Four hospitals train one classifier of heart disease: one coordinator and four clients, each in a
process and a folder of its own, over mutual TLS on this machine. Each hospital trains on its own
patients; the coordinator sees the change of the model that each sends. Real data (UCI Heart
Disease, CC BY 4.0).
"""


def command(
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds; default 15.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the run.")] = 42,
    out: Annotated[
        Path | None, typer.Option(help="Keep the run here; default nothing is kept.")
    ] = None,
    aggregation: Annotated[
        str, typer.Option(help="secure, or plain for a coordinator that sees every update.")
    ] = "secure",
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as JSON.")] = False,
) -> None:
    """Train one classifier on the data of four real hospitals, none of which shares a patient."""
    if out is not None and out.exists():
        raise RunExists(f"{out} exists already", hint="choose another `--out`, or remove it")
    with _terminated_like_interrupted(), _folder() as folder:
        print(_INTRODUCTION if aggregation == "secure" else _PLAIN, file=sys.stderr)
        _federation(folder, rounds=rounds, seed=seed, aggregation=aggregation)
        result = _run(folder, rounds=rounds or 15)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder / "models" / result["run_id"], out)
    result["model_path"] = None if out is None else str(out.absolute() / "model.safetensors")
    if as_json:
        print(json.dumps(result))
    else:
        print_result(result, clients="hospital")


@contextmanager
def _folder() -> Iterator[Path]:
    """Give a folder that is gone afterwards, whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="choral-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C, so that nothing is left behind."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- a federation in a folder ---------------------------------------------------------------------


def _federation(folder: Path, *, rounds: int | None, seed: int, aggregation: str) -> None:
    """Make the certificates, the coordinator's folder and one folder for each hospital."""
    example, home = heart_example(), folder / "coordinator"
    trial_federation(folder, name="heart", clients=HOSPITALS)
    body: dict[str, Any] = yaml.safe_load((example / "federation.yaml").read_text())
    del body["simulation"]
    body |= {
        "rounds": rounds or body["rounds"],
        "clients_per_round": len(HOSPITALS),
        "seed": seed,
        "aggregation": aggregation,
        "evaluation": {"every": 1, "clients": True, "test_fraction": 0.0},
        "start": {"wait_s": 120},
        "tls": {"folder": "."},
    }
    (home / "federation.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    shutil.copy(example / "heart_task.py", home)
    for name in HOSPITALS:
        _hospital(folder / name, name, example, aggregation)


def _hospital(home: Path, name: str, example: Path, aggregation: str) -> None:
    """Put a hospital's own patients and its policy beside its keys."""
    (home / "data").mkdir()
    shutil.copy(example / "data" / f"processed.{name}.data", home / "data")
    for module in ("heart_task.py", "heart_data.py"):
        shutil.copy(example / module, home)
    client = {
        "id": name,
        "data": "heart_data:hospital",
        "tls": {"folder": "."},
        "state": "state",
        "policy": "policy.yaml",
    }
    policy = {
        "secure_aggregation": "required" if aggregation != "plain" else "preferred",
        "min_cohort": 3,
        "tasks": ["heart_task:task"],
        "metrics": ["loss", "accuracy", "train_loss"],
        "per_client_metrics": True,
    }
    (home / "client.yaml").write_text(yaml.safe_dump(client, sort_keys=False))
    (home / "policy.yaml").write_text(yaml.safe_dump(policy, sort_keys=False))


def heart_example() -> Path:
    """Return the folder of the heart example: in the installed package, or in the checkout."""
    package = Path(choral.__file__).parent
    for folder in (package / "examples" / "heart", package.parents[1] / "examples" / "heart"):
        if (folder / "federation.yaml").exists():
            return folder
    raise ConfigError("the heart example is not installed", hint="reinstall choral")


# --- five processes -------------------------------------------------------------------------------


def _run(folder: Path, *, rounds: int) -> dict[str, Any]:
    """Start the processes, show what they do, and return the run as JSON."""
    lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
    processes: list[Process] = []
    view = DemoView(rounds, HOSPITALS, Console(stderr=True))
    limit = time.monotonic() + PATIENCE_S
    try:
        with view:
            coordinator = Process(
                "coordinator",
                ["coordinator", "--config", "federation.yaml", "--json", "--listen", "127.0.0.1:0"],
                folder=folder / "coordinator",
                lines=lines,
                environment={"CHORAL_STORAGE_PATH": str(folder / "models")},
            )
            processes.append(coordinator)
            address = _address(coordinator, lines, view, limit)
            for name in HOSPITALS:
                words = ["--config", "client.yaml", "--coordinator", address, "--json"]
                processes.append(
                    Process(
                        name,
                        ["client", *words, "--until-done"],
                        folder=folder / name,
                        lines=lines,
                    )
                )
            _until(lambda: coordinator.code is not None, processes, lines, view, limit)
            _until(
                lambda: all(p.code is not None for p in processes), processes, lines, view, limit
            )
        return _result(coordinator, processes)
    finally:
        end(processes)


def _address(
    coordinator: Process, lines: queue.SimpleQueue[Line], view: DemoView, limit: float
) -> str:
    """Return where the coordinator listens, from its log."""
    while time.monotonic() < limit:
        name, line = lines.get(timeout=PATIENCE_S)
        view.note(name, line)
        if line is None:
            raise RunFailed(f"the coordinator ended:\n{coordinator.last_words()}")
        if "address" in line:
            return str(line["address"])
    raise RunFailed("the coordinator has not begun to listen")


def _until(
    over: Callable[[], bool],
    processes: list[Process],
    lines: queue.SimpleQueue[Line],
    view: DemoView,
    limit: float,
) -> None:
    """Show the log until something is so, or a process has failed."""
    while not over():
        failed = next((p for p in processes if p.code not in (None, 0)), None)
        if failed is not None:
            raise RunFailed(f"{failed.name} failed:", details=failed.last_words())
        if time.monotonic() > limit:
            raise RunFailed(f"the demo took longer than {PATIENCE_S:.0f} s")
        try:
            name, line = lines.get(timeout=0.1)
        except queue.Empty:
            continue
        view.note(name, line)


def _result(coordinator: Process, processes: list[Process]) -> dict[str, Any]:
    """Return the run that the coordinator printed."""
    for process in processes:
        if process.code != 0:
            raise RunFailed(f"{process.name} failed:", details=process.last_words())
    found: dict[str, Any] = json.loads(coordinator.printed())
    return found
