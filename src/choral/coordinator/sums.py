"""Plain and secure sums of contributions that arrive over a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from choral.coordinator.spool import SpoolFile
from choral.core.aggregation import RingGrid, Secure
from choral.core.errors import (
    ChoralError,
    RoundSpent,
    RunFailed,
    StoreError,
    Truncated,
    WrongShape,
)
from choral.core.exact import Encoding, ExactSum
from choral.core.keys import Key
from choral.core.params import ClientId, Spec
from choral.core.plan import Plan
from choral.crypto.ring import RingVector
from choral.crypto.signatures import SigningKey
from choral.federation import secure
from choral.federation.participant import NORM, Failed
from choral.federation.sums import Closed, Opened, Unreached, closed_exactly
from choral.federation.totals import Group, Unmasked, close, hopeless
from choral.secagg import commands as cmd
from choral.secagg.context import Context
from choral.secagg.messages import Masked, decode, encode
from choral.secagg.refusals import Breach, Reason
from choral.secagg.server import Phase, Server
from choral.wire.contributions import tail_from_bytes

_BEFORE_VECTORS: Final = frozenset({Phase.PLANNED, Phase.JOINING, Phase.SHARING})
_UNMASKED: Final = _BEFORE_VECTORS | {Phase.MASKING}


class SpooledSum:
    """The exact sum of contributions that the coordinator sees, added block by block from disk.

    Args:
        plan: The round's terms.
        spec: The model's schema.
    """

    def __init__(self, plan: Plan, spec: Spec) -> None:
        if not isinstance(plan.encoding, Encoding):
            raise RunFailed("a plain sum of a plan with a ring")
        self.bytes_up = 0
        self.bytes_down = 0
        self.norm_max: float | None = 0.0
        self._plan = plan
        self._size = spec.vector_size
        self._encoding = plan.encoding
        self._exact = ExactSum(spec.vector_size, plan.encoding)
        self._waiting: dict[ClientId, tuple[SpoolFile, int, dict[str, int]]] = {}
        self._broken: Unreached | None = None

    def open(self, answering: Sequence[ClientId], silent: Sequence[ClientId]) -> Opened:
        """Begin; nobody has a reason to refuse."""
        return Opened()

    def take(self, client: ClientId, upload: SpoolFile) -> Failed | None:
        """Check an upload, and keep it until it is accepted; return why it is not, if so."""
        at = 4 * self._size
        try:
            if upload.held() < at:
                raise WrongShape(
                    f"a contribution of {upload.held()} bytes, expected at least {at}: "
                    f"{self._size} elements"
                )
            weight, metrics = tail_from_bytes(upload.tail(at), self._encoding)
        except ChoralError as error:
            return Failed(client, error.code, str(error))
        self._waiting[client] = upload, weight, metrics
        return None

    def accept(self, client: ClientId) -> None:
        """Add a client's contribution; one that cannot be read spoils the sum, and not the run."""
        upload, weight, metrics = self._waiting.pop(client)
        blocks = cast("Iterator[npt.NDArray[np.int32]]", upload.numbers(self._size, "<i4"))
        try:
            self._exact.add_blocks(blocks, weight=weight, metrics=metrics)
        except (OSError, Truncated) as error:
            self._broken = unreadable(client, error)
        self.bytes_up += upload.held()
        norm = metrics.get(NORM, 0) / (weight << 10) if weight else 0.0
        self.norm_max = max(self.norm_max or 0.0, norm)

    def discard(self, client: ClientId) -> None:
        """Forget a client's contribution."""
        self._waiting.pop(client, None)

    def lose(self, client: ClientId) -> None:
        """A plain sum waits for nobody."""

    def close(self, survivors: Sequence[ClientId]) -> Closed | Unreached | None:
        """Return the total."""
        if self._broken is not None:
            return self._broken
        return closed_exactly(self._exact, self._plan)


def unreadable(client: ClientId, error: Exception) -> Unreached:
    """Return that an attempt has no sum, since an upload cannot be read back from disk."""
    why = getattr(error, "strerror", None) or error
    return Unreached(f"{StoreError.code}: the upload of {client} cannot be read: {why}")


