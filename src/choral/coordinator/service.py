"""The calls of clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from choral.coordinator.access import Caller, check
from choral.coordinator.callers import Callers
from choral.coordinator.desk import Desk, Farewell
from choral.coordinator.fit import Told, schema_in
from choral.coordinator.spool import SpoolFile
from choral.coordinator.tickets import Arrived, GaveUp, Reported, Said, Ticket, Use
from choral.coordinator.transfers import Uploads, model_frames, model_header
from choral.coordinator.welcome import Welcome
from choral.core.aggregation import RingGrid
from choral.core.errors import (
    ChoralError,
    ClientError,
    Malformed,
    OutOfOrder,
    OutOfRange,
    Refused,
    SchemaMismatch,
    Stale,
    StoreError,
    StoreUnavailable,
    TooLarge,
    Unavailable,
    by_code,
)
from choral.core.params import ClientId, Spec
from choral.core.ports import Clock
from choral.wire.contributions import contribution_limit, masked_bytes
from choral.wire.frames import Header, Kind, check_sha256
from choral.wire.joining import (
    Assignment,
    EvaluationTask,
    Join,
    assignment_to_proto,
    evaluation_from_proto,
    join_from_proto,
    task_to_proto,
)
from choral.wire.receipts import Receipt, receipt_to_proto
from choral.wire.rpc import Context
from choral.wire.transfer import Limits
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.v1 import run_pb2
from choral.wire.versions import PROTOCOL_VERSION, agree, check_version

LOG: Final = logging.getLogger("choral.coordinator")
MAX_WAIT_S: Final = 30.0
"""Longest time that a call is held."""
MAX_BODY: Final = 4 << 20
"""Bytes of a message of secure aggregation."""
MAX_SAID: Final = 32 << 20
"""Bytes of all messages of one client in one attempt, many times what an honest one needs."""
MESSAGE_BYTES: Final = 256
"""Counted for each message besides its own bytes: very many small ones are work, too."""
MAX_TEXT: Final = 500
"""Characters of a client's own words."""
MAX_REFUSALS: Final = 8
"""Runs of which a client is told why they do not ask it."""
MAX_METRIC: Final = 1e30
MAX_EXAMPLES: Final = 1 << 40
"""What a client can have measured, over how many examples: their pool stays a finite number."""

STATUS: Final = {
    "waiting": run_pb2.RUN_STATUS_WAITING,
    "running": run_pb2.RUN_STATUS_RUNNING,
    "paused": run_pb2.RUN_STATUS_PAUSED,
    "completed": run_pb2.RUN_STATUS_COMPLETED,
    "failed": run_pb2.RUN_STATUS_FAILED,
    "stopped": run_pb2.RUN_STATUS_STOPPED,
}


