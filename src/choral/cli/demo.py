"""`choral demo`: four hospitals train one heart-disease classifier."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import choral
from choral.cli.simulate import show, simulate_file
from choral.config.build import Place
from choral.config.federation import read_file
from choral.core.errors import ConfigError
from choral.simulation.launch import Launch

_INTRODUCTION = """\
Four hospitals train one classifier of heart disease. Each trains on its own patients; what it sends
is the change of the model under masks, and the coordinator learns the sum alone. Real data (UCI
Heart Disease, CC BY 4.0).
"""

_PLAIN = """\
Four hospitals train one classifier of heart disease. Each trains on its own patients; what is sent
is the change of the model, and what is kept is the sum. Real data (UCI Heart Disease, CC BY 4.0).
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
    file = heart_example() / "federation.yaml"
    settings = [f"seed={seed}", f"aggregation={aggregation}"]
    settings += [f"rounds={rounds}"] if rounds is not None else []
    print(_INTRODUCTION if aggregation == "secure" else _PLAIN, file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="choral-demo-") as kept_nowhere:
        folder = out or Path(kept_nowhere) / "run"
        result = simulate_file(read_file(file, settings), Place(file.parent), Launch(out=folder))
    if out is None:
        result = replace(result, model_path=None)
    show(result, report=None, as_json=as_json, clients="hospital")


def heart_example() -> Path:
    """Return the folder of the heart example: in the installed package, or in the checkout."""
    package = Path(choral.__file__).parent
    for folder in (package / "examples" / "heart", package.parents[1] / "examples" / "heart"):
        if (folder / "federation.yaml").exists():
            return folder
    raise ConfigError("the heart example is not installed", hint="reinstall choral")
