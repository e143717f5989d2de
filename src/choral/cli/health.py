"""`choral health`: whether a coordinator answers; for the health check of a container."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from choral.core.errors import ConfigError, Unavailable

DEFAULT: Final = "127.0.0.1:50051"


def command(
    coordinator: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            envvar=["CHORAL_COORDINATOR", "COORDINATOR"],
            help="The coordinator to call.",
        ),
    ] = DEFAULT,
    credentials: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="CHORAL_CREDENTIALS",
            help="A folder of `choral pki request`, with certificate and federation.json.",
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text, to a loopback address.")
    ] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for an answer.")
    ] = 3.0,
) -> None:
    """Ask a coordinator whether it serves; exit 0 if it says so, and 1 if not."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from choral.client.admin import channel, load_tls
    from choral.pki.credentials import ClientFiles

    if credentials is None and not insecure:
        raise ConfigError(
            "no certificates", hint="`--credentials DIR`, or `--insecure` on a loopback address"
        )
    tls = None if insecure or credentials is None else load_tls(ClientFiles.inside(credentials))
    with channel(coordinator, tls) as opened:
        stub: Any = health_pb2_grpc.HealthStub(opened)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            raise Unavailable(
                f"no answer from the coordinator at {coordinator}: {error.details()}"
            ) from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise Unavailable(f"the coordinator at {coordinator} does not serve")
