"""A coordinator that leads, is taken over, and leads again."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from choral.config.build import Place
from choral.coordinator import server as module
from choral.coordinator.leadership import LEADER
from choral.coordinator.runs import Runs
from choral.coordinator.server import Server, Settings
from choral.core.errors import Fenced, StoreUnavailable
from choral.stores.database import open_database
from choral.system import SystemClock, SystemRand

SERVING, NOT = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


def test_its_health_says_whether_it_leads_now(tmp_path, monkeypatch):
    for name in ("RENEWAL_S", "FIRST_POLL_S", "POLL_S"):
        monkeypatch.setattr(module, name, 0.02)
    url = f"sqlite:///{tmp_path}/all.db"
    settings = Settings("127.0.0.1:0", tmp_path, Place(tmp_path), None, database=url)

    async def test():
        server = Server(settings, clock=SystemClock(), rand=SystemRand())

        async def until(status):
            while (await server._health.Check(HealthCheckRequest(), None)).status != status:
                await asyncio.sleep(0.01)

        await server.start()
        await until(SERVING)
        other = open_database(url)
        taken = other.acquire(LEADER)
        other.renew(taken, seconds=30.0)
        await until(NOT)
        other.release(taken)
        await until(SERVING)
        other.close()
        await server.stop()

    asyncio.run(asyncio.wait_for(test(), 20))


@pytest.mark.parametrize("shared", [True, False])
def test_a_run_that_another_coordinator_has_taken_has_not_ended(tmp_path, shared):
    """Its own thread may know that sooner than the server does."""
    url = f"sqlite:///{tmp_path}/all.db" if shared else None
    settings = Settings("127.0.0.1:0", tmp_path, Place(tmp_path), None, database=url)
    taken, done = SimpleNamespace(status="waiting"), SimpleNamespace(status="completed")
    for run in (taken, done):
        run.ended = threading.Event()
        run.ended.set()

    async def test():
        server = Server(settings, clock=SystemClock(), rand=SystemRand())
        await server.start()
        found = server.ended(taken), server.ended(done)
        await server.stop()
        return found

    assert asyncio.run(asyncio.wait_for(test(), 20)) == (not shared, True)


def test_a_run_is_taken_up_once_the_storage_lets_go_of_it(monkeypatch):
    answers = [StoreUnavailable("locked"), StoreUnavailable("locked"), "lease"]
    run, waited = SimpleNamespace(reason="", left=False), []
    monkeypatch.setattr("choral.coordinator.runs.time.sleep", lambda s: waited.append(run.reason))

    def resume():
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    assert Runs._insist(run, resume) == "lease"
    assert waited == ["waiting for the storage: locked"] * 2
    assert run.reason == ""


def test_a_run_that_was_let_go_is_not_taken_up_once_the_storage_is_back(monkeypatch):
    """Whoever leads then goes on with it."""
    run = SimpleNamespace(reason="", left=False)

    def leave(seconds):
        run.left = True

    def resume():
        assert not run.left
        raise StoreUnavailable("no answer")

    monkeypatch.setattr("choral.coordinator.runs.time.sleep", leave)
    with pytest.raises(Fenced):
        Runs._insist(run, resume)
