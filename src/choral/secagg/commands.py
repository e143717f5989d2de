"""What happens to the machines (events) and what they ask their drivers to do (commands)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from choral.crypto.ring import RingVector
from choral.secagg.messages import (
    FromClient,
    FromServer,
    Masked,
    Result,
)
from choral.secagg.ports import Source
from choral.secagg.refusals import Breach, Reason

# --- client ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ended:
    """Event: the commit is witnessed, or the attempt's lease ran out."""


@dataclass(frozen=True, slots=True)
class Send:
    """Command: send this to the server."""

    message: FromClient


@dataclass(frozen=True, slots=True)
class Upload:
    """Command: send this, then the bytes in the sink. Again on a retransmission: the same ones."""

    message: Masked


@dataclass(frozen=True, slots=True)
class Counted:
    """Command: the signed result counts this client; tell the site."""

    result: Result


@dataclass(frozen=True, slots=True)
class Stopped:
    """Command: this client's part is over; tell the site why."""

    breach: Breach


ClientEvent: TypeAlias = bytes | FromServer | Ended
ClientCommand: TypeAlias = Send | Upload | Counted | Stopped
ClientCommands: TypeAlias = tuple[ClientCommand, ...]

# --- server ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Event: invite the cohort."""


@dataclass(frozen=True, slots=True)
class Received:
    """Event: a message came over the channel of a client that the transport has authenticated."""

    sender: str
    message: bytes | FromClient


@dataclass(frozen=True, slots=True)
class Uploaded:
    """Event: a masked vector is here, whole.

    Attributes:
        sender: The authenticated client.
        message: What it said before the bytes.
        chunks: The vector's chunks, the same at each call; not overwritten. They are read once,
            and again where they are not what was announced.
    """

    sender: str
    message: Masked
    chunks: Source


@dataclass(frozen=True, slots=True)
class Lost:
    """Event: a client will not be heard of again in this attempt."""

    client: str


@dataclass(frozen=True, slots=True)
class Close:
    """Event: the time of the present step is over, or enough have answered.

    At R4 it finishes where the shares that came are enough, and else changes nothing: whoever has
    revealed shares joins no other attempt of the round, so waiting costs less than giving up.
    """


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Event: the attempt is to end without a sum."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Command: send this to a client."""

    client: str
    message: FromServer


@dataclass(frozen=True, slots=True)
class Reject:
    """Command: note that what a client sent is refused; `about` is who is to blame for it."""

    client: str
    reason: Reason
    about: str


@dataclass(frozen=True, slots=True)
class Accused:
    """Command: note what a client says of another, or of the server where `about` is empty.

    It is that client's word alone: what it was sent may have been spoiled by the other, by the
    server, or by nobody.

    Attributes:
        client: Who says it.
        reason: What.
        about: Of whom.
        ends: It has left the attempt.
    """

    client: str
    reason: Reason
    about: str
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Summed:
    """Command: take the sum.

    Attributes:
        total: Ring vector of the survivors' sum.
        survivors: U3, ascending.
        result: As it was sent to the clients.
    """

    total: RingVector
    survivors: tuple[str, ...]
    result: Result


@dataclass(frozen=True, slots=True)
class Abandon:
    """Command: throw the attempt away; a new one may leave out those under suspicion."""

    reason: str
    blamed: tuple[str, ...]


ServerEvent: TypeAlias = Start | Received | Uploaded | Lost | Close | GiveUp
ServerCommand: TypeAlias = Tell | Reject | Accused | Summed | Abandon
ServerCommands: TypeAlias = tuple[ServerCommand, ...]
