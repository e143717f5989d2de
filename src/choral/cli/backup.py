"""`choral backup`: a copy of a coordinator's storage, made while it works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    storage: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the runs: `storage.path`.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The tar file to write.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Copy a coordinator's storage to one file, while the coordinator works.

    To restore it, unpack it into an empty folder: `tar -xf FILE -C DIR`.
    """
    from choral.stores.backup import back_up

    made = back_up(storage, out)
    if as_json:
        print(json.dumps({"path": str(made.path), "files": made.files, "bytes": made.size_bytes}))
        return
    print(f"{made.path}: {made.files} files, {made.size_bytes} bytes")
