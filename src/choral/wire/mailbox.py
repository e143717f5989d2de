"""Messages of secure aggregation between two sides whose calls may be lost or repeated.

Each side numbers its own messages from 1, says the highest number that it has of the other's, and
sends its oldest message that the other has not got. So every message arrives once and in order,
however often a call is repeated.
"""

from __future__ import annotations

from collections import deque

from choral.core.errors import OutOfOrder
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.versions import PROTOCOL_VERSION


class Mailbox:
    """One side of an exchange.

    Attributes:
        received: Number of the other side's newest message that is here; 0 for none.
    """

    __slots__ = ("_first", "_out", "received")

    def __init__(self) -> None:
        self.received = 0
        self._out: deque[bytes] = deque()
        self._first = 1

    @property
    def waiting(self) -> bool:
        """Whether there is a message that the other side has not got."""
        return bool(self._out)

    def post(self, body: bytes) -> None:
        """Add a message to be sent."""
        self._out.append(body)

    def take(self, message: pb.ProtocolMessage) -> list[bytes]:
        """Return the message's body if it is new, else nothing.

        Raises:
            OutOfOrder: One before it is missing, or it claims to have what was never sent.
        """
        last = self._first + len(self._out) - 1
        if message.received > last:
            raise OutOfOrder(f"message {message.received} is said to be there, sent were {last}")
        while self._first <= message.received:
            self._out.popleft()
            self._first += 1
        if not message.sequence or message.sequence <= self.received:
            return []
        if message.sequence != self.received + 1:
            raise OutOfOrder(f"message {message.sequence}, expected {self.received + 1}")
        self.received = message.sequence
        return [message.body]

    def message(
        self, token: bytes, *, wait_s: float = 0.0, ended: bool = False
    ) -> pb.ProtocolMessage:
        """Return what is to be sent now: the oldest message that is wanted, or none."""
        return pb.ProtocolMessage(
            protocol_version=PROTOCOL_VERSION,
            token=token,
            sequence=self._first if self._out else 0,
            body=self._out[0] if self._out else b"",
            wait_s=wait_s,
            received=self.received,
            ended=ended,
        )
