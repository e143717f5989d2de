"""What `choral doctor` says of places where something is kept."""

from __future__ import annotations

import os
import secrets
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from choral.core.errors import ChoralError, StoreError

LITTLE: Final = 1 << 30
"""Free bytes below which it warns."""
NOTHING: Final = 64 << 20
"""Free bytes below which a run would soon stop."""
SLOW_S: Final = 0.05
"""A disk that takes longer to make something durable slows every round."""
TIMES: Final = 5

Found = tuple[str, str, str, str]
"""Name, `ok`, `warning` or `error`, what was found, and how to mend it."""


def folder_checks(root: Path) -> Iterator[Found]:
    """Yield what is wrong with a folder of runs, or how it is."""
    there = next(p for p in (root.absolute(), *root.absolute().parents) if p.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        hint = "`storage: {path: …}`, or CHORAL_STORAGE_PATH"
        yield "storage", "error", f"{there} cannot be written to", hint
        return
    yield "storage", "ok", f"runs rest in {root}", ""
    yield _free(shutil.disk_usage(there).free)
    yield _speed(there)
    if (root / "audit.db").exists():
        yield _trail(root)


def _free(free: int) -> Found:
    said = f"{free / 1e9:.1f} GB are free"
    hint = "make room: `choral run prune --keep N`"
    if free < NOTHING:
        return "storage: room", "error", said, hint
    return (
        "storage: room",
        "warning" if free < LITTLE else "ok",
        said,
        hint if free < LITTLE else "",
    )


def _speed(folder: Path) -> Found:
    """Measure how long it takes to make a small file durable; it is removed again."""
    path = folder / f".{secrets.token_hex(8)}.tmp"
    took = []
    try:
        with open(path, "xb") as file:
            for _ in range(TIMES):
                file.write(bytes(4096))
                file.flush()
                start = time.perf_counter()
                os.fsync(file.fileno())
                took.append(time.perf_counter() - start)
    except OSError as error:
        return "storage: speed", "error", f"cannot write to {folder}: {error.strerror}", "make room"
    finally:
        path.unlink(missing_ok=True)
    typical = statistics.median(took)
    said = f"{typical * 1e3:.1f} ms to make a write durable"
    if typical > SLOW_S:
        return "storage: speed", "warning", said, "a local disk is faster than one over a network"
    return "storage: speed", "ok", said, ""


def _trail(root: Path) -> Found:
    from choral.federation.audit import check
    from choral.stores.audit import read_trail

    try:
        found = check(read_trail(root))
        if found.faults:
            raise StoreError(found.faults[0], hint="`choral audit verify` says all that is wrong")
    except ChoralError as error:
        return "audit", "error", error.message, error.hint
    return "audit", "ok", f"{found.head.length} entries, the first {found.signed} signed", ""


def store_check(url: str) -> Found:
    """Say whether a database or an object store can be reached; nothing is made or changed."""
    scheme = url.partition("://")[0] if "://" in url else "folder"
    name = f"store: {scheme}"
    try:
        return name, "ok", _blobs(url) if scheme in ("s3", "folder") else _database(url), ""
    except ChoralError as error:
        return name, "error", error.message, error.hint


def _blobs(url: str) -> str:
    from choral.stores.blobs import open_blobs

    if "://" not in url:
        if not Path(url).is_dir():
            raise StoreError(f"there is no folder {url}")
        return f"{len(open_blobs(url).digests())} blobs"
    open_blobs(url).has("0" * 64)
    return "the bucket answers"


def _database(url: str) -> str:
    from choral.stores.engines import backend_of
    from choral.stores.schema import format_of
    from choral.stores.tables import FORMAT

    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not path.exists():
        raise StoreError(f"there is no database {path}", hint="a coordinator makes it")
    backend = backend_of(url)
    try:
        with backend.transaction(write=False) as db:
            found = format_of(db)
    finally:
        backend.engine.dispose()
    if found is None:
        return f"{backend.name} answers, and has no tables yet"
    if found > FORMAT:
        raise StoreError(
            f"{backend.name} has format {found}, this version reads {FORMAT}",
            hint="use the version of Choral that wrote it",
        )
    older = "" if found == FORMAT else f"; opening it leads to format {FORMAT}: back it up first"
    return f"{backend.name} answers, format {found}{older}"
