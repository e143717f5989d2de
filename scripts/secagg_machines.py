"""The machines of secure aggregation, run through everything that a small cohort can reach.

Their keys refuse to be copied, so a state is reached by playing its events to new machines; with
the same draws they come to the same state. As in `diagrams`, a rule of `CLIENT_TABLE` or
`SERVER_TABLE` that is never reached is an error, and so is a picture of messages with one missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, TypeAlias

import diagrams
from diagrams import Explored, Outcome

from choral.secagg import client, messages, server, statements
from choral.secagg import commands as cmd
from choral.secagg.ports import MemoryOnce
from choral.secagg.refusals import Reason
from choral.testing import SeededRand
from choral.testing.secagg import Network
from choral.testing.secagg.parties import Spool

FIRST: Final = "c000"
BREACH: Final = "Breach"
"""What the pictures call a message that fails a check."""

STEPS: Final[dict[type[Any], tuple[str, str]]] = {
    messages.Invitation: ("R0", "signed: run, round, model, plan, n, t"),
    messages.Advertise: ("R0", "two public keys, enrolled and signed"),
    messages.Roster: ("R1", "everybody's keys, signed"),
    messages.Bundle: ("R1", "sealed shares of b and s, their hashes"),
    messages.Deliveries: ("R2", "the others' shares for this client"),
    messages.Masked: ("R2", "digest; then the masked vector"),
    messages.Survivors: ("R3", "whose vectors are summed"),
    messages.Consent: ("R3", "signature over these survivors"),
    messages.Consents: ("R4", "t or more of these signatures"),
    messages.Unmask: ("R4", "of each client one share, of b or of s"),
    messages.Result: ("end", "number, weight and digest of the sum"),
}
"""Message to its step and what is in it, in the order in which a client sees them."""


# --- client ---------------------------------------------------------------------------------------


def client_machine() -> Explored:
    """Return what a client's machine does."""
    suites = [_client_of_suite(semi_honest=each) for each in (False, True)]
    return _whole(suites, client.CLIENT_TABLE)


def _client_of_suite(*, semi_honest: bool) -> Explored:
    found = Explored(tuple(p.value for p in client.Phase), frozenset())
    net = Network(4, semi_honest=semi_honest)
    net.rands[FIRST] = SeededRand(1)
    net.begin()
    told = list(net.run().told[FIRST].values())
    for length in range(len(told) + 1):
        _client_events(found, net, told, length)
    return found


def _client_events(found: Explored, net: Network, told: list[Any], length: int) -> None:
    """Give every event to a client that has had the first messages."""
    events = [(type(m).__name__, m) for m in told]
    events += [(BREACH, b"\0"), (cmd.Ended.__name__, cmd.Ended())]
    for name, event in events:
        machine = _client(net, told[:length])
        phase = machine.phase
        if not isinstance(event, bytes | cmd.Ended) and (phase, type(event)) not in (
            client.CLIENT_TABLE
        ):
            continue
        commands = machine.receive(event)
        if commands or machine.phase is not phase:  # else it is absorbing
            _note(found, (phase, name), commands, machine.phase)


def _client(net: Network, told: Iterable[Any]) -> client.Client:
    """Return a client that has had these messages."""
    net.rands[FIRST], net.once[FIRST] = SeededRand(1), MemoryOnce()
    machine: Any = net.client(FIRST)
    for message in told:
        machine.receive(messages.encode(message))
    return machine  # type: ignore[no-any-return]


# --- server ---------------------------------------------------------------------------------------

Action: TypeAlias = tuple[str, str]
"""(name of an event, client)."""


