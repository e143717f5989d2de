"""Where blobs are kept, by the name of a place: a folder, or a bucket of an object store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from choral.core.errors import ConfigError, UnknownKey, did_you_mean
from choral.core.ports import BlobStore
from choral.stores.files import FolderBlobStore

QUERY = ("endpoint", "region")
"""What may follow the `?` of an S3 URL."""


def open_blobs(url: str) -> BlobStore:
    """Open a place for blobs.

    Args:
        url: The path of a folder, made where it does not exist; or
            `s3://bucket/prefix?endpoint=…&region=…`, where the prefix and all that follows may be
            left out. Credentials come from the environment: `AWS_ACCESS_KEY_ID`,
            `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` and others that S3 clients know.

    Raises:
        ConfigError: The URL names no such place.
        MissingExtra: The client for S3 is not installed.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        return FolderBlobStore(Path(url))
    if scheme != "s3":
        raise ConfigError(
            f"blobs cannot be kept under `{scheme}:`", hint="a folder, or `s3://bucket/prefix`"
        )
    parts = urlsplit(url)
    if "@" in parts.netloc or not parts.netloc:
        raise ConfigError(
            "the URL of the blobs names no bucket, or holds a key",
            hint="`s3://bucket/prefix`; keys come from AWS_ environment variables",
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for key in options.keys() - set(QUERY):
        raise UnknownKey(f"the URL of the blobs has `{key}`", hint=did_you_mean(key, QUERY))
    from choral.stores.s3 import S3BlobStore

    return S3BlobStore(
        parts.netloc,
        prefix=parts.path.strip("/"),
        endpoint=options.get("endpoint"),
        region=options.get("region"),
    )
