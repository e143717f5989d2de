"""What operators, researchers and auditors ask of a coordinator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import grpc

from choral.core.errors import ChoralError, Malformed, Unavailable
from choral.pki import certificates, files
from choral.pki.addresses import check_insecure, split_address
from choral.pki.credentials import ClientFiles, Tls, load_client
from choral.pki.identity import identity
from choral.pki.names import Role
from choral.wire import names
from choral.wire.errors import from_rpc_error
from choral.wire.rpc import CHANNEL_OPTIONS
from choral.wire.v1 import admin_pb2 as pb
from choral.wire.v1 import run_pb2
from choral.wire.v1.admin_pb2_grpc import AdminStub
from choral.wire.versions import PROTOCOL_VERSION

CALL_S: Final = 30.0
"""Longest wait for the answer to a call."""
TRIES: Final = 3
WITHOUT_CERTIFICATE: Final = (
    (names.CLIENT_ID, Role.OPERATOR.value),
    (names.ROLE, Role.OPERATOR.value),
)
"""What a caller in plain text says of itself: on a loopback address it is an operator."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run.

    Attributes:
        sequence: Its number, from 1.
        kind: Its name, such as `Committed`.
        body: Its fields.
    """

    sequence: int
    kind: str
    body: Mapping[str, Any]


def role_of(where: ClientFiles) -> Role:
    """Return the role that a certificate gives, before anything else of it is checked.

    Raises:
        CertificateError: It cannot be read.
        Refused: It names no party.
    """
    what = str(where.certificate)
    return identity(certificates.load(files.read(where.certificate), where=what)).role


def load_tls(where: ClientFiles) -> Tls:
    """Return certificate and key of a party of any role but the coordinator's.

    Raises:
        CertificateError: A file cannot be used.
    """
    now = datetime.now(UTC)
    return load_client(where, at=now, role=role_of(where), enrolled=False).tls


def channel(address: str, tls: Tls | None) -> grpc.Channel:
    """Return a connection: over TLS, or in plain text to a loopback address.

    Raises:
        ConfigError: The address is none.
        Refused: Plain text to another machine.
    """
    split_address(address)
    if tls is None:
        check_insecure(address)
        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate)
    return grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


class Admin:
    """Calls of `choral.v1.Admin`; what goes wrong is an error of this project's tree.

    Args:
        stub: The stubs.
        address: Where they lead, for messages.
        metadata: Goes with every call.
    """

    def __init__(
        self, stub: AdminStub, address: str, metadata: tuple[tuple[str, str], ...]
    ) -> None:
        self._stub = stub
        self._address = address
        self._metadata = metadata

    def submit(self, federation: Mapping[str, Any], *, request_id: str) -> str:
        """Begin a run; return its id. It is begun once, even where an answer was lost."""
        request = pb.CreateRunRequest(
            protocol_version=PROTOCOL_VERSION,
            federation_json=json.dumps(federation).encode(),
            request_id=request_id,
        )
        for _ in range(TRIES - 1):
            with suppress(Unavailable):
                return self._call(self._stub.CreateRun, request).run_id
        return self._call(self._stub.CreateRun, request).run_id

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs that we may see, as JSON."""
        request = pb.ListRunsRequest(protocol_version=PROTOCOL_VERSION)
        return [
            {
                "run_id": run.run_id,
                "name": run.name,
                "status": status_name(run.status),
                "round": run.round,
                "rounds": run.rounds,
                "created": datetime.fromtimestamp(run.created_s, UTC).isoformat(timespec="seconds"),
                "reason": run.reason,
            }
            for run in self._call(self._stub.ListRuns, request).runs
        ]

    def run(self, run_id: str) -> dict[str, Any]:
        """Return one run, as JSON."""
        request = pb.GetRunRequest(protocol_version=PROTOCOL_VERSION, run_id=run_id)
        return _object(self._call(self._stub.GetRun, request).result_json)

    def watch(self, run_id: str) -> Iterator[Event]:
        """Yield a run's events, those to come as well, until it has ended."""
        request = pb.WatchRunRequest(protocol_version=PROTOCOL_VERSION, run_id=run_id)
        events = self._stub.WatchRun(request, metadata=self._metadata)
        try:
            for event in events:
                yield Event(event.sequence, event.kind, _object(event.body_json))
        except grpc.RpcError as error:
            raise self._named(error) from None
        finally:
            events.cancel()

    def stop(self, run_id: str, reason: str) -> str:
        """End a run where it is; return its status."""
        request = pb.StopRunRequest(protocol_version=PROTOCOL_VERSION, run_id=run_id, reason=reason)
        return status_name(self._call(self._stub.StopRun, request).status)

    def open(self, run_id: str) -> None:
        """Release the next round of a run that waits for an operator."""
        request = pb.OpenRoundRequest(protocol_version=PROTOCOL_VERSION, run_id=run_id)
        self._call(self._stub.OpenRound, request)

    def _call(self, call: Callable[..., T], request: Any) -> T:
        try:
            return call(request, metadata=self._metadata, timeout=CALL_S)
        except grpc.RpcError as error:
            raise self._named(error) from None

    def _named(self, error: grpc.RpcError) -> ChoralError:
        """Return the error of a call that failed; one without an answer names the address."""
        found = from_rpc_error(error)
        if isinstance(found, Unavailable):
            found.message = f"no answer from the coordinator at {self._address}: {found.message}"
        return found


@contextmanager
def admin(address: str, where: ClientFiles | None) -> Iterator[Admin]:
    """Give the calls to a coordinator.

    Args:
        address: HOST:PORT.
        where: Certificate and key; None for plain text to a loopback address.

    Raises:
        ConfigError: The address is none.
        CertificateError: A file cannot be used.
        Refused: Plain text to another machine.
    """
    tls = None if where is None else load_tls(where)
    with channel(address, tls) as opened:
        yield Admin(AdminStub(opened), address, WITHOUT_CERTIFICATE if tls is None else ())


def status_name(status: run_pb2.RunStatus.ValueType) -> str:
    """Return a status in a word; a number that this version does not know stays a number.

    >>> status_name(run_pb2.RUN_STATUS_RUNNING)
    'running'
    """
    try:
        return run_pb2.RunStatus.Name(status).removeprefix("RUN_STATUS_").lower()
    except ValueError:
        return str(status)


def _object(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Malformed("the coordinator's answer is no JSON object")
    return body