class Service:
    """`choral.v1.Coordinator`, as `wire.rpc` wants it.

    Args:
        desk: Clients and their work.
        callers: Says who calls.
        welcome: Enrols clients that have no certificate, where that is allowed.
        uploads: Takes uploads.
        model: From a run and a digest to the file of a model.
        spec: From a run to the schema of its model.
        clock: Time.
        pool: Threads for checksums and disk.
        refusals: From an offer to the runs that do not ask its client, and whether others would.
        note: Counts what was refused: a call and a code.
        audit_head: Head of the audit trail on disk; empty where there is none.
        tls: Whether the line keeps every byte whole, so that chunks need no checksum of their own.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        callers: Callers,
        welcome: Welcome | None,
        uploads: Uploads,
        model: Callable[[str, str], Path | None],
        spec: Callable[[str], Spec | None],
        clock: Clock,
        pool: ThreadPoolExecutor,
        refusals: Callable[[Join], tuple[list[Told], bool]] = lambda _: ([], True),
        note: Callable[[str, str], None] = lambda *_: None,
        audit_head: Callable[[], bytes] = bytes,
        tls: bool = False,
    ) -> None:
        self._desk = desk
        self._callers = callers
        self._welcome = welcome
        self._uploads = uploads
        self._model = model
        self._spec = spec
        self._refusals = refusals
        self._note = note
        self._audit_head = audit_head
        self._tls = tls
        self._handing: set[asyncio.Future[None]] = set()
        self._told: dict[ClientId, list[str]] = {}
        self._clock = clock
        self._pool = pool
        self.draining = False
        self.leaving = False

    def _caller(self, call: str, context: Context) -> Caller:
        caller = self._callers(context)
        check(call, caller)
        return caller

    # --- work -------------------------------------------------------------------------------------

    async def join_round(self, request: pb.JoinRequest, context: Context) -> pb.JoinResponse:
        """Hold the call until there is something to say."""
        caller = self._caller("JoinRound", context)
        version = agree(request.min_protocol_version, request.protocol_version)
        join = join_from_proto(request)
        if join.client != caller.id:
            raise Refused(f"{caller.id!r} joins in the name of {join.client!r}")
        if join.schema_json:
            schema_in(join.schema_json)
        if self._welcome is not None:
            await self._welcome.greet(caller, context)
        if self.draining:
            return self._come_back(version, "the coordinator is being stopped", after_s=1.0)
        told, fits = self._refusals(join)
        apart = None if fits else next((t for t in told if _is_apart(t)), None)
        unheard = not fits and any(t.text[:MAX_TEXT] not in self._told_to(join) for t in told)
        held_s = 0.0 if apart is not None or unheard else min(join.wait_s, MAX_WAIT_S)
        found = await self._desk.wait(join, at_most_s=held_s)
        if found is None:
            if apart is not None:
                self._desk.refuse(join.client, apart.error.message)
                raise SchemaMismatch(
                    f"run {apart.run_id}: {apart.error.message}", hint=apart.error.hint
                )
            told, _ = self._refusals(join)
            return self._come_back(version, "nothing to do yet", refusals=self._noted(join, told))
        if isinstance(found, Farewell):
            return pb.JoinResponse(
                protocol_version=version,
                goodbye=pb.Goodbye(
                    run_id=found.run_id, status=STATUS[found.status], reason=found.reason[:MAX_TEXT]
                ),
            )
        return self._work(version, found)

    def _work(self, version: int, ticket: Ticket) -> pb.JoinResponse:
        left = max(0.0, ticket.deadline - self._clock.monotonic())
        if ticket.use is Use.TRAIN:
            assignment = Assignment(
                ticket.token,
                ticket.plan,
                ticket.model_bytes,
                left,
                audit_head=self._audit_head(),
                without_crc=self._tls,
            )
            return pb.JoinResponse(
                protocol_version=version, assignment=assignment_to_proto(assignment)
            )
        task = EvaluationTask(
            ticket.token,
            ticket.plan,
            ticket.model_sha256,
            ticket.model_bytes,
            ticket.final,
            left,
        )
        return pb.JoinResponse(protocol_version=version, evaluation=task_to_proto(task))

    def _told_to(self, join: Join) -> Sequence[str]:
        return self._told.get(join.client, ())

    def _noted(self, join: Join, told: list[Told]) -> list[str]:
        """Log and count why runs do not ask a client, where that is new; return it in words."""
        words = [t.text[:MAX_TEXT] for t in told[:MAX_REFUSALS]]
        for refusal, text in zip(told, words, strict=False):
            if text not in self._told_to(join):
                LOG.info("%s does not suit %s", join.client, text)
                self._note("JoinRound", refusal.error.code)
        self._told[join.client] = words
        return words

    def _come_back(
        self, version: int, why: str, *, after_s: float = 0.0, refusals: Sequence[str] = ()
    ) -> pb.JoinResponse:
        """Return when to call again: spread, so that many clients do not call at once."""
        crowd = len(self._desk.presences())
        window = min(60.0, crowd / 500.0)
        return pb.JoinResponse(
            protocol_version=version,
            come_back=pb.ComeBack(after_s=after_s, window_s=window, reason=why, refusals=refusals),
        )

    # --- bulk -------------------------------------------------------------------------------------

    async def get_global_model(
        self, request: pb.GetModelRequest, context: Context
    ) -> AsyncIterator[bytes]:
        """Give the frames of a model."""
        caller = self._caller("GetGlobalModel", context)
        check_version(request.protocol_version)
        ticket = self._desk.ticket(request.token, ClientId(caller.id))
        if request.sha256 != ticket.model_sha256:
            raise Refused("another model than that of the work", hint="ask for `model_sha256`")
        path = self._model(ticket.plan.run_id, ticket.model_sha256)
        if path is None:
            raise Stale("this model is no longer given out")
        if request.offset > ticket.model_bytes:
            raise Malformed(f"offset {request.offset} of a model of {ticket.model_bytes} bytes")
        header = model_header(ticket, offset=request.offset)
        crc = not (self._tls and request.without_crc)
        async for frame in model_frames(path, header, pool=self._pool, crc=crc):
            yield frame

    async def send_update(self, frames: AsyncIterator[bytes], context: Context) -> pb.UpdateAck:
        """Take the frames of a contribution; the answer is a receipt."""
        caller = self._caller("SendUpdate", context)
        client = ClientId(caller.id)
        with _asked_again():
            ticket = await self._uploads.take(
                frames, lambda token: self._desk.ticket(token, client), self._limits
            )
        receipt = ticket.receipt or await self._deliver(ticket)
        return pb.UpdateAck(protocol_version=PROTOCOL_VERSION, receipt=receipt_to_proto(receipt))

    def _limits(self, ticket: Ticket) -> Limits:
        """Return what may be uploaded for a ticket."""
        if ticket.use is not Use.TRAIN:
            raise Malformed("an upload for work that has none")
        spec, grid = self._spec(ticket.plan.run_id), ticket.plan.encoding
        if spec is None:
            raise Stale("the run has ended")
        if isinstance(grid, RingGrid):
            return Limits(frozenset({Kind.MASKED}), masked_bytes(spec, grid), chunk_least=1)
        return Limits(frozenset({Kind.CONTRIBUTION}), contribution_limit(spec), chunk_least=1)

    async def _deliver(self, ticket: Ticket) -> Receipt:
        """Hand a whole upload to its run, and wait for what it says.

        The run is asked once: a call that was cut meanwhile is no reason to add it again.
        """
        if ticket.answer is None:
            if ticket.upload is None:
                raise Stale("the work is over")
            ticket.answer = asyncio.get_running_loop().create_future()
            handing = asyncio.ensure_future(self._hand_over(ticket, *ticket.upload))
            self._handing.add(handing)
            handing.add_done_callback(self._handing.discard)
        found = await asyncio.shield(ticket.answer)
        if isinstance(found, ChoralError):
            raise found
        return found

    async def _hand_over(self, ticket: Ticket, upload: SpoolFile, header: Header) -> None:
        """Make an upload durable, then tell its run: also where its call was cut meanwhile."""
        loop = asyncio.get_running_loop()
        try:
            with _asked_again():
                await loop.run_in_executor(self._pool, ticket.keep, upload, header.sha256)
        except Exception as error:  # whoever waits for the answer gets it
            whole = ticket.upload if upload.is_here() else None
            told = (
                error if isinstance(error, ChoralError) else Unavailable("the upload was not kept")
            )
            if told is not error:
                LOG.error("an upload could not be kept", exc_info=error)
            _settle(ticket, told)
            ticket.upload = whole
            return

        def reply(found: Receipt | ChoralError) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, ticket, found)

        ticket.post(Arrived(ticket, upload, header, reply))

    async def get_upload(self, request: pb.UploadRequest, context: Context) -> pb.UploadStatus:
        """Say how much of an upload is held."""
        caller = self._caller("GetUpload", context)
        check_version(request.protocol_version)
        check_sha256("sha256", request.sha256)
        ticket = self._desk.ticket(request.token, ClientId(caller.id), over=True)
        status = pb.UploadStatus(protocol_version=PROTOCOL_VERSION)
        if ticket.receipt is not None and ticket.receipt.sha256 == request.sha256:
            status.offset, status.complete = ticket.receipt.size_bytes, True
            status.receipt.CopyFrom(receipt_to_proto(ticket.receipt))
        elif ticket.over:
            raise Stale("the work is over")
        elif ticket.upload is not None and ticket.upload[1].sha256 == request.sha256:
            status.offset = ticket.upload[0].held()
        return status

    # --- words ------------------------------------------------------------------------------------

    async def exchange(self, request: pb.ProtocolMessage, context: Context) -> pb.ProtocolMessage:
        """Take a message of secure aggregation, and give the next one."""
        caller = self._caller("Exchange", context)
        check_version(request.protocol_version)
        ticket = self._desk.ticket(request.token, ClientId(caller.id), over=True)
        if ticket.use is not Use.TRAIN or not isinstance(ticket.plan.encoding, RingGrid):
            raise Malformed("a message of secure aggregation for work without it")
        if len(request.body) > MAX_BODY:
            raise Malformed(f"a message of {len(request.body)} bytes, expected up to {MAX_BODY}")
        if bool(request.sequence) != bool(request.body):
            raise OutOfOrder("a message without a number, or a number without a message")
        _charge(ticket, request.body)
        for body in ticket.mailbox.take(request):
            if not ticket.over:
                self._say(ticket, body)
        if ticket.hearing is not None:
            await asyncio.shield(ticket.hearing)
        if not (ticket.mailbox.waiting or ticket.over):
            ticket.bell.clear()
            held = min(max(0.0, request.wait_s), MAX_WAIT_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(ticket.bell.wait(), held)
        if self.leaving and not (ticket.over or ticket.mailbox.waiting):
            raise Unavailable("the coordinator is being stopped", hint="ask again")
        ended = ticket.over and not ticket.mailbox.waiting
        return ticket.mailbox.message(ticket.token, ended=ended)

    @staticmethod
    def _say(ticket: Ticket, body: bytes) -> None:
        """Hand a message to its run; it is acknowledged once it is in the log."""
        loop = asyncio.get_running_loop()
        ticket.hearing = hearing = loop.create_future()

        def heard(stored: bool) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_heard, hearing, stored)

        ticket.post(Said(ticket, body, heard))

    async def report_failure(self, request: pb.FailureReport, context: Context) -> pb.Ack:
        """Take note that a client cannot do its work."""
        caller = self._caller("ReportFailure", context)
        check_version(request.protocol_version)
        ticket = self._desk.ticket(request.token, ClientId(caller.id))
        known = by_code(request.code)
        code = ClientError.code if known is ChoralError else known.code
        ticket.done = True
        if not ticket.gave_up:
            ticket.gave_up = True
            ticket.post(GaveUp(ticket, code, _printable(request.message)))
        return pb.Ack(protocol_version=PROTOCOL_VERSION)

    async def report_evaluation(self, request: pb.Evaluation, context: Context) -> pb.Ack:
        """Take what a client measured."""
        caller = self._caller("ReportEvaluation", context)
        found = evaluation_from_proto(request)
        ticket = self._desk.ticket(found.token, ClientId(caller.id))
        if ticket.use is not Use.EVALUATE:
            raise Malformed("an evaluation for work that is none")
        largest = max(map(abs, found.metrics.values()), default=0.0)
        if largest > MAX_METRIC or found.examples > MAX_EXAMPLES:
            raise OutOfRange(
                f"an evaluation with {largest:g} over {found.examples} examples, expected up to "
                f"{MAX_METRIC:g} over {MAX_EXAMPLES}"
            )
        ticket.done = True
        ticket.post(Reported(ticket, dict(found.metrics), found.examples))
        return pb.Ack(protocol_version=PROTOCOL_VERSION)


@contextmanager
def _asked_again() -> Iterator[None]:
    """Let a client send an upload again that cannot be stored now.

    Its training is not lost with a full disk: it asks again until its time is over.

    Raises:
        StoreUnavailable: The storage says no.
    """
    try:
        yield
    except StoreError as error:
        LOG.warning("an upload cannot be stored: %s", error.message)
        raise StoreUnavailable(
            "the coordinator cannot store the upload now", hint="ask again: it may have room later"
        ) from None


def _heard(hearing: asyncio.Future[None], stored: bool) -> None:
    """Note whether a message is in the log."""
    if hearing.done():
        return
    if stored:
        hearing.set_result(None)
    else:
        hearing.set_exception(Unavailable("the coordinator is being stopped", hint="ask again"))
        hearing.exception()  # nobody may be waiting


def _settle(ticket: Ticket, found: Receipt | ChoralError) -> None:
    """Note what a run said of an upload, whether or not the call that brought it still waits."""
    answer = ticket.answer
    if answer is None or answer.done():
        return
    if isinstance(found, ChoralError):
        ticket.upload = ticket.answer = None
    else:
        ticket.receipt = found
    answer.set_result(found)


def _charge(ticket: Ticket, body: bytes) -> None:
    """Count a message against the quota of its client's work; raise `TooLarge` beyond it."""
    if body:
        ticket.said_bytes += len(body) + MESSAGE_BYTES
    if ticket.said_bytes > MAX_SAID:
        raise TooLarge(
            f"messages of {ticket.said_bytes} bytes for one round, expected up to {MAX_SAID}"
        )


def _is_apart(told: Told) -> bool:
    """Return whether a client's data is why a run does not ask it."""
    return isinstance(told.error, SchemaMismatch)


def _printable(text: str) -> str:
    """Return a client's words, cut to size, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_TEXT])
