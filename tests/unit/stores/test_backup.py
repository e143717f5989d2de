"""A copy that is made while runs go on can be gone on with."""

import tarfile
import threading

import pytest

from choral.core.errors import StoreError
from choral.core.ports import Record
from choral.crypto.signatures import SigningKey
from choral.federation.audit import check
from choral.stores.audit import open_trail, read_trail
from choral.stores.backup import back_up
from choral.stores.folder import RunFolder
from choral.system import SystemRand

KEY = SigningKey.random(SystemRand())


def restore(path, folder):
    folder.mkdir()
    with tarfile.open(path) as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_a_copy_is_whole_while_a_run_writes(tmp_path):
    """Each state that the copied log names is in the copy, though the run replaces its states."""
    root = tmp_path / "runs"
    folder = RunFolder(root / "heart-1")
    lease = folder.create("heart-1", {"config": {}})
    trail, store = open_trail(root, key=KEY, now=lambda: 0.0)
    blobs, stop, begun = folder.blobs(), threading.Event(), threading.Event()

    def write():
        number, old = 0, []
        while not stop.wait(0.02):
            old.append(blobs.put([b"state %d" % number]))
            trail.note("round.committed", round=number, sign=True)
            trail.flush()
            folder.store.append(lease, [Record("Committed", {"state": old[-1]})])
            if len(old) > 2:
                blobs.delete(old.pop(0))
            number += 1
            begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        begun.wait(10)
        made = [back_up(root, tmp_path / f"{n}.tar") for n in range(3)]
    finally:
        stop.set()
        writer.join()
        folder.close()
        store.close()
    for n, backup in enumerate(made):
        copy = restore(backup.path, tmp_path / f"copy-{n}")
        again = RunFolder(copy / "heart-1")
        records = list(again.store.read("heart-1"))
        assert again.blobs().get(records[-1].body["state"])
        found = check(read_trail(copy), keys=[KEY.public])
        assert found.faults == ()
        assert found.head.length >= len(records)
        assert again.resume({}).epoch == 2
        again.close()
    assert not list(root.glob(".backup-*"))
    assert made[0].path.stat().st_mode & 0o077 == 0


def test_what_is_of_the_process_alone_is_left_out(tmp_path):
    root = tmp_path / "runs"
    (root / "uploads").mkdir(parents=True)
    (root / "uploads" / "x.upload").write_bytes(b"half")
    (root / "registry.jsonl").write_text("")
    folder = RunFolder(root / "a")
    folder.create("a", {"config": {}})
    folder.close()
    back_up(root, tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        names = {m.name for m in tar.getmembers() if m.isfile()}
    assert names == {"registry.jsonl", "a.partial/run.db"}


def test_it_never_overwrites_and_says_what_is_not_there(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "out.tar").write_text("kept")
    with pytest.raises(StoreError, match="exists already"):
        back_up(tmp_path / "runs", tmp_path / "out.tar")
    with pytest.raises(StoreError, match="no folder"):
        back_up(tmp_path / "nowhere", tmp_path / "other.tar")
    with pytest.raises(StoreError, match="cannot back up"):
        back_up(tmp_path / "runs", tmp_path / "nowhere" / "other.tar")
    assert (tmp_path / "out.tar").read_text() == "kept"
