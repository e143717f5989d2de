"""A coordinator that leads, is taken over, and leads again."""

import asyncio

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from choral.config.build import Place
from choral.coordinator import server as module
from choral.coordinator.leadership import LEADER
from choral.coordinator.server import Server, Settings
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
