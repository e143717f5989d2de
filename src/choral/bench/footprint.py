"""Peak memory of one party of secure aggregation, alone in a fresh process.

The machines are pure, so what one client received and drew can be played again: the same machine
then does the same work in a process that holds nothing else. Of the server two things are played:
its sum (uploads come chunk by chunk, and a mask goes), and its messages up to the delivery of the
shares, when it holds most of them. Memory is the highest resident size beyond the one before.

Run as `python -m choral.bench.footprint ROLE FILE`; prints a number of bytes.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from choral.bench.attempt import CHUNK_BYTES, Recording
from choral.core.errors import RunFailed
from choral.crypto.ring import Ring, RingVector
from choral.crypto.secret import Secret
from choral.crypto.signatures import SigningKey
from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg.client import Client
from choral.secagg.client import Phase as ClientPhase
from choral.secagg.context import Context
from choral.secagg.masking import Accumulator, self_mask
from choral.secagg.ports import MemoryOnce
from choral.secagg.server import Phase, Server
from choral.secagg.site import Expected, Site

ROLES: Final = ("client", "sum", "messages")
_STATUS: Final = Path("/proc/self/status")
_UPLOADS: Final = 3


def footprints(recording: Recording) -> dict[str, int]:
    """Return the bytes that each role needed beyond what its process had before."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="choral-bench-") as folder:
        for role in ROLES:
            path = Path(folder) / role
            _write(path, recording, role)
            done = subprocess.run(  # noqa: S603  # this very program
                [sys.executable, "-m", "choral.bench.footprint", role, str(path)],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise RunFailed(f"no memory of {role} was measured", details=done.stderr)
            found[role] = int(done.stdout)
    return found


def _write(path: Path, recording: Recording, role: str) -> None:
    """Write what a role needs: a line of JSON, then a message a line."""
    site, server = recording.site, role != "client"
    head = {
        "client": site.client,
        "signed": site.key is not None,
        "seed": (recording.server_seed if server else recording.seed).hex(),
        "enrolment": site.enrolment.hex(),
        "authority": site.authority.hex(),
        "server": site.server.hex(),
        "beacon": recording.beacon.hex(),
        "ids": recording.ids if server else (),
        "tokens": [] if server else [token.hex() for token in recording.tokens],
        "invitation": recording.to_client[0].hex(),
    }
    if role == "messages":
        lines = [f"{sender} {raw.hex()}" for sender, raw in recording.to_server]
    else:
        lines = [f"server {raw.hex()}" for raw in recording.to_client]
    path.write_text("\n".join([json.dumps(head), *lines, ""]), encoding="ascii")


# --- in the fresh process -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Script:
    """What is played.

    Attributes:
        head: The first line.
        context: Of the attempt.
        file: Stands before the messages.
    """

    head: dict[str, Any]
    context: Context
    file: IO[str]

    def raw(self, name: str) -> bytes:
        """Return a field of the head as bytes."""
        return bytes.fromhex(self.head[name])

    def messages(self) -> Iterator[tuple[str, bytes]]:
        """Yield senders and messages, one line in memory at a time."""
        for line in self.file:
            sender, content = line.split()
            yield sender, bytes.fromhex(content)

    @property
    def key(self) -> SigningKey | None:
        """The party's signing key."""
        return SigningKey(Secret(self.raw("seed"))) if self.head["signed"] else None


class _Again:
    """Randomness that was drawn before."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = iter(tokens)

    def token(self, size: int) -> bytes:
        """Return the next token."""
        return bytes.fromhex(next(self._tokens))


class _File:
    """A spool on disk."""

    def __init__(self, file: IO[bytes], ring: Ring) -> None:
        self._file = file
        self._ring = ring

    def write(self, chunk: RingVector) -> None:
        """Append a chunk."""
        self._file.write(self._ring.pack(chunk))


def _chunks(context: Context) -> Iterator[RingVector]:
    """Yield a vector in one buffer that is used again and again."""
    ring, size = context.encoding.ring, context.encoding.size
    buffer = ring.zeros(min(size, CHUNK_BYTES // ring.dtype.itemsize))
    for at in range(0, size, max(1, buffer.size)):
        part = buffer[: size - at]
        part[:] = 1
        yield part


def _client(script: _Script) -> None:
    context, head = script.context, script.head
    site = Site(
        head["client"],
        script.key,
        script.raw("enrolment"),
        script.raw("authority"),
        script.raw("server"),
        min_cohort=context.min_cohort,
        suites=frozenset({context.parameters.suite}),
        min_corrupt=context.parameters.corrupt,
    )
    expected = Expected(
        context.run_id,
        context.round,
        context.models,
        context.plan,
        context.encoding,
        script.raw("beacon"),
    )
    with tempfile.TemporaryFile() as spool:
        client = Client(
            site,
            expected,
            rand=_Again(head["tokens"]),
            once=MemoryOnce(),
            source=lambda: _chunks(context),
            sink=_File(spool, context.encoding.ring),
        )
        for _, raw in script.messages():
            for command in client.receive(raw):
                if isinstance(command, cmd.Send | cmd.Upload):
                    msg.encode(command.message)
    _expect(client.phase is ClientPhase.COUNTED, f"the client ended {client.phase}")


def _sum(script: _Script) -> None:
    """Add uploads that come chunk by chunk, take a mask off, hash the sum."""
    context = script.context
    hasher, total = hashlib.sha256(), Accumulator(context)
    for chunk in _chunks(context):
        hasher.update(context.encoding.ring.pack(chunk))
    for _ in range(_UPLOADS):
        total.add(lambda: _chunks(context), hasher.digest())
    mask = self_mask(context, bytes(32), client="a", seed=Secret(bytes(32)))
    total.remove(mask, sign=1)
    total.digest()


def _messages(script: _Script) -> None:
    """Take keys and shares, and make the deliveries, which are encoded one by one."""
    server = Server(
        script.context,
        script.head["ids"],
        key=script.key,
        authority=script.raw("authority"),
        beacon=script.raw("beacon"),
    )
    server.receive(cmd.Start())
    for sender, raw in script.messages():
        if isinstance(msg.decode(raw), msg.Bundle) and server.phase is Phase.JOINING:
            _send(server, cmd.Close())
        _send(server, cmd.Received(sender, raw))
    if server.phase is Phase.SHARING:
        _send(server, cmd.Close())
    _expect(server.phase is Phase.MASKING, f"the server ended {server.phase}")


def _send(server: Server, event: cmd.ServerEvent) -> None:
    for command in server.receive(event):
        if isinstance(command, cmd.Tell):
            msg.encode(command.message)


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise RunFailed(f"{message}: the recording does not play")


def _resident(name: str) -> int:
    """Return bytes of this process now (`VmRSS`) or at most so far (`VmHWM`).

    `ru_maxrss` is for systems without /proc: on Linux a child starts with its parent's.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size << 10


def _grown(work: Callable[[], None]) -> int:
    """Return how far the peak rises above what is resident now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = _resident("VmRSS")
    work()
    return max(0, _resident("VmHWM") - before)


_PLAYED: Final[dict[str, Callable[[_Script], None]]] = {
    "client": _client,
    "sum": _sum,
    "messages": _messages,
}


def main(role: str, path: str) -> None:
    """Play a role and print how much memory it needed."""
    np.ones((8, 8)) @ np.ones((8, 8))  # the threads and buffers of BLAS are not the party's
    with threadpool_limits(1), Path(path).open(encoding="ascii") as file:
        head = json.loads(file.readline())
        invitation = msg.decode(bytes.fromhex(head["invitation"]))
        if not isinstance(invitation, msg.Invitation):
            raise RunFailed("the recording has no invitation")
        script = _Script(head, invitation.context, file)
        sys.stdout.write(f"{_grown(lambda: _PLAYED[role](script))}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
