"""`choral models`: what completed runs have made, and which model is in use."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from choral.cli.audit import record, user
from choral.core.checks import one_of
from choral.core.errors import ConfigError, StoreError
from choral.stores import registry

if TYPE_CHECKING:
    from choral.core.params import Params
    from choral.core.task import Task

app = typer.Typer(
    help="List, compare, export and promote the models of completed runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Path = Annotated[
    Path | None,
    typer.Option(
        "--path",
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
WIDE: Final = 200
_Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A run's id, a prefix of a digest, or `current`.")
]
_By = Annotated[str | None, typer.Option(help="Who decides; default your name on this machine.")]
_Note = Annotated[str, typer.Option(help="Why; kept in the log.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@app.callback()
def _group() -> None:
    """List, compare, export and promote the models of completed runs."""


def _root(path: Path | None, config: Path | None) -> Path:
    """Return the folder of the runs, found as `choral coordinator` finds it."""
    if path is not None or config is None:
        return path or Path("runs")
    from choral.cli.simulate import storage_root
    from choral.config.federation import read_file

    return storage_root(read_file(config))


@app.command("list")
def list_models(path: _Path = None, config: _Config = None, as_json: _Json = False) -> None:
    """List the models, oldest first, with the one in use marked."""
    path = _root(path, config)
    found, bad = registry.models(path)
    used = registry.current(registry.history(path))
    rows = [_row(model, used) for model in found]
    for error in bad:
        print(f"left out: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps({"models": rows, "current": None if used is None else asdict(used)}))
        return
    table = _table("", "run", "created", "rounds", "strategy", "level", "metrics", "sha256")
    for row in rows:
        cells = (
            "*" if row["current"] else "",
            row["run_id"],
            str(row["created"])[:16].replace("T", " "),
            str(row["rounds"]),
            row["strategy"],
            row["level"],
            _words(row["metrics"]),
            row["model_sha256"][:12],
        )
        table.add_row(*(escape(str(cell)) for cell in cells))
    _console().print(table)


@app.command("show")
def show(model: _Model, path: _Path = None, config: _Config = None, as_json: _Json = False) -> None:
    """Show where a model comes from, after its digest was checked."""
    path = _root(path, config)
    found = registry.find(path, model)
    registry.load(found)
    used = registry.current(registry.history(path))
    body = {**found.lineage, "model_path": str(found.path), "current": _is_used(found, used)}
    if as_json:
        print(json.dumps(body))
        return
    _print_rows(_lineage_rows(body))
    table = _table("tensor", "shape", "dtype", "role")
    for tensor in body.get("spec", {}).get("tensors", []):
        shape = " x ".join(map(str, tensor["shape"])) or "one number"
        table.add_row(escape(tensor["name"]), shape, tensor["dtype"], tensor["role"])
    _console().print()
    _console().print(table)


@app.command("diff")
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A model, as for `show`.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    path: _Path = None,
    config: _Config = None,
    as_json: _Json = False,
) -> None:
    """Compare two models: where they come from, and how far their tensors are apart."""
    from choral.stores.folder import differences

    path = _root(path, config)
    first, second = registry.find(path, a), registry.find(path, b)
    apart = registry.differences(registry.load(first), registry.load(second))
    told = differences(first.lineage, second.lineage)
    if as_json:
        body = {
            "a": first.run_id,
            "b": second.run_id,
            "lineage": told,
            "tensors": [asdict(tensor) for tensor in apart],
        }
        print(json.dumps(body))
        return
    console = _console()
    for line in told:
        console.print(escape(line))
    if not told:
        console.print("one lineage: this is one model")
    table = _table("tensor", "norm of A", "norm of B", "norm of B - A")
    for tensor in apart:
        table.add_row(
            escape(tensor.name), _norm(tensor.a), _norm(tensor.b), _norm(tensor.difference)
        )
    console.print()
    console.print(table)


@app.command("promote")
def promote(
    model: _Model,
    path: _Path = None,
    config: _Config = None,
    by: _By = None,
    note: _Note = "",
    as_json: _Json = False,
) -> None:
    """Put a model into use: from here on it is `current`."""
    path = _root(path, config)
    found = registry.find(path, model)
    made = registry.promote(path, found, by=by or user(), at=_now(), note=note)
    _decided(path, made, as_json=as_json)


@app.command("rollback")
def rollback(
    path: _Path = None,
    config: _Config = None,
    by: _By = None,
    note: _Note = "",
    as_json: _Json = False,
) -> None:
    """Put the model back into use that was before the present one."""
    path = _root(path, config)
    _decided(path, registry.rollback(path, by=by or user(), at=_now(), note=note), as_json=as_json)


@app.command("export")
def export(
    model: _Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    format: Annotated[str, typer.Option(help="safetensors, onnx or torchscript.")] = "safetensors",
    task_folder: Annotated[
        Path,
        typer.Option("--task-folder", metavar="DIR", help="Folder of the task's own module."),
    ] = Path(),
    input_shape: Annotated[
        str | None,
        typer.Option(metavar="N,N,…", help="Shape of one example; most models say it."),
    ] = None,
    path: _Path = None,
    config: _Config = None,
    as_json: _Json = False,
) -> None:
    """Write a model to a file that other programs read, after its digest was checked."""
    from choral.core.tensors import encode_tensors
    from choral.stores.files import write_durably
    from choral.tasks.export import FORMATS

    path = _root(path, config)
    one_of("--format", format, FORMATS)
    found = registry.find(path, model)
    params = registry.load(found)
    blocks = (
        list(encode_tensors(params))
        if format == "safetensors"
        else [_exported(found, params, format=format, folder=task_folder, shape=input_shape)]
    )
    if not output.parent.is_dir():
        raise ConfigError(f"-o {output}: there is no folder {output.parent}")
    try:
        write_durably(output, blocks)
    except OSError as error:
        raise StoreError(f"cannot write {output}: {error.strerror}") from None
    size = sum(len(block) for block in blocks)
    if as_json:
        body = {
            "run_id": found.run_id,
            "model_sha256": found.sha256,
            "format": format,
            "path": str(output),
            "bytes": size,
        }
        print(json.dumps(body))
        return
    print(f"{output}: {format}, {size} bytes, of run {found.run_id}")


def _exported(
    model: registry.Model, params: Params, *, format: str, folder: Path, shape: str | None
) -> bytes:
    """Return the file of a PyTorch format."""
    from choral.tasks.export import input_shape_of, module_of, onnx, torchscript

    module = module_of(_task(model, folder), params)
    example = input_shape_of(module) if shape is None else _shape(shape)
    origin = {
        name: model.lineage.get(name) for name in ("run_id", "model_sha256", "task", "privacy")
    }
    if format == "torchscript":
        return torchscript(module, shape=example, origin=origin)
    if example is None:
        raise ConfigError(
            "nothing says what shape an example has",
            hint="`--input-shape 3,32,32`, without the number of examples",
        )
    return onnx(module, shape=example, origin=origin)


def _task(model: registry.Model, folder: Path) -> Task:
    """Return the task that trained a model."""
    from choral.config.references import is_reference, resolve
    from choral.tasks.zoo import build

    config = model.lineage.get("config", {})
    given = config.get("model")
    if isinstance(given, dict) and isinstance(given.get("type"), str):
        return build(**given)
    name = config.get("task") or model.lineage.get("task") or ""
    if not is_reference(name):
        raise ConfigError(
            f"the task {name!r} of run {model.run_id} cannot be built anew",
            hint="`--format safetensors` takes any model",
        )
    task: Task = resolve(name, folder, what="task")
    return task


def _shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"--input-shape {text!r}", hint="such as `3,32,32`, or `10`")
    return tuple(int(part) for part in parts)


# --- for people -----------------------------------------------------------------------------------


def _row(model: registry.Model, used: registry.Decision | None) -> dict[str, Any]:
    line = model.lineage
    return {
        "run_id": model.run_id,
        "name": line.get("name"),
        "created": line.get("created", ""),
        "rounds": line.get("rounds"),
        "strategy": line.get("strategy"),
        "level": line.get("privacy", {}).get("level"),
        "metrics": line.get("metrics", {}),
        "model_sha256": model.sha256,
        "model_path": str(model.path),
        "current": _is_used(model, used),
    }


def _is_used(model: registry.Model, used: registry.Decision | None) -> bool:
    return used is not None and (used.run_id, used.sha256) == (model.run_id, model.sha256)


def _lineage_rows(body: Mapping[str, Any]) -> dict[str, str]:
    """Return a lineage in words."""
    sizes = [int(size) for size in body.get("cohort_sizes", [])]
    cohort = f"{min(sizes)} to {max(sizes)} clients a round" if sizes else "not known"
    privacy = body.get("privacy", {})
    epsilon = privacy.get("epsilon")
    schema = body.get("data_schema")
    aggregation = body.get("aggregation", {})
    return {
        "run": str(body["run_id"]) + (", in use" if body["current"] else ""),
        "sha256": str(body["model_sha256"]),
        "parent": str(body.get("parent_sha256") or "none"),
        "created": str(body.get("created", "")),
        "rounds": f"{body.get('rounds')}, {cohort}",
        "task": str(body.get("task")),
        "strategy": f"{body.get('strategy')}, selection {body.get('selection')}",
        "aggregation": str(aggregation.get("kind")),
        "privacy": f"{privacy.get('level')}, "
        + ("no mechanism ran" if epsilon is None else f"epsilon {epsilon:.3g}"),
        "data schema": f"version {schema['version']}, {schema['fingerprint']}"
        if schema
        else "none declared",
        "spec": str(body.get("spec", {}).get("digest")),
        "metrics": _words(body.get("metrics", {})),
        "seed": str(body.get("seed")),
        "choral": str(body.get("choral")),
        "file": str(body["model_path"]),
    }


def _decided(path: Path, made: registry.Decision, *, as_json: bool) -> None:
    kind = "model.promoted" if made.action == registry.PROMOTE else "model.rolled_back"
    record(
        path,
        kind,
        run=made.run_id,
        model_sha256=made.sha256,
        previous=made.previous,
        decided_by=made.by,
        note=made.note,
        decision=made.sequence,
    )
    if as_json:
        print(json.dumps(asdict(made)))
        return
    before = "" if made.previous is None else f", instead of {made.previous[:12]}"
    print(f"in use: {made.sha256[:12]} of run {made.run_id}{before}")


def _words(metrics: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in sorted(metrics.items())
    )


def _norm(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _print_rows(rows: Mapping[str, str]) -> None:
    console = _console()
    width = max(map(len, rows))
    for name, value in rows.items():
        console.print(f"[bold]{name:<{width}}[/]  {escape(value)}")


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


def _now() -> datetime:
    return datetime.now(UTC)
