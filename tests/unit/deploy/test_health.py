"""`choral health`, which the coordinator's health check runs."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from choral.cli.health import command
from choral.core.errors import ConfigError, Refused, Unavailable


@pytest.fixture
def coordinator():
    """Return the address of a server, and its health."""
    with ThreadPoolExecutor(1) as pool:
        server, servicer = grpc.server(pool), health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}", servicer
        server.stop(0).wait()


def test_who_serves_is_well(coordinator):
    address, servicer = coordinator
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    command(coordinator=address, insecure=True)


def test_who_ends_is_not(coordinator):
    address, servicer = coordinator
    servicer.enter_graceful_shutdown()
    with pytest.raises(Unavailable, match="does not serve") as caught:
        command(coordinator=address, insecure=True)
    assert caught.value.exit_code == 1


def test_nobody_is_there(coordinator):
    with pytest.raises(Unavailable, match=r"no answer from the coordinator at 127\.0\.0\.1:1"):
        command(coordinator="127.0.0.1:1", insecure=True, timeout_s=1.0)


def test_plain_text_is_asked_for_and_stays_here():
    with pytest.raises(ConfigError, match="no certificates"):
        command()
    with pytest.raises(Refused, match="plain text"):
        command(coordinator="fl.example.org:50051", insecure=True)
