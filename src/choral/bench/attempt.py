"""One whole attempt of secure aggregation with the real machines, timed step by step.

Every message travels as bytes. The CPU time of a client is that of its machine's `receive` and of
encoding what it sends; the server's is the same and the decoding of what comes. One vector exists
at a time: the server adds an upload as soon as it is made, and the next client writes over it.
"""

from __future__ import annotations

import gc
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from choral.core.errors import RunFailed
from choral.core.ports import Rand
from choral.crypto.ring import Ring, RingVector
from choral.crypto.secret import Secret
from choral.crypto.signatures import SigningKey
from choral.secagg import commands as cmd
from choral.secagg import messages as msg
from choral.secagg.client import Client
from choral.secagg.context import VERSION, Context, RingEncoding
from choral.secagg.enrolment import Authority, authority_id
from choral.secagg.parameters import Parameters, Suite
from choral.secagg.ports import MemoryOnce
from choral.secagg.server import Phase, Server
from choral.secagg.site import Expected, Site

CHUNK_BYTES: Final = 1 << 20
STEPS: Final = ("R0 keys", "R1 shares", "R2 vector", "R3 consistency", "R4 shares back", "end")
NEVER: Final = len(STEPS)
_MULTIPLIER: Final = 0x9E3779B97F4A7C15
_SAMPLES: Final = 30

_BY_MESSAGE: Final[dict[type[Any], int]] = {
    msg.Invitation: 0,
    msg.Roster: 1,
    msg.Deliveries: 2,
    msg.Survivors: 3,
    msg.Consents: 4,
    msg.Result: 5,
}
_BY_PHASE: Final = {
    Phase.PLANNED: 0,
    Phase.JOINING: 0,
    Phase.SHARING: 1,
    Phase.MASKING: 2,
    Phase.AGREEING: 3,
    Phase.UNMASKING: 4,
    Phase.DONE: 5,
}


class Watch(Protocol):
    """Sees how far a measurement is."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note; `total` is 0 where it is not known."""
        ...


@dataclass(frozen=True, slots=True)
class Workload:
    """What is measured.

    Attributes:
        parameters: Suite, cohort, neighbours, threshold.
        size: Elements of a vector.
        modulus_bits: m.
        bits: b.
        lost: Client index to the step, 0 to 4, from which it is silent.
    """

    parameters: Parameters
    size: int
    modulus_bits: int
    bits: int
    lost: dict[int, int]

    @property
    def signed(self) -> bool:
        """Whether there are signatures and a consistency round."""
        return self.parameters.suite is not Suite.SEMI_HONEST


@dataclass(slots=True)
class Cost:
    """What one party spent, and what its floor must count.

    Attributes:
        seconds: CPU by step.
        up: Bytes sent.
        down: Bytes received.
        work: Primitive to how often no implementation can avoid it.
    """

    seconds: list[float] = field(default_factory=lambda: [0.0] * len(STEPS))
    up: int = 0
    down: int = 0
    work: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Recording:
    """What one client and the server heard, to be played again elsewhere.

    Attributes:
        index: The client.
        seed: Its signing key.
        site: Who it is.
        server_seed: The server's signing key.
        beacon: Seed of the graph.
        ids: The cohort.
        tokens: What the client drew.
        to_client: What it received.
        to_server: Sender and message, up to the shares.
    """

    index: int
    seed: bytes
    site: Site
    server_seed: bytes
    beacon: bytes
    ids: tuple[str, ...]
    tokens: list[bytes] = field(default_factory=list)
    to_client: list[bytes] = field(default_factory=list)
    to_server: list[tuple[str, bytes]] = field(default_factory=list)


class _Remembering:
    """Randomness that keeps what it gave."""

    def __init__(self, rand: Rand, tokens: list[bytes]) -> None:
        self._rand = rand
        self._tokens = tokens

    def token(self, size: int) -> bytes:
        """Return bytes and keep them."""
        self._tokens.append(self._rand.token(size))
        return self._tokens[-1]