class _Attempt:
    """A server and what its clients have to say to it.

    Args:
        net: Makes the parties.
        events: What happened to the server before.
        heard: Client to the messages that it has had.
        waiting: Client to what it has to say next.
    """

    def __init__(
        self,
        net: Network,
        events: tuple[cmd.ServerEvent, ...] = (),
        heard: Mapping[str, tuple[bytes, ...]] | None = None,
        waiting: Mapping[str, cmd.ServerEvent] | None = None,
    ) -> None:
        net.begin()
        self.net = net
        self.server: Any = net.server
        self._events = events
        self._heard = dict(heard or {})
        self._waiting = dict(waiting or {})
        for event in events:
            self.server.receive(event)

    def again(self) -> _Attempt:
        """Return an attempt in the same state."""
        return _Attempt(self.net, self._events, self._heard, self._waiting)

    def act(self, action: Action) -> cmd.ServerCommands:
        """Let an event happen, and the clients hear what comes of it."""
        event = self._event(*action)
        self._events = (*self._events, event)
        commands: cmd.ServerCommands = self.server.receive(event)
        for command in commands:
            if isinstance(command, cmd.Tell):
                self._hear(command.client, messages.encode(command.message))
        return commands

    def _event(self, name: str, sender: str) -> cmd.ServerEvent:
        if name in _ALONE:
            return _ALONE[name]
        if name == cmd.Lost.__name__:
            return cmd.Lost(sender)
        if name == messages.Complaint.__name__:
            return cmd.Received(sender, self._complaint(sender))
        return self._waiting.pop(sender)

    def _complaint(self, sender: str) -> bytes:
        said = messages.Complaint(sender, Reason.FAILED, "", True, b"")
        if self.net.signed:
            what = statements.complaint(self.net.context.h0, said)
            said = replace(said, signature=self.net.keys[sender].sign(what))
        return messages.encode(said)

    def _hear(self, name: str, raw: bytes) -> None:
        heard = self._heard[name] = (*self._heard.get(name, ()), raw)
        answer = _answer(self.net, name, heard)
        if answer is not None:
            self._waiting[name] = answer

    def actions(self) -> list[Action]:
        """Return one event of each kind; clients that answered alike are alike."""
        if self.server.phase is server.Phase.PLANNED:
            return [(cmd.Start.__name__, "")]
        left = sorted(self.server._waiting - self.server.answered - set(self.server.lost))
        found = [(cmd.Close.__name__, ""), (cmd.GiveUp.__name__, "")]
        found += [(_kind(self._waiting[name]), name) for name in left[:1] if name in self._waiting]
        for name in left[-1:]:
            found += [(kind.__name__, name) for kind in (cmd.Lost, messages.Complaint)]
        return found

    def state(self) -> tuple[Any, ...]:
        """Return what tells one state from another, up to the clients' names."""
        machine = self.server
        return (machine.phase, len(machine._waiting), len(machine.answered), len(machine.lost))


_ALONE: Final[dict[str, cmd.ServerEvent]] = {
    cmd.Start.__name__: cmd.Start(),
    cmd.Close.__name__: cmd.Close(),
    cmd.GiveUp.__name__: cmd.GiveUp(),
}


@cache
def _answer(net: Network, name: str, heard: tuple[bytes, ...]) -> cmd.ServerEvent | None:
    """Return what a client says to the last of some messages."""
    net.rands[name], net.once[name] = SeededRand(int(name[1:])), MemoryOnce()
    net.spools[name] = Spool()
    machine: Any = net.client(name)
    said = [machine.receive(raw) for raw in heard][-1]
    sent = [c.message for c in said if isinstance(c, cmd.Send | cmd.Upload)]
    return net.event(name, sent[-1]) if sent else None


def _kind(event: Any) -> str:
    """Return the name under which `SERVER_TABLE` knows what a client sent."""
    if isinstance(event, cmd.Received) and isinstance(event.message, bytes):
        return type(messages.decode(event.message)).__name__
    return type(event).__name__


def server_machine() -> Explored:
    """Return what a server's machine does."""
    suites = [_server_of_suite(Network(4)), _server_of_suite(Network(3, semi_honest=True))]
    return _whole(suites, server.SERVER_TABLE)


def _server_of_suite(net: Network) -> Explored:
    found = Explored(tuple(p.value for p in server.Phase), frozenset())
    waiting, seen = [_Attempt(net)], set()
    while waiting:
        before = waiting.pop(0)
        for action in before.actions():
            attempt = before.again()
            phase = attempt.server.phase
            commands = attempt.act(action)
            _note(found, (phase, action[0]), commands, attempt.server.phase)
            if attempt.state() not in seen:
                seen.add(attempt.state())
                if attempt.server.phase not in _SERVER_ENDS:
                    waiting.append(attempt)
    return found


