"""Whether a coordinator can be reached, step by step, for `choral doctor`."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from choral.client.admin import WITHOUT_CERTIFICATE, channel, load_tls
from choral.core.errors import ChoralError, Refused, Stale, Unavailable, VersionMismatch
from choral.pki.addresses import split_address
from choral.pki.credentials import ClientFiles
from choral.pki.names import Role
from choral.wire.errors import from_rpc_error
from choral.wire.v1 import admin_pb2, coordinator_pb2
from choral.wire.v1.admin_pb2_grpc import AdminStub
from choral.wire.v1.coordinator_pb2_grpc import CoordinatorStub
from choral.wire.versions import PROTOCOL_VERSION

WAIT_S: Final = 5.0
"""Longest wait for one step."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step on the way to a coordinator.

    Attributes:
        name: Such as `TLS`.
        good: Whether it went well.
        message: What was found.
        hint: What to do; empty where it went well.
    """

    name: str
    good: bool
    message: str
    hint: str = ""


def reach(address: str, where: ClientFiles | None) -> Iterator[Step]:
    """Yield the steps to a coordinator, up to the first that fails.

    Nothing changes at the coordinator: a client does not join, and no run begins.

    Args:
        address: HOST:PORT.
        where: Certificate and key; None for plain text to a loopback address.
    """
    steps = (_name, _port, _tls, _health, _version)
    for step in steps:
        try:
            message = step(address, where)
        except _Failed as failed:
            yield Step(failed.name, False, failed.message, failed.hint)
            return
        except ChoralError as error:
            yield Step(_NAMES[step], False, error.message, error.hint)
            return
        if message:
            yield Step(_NAMES[step], True, message)


class _Failed(Exception):
    """A step went wrong.

    Args:
        name: The step.
        message: What was found.
        hint: What to do.
    """

    def __init__(self, name: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.hint = hint


def _name(address: str, where: ClientFiles | None) -> str:
    host, port = split_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _Failed(
            "name",
            f"{host} has no address: {error.strerror or error}",
            "correct the host, or ask whoever keeps its DNS",
        ) from None
    return f"{host} is " + ", ".join(sorted({str(entry[4][0]) for entry in found}))


def _port(address: str, where: ClientFiles | None) -> str:
    try:
        socket.create_connection(split_address(address), timeout=WAIT_S).close()
    except OSError as error:
        raise _Failed(
            "port",
            f"no connection to {address}: {error.strerror or error}",
            "is the coordinator running there, and does a firewall let this machine out?",
        ) from None
    return f"{address} takes connections"


def _tls(address: str, where: ClientFiles | None) -> str:
    """Shake hands, which says more about what is wrong than gRPC does."""
    if where is None:
        return ""
    tls = load_tls(where)
    context = ssl.create_default_context(cadata=tls.authority.decode())
    context.load_cert_chain(where.certificate, where.key)
    context.set_alpn_protocols(["h2"])
    host, port = split_address(address)
    try:
        with (
            socket.create_connection((host, port), timeout=WAIT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            version = secure.version()
    except ssl.SSLCertVerificationError as error:
        raise _Failed(
            "TLS",
            f"the coordinator's certificate is not good: {error.verify_message}",
            "it must be of the authority in federation.json and name this host: "
            "`choral pki coordinator … --name HOST`",
        ) from None
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise _Failed(
            "TLS",
            f"no TLS with {address}: {reason}",
            "a coordinator with `--insecure` has no TLS; another service may be at this port",
        ) from None
    return f"{version} with the coordinator's certificate, which is good for {host}"


def _health(address: str, where: ClientFiles | None) -> str:
    tls = None if where is None else load_tls(where)
    with channel(address, tls) as opened:
        stub: Any = health_pb2_grpc.HealthStub(opened)
        try:
            found = stub.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        except grpc.RpcError as error:
            named = from_rpc_error(error)
            hint = named.hint
            if isinstance(named, Unavailable):
                hint = (
                    "a coordinator with certificates wants yours: `--credentials DIR`"
                    if where is None
                    else "it may have turned this certificate away: was it revoked, or is the "
                    "coordinator of another federation?"
                )
            raise _Failed("health", named.message, hint) from None
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(found.status)
    if found.status != health_pb2.HealthCheckResponse.SERVING:
        raise _Failed("health", f"the coordinator is {name}", "it is coming up or going down: wait")
    return f"the coordinator is {name}"


def _version(address: str, where: ClientFiles | None) -> str:
    """Make a call that changes nothing, of the role that we have."""
    tls = None if where is None else load_tls(where)
    metadata = WITHOUT_CERTIFICATE if tls is None else ()
    role = Role.OPERATOR if tls is None else tls.identity.role
    with channel(address, tls) as opened:
        try:
            if role == Role.CLIENT:
                asked = coordinator_pb2.UploadRequest(
                    protocol_version=PROTOCOL_VERSION, token=bytes(32), sha256="0" * 64
                )
                CoordinatorStub(opened).GetUpload(asked, timeout=WAIT_S)
            else:
                listed = admin_pb2.ListRunsRequest(protocol_version=PROTOCOL_VERSION)
                AdminStub(opened).ListRuns(listed, metadata=metadata, timeout=WAIT_S)
        except grpc.RpcError as error:
            named = from_rpc_error(error)
            if not isinstance(named, Stale):  # nobody's upload: all before that was in order
                name = "version" if isinstance(named, VersionMismatch) else "access"
                hint = named.hint or (
                    "ask the coordinator's operator" if isinstance(named, Refused) else ""
                )
                raise _Failed(name, named.message, hint) from None
    return f"version {PROTOCOL_VERSION} of the protocol, as {role}"


_NAMES: Final = {
    _name: "name",
    _port: "port",
    _tls: "TLS",
    _health: "health",
    _version: "version",
}
