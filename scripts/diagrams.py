"""The state machines as the documentation shows them: a table and a drawing of each.

Nothing here is drawn by hand. The machines are run through every event in every state that a small
federation can reach, and what they then did is what is shown. A rule of `ROUND_TABLE` or
`RUN_TABLE` that is never reached is an error, so the pictures cannot leave one out.
"""

from __future__ import annotations

import copy
import enum
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from choral.core.params import ClientId
from choral.federation import events as ev
from choral.federation.policy import RoundPolicy, RunPolicy
from choral.federation.round import ENDS, ROUND_TABLE, Phase, RoundMachine
from choral.federation.run import RUN_TABLE, RunMachine, RunPhase

CLIENTS = tuple(ClientId(c) for c in "abc")
STRANGER = ClientId("x")
SEMI_HONEST = " (semi_honest)"
"""After the name of an event: what it does in that suite of secure aggregation alone."""
RUN_COMMANDS = (ev.ChooseCohort, ev.Evaluate, ev.Finish)


@dataclass(frozen=True, slots=True, order=True)
class Outcome:
    """What a machine did with an event: the phase it went to, and its commands by name."""

    phase: str
    commands: tuple[str, ...]


@dataclass(slots=True)
class Explored:
    """What was seen of a machine.

    Attributes:
        phases: All phases, in order.
        ends: Phases that are never left.
        outcomes: (phase, event) to what came of it.
    """

    phases: tuple[str, ...]
    ends: frozenset[str]
    outcomes: dict[tuple[str, str], set[Outcome]] = field(default_factory=dict)

    def edges(self) -> dict[tuple[str, str], list[str]]:
        """Return (from, to) to the events that lead there, without those that stay."""
        found: dict[tuple[str, str], list[str]] = {}
        for (phase, event), outcomes in sorted(self.outcomes.items()):
            for target in sorted({o.phase for o in outcomes} - {phase}):
                found.setdefault((phase, target), []).append(event)
        return found


# --- running the machines -------------------------------------------------------------------------


def round_machine() -> Explored:
    """Return what a round's machine does."""
    explored = Explored(tuple(p.value for p in Phase), frozenset(p.value for p in ENDS))
    policies = [
        RoundPolicy(clients=3, goal=goal, quorum=2, grace_s=grace_s)
        for goal, grace_s in itertools.product((2, 3), (0.0, 5.0))
    ]
    for policy in (*policies, RoundPolicy(clients=3, whole=True)):
        start = RoundMachine(1, 1, policy=policy)
        _explore(explored, start, round_events, state=_round_state, table=ROUND_TABLE)
    all_rules_seen(explored, ROUND_TABLE)
    return explored


def run_machine() -> Explored:
    """Return what a run's machine does; of a round's commands only the run's own are kept."""
    ends = (RunPhase.COMPLETED, RunPhase.STOPPED)
    explored = Explored(tuple(p.value for p in RunPhase), frozenset(p.value for p in ends))
    for every in (0, 1):
        policy = RunPolicy(2, RoundPolicy(clients=2, quorum=2, retries=1), evaluate_every=every)
        _explore(explored, RunMachine(policy), run_events, state=_run_state, table=RUN_TABLE)
    all_rules_seen(explored, RUN_TABLE)
    return explored


def _explore(
    explored: Explored,
    start: Any,
    events: Callable[[Any], Iterable[Any]],
    *,
    state: Callable[[Any], Any],
    table: Mapping[Any, Any],
) -> None:
    """Feed every event to every reachable state, breadth first."""
    waiting, seen = [start], {state(start)}
    while waiting:
        machine = waiting.pop(0)
        for event in events(machine):
            phase = machine.phase
            if (phase, type(event)) not in table:
                continue
            after = copy.deepcopy(machine)
            commands = after.receive(event)
            key = (phase.value, type(event).__name__)
            names = tuple(dict.fromkeys(_shown(commands, type(machine))))
            explored.outcomes.setdefault(key, set()).add(Outcome(after.phase.value, names))
            if state(after) not in seen:
                seen.add(state(after))
                waiting.append(after)


