"""Places for blobs: how they are named, and what a bucket may do."""

import sys

import pytest

from choral.core.errors import (
    ConfigError,
    CorruptBlob,
    MissingExtra,
    StoreError,
    StoreUnavailable,
    UnknownKey,
)
from choral.stores.blobs import open_blobs
from choral.stores.files import FolderBlobStore
from choral.stores.s3 import S3BlobStore

on_s3 = pytest.mark.xdist_group("s3")


def place(url):
    bucket, _, rest = url.removeprefix("s3://").partition("/")
    return bucket, rest.partition("endpoint=")[2].partition("&")[0]


def beside(url, **options):
    """Return a store of the same bucket without the prefix."""
    bucket, endpoint = place(url)
    return S3BlobStore(bucket, endpoint=endpoint, region="us-east-1", **options)


def test_a_path_is_a_folder(tmp_path):
    blobs = open_blobs(str(tmp_path / "blobs"))
    assert isinstance(blobs, FolderBlobStore)
    assert (tmp_path / "blobs" / blobs.put([b"x"])).exists()


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        ("gs://bucket", ConfigError, "`gs:`"),
        ("s3://", ConfigError, "no bucket"),
        ("s3://key:hunter-two@bucket/a", ConfigError, "holds a key"),
        ("s3://bucket?endpont=http://hunter-two", UnknownKey, "`endpont`"),
    ],
)
def test_a_url_that_names_no_place_is_refused(url, kind, words):
    with pytest.raises(kind) as caught:
        open_blobs(url)
    assert words in caught.value.message
    assert "hunter-two" not in str(caught.value)


def test_a_missing_client_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(MissingExtra, match=r"choral\[s3\]"):
        open_blobs("s3://bucket")


@on_s3
def test_a_prefix_keeps_blobs_apart_and_strangers_are_no_blobs(s3_url):
    import obstore

    blobs = open_blobs(s3_url)
    digest = blobs.put([b"abc"])
    root = beside(s3_url)
    assert root.digests() == ()
    assert not root.has(digest)
    assert obstore.head(root._store, f"some/prefix/{digest}")["size"] == 3
    obstore.put(root._store, "some/prefix/notes.txt", b"x")
    assert blobs.digests() == (digest,)


@on_s3
def test_a_changed_object_is_noticed(s3_url):
    import obstore

    blobs = open_blobs(s3_url)
    digest = blobs.put([b"abc"])
    obstore.put(blobs._store, digest, b"abd")
    with pytest.raises(CorruptBlob, match="does not match"):
        blobs.get(digest)


@on_s3
def test_a_blob_that_is_there_is_not_sent_again(s3_url, monkeypatch):
    import obstore

    blobs = open_blobs(s3_url)
    digest = blobs.put([b"abc"])
    monkeypatch.setattr(obstore, "put", None)
    assert blobs.put([b"a", b"bc"]) == digest


@on_s3
def test_a_bucket_that_is_not_there_is_named(s3_url):
    _, endpoint = place(s3_url)
    blobs = S3BlobStore("no-such-bucket", endpoint=endpoint, region="us-east-1")
    with pytest.raises(StoreError, match="no such bucket"):
        blobs.put([b"x"])
    with pytest.raises(StoreError) as caught:
        blobs.digests()
    assert not caught.value.retryable


def test_a_server_that_is_away_may_be_tried_again(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hunter-two")
    blobs = S3BlobStore("bucket", endpoint="http://127.0.0.1:1", retries=0)
    for action in (lambda: blobs.put([b"x"]), lambda: blobs.get("0" * 64), blobs.digests):
        with pytest.raises(StoreUnavailable) as caught:
            action()
        assert caught.value.retryable
        assert "hunter-two" not in str(caught.value)
    assert repr(blobs) == "S3BlobStore('s3://bucket')"


def test_a_full_temporary_folder_is_an_error_of_ours(monkeypatch):
    blobs = S3BlobStore("bucket", endpoint="http://127.0.0.1:1", retries=0)

    def blocks():
        yield b"x"
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        blobs.put(blocks())