class Vectors:
    """Every client's vector, by a rule that makes the sum of any of them known.

    Element j of client i is f(j) + c i modulo 2^m: the sum over some clients is their number times
    f(j), and c times the sum of their indices.

    Args:
        size: Elements.
        modulus_bits: m.
    """

    def __init__(self, size: int, modulus_bits: int) -> None:
        self.ring = Ring(modulus_bits)
        self.step = CHUNK_BYTES // self.ring.dtype.itemsize
        self._base = np.arange(size, dtype=np.uint64)
        self._base *= np.uint64(_MULTIPLIER)
        self._base >>= np.uint64(64 - modulus_bits)
        self._base = self._base.astype(self.ring.dtype)

    def chunks(self, out: RingVector, index: int) -> Iterator[RingVector]:
        """Write a client's vector into `out`, and yield it chunk by chunk."""
        shift = self._shift(index)
        for at in range(0, out.size, self.step):
            part = out[at : at + self.step]
            np.add(self._base[at : at + self.step], shift, out=part)
            self.ring.reduce(part)
            yield part

    def _shift(self, number: int) -> Any:
        return self.ring.dtype.type(number * _MULTIPLIER % 2**self.ring.bits)

    def is_sum(self, total: RingVector, indices: list[int]) -> bool:
        """Return whether `total` is the sum of these clients' vectors, to the bit."""
        count, shift = self.ring.dtype.type(len(indices)), self._shift(sum(indices))
        for at in range(0, total.size, self.step):
            wanted = self._base[at : at + self.step] * count + shift
            self.ring.reduce(wanted)
            if not np.array_equal(wanted, total[at : at + self.step]):
                return False
        return True