class _Instance:
    """One group's sum: the server's machine, and what has come out of it.

    Attributes:
        server: The machine.
        group: How its sum ended; None while it goes on.
        held: Commands that wait for the set of survivors to be fixed.
    """

    __slots__ = ("group", "held", "server", "sums")

    def __init__(self, server: Server) -> None:
        self.server = server
        self.group: Group = None
        self.held: list[cmd.ServerCommand] = []
        self.sums = False


class RemoteSum:
    """The secure sums of one attempt, whose clients are reached over a network.

    What goes to a client is handed to `tell`. No message that helps to unmask leaves before the
    round has fixed its survivors by `close`.

    Args:
        plan: The round's terms.
        spec: The model's schema.
        terms: Its secure aggregation.
        clients: The cohort.
        key: Key of (run, "secure", round, attempt), for the groups.
        signing_key: The server's.
        authority: Verification key of the enrolment authority.
        authority_digest: What the signed context names it by.
        deadline: Seconds since 1970 in the signed context.
        tell: Sends bytes to a client.
        note: Called with what a machine refuses or a client complains of.
    """

    def __init__(
        self,
        plan: Plan,
        spec: Spec,
        *,
        terms: Secure,
        clients: Sequence[ClientId],
        key: Key,
        signing_key: SigningKey,
        authority: bytes,
        authority_digest: bytes,
        deadline: int,
        tell: Callable[[ClientId, bytes], None],
        note: Callable[[cmd.Reject | cmd.Accused], None],
    ) -> None:
        if not isinstance(plan.encoding, RingGrid):
            raise RunFailed("a secure sum of a plan without a ring")
        self.bytes_up = 0
        self.bytes_down = 0
        self.norm_max: float | None = None
        self._plan, self._spec, self._terms = plan, spec, terms
        self._tell, self._note = tell, note
        self._masked: dict[ClientId, Masked] = {}
        self._refused: dict[ClientId, Failed] = {}
        self._closing: Sequence[ClientId] | None = None
        self._outcome: Closed | Unreached | None = None
        encoding = secure.ring_encoding(plan.encoding, spec.vector_size, plan.privacy)
        self._ring = encoding.ring
        self._size = encoding.size
        groups = secure.split(clients, terms, key.fold("groups"))

        def context(size: int) -> Context:
            return secure.context_of(
                plan, encoding, size, terms=terms, authority=authority_digest, deadline=deadline
            )

        self._instances = []
        for group in groups:
            signed = context(len(group))
            server = Server(
                signed, group, key=signing_key if signed.signed else None, authority=authority
            )
            self._instances.append(_Instance(server))
        self._of = {c: self._instances[i] for i, group in enumerate(groups) for c in group}

    # --- as a `Sum` -------------------------------------------------------------------------------

    def open(self, answering: Sequence[ClientId], silent: Sequence[ClientId]) -> Opened:
        """Invite every group."""
        for instance in self._instances:
            self._receive(instance, cmd.Start())
        return Opened(unreached=self._lost())

    def take(self, client: ClientId, upload: SpoolFile) -> Failed | None:
        """Add a client's masked vector; return why it is not, if so."""
        message = self._masked.get(client)
        if message is None:
            return Failed(client, Breach.code, "a masked vector without its message")
        event = cmd.Uploaded(client, message, partial(self._chunks, upload))
        try:
            self._receive(self._of[client], event)
        except (OSError, Truncated) as error:
            self._outcome = unreadable(client, error)  # some of it may be in the sum
            return Failed(client, StoreError.code, self._outcome.reason)
        self.bytes_up += upload.held()
        return self._refused.get(client)

    def accept(self, client: ClientId) -> None:
        """It was added when it came."""

    def discard(self, client: ClientId) -> None:
        """A vector that came too late is in no sum."""

    def lose(self, client: ClientId) -> None:
        """Expect nothing more of a client."""
        self._receive(self._of[client], cmd.Lost(client))

    def close(self, survivors: Sequence[ClientId]) -> Closed | Unreached | None:
        """Fix the survivors and let the agreement on them begin; `outcome` tells how it ended."""
        self._closing = survivors
        for instance in self._instances:
            if instance.server.phase is Phase.MASKING:
                self._receive(instance, cmd.Close())
            held, instance.held = instance.held, []
            self._do(instance, held)
        return self.outcome()

    # --- over time --------------------------------------------------------------------------------

    def outcome(self) -> Closed | Unreached | None:
        """Return how the sum ended, None while it goes on."""
        if self._outcome is not None:
            return self._outcome
        lost = self._lost()
        if lost is not None:
            return lost
        groups = [instance.group for instance in self._instances]
        if self._closing is None or any(group is None for group in groups):
            return None
        if self._outcome is None:
            for instance in self._instances:
                instance.group = Unreached("it was decoded")  # its memory is the mean's
            self._outcome = close(
                groups, self._closing, plan=self._plan, spec=self._spec, terms=self._terms
            )
        return self._outcome

    def said(self, client: ClientId, body: bytes) -> Failed | None:
        """Take a message of a client's; return why it is out from now on, if so."""
        self.bytes_up += len(body)
        instance = self._of[client]
        message: Any = body
        with suppress(Breach):  # the machine says so, too, and draws the consequences
            message = decode(body)
        if isinstance(message, Masked):
            self._masked.setdefault(client, message)
        else:
            self._receive(instance, cmd.Received(client, message))
        return self._refused.get(client)

    @property
    def step(self) -> tuple[bool | Phase, ...]:
        """Whether the round has closed, and the phase of each group: to see whether a step ended.

        A group whose lost clients are known agrees as soon as the others have sent their vectors,
        but it is asked to only when the round closes: its time begins then.
        """
        return (self._closing is not None, *(i.server.phase for i in self._instances))

    def hurry(self, *, give_up: bool = False) -> None:
        """End the present step of every group with those that have answered.

        Before the round closes, that is a step before the masked vectors: what comes after them
        has not been asked of anybody yet.
        """
        for instance in self._instances:
            phase = instance.server.phase
            if self._closing is None and phase not in _BEFORE_VECTORS:
                continue
            self._receive(instance, cmd.Close())
            if give_up and instance.server.phase is phase:
                self._receive(instance, cmd.GiveUp())

    # --- the machines -----------------------------------------------------------------------------

    def _receive(self, instance: _Instance, event: cmd.ServerEvent) -> None:
        """Feed an event to a group's machine, and do what it asks."""
        commands = instance.server.receive(event)
        if self._closing is None and instance.server.phase not in _UNMASKED:
            ends = [c for c in commands if not isinstance(c, cmd.Tell | cmd.Summed)]
            instance.held += [c for c in commands if isinstance(c, cmd.Tell | cmd.Summed)]
            self._do(instance, ends)
        else:
            self._do(instance, commands)

    def _do(self, instance: _Instance, commands: Sequence[cmd.ServerCommand]) -> None:
        for command in commands:
            if isinstance(command, cmd.Tell):
                raw = encode(command.message)
                self.bytes_down += len(raw)
                self._tell(ClientId(command.client), raw)
            elif isinstance(command, cmd.Summed):
                instance.group = Unmasked(command.total, command.survivors)
            elif isinstance(command, cmd.Abandon):
                instance.group = Unreached(command.reason)
            else:
                self._blame(command)

    def _blame(self, command: cmd.Reject | cmd.Accused) -> None:
        self._note(command)
        if isinstance(command, cmd.Reject) and command.about == command.client:
            client = ClientId(command.client)
            why = f"the coordinator refuses it: {command.reason}"
            self._refused.setdefault(client, Failed(client, Breach.code, why))
        elif isinstance(command, cmd.Accused) and command.ends:
            client = ClientId(command.client)
            why = f"it left the sum: {command.reason}"
            code = RoundSpent.code if command.reason == Reason.JOINED else Breach.code
            self._refused.setdefault(client, Failed(client, code, why))

    def _lost(self) -> Unreached | None:
        return hopeless([instance.group for instance in self._instances], self._terms)

    def _chunks(self, upload: SpoolFile) -> Iterator[RingVector]:
        """Read a masked vector from disk; the machine holds it against what was announced."""
        width = self._ring.width
        if upload.held() != self._size * width:
            raise Breach(
                Reason.WRONG_VECTOR,
                f"{upload.held()} bytes, expected {self._size * width}",
            )
        for block in upload.packed(self._size, width):
            yield self._ring.unpack(block)
