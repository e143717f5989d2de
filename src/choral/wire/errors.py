"""Errors as gRPC carries them.

The status comes from the one table that has it, `core.errors.GRPC_STATUS`. Code, message, hint and
whether to try again travel as an `ErrorDetail` in the trailing metadata, where every gRPC library
can read them without a further package.
"""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf.message import DecodeError

from choral.core.errors import (
    ChoralError,
    Malformed,
    Refused,
    TooLarge,
    Unavailable,
    VersionMismatch,
    by_code,
    grpc_status,
)
from choral.wire.v1.error_pb2 import ErrorDetail

DETAIL_KEY: Final = "choral-error-bin"
MAX_TEXT: Final = 2048
"""Characters of a message or hint: peers drop metadata above 8 KiB, and UTF-8 may need 3 each."""

_UNREACHABLE: Final = (
    "is the coordinator running at this address, and has this side a certificate of the "
    "federation's authority? A missing one looks the same"
)

Metadata = tuple[tuple[str, bytes], ...]

FOREIGN: Final[dict[grpc.StatusCode, tuple[type[ChoralError], str]]] = {
    grpc.StatusCode.UNAVAILABLE: (Unavailable, _UNREACHABLE),
    grpc.StatusCode.DEADLINE_EXCEEDED: (Unavailable, "the answer took too long: try again"),
    grpc.StatusCode.CANCELLED: (Unavailable, "the call was cut off: try again"),
    grpc.StatusCode.UNIMPLEMENTED: (VersionMismatch, "the other side does not know this call"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (TooLarge, "a message above gRPC's limit"),
    grpc.StatusCode.UNAUTHENTICATED: (Refused, "look at the certificate of this side"),
    grpc.StatusCode.PERMISSION_DENIED: (Refused, "look at the role of this side's certificate"),
    grpc.StatusCode.INVALID_ARGUMENT: (Malformed, ""),
}
"""What a status means that came without our detail: from gRPC itself, or from a proxy."""

STATUS_LOST: Final = "Internal error from Core"
"""What gRPC's asyncio client says, as INTERNAL, where the other side ended a stream of requests
early and a write failed before the true status was read (grpc/grpc issue 36066)."""


def to_status(error: ChoralError) -> tuple[grpc.StatusCode, Metadata]:
    """Return the gRPC status of an error, and the trailing metadata that says the rest.

    Use both, with `error.message`, as the arguments of `ServicerContext.abort`. What is in
    `error.details`, a traceback, does not travel.
    """
    detail = ErrorDetail(
        code=error.code,
        message=_printable(error.message),
        hint=_printable(error.hint),
        retryable=error.retryable,
    )
    status = grpc.StatusCode[grpc_status(error)]
    return status, ((DETAIL_KEY, detail.SerializeToString()),)


def from_rpc_error(error: grpc.RpcError) -> ChoralError:
    """Return the error that a failed call means, to be raised `from` it.

    Guarantees: a code that this version does not know gives the class of the status, with the
    code, the message and `retryable` as they were sent. Text of the other side holds no control
    characters, so it can be shown on a terminal.
    """
    status, text, detail = grpc.StatusCode.UNKNOWN, str(error), None
    if isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        status, text, detail = error.code(), error.details() or "", _detail(error)
    foreign, hint = FOREIGN.get(status, (ChoralError, ""))
    if detail is None and status is grpc.StatusCode.INTERNAL and text == STATUS_LOST:
        foreign, hint = Unavailable, "the answer to the call was lost: try again"
    if detail is None:
        reason = _printable(text) or "no reason was given"
        return _made(foreign, f"gRPC {status.name}: {reason}", hint)
    made = error_of(
        detail.code, _printable(detail.message), _printable(detail.hint), unknown=foreign
    )
    made.code = _printable(detail.code)
    made.retryable = detail.retryable
    return made


def error_of(
    code: str, message: str, hint: str = "", *, unknown: type[ChoralError] = ChoralError
) -> ChoralError:
    """Return the error that a code stands for.

    Args:
        code: Of a class of the tree.
        message: What it says.
        hint: What to do about it.
        unknown: The class where no class has this code.
    """
    kind = by_code(code)
    return _made(unknown if kind is ChoralError else kind, message, hint)


def _made(kind: type[ChoralError], message: str, hint: str) -> ChoralError:
    """Return an error of a class, whatever its own constructor takes."""
    error = kind.__new__(kind)
    ChoralError.__init__(error, message, hint=hint)
    return error


def _detail(error: grpc.Call | grpc.aio.AioRpcError) -> ErrorDetail | None:
    """Return our detail, or None where there is none that can be read."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAIL_KEY and isinstance(value, bytes):
            try:
                return ErrorDetail.FromString(value)
            except DecodeError:
                return None
    return None


def _printable(text: str) -> str:
    """Return a text cut to size, with a space for each control character."""
    shown = "".join(c if c.isprintable() else " " for c in text[:MAX_TEXT])
    return shown if len(text) <= MAX_TEXT else shown[:-1] + "…"