def _shown(commands: ev.Commands, machine: type[Any]) -> Iterable[str]:
    """Yield the names of commands; a run's table leaves a round's own commands out."""
    for command in commands:
        if machine is RunMachine and not (
            isinstance(command, RUN_COMMANDS) or getattr(command, "timer", "") == "backoff"
        ):
            continue
        yield type(command).__name__


def round_events(machine: RoundMachine) -> Iterable[Any]:
    """Yield the events that a round's machine might be given now."""
    at = {"round": machine.round, "attempt": machine.attempt}
    accepted = tuple(machine.accepted)
    for clients in ((), CLIENTS[:1], CLIENTS):
        yield _event(ev.CohortChosen, clients=clients, **at)
    for client in (*CLIENTS, STRANGER):
        yield _event(ev.UpdateReceived, client=client, **at)
        yield _event(ev.ClientFailed, client=client, **at)
    for timer in ("deadline", "grace"):
        yield _event(ev.TimerFired, timer=timer, **at)
    yield from _steps(at, len(accepted))
    for kept in (accepted, accepted[:1], ()):
        yield ev.Restarted(kept)


def run_events(machine: RunMachine) -> Iterable[Any]:
    """Yield the events that a run's machine might be given now."""
    yield _event(ev.RunStarted)
    yield _event(ev.Evaluated, round=machine.committed)
    yield _event(ev.StopRequested)
    yield _event(ev.OverBudget, round=machine.committed + 1, attempt=machine._attempt)
    inner = machine.round
    at = {"round": machine.committed + 1, "attempt": machine._attempt}
    for clients in ((), CLIENTS[:2]):
        yield _event(ev.CohortChosen, clients=clients, **at)
    for timer in ("deadline", "backoff"):
        yield _event(ev.TimerFired, timer=timer, **at)
    accepted = tuple(inner.accepted) if inner else ()
    if machine._attempt < 4:
        yield ev.Restarted(accepted)
    for client in CLIENTS[:2]:
        yield _event(ev.UpdateReceived, client=client, **at)
        yield _event(ev.ClientFailed, client=client, **at)
    yield _event(ev.OverBudget, **at)
    yield from _steps(at, len(accepted))


def _steps(at: Mapping[str, int], count: int) -> Iterable[Any]:
    """Yield what follows the closing of a sum."""
    yield _event(ev.Aggregated, count=count, left_out=(), **at)
    yield _event(ev.SumFailed, **at)
    yield _event(ev.ModelReleased, **at)
    yield _event(ev.Committed, **at)


def _event(kind: type[Any], **given: Any) -> Any:
    """Return an event; fields that the machines do not look at get an empty value."""
    empty = {"int": 0, "float": 0.0, "str": ""}
    rest = {f.name: empty.get(str(f.type)) for f in fields(kind) if f.name not in given}
    return kind(**rest, **given)


def _round_state(machine: RoundMachine | None) -> Any:
    if machine is None:
        return None
    cohort = machine.cohort
    clients = frozenset(cohort.clients) if cohort else None
    return (machine.phase, frozenset(machine.accepted), frozenset(machine.failed), clients)


def _run_state(machine: RunMachine) -> Any:
    inner = _round_state(machine.round) if machine.phase is RunPhase.ROUND else None
    return (machine.phase, machine.committed, machine._tries, machine._attempt, inner)


def all_rules_seen(explored: Explored, table: Mapping[Any, Any]) -> None:
    """Stop where a machine has a rule that was not met."""
    wanted = {(phase.value, event.__name__) for phase, event in table}
    missed = sorted(wanted - explored.outcomes.keys())
    if missed:
        raise SystemExit(f"rules that no reachable state of the examples uses: {missed}")


# --- table ----------------------------------------------------------------------------------------


def table(explored: Explored) -> str:
    """Return every rule of a machine as a Markdown table."""
    lines = ["| phase | event | what may follow |", "|---|---|---|"]
    for phase in explored.phases:
        shown = f"**{phase}**"
        for (at, event), outcomes in sorted(explored.outcomes.items()):
            if at == phase:
                cells = [_words(phase, o) for o in _ordered(explored, outcomes)]
                lines.append(f"| {shown} | `{event}` | {'<br>'.join(cells)} |")
                shown = ""
    return "\n".join(lines) + "\n"