_SERVER_ENDS: Final = (server.Phase.DONE, server.Phase.ABORTED)


# --- both -----------------------------------------------------------------------------------------


def _note(found: Explored, at: tuple[str, str], commands: Iterable[Any], phase: str) -> None:
    names = tuple(dict.fromkeys(type(c).__name__ for c in commands))
    found.outcomes.setdefault((str(at[0]), at[1]), set()).add(Outcome(str(phase), names))


def _whole(suites: Sequence[Explored], table: Any) -> Explored:
    """Return what was found in both suites, with its ends.

    What only the semi-honest suite does stands under that name. Stop where a rule of the table was
    not met.
    """
    found, other = suites
    for (phase, event), outcomes in other.outcomes.items():
        only_here = outcomes - found.outcomes.get((phase, event), set())
        if only_here:
            found.outcomes[phase, event + diagrams.SEMI_HONEST] = only_here
    diagrams.all_rules_seen(found, table)
    left = {source for source, _ in found.edges()}
    return replace(found, ends=frozenset(found.phases) - left)


# --- messages -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Passed:
    """A message between the server and one client.

    Attributes:
        kind: Its type.
        down: Whether it goes to the client.
        size: Bytes, without those of a vector.
    """

    kind: type[Any]
    down: bool
    size: int


def passed(clients: int) -> tuple[Passed, ...]:
    """Return what passes between the server and one client of an attempt without losses."""
    net = Network(clients).run()
    log = [(d, messages.decode(raw), len(raw)) for d, who, raw in net.log if who == FIRST]
    found = tuple(Passed(type(m), d == ">", size) for d, m, size in log)
    if [p.kind for p in found] != list(STEPS):
        raise SystemExit("an attempt had other messages than those that `STEPS` lists")
    return found


def sizes(cohorts: Sequence[int]) -> str:
    """Return the bytes of each message in cohorts of `full`, as a Markdown table."""
    columns = [passed(n) for n in cohorts]
    lines = [
        "| step | message | from | " + " | ".join(f"n = {n}" for n in cohorts) + " |",
        "|---|---|---|" + "---:|" * len(cohorts),
    ]
    for row in zip(*columns, strict=True):
        step, sender = STEPS[row[0].kind][0], "coordinator" if row[0].down else "client"
        cells = " | ".join(f"{p.size:,}".replace(",", " ") for p in row)
        lines.append(f"| {step} | `{row[0].kind.__name__}` | {sender} | {cells} |")
    return "\n".join(lines) + "\n"


ROW: Final = 32
LINES: Final = (150, 370)
"""Places of the coordinator and the client from the left."""


def sequence(title: str) -> str:
    """Return the drawing of what passes between the coordinator and one client."""
    rows = passed(4)
    top, (left, right) = 84, LINES
    bottom = top + ROW * len(rows)
    parts = [diagrams.head(title, 660, bottom + 12)]
    for x, name in ((left, "coordinator"), (right, "client")):
        parts.append(
            f'<text x="{x}" y="54" class="name">{name}</text>'
            f'<path d="M{x} 62V{bottom}" class="edge"/>'
        )
    shown = ""
    for index, each in enumerate(rows):
        (step, what), y = STEPS[each.kind], top + ROW * index + 12
        if step != shown:
            shown = step
            parts.append(diagrams.text(diagrams.MARGIN, y + 3, step, "start"))
        start, end = (left, right - 7) if each.down else (right, left + 7)
        parts.append(f'<path d="M{start} {y}H{end}" class="edge" marker-end="url(#tip)"/>')
        middle = diagrams.text((left + right) / 2, y - 5, each.kind.__name__, "middle")
        parts.append(middle + diagrams.text(right + 14, y + 3, what, "start"))
    return "\n".join([*parts, "</svg>", ""])