class Attempt:
    """The driver: machines, the wire between them, and meters.

    Args:
        workload: What to do.
        rand: Secret randomness, of the operating system.
        watch: Told how far it is.
        between: Called now and then between two measurements: samples the floors.

    Attributes:
        clients: Index to cost.
        server: Cost of the server.
        recording: Of the first client that stays to the end, and of the server.
        survivors: Indices in the sum.
    """

    def __init__(
        self, workload: Workload, *, rand: Rand, watch: Watch, between: Callable[[], None]
    ) -> None:
        p = workload.parameters
        self._workload, self._watch, self._between = workload, watch, between
        self.ids = tuple(f"client-{i:06}" for i in range(p.clients))
        self._index = {name: i for i, name in enumerate(self.ids)}
        self._vectors = Vectors(workload.size, workload.modulus_bits)
        self._upload = self._vectors.ring.zeros(workload.size)
        self.clients = [Cost() for _ in self.ids]
        self.server = Cost()
        self.survivors: list[int] = []
        self._queue: deque[cmd.Tell] = deque()
        self._near: dict[int, tuple[int, ...]] = {}
        self._dealt: set[int] = set()
        self._unmasked: set[int] = set()
        self._counted: set[int] = set()
        self._summed: cmd.Summed | None = None
        self._raw: tuple[Any, bytes] = (None, b"")
        self._told = 0
        self._build(rand)

    def _build(self, rand: Rand) -> None:
        """Enrol everybody and make the machines; none of it is measured."""
        work, p = self._workload, self._workload.parameters
        authority = Authority(SigningKey.random(rand))
        server_seed, beacon = rand.token(32), rand.token(32) if p.beacon else b""
        server_key = SigningKey(Secret(server_seed))
        encoding = RingEncoding(work.size, work.modulus_bits, work.bits, 1.0, 0, 1, work.size)
        run, models, plan = "bench", (rand.token(32),), rand.token(32)
        floor = min(3, p.clients)
        context = Context(
            VERSION, run, 1, 1, models, plan, encoding, floor, p,
            authority_id(authority.public), 0,
        )  # fmt: skip
        expected = Expected(run, 1, models, plan, encoding, beacon)
        stays = next(i for i in range(p.clients) if i not in work.lost)
        self._machines = []
        for i, name in enumerate(self.ids):
            seed = rand.token(32)
            key = SigningKey(Secret(seed))
            site = Site(
                name,
                key if work.signed else None,
                authority.enrol(name, key.public),
                authority.public,
                server_key.public,
                min_cohort=floor,
                suites=frozenset({p.suite}),
                min_corrupt=p.corrupt,
            )
            mine = rand
            if i == stays:
                self.recording = Recording(i, seed, site, server_seed, beacon, self.ids)
                mine = _Remembering(rand, self.recording.tokens)
            self._machines.append(self._client(i, site, expected, mine))
        self._server = Server(
            context,
            self.ids,
            key=server_key if work.signed else None,
            authority=authority.public,
            beacon=beacon,
        )

    def _client(self, index: int, site: Site, expected: Expected, rand: Rand) -> Client:
        return Client(
            site,
            expected,
            rand=rand,
            once=MemoryOnce(),
            source=lambda: self._vectors.chunks(self._upload, index),
            sink=_InPlace(),
        )

    @property
    def size(self) -> int:
        """Elements of a vector."""
        return self._workload.size

    @property
    def itemsize(self) -> int:
        """Bytes of an element as it is held."""
        return self._upload.itemsize

    def run(self) -> Attempt:
        """Run to the end, and check that the sum is exact.

        Raises:
            RunFailed: There is no sum, a wrong one, or a party was refused.
        """
        gc.collect()
        gc.disable()  # else each client would pay for the objects of all the others
        try:
            self._hand(cmd.Start())
            for _ in range(NEVER):
                while self._queue:
                    self._tell(self._queue.popleft())
                if self._server.phase is Phase.DONE:
                    break
                self._hand(cmd.Close())
        finally:
            gc.enable()
        self._check()
        return self

    def _check(self) -> None:
        lost = self._workload.lost
        wanted = [i for i in range(len(self.ids)) if lost.get(i, NEVER) > 2]
        if self._summed is None:
            raise RunFailed("the attempt gave no sum")
        self.survivors = [self._index[name] for name in self._summed.survivors]
        staying = set(range(len(self.ids))) - set(lost)
        exact = self._vectors.is_sum(self._summed.total, wanted)
        if self.survivors != wanted or self._counted != staying or not exact:
            raise RunFailed(f"the sum over {len(self.survivors)} of {len(wanted)} clients is wrong")

    # --- from the server to a client --------------------------------------------------------------

    def _step_of(self, message: Any) -> int:
        step = _BY_MESSAGE[type(message)]
        return 4 if step == 3 and not self._workload.signed else step

    def _tell(self, tell: cmd.Tell) -> None:
        index, step = self._index[tell.client], self._step_of(tell.message)
        raw = self._encoded(tell.message, step)
        if self._workload.lost.get(index, NEVER) <= step:
            return
        cost = self.clients[index]
        cost.down += len(raw)
        if index == self.recording.index:
            self.recording.to_client.append(raw)
        started = time.thread_time()
        commands = self._machines[index].receive(raw)
        sent = [
            (c, msg.encode(c.message)) for c in commands if isinstance(c, cmd.Send | cmd.Upload)
        ]
        cost.seconds[step] += time.thread_time() - started
        self._note(index, tell.message)
        self._told += 1
        for each in commands:
            if isinstance(each, cmd.Stopped):
                raise RunFailed(f"{tell.client} stopped: {each.breach.message}")
            if isinstance(each, cmd.Counted):
                self._counted.add(index)
        if self._told % max(1, NEVER * len(self.ids) // _SAMPLES) == 0:
            self._between()
        self._watch(STEPS[step], len(self.ids) - len(self._queue), len(self.ids))
        for command, content in sent:
            self._forward(index, command, content)

    def _encoded(self, message: Any, step: int) -> bytes:
        """Return a message's bytes; one that goes to several clients in a row is encoded once."""
        if self._raw[0] is not message:
            started = time.thread_time()
            self._raw = (message, msg.encode(message))
            self.server.seconds[step] += time.thread_time() - started
        self.server.up += len(self._raw[1])
        return self._raw[1]

    # --- from a client to the server --------------------------------------------------------------

    def _forward(self, index: int, command: cmd.Send | cmd.Upload, raw: bytes) -> None:
        cost, name = self.clients[index], self.ids[index]
        cost.up += len(raw)
        message = command.message
        if isinstance(message, msg.Advertise | msg.Bundle):
            self.recording.to_server.append((name, raw))
        if isinstance(message, msg.Masked):
            cost.up += self._upload.size * self._vectors.ring.width
            started = time.thread_time()
            message = msg.decode(raw)  # type: ignore[assignment]  # it is what was encoded
            self.server.seconds[2] += time.thread_time() - started
            self._hand(cmd.Uploaded(name, message, self._uploaded))
        else:
            self._hand(cmd.Received(name, raw))
        self._note_server(index, message)

    def _uploaded(self) -> list[RingVector]:
        step = self._vectors.step
        return [self._upload[at : at + step] for at in range(0, self._upload.size, step)]

    def _hand(self, event: cmd.ServerEvent) -> None:
        """Give the server an event, and take what it says."""
        step = _BY_PHASE[self._server.phase]
        if step == 4 and not self._queue:
            self._watch("taking the masks off", 0, 0)
        started = time.thread_time()
        commands = self._server.receive(event)
        spent = time.thread_time() - started
        ended = self._server.phase is Phase.DONE
        self.server.seconds[5 if ended else step] += spent
        for command in commands:
            match command:
                case cmd.Tell():
                    self._queue.append(command)
                case cmd.Summed():
                    self._summed = command
                case cmd.Reject(client, reason, about):
                    raise RunFailed(f"the server refuses {client}: {reason} about {about}")
                case cmd.Accused(client, reason, about):
                    raise RunFailed(f"{client} accuses {about or 'the server'}: {reason}")
                case cmd.Abandon(reason):
                    raise RunFailed(f"the attempt was given up: {reason}")

    # --- what the floor must count ----------------------------------------------------------------

    def _note(self, index: int, message: Any) -> None:
        """Count what a client must do to answer a message."""
        work, t = self.clients[index].work, self._workload.parameters.t
        signs, verifies = 1, 0
        match message:
            case msg.Invitation():
                verifies = 1
                work["make_key"] += 2
            case msg.Roster(members=members):
                near = tuple(self._index[m.advertise.client] for m in members)
                self._near[index] = near
                k = len(near) - 1
                verifies = 1 + 2 * k
                work.update({"agree": k, "seal": k, "deal": 1})
            case msg.Deliveries(deliveries):
                d = len(deliveries)
                verifies = d
                work.update({"agree": d, "open": d, "mask": d + 1, "hash": 1})
            case msg.Consents(consents):
                verifies = min(t, len(consents))
            case msg.Result():
                signs, verifies = 0, 1
        if self._workload.signed:
            work.update({"sign": signs, "verify": verifies})

    def _note_server(self, index: int, message: Any) -> None:
        """Count what the server must do with a message."""
        work = self.server.work
        if isinstance(message, msg.Bundle):
            self._dealt.add(index)
        if isinstance(message, msg.Unmask):
            self._unmasked.add(index)
        if isinstance(message, msg.Masked):
            work.update({"add": 1, "hash": 1})
        if self._workload.signed:
            work["verify"] += 2 if isinstance(message, msg.Advertise) else 1

    def finish_work(self) -> None:
        """Count what unmasking must do, and the server's own signatures."""
        work, alive = self.server.work, set(self.survivors)
        t, sets = self._workload.parameters.t, set()
        for dealer in self._dealt:
            near = self._near[dealer]
            living = [i for i in near if i in alive and i != dealer]
            if dealer in alive:
                work["mask"] += 1
            elif living:
                work.update({"make_key": 1, "mask": len(living), "agree": len(living)})
            else:
                continue
            work["join"] += 1
            answered = [at for at, i in enumerate(near) if i in self._unmasked]
            sets.add(tuple(answered[:t]))
        work["weights"] += len(sets)
        work["hash"] += 1
        if self._workload.signed:
            work["sign"] += 3


class _InPlace:
    """A spool that is the vector itself: it was masked where it lies."""

    def write(self, chunk: RingVector) -> None:
        """Do nothing."""
