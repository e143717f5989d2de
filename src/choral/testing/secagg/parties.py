"""The parties of an attempt as the network sees them: whoever implements one can be judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from choral.core.ports import Rand
from choral.crypto.ring import RingVector
from choral.crypto.signatures import SigningKey
from choral.secagg import commands as cmd
from choral.secagg.context import Context
from choral.secagg.ports import OnceStore, Sink, Source
from choral.secagg.site import Expected, Site


class ClientMachine(Protocol):
    """What a client of an attempt must be."""

    def receive(self, event: cmd.ClientEvent) -> cmd.ClientCommands:
        """Take a message as bytes, or the end; return what is to be done now."""
        ...


class ClientFactory(Protocol):
    """Makes a client; `Client` is one."""

    def __call__(
        self,
        site: Site,
        expected: Expected,
        *,
        rand: Rand,
        once: OnceStore,
        source: Source,
        sink: Sink,
    ) -> ClientMachine:
        """Return a client that has not heard of any attempt."""
        ...


class ServerMachine(Protocol):
    """What the server of an attempt must be."""

    def receive(self, event: cmd.ServerEvent) -> cmd.ServerCommands:
        """Take an event; return what is to be done now."""
        ...


class ServerFactory(Protocol):
    """Makes a server; `Server` is one."""

    def __call__(
        self,
        context: Context,
        invited: Sequence[str],
        *,
        key: SigningKey | None,
        authority: bytes,
        beacon: bytes,
    ) -> ServerMachine:
        """Return a server that has not invited anybody."""
        ...


class Spool:
    """A masked vector in memory."""

    def __init__(self) -> None:
        self.chunks: list[RingVector] = []

    def write(self, chunk: RingVector) -> None:
        """Keep a copy of a chunk."""
        self.chunks.append(chunk.copy())

    def vector(self) -> RingVector:
        """Return all chunks as one."""
        return np.concatenate(self.chunks) if self.chunks else np.empty(0, np.uint32)
