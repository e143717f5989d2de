"""The calls of operators, researchers and auditors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from choral.config.build import Place
from choral.coordinator.access import Caller, check, check_owner, may_touch
from choral.coordinator.callers import Callers
from choral.coordinator.desk import Desk
from choral.coordinator.events import EventLog
from choral.coordinator.runs import Run, Runs
from choral.coordinator.service import STATUS
from choral.coordinator.shown import describe, reason
from choral.coordinator.submissions import submitted
from choral.coordinator.tickets import Open, Stop
from choral.core.errors import UnknownName, did_you_mean
from choral.core.ports import Clock
from choral.wire.rpc import Context
from choral.wire.v1 import admin_pb2 as pb
from choral.wire.versions import PROTOCOL_VERSION, check_version

POLL_S: Final = 0.25
STOP_POLL_S: Final = 0.02
STOPPING_S: Final = 10.0
"""Longest wait for a run that was asked to stop."""


class AdminService:
    """`choral.v1.Admin`.

    Args:
        runs: The runs.
        desk: The clients.
        callers: Says who calls.
        place: Where the words of submitted files are looked up.
        events: The log of events of a run.
        clock: Time.
        pool: Threads for what takes time.
        verified: Whether clients' identities are proved by certificates.
        model_bytes: Largest built-in model that can be submitted.
        note: Puts what an operator does on the audit trail.
    """

    def __init__(
        self,
        runs: Runs,
        desk: Desk,
        *,
        callers: Callers,
        place: Place,
        events: Callable[[str], EventLog | None],
        clock: Clock,
        pool: ThreadPoolExecutor,
        verified: bool,
        model_bytes: int,
        note: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        self._runs = runs
        self._desk = desk
        self._callers = callers
        self._place = place
        self._events = events
        self._clock = clock
        self._pool = pool
        self._verified = verified
        self._model_bytes = model_bytes
        self._note = note

    def _caller(self, call: str, request: Any, context: Context) -> Caller:
        caller = self._callers(context)
        check(call, caller)
        check_version(request.protocol_version)
        return caller

    def _run(self, call: str, caller: Caller, run_id: str) -> Run:
        """Return a run that the caller may touch; others' are as if they were not there."""
        run = self._runs.get(run_id)
        if run is None:
            mine = [r.id for r in self._runs.all() if may_touch(call, caller, r.owner)]
            raise UnknownName(f"no run {run_id[:80]!r}", hint=did_you_mean(run_id[:80], mine))
        check_owner(call, caller, run.owner, what="run")
        return run

    async def CreateRun(  # noqa: N802  # gRPC's names
        self, request: pb.CreateRunRequest, context: Context
    ) -> pb.CreateRunResponse:
        """Begin a run."""
        caller = self._caller("CreateRun", request, context)

        def submit() -> Run:
            file = submitted(request.federation_json, model_bytes=self._model_bytes)
            return self._runs.submit(
                file, self._place, owner=caller.id, request_id=request.request_id[:128]
            )

        run = await asyncio.get_running_loop().run_in_executor(self._pool, submit)
        return pb.CreateRunResponse(protocol_version=PROTOCOL_VERSION, run_id=run.id)

    async def ListRuns(  # noqa: N802
        self, request: pb.ListRunsRequest, context: Context
    ) -> pb.ListRunsResponse:
        """Tell of the runs that the caller may see."""
        caller = self._caller("ListRuns", request, context)
        mine = [r for r in self._runs.all() if may_touch("ListRuns", caller, r.owner)]
        return pb.ListRunsResponse(
            protocol_version=PROTOCOL_VERSION, runs=[_summary(run) for run in mine]
        )

    async def GetRun(  # noqa: N802
        self, request: pb.GetRunRequest, context: Context
    ) -> pb.GetRunResponse:
        """Tell of one run."""
        caller = self._caller("GetRun", request, context)
        run = self._run("GetRun", caller, request.run_id)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._pool, lambda: describe(run, self._desk, verified=self._verified)
        )
        body = json.dumps(found).encode()
        return pb.GetRunResponse(protocol_version=PROTOCOL_VERSION, result_json=body)

    async def WatchRun(  # noqa: N802
        self, request: pb.WatchRunRequest, context: Context
    ) -> AsyncIterator[pb.RunEvent]:
        """Give a run's events, those to come as well."""
        caller = self._caller("WatchRun", request, context)
        run = self._run("WatchRun", caller, request.run_id)
        at = max(1, request.from_sequence)
        while True:
            ended = run.ended.is_set()
            log = self._events(run.id)  # none yet while the run waits for its clients
            for sequence, kind, body in () if log is None else log.since(at):
                yield pb.RunEvent(
                    protocol_version=PROTOCOL_VERSION,
                    sequence=sequence,
                    kind=kind,
                    body_json=json.dumps(body).encode(),
                )
                at = sequence + 1
            if ended:
                return
            await asyncio.sleep(POLL_S)

    async def StopRun(  # noqa: N802
        self, request: pb.StopRunRequest, context: Context
    ) -> pb.StopRunResponse:
        """End a run here."""
        caller = self._caller("StopRun", request, context)
        run = self._run("StopRun", caller, request.run_id)
        words = "".join(c if c.isprintable() else " " for c in request.reason[:200])
        self._note("run.stop", run=run.id, by=caller.id, reason=words)
        run.post(Stop(words or f"stopped by {caller.id}"))
        over = self._clock.monotonic() + STOPPING_S
        while not run.ended.is_set() and self._clock.monotonic() < over:
            await asyncio.sleep(STOP_POLL_S)
        return pb.StopRunResponse(protocol_version=PROTOCOL_VERSION, status=STATUS[run.status])

    async def OpenRound(  # noqa: N802
        self, request: pb.OpenRoundRequest, context: Context
    ) -> pb.OpenRoundResponse:
        """Open the next round of a run that waits for an operator."""
        caller = self._caller("OpenRound", request, context)
        run = self._run("OpenRound", caller, request.run_id)
        self._note("round.asked", run=run.id, by=caller.id)
        run.post(Open())
        return pb.OpenRoundResponse(protocol_version=PROTOCOL_VERSION)

    async def ListClients(  # noqa: N802
        self, request: pb.ListClientsRequest, context: Context
    ) -> pb.ListClientsResponse:
        """Tell of the clients."""
        self._caller("ListClients", request, context)
        now, wall = self._clock.monotonic(), self._clock.wall()
        clients = [
            pb.ClientSummary(
                client_id=client,
                tasks=presence.join.tasks,
                schema_version=presence.join.schema_version,
                strata=presence.join.strata,
                last_seen_s=wall - (now - presence.seen),
                connected=presence.holding > 0,
                refusal=presence.refusal,
            )
            for client, presence in sorted(self._desk.presences().items())
        ]
        return pb.ListClientsResponse(protocol_version=PROTOCOL_VERSION, clients=clients)


def _summary(run: Run) -> pb.RunSummary:
    actor = run.actor
    return pb.RunSummary(
        run_id=run.id,
        name=run.name,
        status=STATUS[run.status],
        round=0 if actor is None else len(actor.conductor.view.rounds),
        rounds=run.file.rounds or 0,
        created_s=run.created,
        reason=reason(run),
    )
