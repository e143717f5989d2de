import asyncio
import os
import shutil

import pytest

from choral.config.build import Place
from choral.coordinator.seat import FOLDER, Seat
from choral.coordinator.server import UPLOADS, Server, Settings
from choral.system import SystemClock, SystemRand
from choral.testing.fakes import SeededRand


@pytest.fixture
def rand():
    return SeededRand(3)


def test_the_next_one_at_a_place_has_the_name_of_the_one_that_is_gone(tmp_path, rand):
    first = Seat(tmp_path, rand=rand)
    first.leave()
    second = Seat(tmp_path, rand=rand)
    assert (second.owner, second.folder) == (first.owner, first.folder)


def test_two_that_live_have_different_names(tmp_path, rand):
    first, second = Seat(tmp_path, rand=rand), Seat(tmp_path, rand=rand)
    assert first.owner != second.owner
    assert first.folder != second.folder
    first.leave()
    assert Seat(tmp_path, rand=rand).owner == first.owner


def test_a_copy_of_the_storage_has_other_names(tmp_path, rand):
    first = Seat(tmp_path / "one", rand=rand)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert Seat(tmp_path / "two", rand=rand).owner != first.owner


def test_a_name_that_a_crash_has_cut_is_made_anew(tmp_path, rand):
    first = Seat(tmp_path, rand=rand)
    first.leave()
    (tmp_path / FOLDER / "0").write_bytes(b"12")
    second = Seat(tmp_path, rand=rand)
    second.leave()
    assert second.owner != first.owner
    assert Seat(tmp_path, rand=rand).owner == second.owner


def test_where_nothing_can_be_locked_every_name_is_new(tmp_path, rand, monkeypatch):
    def refuse(*_):
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    first, second = Seat(tmp_path, rand=rand), Seat(tmp_path, rand=rand)
    assert first.owner != second.owner
    assert first.folder != second.folder
    first.leave()
    assert len(os.listdir(tmp_path / FOLDER)) == 1


def test_one_that_starts_beside_another_leaves_its_uploads_alone(tmp_path):
    settings = Settings(
        "127.0.0.1:0", tmp_path, Place(tmp_path), None, database=f"sqlite:///{tmp_path}/all.db"
    )

    async def started():
        server = Server(settings, clock=SystemClock(), rand=SystemRand())
        await server.start(ready=False)
        return server

    async def test():
        first = await started()
        (under_way,) = (tmp_path / UPLOADS).iterdir()
        (under_way / "a.upload").write_bytes(b"half")
        second = await started()
        assert (under_way / "a.upload").exists()
        await second.stop()
        await first.stop()
        third = await started()
        await asyncio.wait_for(third.leading.wait(), 20)
        assert not (under_way / "a.upload").exists()
        await third.stop()

    asyncio.run(test())
