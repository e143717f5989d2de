"""The line to a coordinator, which may be one of several that stand in for each other."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from grpc import aio

from choral.wire.rpc import CoordinatorCalls


class Line:
    """A connection to one of some addresses; the next one is tried where there is no answer.

    Args:
        channel: Opens a connection to an address.
        addresses: HOST:PORT of each coordinator.

    Attributes:
        address: The one that is called now.
    """

    def __init__(self, channel: Callable[[str], aio.Channel], addresses: tuple[str, ...]) -> None:
        self.address = addresses[0]
        self._channel = channel
        self._addresses = addresses
        self._open: dict[str, tuple[aio.Channel, CoordinatorCalls]] = {}

    @property
    def stubs(self) -> CoordinatorCalls:
        """The calls of the coordinator that is called now."""
        if self.address not in self._open:
            channel = self._channel(self.address)
            self._open[self.address] = channel, CoordinatorCalls(channel)
        return self._open[self.address][1]

    def turn(self) -> None:
        """Call the next coordinator from now on."""
        at = self._addresses.index(self.address)
        self.address = self._addresses[(at + 1) % len(self._addresses)]

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for channel, _ in self._open.values():
            await channel.close()
