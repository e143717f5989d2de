"""The service `Coordinator` on grpc.aio, with raw bytes on the bulk path.

Where the schema says `stream Frame`, a call here takes and gives the frame's bytes and no message,
so that the library never copies them; see `frames`. Other calls take and give messages. For the
service `Admin` the generated code does.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol, TypeAlias

import grpc
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc import aio

from choral.wire.frames import MAX_FRAME_BYTES
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.v1.transfer_pb2 import Frame

CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_BYTES),
)
"""For channels and servers: gRPC's own limit, 4 MiB, has no room for a chunk with its header."""

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["Coordinator"]

Context: TypeAlias = aio.ServicerContext[Any, Any]


class Coordinator(Protocol):
    """What a coordinator does with the calls of `choral.v1.Coordinator`."""

    async def join_round(self, request: pb.JoinRequest, context: Context) -> pb.JoinResponse:
        """Hold the call until there is something to say."""
        ...

    def get_global_model(
        self, request: pb.GetModelRequest, context: Context
    ) -> AsyncIterator[bytes]:
        """Give the frames of a blob."""
        ...

    async def exchange(self, request: pb.ProtocolMessage, context: Context) -> pb.ProtocolMessage:
        """Take a message of secure aggregation, and give the next one."""
        ...

    async def send_update(self, frames: AsyncIterator[bytes], context: Context) -> pb.UpdateAck:
        """Take the frames of a contribution."""
        ...

    async def get_upload(self, request: pb.UploadRequest, context: Context) -> pb.UploadStatus:
        """Say how much of an upload is held."""
        ...

    async def report_failure(self, request: pb.FailureReport, context: Context) -> pb.Ack:
        """Take note that a client cannot do its work."""
        ...

    async def report_evaluation(self, request: pb.Evaluation, context: Context) -> pb.Ack:
        """Take what a client measured."""
        ...


def coordinator_handler(coordinator: Coordinator) -> grpc.GenericRpcHandler:
    """Return what `grpc.aio.Server.add_generic_rpc_handlers` takes."""
    handlers = {
        method.name: _shape(method, _HANDLERS)(
            getattr(coordinator, _snake(method.name)),
            request_deserializer=_reader(method.input_type),
            response_serializer=_writer(method.output_type),
        )
        for method in _SERVICE.methods
    }
    return grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)


class CoordinatorCalls:
    """The calls of a client.

    Args:
        channel: To the coordinator, made with `CHANNEL_OPTIONS`.
    """

    def __init__(self, channel: aio.Channel) -> None:
        self.join_round: aio.UnaryUnaryMultiCallable[pb.JoinRequest, pb.JoinResponse]
        self.get_global_model: aio.UnaryStreamMultiCallable[pb.GetModelRequest, bytes]
        self.exchange: aio.UnaryUnaryMultiCallable[pb.ProtocolMessage, pb.ProtocolMessage]
        self.send_update: aio.StreamUnaryMultiCallable[bytes, pb.UpdateAck]
        self.get_upload: aio.UnaryUnaryMultiCallable[pb.UploadRequest, pb.UploadStatus]
        self.report_failure: aio.UnaryUnaryMultiCallable[pb.FailureReport, pb.Ack]
        self.report_evaluation: aio.UnaryUnaryMultiCallable[pb.Evaluation, pb.Ack]
        for method in _SERVICE.methods:
            call = getattr(channel, _shape(method, _CALLS))(
                f"/{_SERVICE.full_name}/{method.name}",
                request_serializer=_writer(method.input_type),
                response_deserializer=_reader(method.output_type),
            )
            setattr(self, _snake(method.name), call)


_HANDLERS: Final[dict[tuple[bool, bool], Callable[..., Any]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
_CALLS: Final[dict[tuple[bool, bool], str]] = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


def _shape(method: MethodDescriptor, table: dict[tuple[bool, bool], Any]) -> Any:
    return table[method.client_streaming, method.server_streaming]


def _reader(message: Descriptor) -> Callable[[bytes], Any] | None:
    """Return how a message is read; None, which is gRPC's word for as it is, for a frame."""
    return None if message is Frame.DESCRIPTOR else GetMessageClass(message).FromString


def _writer(message: Descriptor) -> Callable[[Any], bytes] | None:
    """Return how a message is written; None for a frame."""
    return None if message is Frame.DESCRIPTOR else GetMessageClass(message).SerializeToString


def _snake(name: str) -> str:
    """Return a call's name as Python writes it: `JoinRound` is `join_round`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
