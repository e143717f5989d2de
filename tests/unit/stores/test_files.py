"""Files that survive a crash: what is synced, in which order."""

import os

import pytest

from choral.core.errors import CorruptBlob
from choral.stores.files import FolderBlobStore, write_durably


@pytest.fixture
def calls(monkeypatch):
    """Record syncs and renames in their order."""
    seen = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(handle):
        seen.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def spy_replace(source, target, **more):
        seen.append(("rename", str(target)))
        replace(source, target, **more)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    return seen


def test_a_file_is_synced_before_its_name_and_its_folder_after(tmp_path, calls):
    write_durably(tmp_path / "a", [b"12", b"3"])
    assert (tmp_path / "a").read_bytes() == b"123"
    (first, aside), (last, folder) = calls[0], calls[-1]
    assert first == last == "fsync"
    assert aside.endswith(".tmp")
    assert folder == str(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_blob_is_synced_and_so_is_its_folder(tmp_path, calls):
    FolderBlobStore(tmp_path / "blobs").put([b"x"])
    synced = [path for kind, path in calls if kind == "fsync"]
    assert synced[0].endswith(".tmp")
    assert synced[-1] == str(tmp_path / "blobs")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_bytes(b"old")

    def blocks():
        yield b"new"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_durably(tmp_path / "a", blocks())
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_changed_blob_is_noticed(tmp_path):
    store = FolderBlobStore(tmp_path)
    digest = store.put([b"abc"])
    (tmp_path / digest).write_bytes(b"abd")
    with pytest.raises(CorruptBlob, match="does not match"):
        store.get(digest)


def test_leftovers_of_a_crash_are_no_blobs(tmp_path):
    (tmp_path / ".0123.tmp").write_bytes(b"half")
    assert FolderBlobStore(tmp_path).digests() == ()
