"""Blobs in a bucket of S3, or of a store that speaks its protocol."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import IO, TYPE_CHECKING, TypeVar

from choral.core.errors import CorruptBlob, MissingExtra, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Store

T = TypeVar("T")

IN_MEMORY = 8 * 2**20
"""Bytes of a blob that wait in memory for its digest; a larger one waits in a temporary file."""

PART = 8 * 2**20
"""Bytes of one part of a large upload; S3 wants at least 5 MiB and at most 10 000 parts."""

# A request that the server has refused; not 408 and 429, which ask to come back.
_FINAL = re.compile(r"status code: 4(?!08|29)\d\d")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class S3BlobStore:
    """Blobs as objects named by their digest.

    An object is there whole or not at all, large ones included: their parts become an object by the
    last request. The digest of a blob is known at its end, so the blocks are spooled first. Parts
    that a crash has left cost money until a lifecycle rule of the bucket removes them.

    Args:
        bucket: Its name; the bucket exists.
        prefix: Goes before the names of all objects, with a slash between.
        endpoint: URL of the server; None for Amazon's. `http:` is allowed where it is written here.
        region: The bucket's region; None for what the environment says.
        retries: How often a request is repeated before `StoreUnavailable`.

    Raises:
        MissingExtra: The package obstore is not installed.
        StoreError: The settings cannot be.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint: str | None = None,
        region: str | None = None,
        retries: int = 5,
    ) -> None:
        self._name = f"s3://{bucket}/{prefix}".rstrip("/")
        try:
            self._store = _client(bucket, prefix, endpoint, region, retries)
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"S3 needs `{error.name}`, which is not installed",
                hint="pip install 'choral[s3]'",
            ) from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    def put(self, blocks: Iterable[bytes | memoryview]) -> str:
        """Store the concatenated blocks durably.

        Raises:
            StoreUnavailable: The server cannot be reached; putting again is safe.
            StoreError: It refuses.
        """
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as spool:
            digest, size = _spool(blocks, spool)
            if not self.has(digest):
                spool.seek(0)
                self._upload(digest, spool, size)
        return digest

    def _upload(self, digest: str, spool: IO[bytes], size: int) -> None:
        import obstore

        # Parts of 8 MiB reach 78 GiB, which is beyond any model that fits in memory.
        data = spool if size > PART else spool.read()
        with self._bucket():
            self._ask(lambda: obstore.put(self._store, digest, data, chunk_size=PART))

    def get(self, digest: str) -> memoryview:
        """Return the bytes, checked against their digest."""
        import obstore

        name = _checked(digest)
        try:
            data = self._ask(lambda: memoryview(obstore.get(self._store, name).bytes()))
        except FileNotFoundError:
            raise CorruptBlob(f"blob {digest[:12]}… is not in {self._name}") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise CorruptBlob(f"blob {self._name}/{digest} does not match its name")
        return data

    def has(self, digest: str) -> bool:
        """Return whether the bytes are there."""
        import obstore

        name = _checked(digest)
        try:
            self._ask(lambda: obstore.head(self._store, name))
        except FileNotFoundError:
            return False
        return True

    def delete(self, digest: str) -> None:
        """Remove the bytes."""
        import obstore

        name = _checked(digest)
        try:
            self._ask(lambda: obstore.delete(self._store, name))
        except FileNotFoundError:
            return

    def digests(self) -> Sequence[str]:
        """Return all digests, sorted."""
        import obstore

        with self._bucket():
            pages = self._ask(lambda: list(obstore.list(self._store)))
        names = (str(item["path"]) for page in pages for item in page)
        return tuple(sorted(name for name in names if _DIGEST.fullmatch(name)))

    def _ask(self, request: Callable[[], T]) -> T:
        """Make a request; an error of the client becomes one of ours, absence stays as it is."""
        from obstore import exceptions as found

        try:
            return request()
        except (found.PermissionDeniedError, found.UnauthenticatedError):
            raise StoreError(
                f"{self._name}: the server refuses the credentials",
                hint="look at the AWS_ environment variables and at the bucket's policy",
            ) from None
        except found.GenericError as error:
            if _FINAL.search(str(error)):
                raise StoreError(f"{self._name}: {_first_line(error)}") from None
            raise StoreUnavailable(
                f"{self._name} cannot be used now: {_first_line(error)}", hint="try again"
            ) from None
        except found.BaseError as error:
            raise StoreError(f"{self._name}: {_first_line(error)}") from None

    @contextmanager
    def _bucket(self) -> Iterator[None]:
        """Say that the bucket is absent where a request does not ask for an object."""
        try:
            yield
        except FileNotFoundError:
            raise StoreError(f"{self._name}: there is no such bucket", hint="make it") from None


def _spool(blocks: Iterable[bytes | memoryview], spool: IO[bytes]) -> tuple[str, int]:
    """Write blocks to a temporary file; return their digest and their size in bytes."""
    state = hashlib.sha256()
    try:
        for block in blocks:
            state.update(block)
            spool.write(block)
    except OSError as error:
        raise StoreError(
            f"cannot write to {tempfile.gettempdir()}: {error.strerror}",
            hint="make room, or set TMPDIR",
        ) from None
    return state.hexdigest(), spool.tell()


def _client(
    bucket: str, prefix: str, endpoint: str | None, region: str | None, retries: int
) -> S3Store:
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    config: S3Config = {}
    if endpoint:
        config["endpoint"] = endpoint
    if region:
        config["region"] = region
    try:
        return S3Store(
            bucket,
            prefix=prefix or None,
            config=config,
            client_options={"allow_http": (endpoint or "").startswith("http://")},
            retry_config={"max_retries": retries, "retry_timeout": timedelta(minutes=1)},
        )
    except BaseError as error:
        raise StoreError(f"s3://{bucket}: {_first_line(error)}") from None


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise CorruptBlob(f"{digest!r} is not a digest")
    return digest


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
