"""Files: whole or not there, never overwritten, private where they must be."""

import fcntl
import os
import stat

import pytest

from choral.core.errors import CertificateError
from choral.pki import files


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    """Neither a wide nor a narrow umask changes what files may do."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_private_and_public_files(tmp_path, umask):
    files.write(tmp_path / "public", b"1")
    files.write(tmp_path / "private", b"2", private=True)
    os.umask(0o077)
    files.write_new(tmp_path / "also public", b"3")
    assert mode(tmp_path / "public") == mode(tmp_path / "also public") == 0o644
    assert mode(tmp_path / "private") == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["also public", "private", "public"]


def test_a_new_file_replaces_nothing(tmp_path):
    target = tmp_path / "key.pem"
    files.write_new(target, b"first", private=True)
    with pytest.raises(CertificateError, match="exists already") as caught:
        files.write_new(target, b"second", private=True)
    assert "never overwritten" in caught.value.hint
    assert target.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["key.pem"]


def test_a_new_file_replaces_not_even_a_dangling_link(tmp_path):
    (tmp_path / "key.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CertificateError, match="exists already"):
        files.write_new(tmp_path / "key.pem", b"x", private=True)
    assert not (tmp_path / "elsewhere").exists()


def test_bytes_are_synced_before_they_get_their_name_and_the_name_after(tmp_path, monkeypatch):
    seen = []
    fsync = os.fsync

    def record(handle):
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        seen.append((kind, (tmp_path / "a").exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    files.write(tmp_path / "a", b"x")
    assert seen == [("file", False), ("folder", True)]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    files.write(tmp_path / "a", b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CertificateError, match=r"cannot write .*: No space left on device"):
        files.write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_folder_is_whole_or_not_there(tmp_path):
    with (
        pytest.raises(CertificateError, match="nowhere is missing"),
        files.new_folder(tmp_path / "deep" / "tls") as inside,
    ):
        files.write(inside / "nowhere" / "key.pem", b"x", private=True)
    assert list((tmp_path / "deep").iterdir()) == []
    with files.new_folder(tmp_path / "deep" / "tls") as inside:
        files.write(inside / "key.pem", b"x", private=True)
    assert mode(tmp_path / "deep") == mode(tmp_path / "deep" / "tls") == 0o700
    with pytest.raises(CertificateError, match="exists already"):  # noqa: SIM117
        with files.new_folder(tmp_path / "deep" / "tls"):
            pass


def test_a_folder_that_others_may_write_to_is_refused(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o775)
    with pytest.raises(CertificateError, match="others may write") as caught:
        files.private_folder(shared)
    assert "chmod 700" in caught.value.hint
    shared.chmod(0o755)
    files.private_folder(shared)


@pytest.mark.parametrize("given", [0o640, 0o604, 0o644, 0o620, 0o602, 0o601, 0o660])
def test_a_private_key_that_others_may_use_is_refused(tmp_path, given):
    key = tmp_path / "key.pem"
    files.write(key, b"x", private=True)
    key.chmod(given)
    with pytest.raises(CertificateError, match=f"others may read .mode {given:04o}") as caught:
        files.read_private(key)
    assert f"chmod 600 {key}" in caught.value.hint
    key.chmod(0o400)
    assert files.read_private(key) == b"x"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root owns files of root's")
def test_a_mounted_secret_of_roots_may_be_readable_by_our_group(tmp_path, monkeypatch):
    key = tmp_path / "key.pem"
    files.write(key, b"x", private=True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    key.chmod(0o440)
    assert files.read_private(key) == b"x"
    for given in (0o444, 0o460):
        key.chmod(given)
        with pytest.raises(CertificateError, match="others may read"):
            files.read_private(key)


@pytest.mark.parametrize("read", [files.read, files.read_private])
def test_what_cannot_be_read_is_named(tmp_path, read):
    with pytest.raises(CertificateError, match=r"absent\.pem is missing"):
        read(tmp_path / "absent.pem")
    with pytest.raises(CertificateError, match="nowhere is missing"):
        read(tmp_path / "nowhere" / "key.pem")
    (tmp_path / "folder").mkdir(mode=0o700)
    with pytest.raises(CertificateError, match="folder is not a file"):
        read(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(CertificateError, match="pipe is not a file"):
        read(tmp_path / "pipe")
    files.write(tmp_path / "large", bytes(files.LARGEST + 1), private=True)
    with pytest.raises(CertificateError, match="1048577 bytes, expected 1048576 at most"):
        read(tmp_path / "large")


def test_writing_where_there_is_no_folder_is_named(tmp_path):
    with pytest.raises(CertificateError, match="nowhere is missing"):
        files.write(tmp_path / "nowhere" / "a", b"x")


def test_lines_are_appended_and_a_torn_one_is_dropped(tmp_path):
    path = tmp_path / "register"
    path.write_bytes(b"")
    files.append_line(path, b"one")
    files.append_line(path, b"two")
    with path.open("ab") as file:
        file.write(b"a torn one, longer than the next")
    assert files.read_lines(path) == [b"one", b"two"]
    files.append_line(path, b"three")
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_one_holds_a_lock_at_a_time(tmp_path):
    path = tmp_path / "register"
    path.write_bytes(b"")
    with path.open("rb") as other:
        with files.locked(path), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
