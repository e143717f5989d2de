"""Runs a whole federation with all that goes wrong in it, in one thread, on a virtual clock."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from choral.coordinator.tickets import Drain
from choral.core.errors import Unavailable
from choral.core.params import ClientId
from choral.federation.run import RunPhase
from choral.testing.faults.agent import Agent
from choral.testing.faults.calls import CUT, Call
from choral.testing.faults.checks import Checks, Spoken
from choral.testing.faults.disk import Disk
from choral.testing.faults.draws import Draws
from choral.testing.faults.engine import Ended, Engine, Numbered, Violated, Wire
from choral.testing.faults.process import Process
from choral.testing.faults.schedule import NAMES, Fault, Schedule, schedule_of
from choral.testing.faults.stage import CLIENTS, stage_of

RESTART_S: Final = 1.0
"""How long it takes an operator to start a coordinator that has ended by itself."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a simulation is made of: a test that plants a fault replaces one of them.

    Attributes:
        process: A coordinator's process.
        agent: A client.
    """

    process: type[Process] = Process
    agent: type[Agent] = Agent


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a simulated run went.

    Attributes:
        schedule: What was simulated.
        violation: Name of the invariant that does not hold; empty where all hold.
        detail: What was seen.
        committed: Rounds that were committed.
        status: Where the run was at the end.
        virtual_s: Virtual seconds that passed.
        steps: Things that happened.
        effects: Effects of coordinators.
        processes: Coordinators that were started.
        trace: What happened, in words, where it was asked for.
    """

    schedule: Schedule
    violation: str = ""
    detail: str = ""
    committed: int = 0
    status: str = ""
    virtual_s: float = 0.0
    steps: int = 0
    effects: int = 0
    processes: int = 0
    trace: tuple[str, ...] = field(default=(), repr=False)

    @property
    def holds(self) -> bool:
        """Whether every invariant holds."""
        return not self.violation

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as a JSON object."""
        return asdict(self)


class Simulation:
    """One run, its coordinators, clients, wire and disk.

    Args:
        schedule: What goes wrong.
        parts: What it is made of.
        traced: Keep what happens, in words.
    """

    def __init__(self, schedule: Schedule, *, parts: Parts, traced: bool) -> None:
        self.schedule = schedule
        self.engine = Engine(traced=traced)
        self.stage = stage_of(schedule)
        self.draws = Draws(schedule.seed, schedule.mode, "coordinator")
        self.checks = Checks(self.stage)
        self.spoken = Spoken(self.checks)
        disk_draws = Draws(schedule.seed, schedule.mode, "disk")
        self.disk = self.checks.disk = Disk(disk_draws, self.checks.stored)
        self.wall = 0.0
        self.spent = False
        self.started = 0
        self.live: list[Process] = []
        self._parts = parts
        self._wire = Wire(self.engine, schedule, Draws(schedule.seed, schedule.mode, "wire"))
        by: dict[str, list[Fault]] = defaultdict(list)
        for fault in schedule.faults:
            by[fault.kind + (fault.who if fault.kind == "kill" else "")].append(fault)
        self._crashes = Numbered(by["crash"])
        self._writes = Numbered(by["disk"])
        self._refusing_until = -1.0
        self._kills = {name: Numbered(by["kill" + name]) for name in NAMES}
        self._away: dict[int, float] = {}
        self._away_agents: dict[str, float] = {}
        self._finished_at: float | None = None
        self.agents = [parts.agent(self, ClientId(name)) for name in NAMES[: schedule.clients]]
        self._routes: dict[str, Process] = {}
        for kind in ("drain", "freeze", "takeover", "jump"):
            for fault in by[kind]:
                self.engine.at(fault.at, self._at_time, fault)

    # --- faults -----------------------------------------------------------------------------------

    @property
    def calm(self) -> bool:
        """Whether nothing goes wrong any more."""
        return self.engine.now >= self.schedule.calm_s

    def effect(self, process: Process, label: str) -> None:
        """Count an effect of a coordinator; end it where the schedule says so."""
        self.engine.say(process.name, f". {label}")
        fault = self._crashes.due()
        if fault is None or self.calm:
            return
        self._away[process.number] = fault.value
        self.engine.say(process.name, f"crash at {label}")
        raise Ended

    def refuses(self) -> bool:
        """Return whether the disk refuses a write now."""
        fault = self._writes.due()
        if fault is not None and not self.calm:
            self._refusing_until = self.engine.now + fault.value
        return self.engine.now < self._refusing_until and not self.calm

    def client_effect(self, agent: Agent, label: str) -> None:
        """Count an effect of a client; end it where the schedule says so."""
        fault = self._kills[agent.client].due()
        if fault is None or self.calm:
            return
        self._away_agents[agent.client] = fault.value
        self.engine.say(agent.client, f"killed at {label}")
        raise Ended

    def killed(self, agent: Agent) -> None:
        """Start a client anew after a while."""
        self.engine.at(self._away_agents.pop(agent.client, RESTART_S), agent.start)

    def ended(self, process: Process, why: str) -> None:
        """Start another coordinator, where none is left and the run is not over."""
        self.live.remove(process)
        self.engine.say(process.name, f"ends: {why}")
        if why == "crash" and not self.live:
            self.disk.crash()
        if self.live:
            return
        after = self._away.pop(process.number, RESTART_S)
        machine = self.checks.machine
        self.spent = machine.phase is RunPhase.PAUSED and self._spent(machine.committed + 1)
        if why == "over" and (machine.phase is RunPhase.COMPLETED or self.spent):
            self._finished_at = self.engine.now
            return
        self.engine.at(after, self._boot)

    def _spent(self, round: int) -> bool:
        """Return whether too many clients have unmasked in an attempt that came to nothing."""
        policy = self.stage.setup.policy.round
        if policy.secure is None:
            return False
        left = sum(not agent.joined(round) for agent in self.agents)
        return left < policy.cohort(CLIENTS[: self.schedule.clients]).quorum

    def _boot(self) -> None:
        if not self.live and self._finished_at is None:
            self._begin()

    def _begin(self) -> None:
        self.started += 1
        process = self._parts.process(self, self.started)
        self.live.append(process)
        process.start()

    def _at_time(self, fault: Fault) -> None:
        if self.calm or self._finished_at is not None:
            return
        self.engine.say("fault", str(fault))
        process = self.live[-1] if self.live else None
        if fault.kind == "jump":
            self._jump(fault)
        elif process is None:
            return
        elif fault.kind == "drain" and process.actor is not None:
            self._away[process.number] = fault.value
            process.posted(Drain())
        elif fault.kind == "freeze":
            process.slow_until = self.engine.now + fault.value
        elif fault.kind == "takeover":
            self._begin()
            self.engine.at(fault.value, process.stop, "replaced")

    def _jump(self, fault: Fault) -> None:
        if fault.who == "coordinator":
            self.wall += fault.value
            for process in self.live:
                process.clock.jumped = self.wall
        else:
            for agent in self.agents:
                agent.clock.jumped += fault.value

    # --- the wire ---------------------------------------------------------------------------------

    def send(self, agent: Agent, call: Call) -> None:
        """Send a call on its way, and its answer back."""
        client = agent.client
        way = self._wire.way(client, True, call.method)
        for at, delay in enumerate(way.delays):
            whole = way.whole if at == 0 else 1.0
            self.engine.at(delay, self._arrive, client, call, whole)

    def _arrive(self, client: ClientId, call: Call, whole: float) -> None:
        """Let a call arrive at a coordinator: its client is asked for nothing any more."""

        def reply(found: Any) -> None:
            lost = found is CUT
            way = self._wire.way(client, False, f"answer to {call.method}")
            for delay in way.delays:
                answer = Unavailable("the line is cut") if lost else found
                self.engine.at(delay, call.reply, answer)

        process = self._route(client)
        if process is None:
            reply(CUT)
            return
        here = Call(client, call.method, call.arguments, reply, whole)
        if call.gone:
            here.gone = True
        process.guard(process.take, here)

    def _route(self, client: ClientId) -> Process | None:
        """Return who answers a client: with two coordinators, either of them."""
        if not self.live:
            return None
        return self.live[-1] if len(self.live) == 1 else self.draws.one(self.live)

    # --- the run ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until the run is over, or the time is.

        Raises:
            Violated: An invariant does not hold.
        """
        self._begin()
        for agent in self.agents:
            self.engine.at(self.draws.between(0.0, 0.5), agent.start)
        until = self.schedule.until_s
        while self._finished_at is None and self.engine.next(until):
            pass
        self.checks.replayed()
        if self.schedule.mode == "liveness":
            self._alive()

    def _alive(self) -> None:
        rounds = self.stage.setup.policy.rounds
        if self.checks.machine.phase is not RunPhase.COMPLETED and not self.spent:
            waits = [p.actor.waiting for p in self.live if p.actor is not None]
            self.checks.violated(
                "the run ends",
                f"{self.checks.machine.committed} of {rounds} rounds, in phase "
                f"{self.checks.machine.phase}: {waits}",
            )