def _ordered(explored: Explored, outcomes: set[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda o: (explored.phases.index(o.phase), o.commands))


def _words(phase: str, outcome: Outcome) -> str:
    where = "stays" if outcome.phase == phase else f"→ {outcome.phase}"
    return ", ".join([where, *(f"`{c}`" for c in outcome.commands)])


# --- drawing --------------------------------------------------------------------------------------

BOX = 132
PORT = 19
GAP = 22
LANE = 13
LETTER = 6.7
MARGIN = 16


class Side(enum.Enum):
    """Where an edge runs: forward ones on the right of the boxes, backward ones on the left."""

    LEFT = -1
    RIGHT = 1


@dataclass(slots=True)
class Edge:
    """One arrow.

    Attributes:
        source: Index of its phase.
        target: Index of its phase.
        label: The events.
        start: Height at which it leaves.
        end: Height at which it arrives.
        lane: Counted from the boxes outwards.
    """

    source: int
    target: int
    label: str
    start: float = 0.0
    end: float = 0.0
    lane: int = 0

    @property
    def side(self) -> Side:
        """Where it runs."""
        return Side.RIGHT if self.target > self.source else Side.LEFT


def svg(explored: Explored, title: str, *, open_phases: str = "") -> str:
    """Return the drawing of a machine.

    Args:
        explored: The machine.
        title: Stands above it.
        open_phases: What all live phases but the first are called, where that one is left in its
            own way.
    """
    everywhere = _from_everywhere(explored, bool(open_phases))
    edges = [
        Edge(explored.phases.index(a), explored.phases.index(b), _label(shown))
        for (a, b), events in explored.edges().items()
        if (shown := [e for e in events if (e, b) not in everywhere])
    ]
    notes: dict[str, str] = {}
    for event, target in sorted(everywhere):
        notes[target] = f"{notes[target]}, {event}" if target in notes else event
    where = f"from every {open_phases or 'live phase'}"
    notes = {target: f"{events} {where}" for target, events in notes.items()}
    boxes, height = _place(explored.phases, edges, notes)
    for side in Side:
        _lanes([e for e in edges if e.side is side])
    room = {side: _room([e for e in edges if e.side is side]) for side in Side}
    left = MARGIN + room[Side.LEFT]
    width = left + BOX + max(room[Side.RIGHT], max(map(_width, notes.values()), default=0)) + MARGIN
    parts = [head(title, width, height)]
    parts += [_arrow(e, left, [f for f in edges if f.side is e.side]) for e in edges]
    for index, phase in enumerate(explored.phases):
        parts.append(_box(phase, left, boxes[index], end=phase in explored.ends))
        if phase in notes:
            top, tall = boxes[index]
            beside = any(e.side is Side.RIGHT and index in (e.source, e.target) for e in edges)
            at = top + tall - 9 if beside else top + tall / 2 + 4
            parts.append(text(left + BOX + 8, at, notes[phase], "start"))
    return "\n".join([*parts, "</svg>", ""])


def _label(events: list[str]) -> str:
    """Return an edge's events; where all are of the semi-honest suite, it says so once."""
    plain = [event.removesuffix(SEMI_HONEST) for event in events]
    if all(a != b for a, b in zip(events, plain, strict=True)):
        return ", ".join(plain) + SEMI_HONEST
    return ", ".join(events)


def _from_everywhere(explored: Explored, but_first: bool) -> set[tuple[str, str]]:
    """Return (event, target) of the events that lead there from every phase that can be left."""
    live = [p for p in explored.phases if p not in explored.ends][but_first:]
    pairs = [(e, b) for (a, b), events in explored.edges().items() if a in live for e in events]
    return {pair for pair in pairs if pairs.count(pair) == len(live)}


def _place(
    phases: tuple[str, ...], edges: list[Edge], notes: Mapping[str, str]
) -> tuple[list[tuple[float, float]], float]:
    """Set where edges touch boxes; return each box's top and height, and the whole height.

    A note that has edges above it gets a line of its own.
    """
    boxes: list[tuple[float, float]] = []
    top = 44.0
    for index in range(len(phases)):
        tall = 34.0
        for side in Side:
            arriving = [e for e in edges if e.side is side and e.target == index]
            leaving = [e for e in edges if e.side is side and e.source == index]
            arriving.sort(key=lambda e: -abs(e.target - e.source))
            leaving.sort(key=lambda e: abs(e.target - e.source))
            if side is Side.LEFT:
                arriving, leaving = leaving[::-1], arriving[::-1]
            for place, edge in enumerate([*arriving, *leaving]):
                at = top + 15 + PORT * place
                if edge.source == index:
                    edge.start = at
                else:
                    edge.end = at
            touching = len(arriving) + len(leaving)
            own_line = bool(touching) and side is Side.RIGHT and phases[index] in notes
            tall = max(tall, 15 + PORT * (touching + own_line))
        boxes.append((top, tall))
        top += tall + GAP
    return boxes, top - GAP + MARGIN


def _lanes(edges: list[Edge]) -> None:
    """Give edges of one side lanes in which they do not lie on each other; short ones inside."""
    taken: list[list[tuple[float, float]]] = []
    for edge in sorted(edges, key=lambda e: (abs(e.end - e.start), e.start)):
        low, high = sorted((edge.start, edge.end))
        lane = 0
        while lane < len(taken) and any(low < b and a < high for a, b in taken[lane]):
            lane += 1
        if lane == len(taken):
            taken.append([])
        taken[lane].append((low - 4, high + 4))
        edge.lane = lane


def _width(label: str) -> float:
    return len(label) * LETTER + 16


def _room(edges: list[Edge]) -> float:
    """Return the width that one side's labels and lanes take."""
    if not edges:
        return 0.0
    return max(_width(e.label) for e in edges) + LANE * (1 + max(e.lane for e in edges))


def _arrow(edge: Edge, left: float, same_side: list[Edge]) -> str:
    """Return one arrow with its label: out, along its lane, and in again."""
    sign = edge.side.value
    border = left + (BOX if edge.side is Side.RIGHT else 0)
    labels = max(_width(e.label) for e in same_side)
    lane = border + sign * (labels + LANE * edge.lane)
    path = f"M{border:g} {edge.start:g}H{lane:g}V{edge.end:g}H{border + sign * 7:g}"
    anchor = "start" if edge.side is Side.RIGHT else "end"
    return f'<path d="{path}" class="edge" marker-end="url(#tip)"/>' + text(
        border + sign * 8, edge.start - 4, edge.label, anchor
    )


def _box(phase: str, left: float, place: tuple[float, float], *, end: bool) -> str:
    top, tall = place
    kind = "end" if end else "box"
    return (
        f'<rect x="{left:g}" y="{top:g}" width="{BOX}" height="{tall:g}" rx="6" class="{kind}"/>'
        f'<text x="{left + BOX / 2:g}" y="{top + tall / 2 + 4:g}" class="name">{phase}</text>'
    )


def text(x: float, y: float, shown: str, anchor: str) -> str:
    """Return a label."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="label">{shown}</text>'


def head(title: str, width: float, height: float) -> str:
    """Return the beginning of a drawing."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img">\n'
        f"<title>{title}</title>\n"
        "<style>text{font-family:ui-monospace,monospace;font-size:11px;fill:#1f2933}"
        ".name{font-size:13px;font-weight:600;text-anchor:middle}.title{font-size:13px}"
        ".label{fill:#3e4c59}.box{fill:#e3f0fb;stroke:#2b6cb0}.end{fill:#e8e8e8;stroke:#52606d}"
        ".edge{fill:none;stroke:#7b8794;stroke-width:1.2}</style>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#7b8794"/></marker></defs>\n'
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#ffffff"/>\n'
        f'<text x="{MARGIN}" y="25" class="title">{title}</text>'
    )
