"""Work that was given to a client, and the token by which it speaks of it."""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from choral.coordinator.spool import SpoolFile
from choral.core.errors import ChoralError
from choral.core.params import ClientId
from choral.core.plan import Plan
from choral.wire.frames import Header
from choral.wire.mailbox import Mailbox
from choral.wire.receipts import Receipt


class Use(enum.StrEnum):
    """What a ticket is for."""

    TRAIN = "train"
    EVALUATE = "evaluate"


@dataclass(slots=True, eq=False)
class Ticket:
    """One client's work in one attempt, or one evaluation.

    Attributes:
        token: Names it; nobody can guess it.
        client: Whose it is.
        use: Training or evaluation.
        plan: The terms.
        model_sha256: Digest of the model to start from, or to measure.
        model_bytes: Size of its file.
        deadline: When it ends, on the coordinator's clock.
        post: Hands a message about it to the run that it belongs to.
        keep: Makes a whole upload durable, under its digest.
        final: For an evaluation, whether it is the run's last model.
        done: It is not to be given out again.
        over: Nothing about it is taken any more.
        mailbox: Messages of secure aggregation, both ways.
        bell: Rings when there is something in the mailbox, or nothing will come.
        upload: The bytes that came so far, with what was declared of them.
        receipt: What was signed for the upload.
        answer: What its run says of the whole upload, once it was asked.
        hearing: Done once the last message of secure aggregation that was taken is in the log.
        gave_up: The client has said that it will not do it.
        stream: The call that brings it now; an older one of the same work gives way.
        moved: When it last made progress that renews a deadline, on the coordinator's clock.
        moved_bytes: How far it was then; what is sent once more is no progress.
        said_bytes: Bytes of the messages that its client has sent, repeated ones as well.
    """

    token: bytes
    client: ClientId
    use: Use
    plan: Plan
    model_sha256: str
    model_bytes: int
    deadline: float
    post: Callable[[Message], None]
    keep: Callable[[SpoolFile, str], None]
    final: bool = False
    done: bool = False
    over: bool = False
    mailbox: Mailbox = field(default_factory=Mailbox)
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    upload: tuple[SpoolFile, Header] | None = None
    receipt: Receipt | None = None
    answer: asyncio.Future[Receipt | ChoralError] | None = None
    hearing: asyncio.Future[None] | None = None
    gave_up: bool = False
    stream: object = None
    moved: float = -math.inf
    moved_bytes: int = 0
    said_bytes: int = 0


# --- what a run is told ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """A client is available that was not, or says something else of itself."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """An upload is whole; `reply` gets the receipt, or why there is none."""

    ticket: Ticket
    upload: SpoolFile
    header: Header
    reply: Callable[[Receipt | ChoralError], None]


@dataclass(frozen=True, slots=True)
class Said:
    """A message of secure aggregation; `heard` is told once whether it is in the log."""

    ticket: Ticket
    body: bytes
    heard: Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class GaveUp:
    """A client cannot or will not do its work."""

    ticket: Ticket
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Left:
    """A client asks for other work: nothing more comes of what it has uploaded for."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Reported:
    """A client's own evaluation."""

    ticket: Ticket
    metrics: dict[str, float]
    examples: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Somebody wants the run to end."""

    reason: str


@dataclass(frozen=True, slots=True)
class Open:
    """An operator opens the next round."""


@dataclass(frozen=True, slots=True)
class Drain:
    """The process ends: the run is left as it is, to be resumed."""


Message: TypeAlias = Seen | Arrived | Said | GaveUp | Left | Reported | Stop | Open | Drain
