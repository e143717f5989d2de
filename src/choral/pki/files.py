"""Files of keys and certificates: whole or not there, and private where they must be."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from choral.core.errors import CertificateError

LARGEST: Final = 1 << 20
"""Bytes of the largest file that is read, the register aside."""

_OTHERS: Final = 0o077
_OTHERS_BUT_GROUP_READ: Final = 0o037


def write(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file; after any crash it is there whole, or as it was before.

    Args:
        path: It is replaced where it exists.
        data: All its bytes.
        private: Whether its owner alone may read it.

    Raises:
        CertificateError: It cannot be written.
    """
    with _named("write", path), _aside(path, data, private=private) as aside:
        aside.replace(path)
        sync_folder(path.parent)


def write_new(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file that is not there yet.

    Raises:
        CertificateError: It is there, and stays as it is; or it cannot be written.
    """
    with _named("write", path), _aside(path, data, private=private) as aside:
        try:
            os.link(aside, path)  # unlike a rename it never replaces
        except FileExistsError:
            raise exists(path) from None
        sync_folder(path.parent)


def exists(path: Path) -> CertificateError:
    """Return the error for something that is never overwritten."""
    return CertificateError(
        f"{path} exists already",
        hint="keys are never overwritten: choose another folder, or move it away first",
    )


def absent(*paths: Path) -> None:
    """Check that none of the paths is there.

    Raises:
        CertificateError: One is.
    """
    for path in paths:
        if os.path.lexists(path):
            raise exists(path)


def private_folder(path: Path) -> None:
    """Make a folder for its owner alone; one that is there must be writable by nobody else.

    Raises:
        CertificateError: It cannot be made, or others may write to it.
    """
    with _named("make", path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o022:
            raise CertificateError(
                f"{path}: others may write to this folder", hint=f"chmod 700 {path}"
            )


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a new folder to fill; it gets its name, whole, when it is full.

    Raises:
        CertificateError: It is there, or cannot be made.
    """
    absent(path)
    private_folder(path.parent)
    with _named("make", path):
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=".", suffix=".tmp"))
        try:
            yield aside
            sync_folder(aside)
            aside.rename(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def read(path: Path) -> bytes:
    """Return a file that anybody may read.

    Raises:
        CertificateError: It is missing, unreadable, no file, or beyond `LARGEST`.
    """
    with _opened(path) as handle:
        return _content(path, handle)


def read_private(path: Path) -> bytes:
    """Return a file that its owner alone may read.

    A file of root's may be readable by our group, as mounted secrets are. Source: PostgreSQL's
    rule for `ssl_key_file`.

    Raises:
        CertificateError: Others may read or write it; or as for `read`.
    """
    with _opened(path) as handle:
        found = os.fstat(handle)
        lent = found.st_uid == 0 and os.geteuid() != 0
        if found.st_mode & (_OTHERS_BUT_GROUP_READ if lent else _OTHERS):
            mode = stat.S_IMODE(found.st_mode)
            raise CertificateError(
                f"{path} is a private key that others may read (mode {mode:04o}, expected 0600)",
                hint=f"chmod 600 {path}; if others had access, make new keys",
            )
        return _content(path, handle)


def append_line(path: Path, line: bytes) -> None:
    """Append a line durably; what a crash left of a line before is cut off.

    Raises:
        CertificateError: It cannot be written.
    """
    with _named("write", path), path.open("rb+") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        file.truncate(whole)
        file.seek(whole)
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[bytes]:
    """Return the complete lines of a file; the rest of a torn one is left out.

    Raises:
        CertificateError: It is missing or unreadable.
    """
    with _named("read", path):
        data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1].splitlines()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file that exists for one process at a time.

    Raises:
        CertificateError: It cannot be opened.
    """
    with _named("open", path):
        file = path.open("rb+")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _aside(path: Path, data: bytes, *, private: bool) -> Iterator[Path]:
    """Give a synced file beside `path`, which is removed unless it was renamed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    aside = Path(name)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            if not private:
                os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    with _named("read", path):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _content(path: Path, handle: int) -> bytes:
    with _named("read", path):
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise CertificateError(f"{path} is not a file")
        if found.st_size > LARGEST:
            raise CertificateError(f"{path} has {found.st_size} bytes, expected {LARGEST} at most")
        with open(handle, "rb", closefd=False) as file:
            return file.read(LARGEST)


@contextmanager
def _named(doing: str, path: Path) -> Iterator[None]:
    """Turn the system's refusal into an error of ours."""
    try:
        yield
    except FileNotFoundError:
        missing = path if path.parent.is_dir() else path.parent
        raise CertificateError(f"{missing} is missing", hint="check the path") from None
    except OSError as error:
        raise CertificateError(
            f"cannot {doing} {path}: {error.strerror}", hint="check the path and its owner"
        ) from None
