"""An error arrives as what it was, whatever the other side knows or says."""

import grpc
import pytest
from grpc import aio

from choral.core import errors
from choral.core.errors import (
    GRPC_STATUS,
    ChoralError,
    Malformed,
    NoQuorum,
    Refused,
    TooLarge,
    Truncated,
    Unavailable,
    VersionMismatch,
)
from choral.secagg.refusals import Breach, Reason
from choral.wire.errors import (
    DETAIL_KEY,
    FOREIGN,
    MAX_TEXT,
    STATUS_LOST,
    from_rpc_error,
    to_status,
)
from choral.wire.v1.error_pb2 import ErrorDetail


def tree(kind=ChoralError):
    below = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return [kind, *(found for child in below for found in tree(child))]


def failed(status, metadata=(), details="text"):
    return aio.AioRpcError(status, aio.Metadata(), aio.Metadata(*metadata), details=details)


def there_and_back(error):
    status, metadata = to_status(error)
    return from_rpc_error(failed(status, metadata))


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.code)
def test_every_error_of_the_tree_survives_the_way(kind):
    back = there_and_back(kind("what was wrong", hint="what to do", details="a traceback"))
    assert type(back) is kind
    assert (back.message, back.hint) == ("what was wrong", "what to do")
    assert (back.code, back.exit_code, back.retryable) == (
        kind.code,
        kind.exit_code,
        kind.retryable,
    )
    assert back.details == ""


def test_the_status_is_that_of_the_one_table():
    for kind in tree():
        expected = GRPC_STATUS.get(kind.code)
        if expected:
            assert to_status(kind("x"))[0].name == expected
    assert to_status(NoQuorum("x"))[0] is grpc.StatusCode.ABORTED


def test_an_error_of_another_room_arrives_as_its_branch():
    back = there_and_back(Breach(Reason.REPLAYED, "answered before"))
    assert isinstance(back, Refused)
    assert back.message == "attempt_already_answered: answered before"


def test_an_unknown_code_has_the_class_of_its_status():
    detail = ErrorDetail(code="from_the_future", message="m", hint="h", retryable=True)
    metadata = ((DETAIL_KEY, detail.SerializeToString()),)
    back = from_rpc_error(failed(grpc.StatusCode.PERMISSION_DENIED, metadata))
    assert type(back) is Refused
    assert (back.code, back.message, back.hint) == ("from_the_future", "m", "h")
    assert back.retryable
    assert not Refused.retryable
    assert type(from_rpc_error(failed(grpc.StatusCode.INTERNAL, metadata))) is ChoralError


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Unavailable),
        (grpc.StatusCode.CANCELLED, Unavailable),
        (grpc.StatusCode.UNIMPLEMENTED, VersionMismatch),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, TooLarge),
        (grpc.StatusCode.UNAUTHENTICATED, Refused),
        (grpc.StatusCode.PERMISSION_DENIED, Refused),
        (grpc.StatusCode.INVALID_ARGUMENT, Malformed),
        (grpc.StatusCode.INTERNAL, ChoralError),
    ],
)
def test_a_status_without_our_detail(status, kind):
    back = from_rpc_error(failed(status, details="reason"))
    assert type(back) is kind
    assert back.message == f"gRPC {status.name}: reason"


def test_a_missing_certificate_is_named_where_nothing_answers():
    assert "certificate" in FOREIGN[grpc.StatusCode.UNAVAILABLE][1]
    assert from_rpc_error(failed(grpc.StatusCode.UNAVAILABLE)).retryable


def test_detail_that_cannot_be_read_counts_for_nothing():
    back = from_rpc_error(failed(grpc.StatusCode.ABORTED, ((DETAIL_KEY, b"\xff\xff"),)))
    assert back.message == "gRPC ABORTED: text"


def test_a_status_that_grpc_lost_is_asked_for_again():
    lost = from_rpc_error(failed(grpc.StatusCode.INTERNAL, details=STATUS_LOST))
    assert type(lost) is Unavailable
    assert lost.retryable
    fault = from_rpc_error(failed(grpc.StatusCode.INTERNAL, details="the coordinator failed"))
    assert not fault.retryable


def test_a_failure_without_a_status():
    assert from_rpc_error(grpc.RpcError("broken")).message == "gRPC UNKNOWN: broken"
    assert from_rpc_error(grpc.RpcError()).message == "gRPC UNKNOWN: no reason was given"
    assert from_rpc_error(failed(grpc.StatusCode.ABORTED, details="")).message.endswith("given")


def test_text_is_cut_and_cannot_steer_a_terminal():
    status, metadata = to_status(Truncated("ß€" * 9000, hint="\x1b[2Jgone"))
    assert sum(len(value) for _, value in metadata) < 8000
    back = from_rpc_error(failed(status, metadata))
    assert len(back.message) == MAX_TEXT
    assert back.message.endswith("€…") or back.message.endswith("ß…")
    assert back.hint == " [2Jgone"
    raw = ErrorDetail(code="truncated", message="\x1b[31mred")
    steering = from_rpc_error(failed(status, ((DETAIL_KEY, raw.SerializeToString()),)))
    assert steering.message == " [31mred"
