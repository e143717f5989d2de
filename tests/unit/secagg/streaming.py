"""Measure what a large vector needs in memory, in this very process; print it as JSON.

    python tests/unit/secagg/streaming.py client 100000000
    python tests/unit/secagg/streaming.py server 100000000 --modulus 24

`client`: one of eight clients masks a vector that its source holds into a file. `server`: eight
clients upload one after the other from files, the server adds them up and takes the masks off;
what the clients need for their chunks is counted, too. Peaks are of resident memory, beyond what
the process had before there was a vector.
"""

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from choral.crypto.signatures import SigningKey
from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg.client import Client
from choral.secagg.context import VERSION, Context, RingEncoding
from choral.secagg.enrolment import Authority, authority_id
from choral.secagg.parameters import Suite, find
from choral.secagg.ports import MemoryOnce
from choral.secagg.server import Server
from choral.secagg.site import Expected, Site
from choral.testing.fakes import SeededRand

CLIENTS = 8
CHUNK = 1 << 18
"""Elements: 1 MiB of the 32-bit ring."""


class FileSink:
    """A spool in a file."""

    def __init__(self, ring):
        self._ring = ring
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the sink
        self.size = 0

    def write(self, chunk):
        self.size += self.file.write(self._ring.pack(chunk))

    def chunks(self):
        self.file.seek(0)
        while raw := self.file.read(CHUNK * self._ring.width):
            yield self._ring.unpack(raw)

    def digest(self):
        self.file.seek(0)
        hasher = hashlib.sha256()
        while raw := self.file.read(CHUNK):
            hasher.update(raw)
        return hasher.digest()


class Attempt:
    """Eight clients and a server up to the delivery of the shares."""

    def __init__(self, size, modulus):
        rand = SeededRand(3)
        authority, key = Authority(SigningKey.random(rand)), SigningKey.random(rand)
        self.ids = tuple(f"c{i}" for i in range(CLIENTS))
        encoding = RingEncoding(size, modulus, 12, 1.0, 0, 1, size)
        plan = (bytes(32),), bytes(32), encoding
        self.ring, self.size = encoding.ring, size
        self.context = Context(
            VERSION,
            "run",
            1,
            1,
            *plan,
            min_cohort=3,
            parameters=find(CLIENTS, dropout=0.1),
            authority=authority_id(authority.public),
            deadline=0,
        )
        self.server = Server(self.context, self.ids, key=key, authority=authority.public)
        self.sources, self.sinks, self.clients, self.inbox = {}, {}, {}, {}
        for name in self.ids:
            own = SigningKey.random(rand)
            self.sinks[name] = FileSink(self.ring)
            self.clients[name] = Client(
                Site(
                    name,
                    own,
                    authority.enrol(name, own.public),
                    authority.public,
                    key.public,
                    min_cohort=3,
                    suites=frozenset(Suite),
                ),
                Expected("run", 1, *plan),
                rand=rand,
                once=MemoryOnce(),
                source=lambda name=name: self.sources[name](),
                sink=self.sinks[name],
            )
        self.tell(cmd.Start())
        self.answer(msg.Invitation)
        self.answer(msg.Roster)

    def tell(self, event):
        """Give the server an event; keep its messages, and return what else it says."""
        rest = []
        for command in self.server.receive(event):
            if isinstance(command, cmd.Tell):
                self.inbox[command.client] = command.message
            else:
                rest.append(command)
        return rest

    def answer(self, kind):
        """Let everybody answer a message; return what the server says at the end."""
        rest = []
        for name in self.ids:
            message = self.inbox.pop(name)
            assert isinstance(message, kind)
            for command in self.clients[name].receive(message):
                rest += self.tell(cmd.Received(name, msg.encode(command.message)))
        return rest

    def mask(self, name):
        """Let a client mask its vector into its file; return what it says of it."""
        message = self.inbox.pop(name)
        assert isinstance(message, msg.Deliveries)
        (upload,) = self.clients[name].receive(message)
        return upload.message

    def generated(self, which):
        """Return a source that makes the vector of a client chunk by chunk."""

        def source():
            for start in range(0, self.size, CHUNK):
                yield self.expected(start, which + 1)

        return source

    def expected(self, start, times):
        """Return a chunk of the vector whose element i is `times` i, in the ring."""
        numbers = np.arange(start, min(start + CHUNK, self.size), dtype=np.uint64)
        chunk = (numbers * np.uint64(times)).astype(self.ring.dtype)  # modulo 2^16, 2^32 or 2^64
        self.ring.reduce(chunk)
        return chunk


def resident(which):
    """Return resident memory in bytes: VmRSS is now, VmHWM the highest since the program started.

    `getrusage` would not do: its maximum starts at the memory of the process that started this one.
    """
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if which in x)
    return int(line.split()[1]) * 1024


def client(attempt):
    """Mask a vector that lies in memory; the source's own array is part of what is measured."""
    attempt.inbox = {"c0": attempt.inbox["c0"]}
    attempt.server = None
    before, begun = resident("VmRSS"), time.process_time()
    vector = np.empty(attempt.size, attempt.ring.dtype)
    for start in range(0, attempt.size, CHUNK):
        vector[start : start + CHUNK] = attempt.expected(start, 1)
    starts = range(0, attempt.size, CHUNK)
    attempt.sources["c0"] = lambda: (vector[at : at + CHUNK] for at in starts)
    said = attempt.mask("c0")
    after, took = resident("VmHWM"), time.process_time() - begun
    sink = attempt.sinks["c0"]
    assert sink.size == attempt.size * attempt.ring.width
    assert sink.digest() == said.digest
    return before, after, took


def server(attempt):
    """Add up eight uploads from files and take the masks off."""
    before, begun = resident("VmRSS"), time.process_time()
    for which, name in enumerate(attempt.ids):
        attempt.sources[name] = attempt.generated(which)
        said, sink = attempt.mask(name), attempt.sinks.pop(name)
        attempt.tell(cmd.Uploaded(name, said, sink.chunks))
        sink.file.close()
    attempt.answer(msg.Survivors)
    (summed,) = attempt.answer(msg.Consents)
    after, took = resident("VmHWM"), time.process_time() - begun
    assert summed.survivors == attempt.ids
    for start in range(0, attempt.size, CHUNK):
        wanted = attempt.expected(start, CLIENTS * (CLIENTS + 1) // 2)
        assert np.array_equal(summed.total[start : start + CHUNK], wanted)
    return before, after, took


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["client", "server"])
    parser.add_argument("size", type=int)
    parser.add_argument("--modulus", type=int, default=32)
    given = parser.parse_args()
    attempt = Attempt(given.size, given.modulus)
    before, after, took = (client if given.role == "client" else server)(attempt)
    vector = given.size * attempt.ring.dtype.itemsize
    print(
        json.dumps(
            {
                "role": given.role,
                "size": given.size,
                "modulus": given.modulus,
                "vector_bytes": vector,
                "peak_bytes": after - before,
                "ratio": round((after - before) / vector, 4),
                "cpu_s": round(took, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
