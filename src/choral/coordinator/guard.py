"""Around every call: errors become statuses with their details, and faults of ours are logged."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError

from choral.core.errors import ChoralError, Malformed
from choral.wire.errors import to_status
from choral.wire.rpc import Context

LOG: Final = logging.getLogger("choral.coordinator")

MAX_TEXT: Final = 500
"""Characters of an error's message in a status and in the log."""

Note = Callable[[str, str], None]
"""Called with a call's name and an error's code for every call that was refused."""


class Reading(grpc.aio.ServerInterceptor):
    """Lets bytes that are no message through to `Guarded` as the error that they are.

    The library itself answers them with UNKNOWN, and logs a traceback.
    """

    async def intercept_service(
        self, continuation: Callable[..., Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Wrap how a call's request is read."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        return handler._replace(request_deserializer=_lenient(handler.request_deserializer))


def _lenient(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def reading(raw: bytes) -> Any:
        try:
            return read(raw)
        except DecodeError:
            return Malformed(f"{len(raw)} bytes that are no message of this call")

    return reading


class Guarded:
    """An object whose calls never raise but by gRPC's own means.

    Args:
        service: The object.
        note: Counts what was refused.
        calls: Its methods to what they are called; every other attribute stays hidden.
        streams: Those of them that give a stream.
    """

    def __init__(
        self, service: Any, *, note: Note, calls: dict[str, str], streams: frozenset[str]
    ) -> None:
        for method, name in calls.items():
            wrap = _stream if method in streams else _unary
            setattr(self, method, wrap(getattr(service, method), name, note))


def _unary(call: Callable[..., Awaitable[Any]], name: str, note: Note) -> Callable[..., Any]:
    async def guarded(request: Any, context: Context) -> Any:
        try:
            return await call(_read(request), context)
        except ChoralError as error:
            await _abort(error, name, note, context)
        except (grpc.aio.AbortError, grpc.aio.UsageError):
            raise
        except Exception as error:  # noqa: BLE001  # a fault of ours is logged and told
            await _fault(error, name, note, context)

    return guarded


def _stream(call: Callable[..., AsyncIterator[Any]], name: str, note: Note) -> Callable[..., Any]:
    async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for item in call(_read(request), context):
                yield item
        except ChoralError as error:
            await _abort(error, name, note, context)
        except (grpc.aio.AbortError, grpc.aio.UsageError):
            raise
        except Exception as error:  # noqa: BLE001  # a fault of ours is logged and told
            await _fault(error, name, note, context)

    return guarded


def _read(request: Any) -> Any:
    if isinstance(request, ChoralError):
        raise request
    return request


async def _abort(error: ChoralError, name: str, note: Note, context: Context) -> NoReturn:
    note(name, error.code)
    LOG.info("%s refused: %s: %s", name, error.code, _shown(str(error)))
    status, metadata = to_status(error)
    await context.abort(status, _shown(error.message), metadata)
    raise AssertionError  # abort never returns


async def _fault(error: Exception, name: str, note: Note, context: Context) -> NoReturn:
    note(name, "internal")
    LOG.error("%s failed", name, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "the coordinator failed on this call")
    raise AssertionError


def _shown(text: str) -> str:
    """Return words that may be a caller's, cut to size, without what no log or status can hold."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_TEXT])
