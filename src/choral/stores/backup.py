"""A copy of a coordinator's storage in one file, made while the coordinator works."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from choral.core.errors import StoreError

TRIES: Final = 20
"""How often a folder is copied anew while its run goes on underneath."""
LEFT_OUT: Final = ("uploads", "run.lock", ".registry.lock")
"""What is of one process alone."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What a copy holds.

    Attributes:
        path: The file.
        files: How many files are in it.
        size_bytes: Its size.
    """

    path: Path
    files: int
    size_bytes: int


def back_up(root: Path, out: Path) -> Backup:
    """Write the storage folder to a tar file; whole, or not at all.

    Databases are copied by SQLite's own online backup, each before the files that it names. Files
    whose bytes never change are hard links until they are written, so that none goes meanwhile.

    Args:
        root: The folder of the runs.
        out: The file; it must not exist.

    Raises:
        StoreError: Something cannot be read or written, or a run goes too fast to be copied.
    """
    if not root.is_dir():
        raise StoreError(f"there is no folder {root}", hint="`--config FILE` names the storage")
    if out.exists():
        raise StoreError(f"{out} exists already", hint="choose another `--out`")
    part = out.with_name(f".{out.name}.part")
    try:
        # Beside the runs, so that links are possible; a leading dot keeps it out of every list.
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=root) as folder:
            aside = Path(folder) / "storage"
            files = _gather(root, aside, without=Path(folder).name)
            _write(aside, part)
        os.rename(part, out)
    except OSError as error:
        raise StoreError(f"cannot back up {root}: {error}") from None
    except sqlite3.Error as error:
        raise StoreError(f"cannot copy a database of {root}: {error}") from None
    finally:
        part.unlink(missing_ok=True)
    return Backup(out, files, out.stat().st_size)


def _write(aside: Path, part: Path) -> None:
    with open(part, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for path in sorted(aside.rglob("*")):
                tar.add(path, arcname=str(path.relative_to(aside)), recursive=False)
        file.flush()
        os.fsync(file.fileno())


def _gather(root: Path, aside: Path, *, without: str) -> int:
    """Put a consistent state of everything into a folder; return the number of files."""
    aside.mkdir(mode=0o700)
    for path in sorted(root.iterdir()):
        if path.name in LEFT_OUT or path.name.startswith((".backup-", ".removed-", without)):
            continue
        if path.is_dir() and not path.is_symlink():
            _folder(path, aside / path.name)
        elif path.name != "audit.db" and path.is_file():
            _file(path, aside / path.name)
    # Last, so that it is never older than the runs; a trail that says more is no fault.
    if (root / "audit.db").exists():
        _file(root / "audit.db", aside / "audit.db")
    return sum(p.is_file() for p in aside.rglob("*"))


def _folder(path: Path, to: Path) -> None:
    """Copy one run; again where it went on underneath, or was completed."""
    for _ in range(TRIES):
        source = path if path.exists() else path.with_name(path.name.removesuffix(".partial"))
        target = to.with_name(source.name)
        try:
            before = _state(source)
            for file in _files(source):
                into = target / file.relative_to(source)
                into.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                _file(file, into)
            if _state(source) == before:
                return
        except FileNotFoundError:
            pass
        shutil.rmtree(target, ignore_errors=True)
    raise StoreError(
        f"{path} changes too fast to be copied", hint="stop the coordinator, and copy it then"
    )


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder, its database first: blobs that it names come after it."""
    found = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    found = [p for p in found if p.name not in LEFT_OUT and not p.name.endswith(("-wal", "-shm"))]
    found = [p for p in found if not (p.name.startswith(".") and p.suffix == ".tmp")]
    yield from sorted(found, key=lambda p: (p.suffix != ".db", str(p)))


def _state(folder: Path) -> tuple[object, ...]:
    """Return what differs once a run has gone on: names of its blobs, rows of its log."""
    names = tuple(sorted(p.name for p in folder.rglob("*") if p.suffix != ".tmp"))
    names = tuple(n for n in names if not n.endswith(("-wal", "-shm")))
    database = folder / "run.db"
    if not database.exists():
        return (names,)
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        rows = db.execute("select count(*), max(seq) from events").fetchone()
    return (names, *rows)


def _file(path: Path, to: Path) -> None:
    if path.suffix == ".db":
        with (
            closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(to)) as target,
        ):
            source.backup(target)
        to.chmod(0o600)
        return
    try:
        os.link(path, to)  # its bytes never change: files are replaced, not written to
    except OSError:
        shutil.copy2(path, to)
