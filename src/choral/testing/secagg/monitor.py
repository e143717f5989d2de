"""Watches what clients say over all attempts: nobody may say what gives a vector away."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from choral.secagg.messages import (
    Advertise,
    Complaint,
    Consent,
    FromClient,
    Kind,
    Masked,
    Unmask,
    encode,
)


class Violation(AssertionError):
    """A client said what no client may ever say."""


@dataclass(slots=True)
class _Session:
    """One client under one pair of keys."""

    attempt: int
    advertise: Advertise | None = None
    vectors: set[bytes] = field(default_factory=set)
    contents: set[bytes] = field(default_factory=set)
    consents: set[bytes] = field(default_factory=set)
    answers: set[bytes] = field(default_factory=set)
    kinds: dict[str, set[Kind]] = field(default_factory=lambda: defaultdict(set))
    over: bool = False


class Monitor:
    """Sees every message as it leaves its client, before anybody can change it.

    Under one key of one client it allows one masked vector, one consent, one answer at the end and
    one kind of share of each dealer; over all attempts no key twice and one sum of each round;
    over all clients not a threshold of both kinds of one dealer; and nothing but other complaints
    after a complaint that ends the client's part.

    Args:
        halt: Raise at the first fault. Otherwise faults are only kept.

    Attributes:
        faults: What was wrong, in the order it was seen.
    """

    def __init__(self, *, halt: bool = True) -> None:
        self.faults: list[str] = []
        self._halt = halt
        self._attempt = 0
        self._threshold = 0
        self._round: tuple[str, int] = ("", 0)
        self._now: dict[str, _Session] = {}
        self._sessions: list[tuple[str, _Session]] = []
        self._joined: dict[tuple[str, str, int], _Session] = {}
        self._holders: dict[tuple[int, str, Kind], set[str]] = defaultdict(set)

    @property
    def kinds(self) -> dict[tuple[str, str], set[Kind]]:
        """Holder and dealer to the kinds of share that were given out, under any key."""
        found: dict[tuple[str, str], set[Kind]] = {}
        for client, session in self._sessions:
            for dealer, kinds in session.kinds.items():
                found.setdefault((client, dealer), set()).update(kinds)
        return found

    def begin(self, *, run_id: str, round: int, threshold: int) -> None:
        """Take note that what follows belongs to another attempt, with new keys."""
        self._attempt += 1
        self._round = (run_id, round)
        self._threshold = threshold

    def saw(self, client: str, message: FromClient, *, content: bytes | None = None) -> None:
        """Look at one message.

        Args:
            client: Who said it.
            message: What.
            content: With `Masked`: SHA-256 of the vector's bytes as they would leave.

        Raises:
            Violation: It must not be said, and the monitor halts.
        """
        if isinstance(message, Advertise):
            self._advertised(client, message)
            return
        session = self._session(client)
        if isinstance(message, Complaint):
            session.over |= message.ends
            return
        self._check(not session.over, f"{client} goes on after it stopped")
        if isinstance(message, Masked):
            session.vectors.add(message.digest)
            session.contents.add(message.digest if content is None else content)
            once = max(len(session.vectors), len(session.contents)) == 1
            self._check(once, f"{client} sends two masked vectors under one key")
        elif isinstance(message, Consent):
            session.consents.add(message.signature)
            self._check(len(session.consents) == 1, f"{client} consents to two survivor sets")
        elif isinstance(message, Unmask):
            self._unmasked(client, session, message)

    def _advertised(self, client: str, m: Advertise) -> None:
        """Start a session, unless it is the same message again."""
        keys = {m.transport, m.mask}
        for name, session in self._sessions:
            past = session.advertise
            if name == client and past is not None and keys & {past.transport, past.mask}:
                self._check(past == m, f"{client} advertises one key twice")
                self._now[client] = session
                return
        self._start(client).advertise = m

    def _start(self, client: str) -> _Session:
        session = _Session(self._attempt)
        self._now[client] = session
        self._sessions.append((client, session))
        return session

    def _session(self, client: str) -> _Session:
        return self._now.get(client) or self._start(client)

    def _unmasked(self, client: str, session: _Session, m: Unmask) -> None:
        for revealed in m.revealed:
            dealer, kind = revealed.dealer, revealed.kind
            session.kinds[dealer].add(kind)
            once = len(session.kinds[dealer]) == 1
            self._check(once, f"{client} gives out both kinds of share of {dealer}")
            self._holders[session.attempt, dealer, kind].add(client)
            self._check(
                not self._exposed(session.attempt, dealer),
                f"{self._threshold} clients give out each kind of share of {dealer}",
            )
        session.answers.add(encode(m))
        self._check(len(session.answers) == 1, f"{client} gives two answers at the end")
        first = self._joined.setdefault((client, *self._round), session)
        self._check(first is session, f"{client} joins two sums of one round")

    def _exposed(self, attempt: int, dealer: str) -> bool:
        """Return whether both secrets of a dealer can be put together."""
        least = min(len(self._holders[attempt, dealer, kind]) for kind in Kind)
        return 0 < self._threshold <= least

    def _check(self, holds: bool, fault: str) -> None:
        if holds or fault in self.faults:
            return
        self.faults.append(fault)
        if self._halt:
            raise Violation(fault)