def run_schedule(
    seed: int | Schedule,
    *,
    mode: str = "safety",
    aggregation: str = "plain",
    parts: Parts = Parts(),  # a frozen value
    trace: bool = False,
) -> Outcome:
    """Simulate one run and all that goes wrong in it.

    Args:
        seed: A seed, or a schedule.
        mode: `safety`, or `liveness`; of a seed.
        aggregation: `plain` or `secure`; of a seed.
        parts: What the simulation is made of.
        trace: Keep what happens, in words.

    >>> run_schedule(1).holds
    True
    """
    schedule = seed
    if not isinstance(schedule, Schedule):
        schedule = schedule_of(schedule, mode=mode, aggregation=aggregation)
    simulation = Simulation(schedule, parts=parts, traced=trace)
    name = detail = ""
    try:
        simulation.run()
    except Violated as violated:
        name, detail = violated.name, violated.detail
        simulation.engine.say("violation", str(violated))
    machine, engine = simulation.checks.machine, simulation.engine
    return Outcome(
        schedule,
        name,
        detail,
        committed=machine.committed,
        status=str(machine.phase),
        virtual_s=round(engine.now, 3),
        steps=engine.steps,
        effects=simulation._crashes.count,
        processes=simulation.started,
        trace=tuple(engine.trace),
    )
