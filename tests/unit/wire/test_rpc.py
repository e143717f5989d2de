"""The calls in Python are those of the schema."""

import inspect
import subprocess
import sys

import pytest

from choral.wire import rpc
from choral.wire.frames import CHUNK_MOST
from choral.wire.v1 import coordinator_pb2 as pb

METHODS = pb.DESCRIPTOR.services_by_name["Coordinator"].methods


class Recording:
    """A channel that notes what is asked of it."""

    def __init__(self):
        self.calls = {}

    def __getattr__(self, shape):
        return lambda path, **codecs: self.calls.setdefault(path, (shape, codecs))


def test_the_protocol_has_every_call_and_no_other():
    known = {name for name, _ in inspect.getmembers(rpc.Coordinator, inspect.isfunction)}
    calls = {name for name in known if not name.startswith("_")}
    assert calls == {
        *("join_round", "get_global_model", "exchange", "send_update", "get_upload"),
        *("report_failure", "report_evaluation"),
    }
    assert len(calls) == len(METHODS)


def test_a_client_calls_by_the_names_of_the_schema():
    channel = Recording()
    calls = rpc.CoordinatorCalls(channel)
    assert set(channel.calls) == {f"/choral.v1.Coordinator/{m.name}" for m in METHODS}
    assert calls.send_update[0] == "stream_unary"
    assert calls.get_global_model[0] == "unary_stream"
    assert calls.join_round[0] == calls.exchange[0] == "unary_unary"


def test_frames_alone_are_raw():
    channel = Recording()
    rpc.CoordinatorCalls(channel)
    raw = {
        (path.rpartition("/")[2], way)
        for path, (_, codecs) in channel.calls.items()
        for way, codec in codecs.items()
        if codec is None
    }
    assert raw == {
        ("GetGlobalModel", "response_deserializer"),
        ("SendUpdate", "request_serializer"),
    }


def test_a_message_has_room_for_the_largest_chunk():
    assert all(limit >= CHUNK_MOST + 64 for _, limit in rpc.CHANNEL_OPTIONS)


@pytest.mark.parametrize("module", ["choral", "choral.wire.transfer", "choral.wire.joining"])
def test_grpc_is_imported_only_where_calls_are_made(module):
    program = f"import sys, {module}; print('grpc' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
