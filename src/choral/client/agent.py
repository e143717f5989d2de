"""The agent: it asks for work, holds it against the site's policy, does it, and asks again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc

from choral.client.cache import ModelCache
from choral.client.calls import Calls, check_receipt, sha256_of
from choral.client.once import DurableOnce
from choral.client.policy import ANY, Policy, allowed_metrics, refusal
from choral.client.secure import SecureRound, VectorFile, site_of
from choral.client.settings import Settings
from choral.client.trainer import Trainer
from choral.client.who import Who
from choral.client.work import (
    Describe,
    Described,
    Look,
    Looked,
    Measure,
    Measurements,
    Train,
    Trained,
    personal_file,
    settle_kept,
)
from choral.core.aggregation import RingGrid, Secure
from choral.core.errors import ChoralError, DataError, Refused, Stale, Unavailable
from choral.core.params import ClientId
from choral.core.ports import Clock, Rand
from choral.crypto.ring import Ring
from choral.federation.participant import Failed
from choral.federation.secure import ring_encoding
from choral.secagg.site import Expected
from choral.wire.errors import from_rpc_error
from choral.wire.frames import Kind
from choral.wire.joining import (
    Assignment,
    Evaluation,
    EvaluationTask,
    Join,
    assignment_from_proto,
    bucket_of,
    join_to_proto,
    task_from_proto,
)
from choral.wire.plans import plan_to_json
from choral.wire.receipts import Receipt
from choral.wire.rpc import CoordinatorCalls
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.v1 import run_pb2

LOG: Final = logging.getLogger("choral.client")
HELD_S: Final = 20.0
SLACK_S: Final = 15.0
BACKOFF_S: Final = (0.5, 30.0)
"""Shortest and longest pause between attempts to reach the coordinator."""

PRIVATE: Final = frozenset({"client_error", "worker_lost", "data", "corrupt_row", "empty_client"})
"""Failures whose words may speak of the data; the coordinator gets the code alone."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that this client took part in has ended."""

    run_id: str
    completed: bool
    reason: str


class Agent:
    """One client.

    Args:
        settings: Who it is and what it has.
        who: Its identity.
        policy: What its site allows.
        clock: Time.
        rand: Secret randomness.
    """

    def __init__(
        self, settings: Settings, *, who: Who, policy: Policy, clock: Clock, rand: Rand
    ) -> None:
        self._settings = settings
        self._client = ClientId(settings.local.client)
        self._who = who
        self._policy = policy
        self._clock = clock
        self._rand = rand
        self._state = settings.local.state
        self._trainer = Trainer(settings.local)
        self._cache = ModelCache(self._state / "cache", settings.cache_bytes)
        self._once = DurableOnce(self._state)
        self._described = Described(0)
        self._reached = True
        self._tries = 0

    async def run(self, *, until_done: bool = False) -> Ended | None:
        """Work until cancelled, or until a run has ended that this client took part in.

        Args:
            until_done: Return when a run has ended.

        Raises:
            DataError: The data cannot be used.
            Refused: The coordinator does not let this client in.
        """
        try:
            await self._look_at_data()
            while True:
                ended = await self._connected(until_done)
                if ended is not None:
                    return ended
        finally:
            self._trainer.end()
            self._once.close()

    async def _look_at_data(self) -> None:
        found = await self._trainer.ask(Describe())
        if isinstance(found, Failed):
            raise DataError(found.message, details=found.details)
        if isinstance(found, Described):
            self._described = found
        self._say(f"its data has {self._described.examples} examples to train on")

    async def _connected(self, until_done: bool) -> Ended | None:
        """Work over one connection, until it breaks for good or a run has ended."""
        async with self._who.channel(self._settings.coordinator) as channel:
            stubs = CoordinatorCalls(channel)
            while True:
                calls = Calls(stubs, self._who.metadata, self._clock)
                answer = await self._join(calls)
                if answer is None:
                    return None
                ended = await self._answer(answer, calls)
                if ended is not None and until_done:
                    return ended

    async def _join(self, calls: Calls) -> pb.JoinResponse | None:
        """Ask for work; None where the coordinator cannot be reached now."""
        request = join_to_proto(self._offer())
        call = calls.stubs.join_round(
            request, metadata=calls.metadata, timeout=HELD_S + SLACK_S, wait_for_ready=False
        )
        try:
            answer = await call
            self._who.heard(dict(await call.initial_metadata() or ()))
        except grpc.RpcError as error:
            found = from_rpc_error(error)
            if not found.retryable:
                raise found from None
            await self._pause(found)
            return None
        if not self._reached or not self._tries:
            self._say(f"connected to {self._settings.coordinator}")
        self._reached, self._tries = True, 1
        return answer

    def _offer(self) -> Join:
        tasks = self._policy.file.tasks
        return Join(
            client=self._client,
            tasks=tuple(dict.fromkeys(tasks)),
            schema_version=self._described.schema_version,
            schema_fingerprint=self._described.schema_fingerprint,
            examples_bucket=bucket_of(self._described.examples),
            strata=self._settings.strata,
            capabilities=("secure",),
            wait_s=HELD_S,
        )

    async def _pause(self, why: ChoralError) -> None:
        """Wait before the next attempt to connect, at random so that clients come apart."""
        least, most = BACKOFF_S
        if self._reached:
            self._say(f"{self._settings.coordinator} is not there: {why.message}", logging.WARNING)
        self._reached = False
        longest = min(most, least * 2.0 ** min(self._tries, 16))
        self._tries += 1
        await asyncio.sleep(least / 2 + self._share() * (longest - least / 2))

    def _share(self) -> float:
        """Return a draw from [0, 1), so that clients come apart."""
        return int.from_bytes(self._rand.token(4), "little") / 2.0**32

    async def _answer(self, answer: pb.JoinResponse, calls: Calls) -> Ended | None:
        kind = answer.WhichOneof("answer")
        if kind == "goodbye":
            done = answer.goodbye
            completed = done.status == run_pb2.RUN_STATUS_COMPLETED
            word = run_pb2.RunStatus.Name(done.status).removeprefix("RUN_STATUS_").lower()
            self._say(f"run {done.run_id} {word} {done.reason}".rstrip())
            return Ended(done.run_id, completed, done.reason)
        if kind == "come_back":
            back = answer.come_back
            wait = back.after_s + self._share() * back.window_s
            await asyncio.sleep(min(max(0.0, wait), 3600.0))
        elif kind == "assignment":
            await self._guarded(answer.assignment.token, calls, self._work, answer.assignment)
        elif kind == "evaluation":
            await self._guarded(answer.evaluation.token, calls, self._measure, answer.evaluation)
        return None

    async def _guarded(
        self,
        token: bytes,
        calls: Calls,
        work: Callable[[Any, Calls], Awaitable[None]],
        message: Any,
    ) -> None:
        """Do some work; whatever goes wrong, say so, and go on with the next."""
        try:
            await work(message, calls)
        except Stale as error:
            self._say(f"the work is over: {error.message}")
        except ChoralError as error:
            await self._tell_failure(token, calls, error)
        except grpc.RpcError as error:
            self._say(f"the coordinator: {from_rpc_error(error)}", logging.WARNING)
        except OSError as error:
            await self._tell_failure(token, calls, Unavailable(f"this site's disk: {error}"))

    async def _tell_failure(self, token: bytes, calls: Calls, error: ChoralError) -> None:
        self._say(f"failed: {error.code}: {error}", logging.WARNING)
        if error.details:
            LOG.warning("%s", error.details)
        private = error.code in PRIVATE
        words = "the reason is in the site's own log" if private else error.message
        with suppress(ChoralError, grpc.RpcError):
            until = self._clock.monotonic() + SLACK_S
            await calls.fail(token, error.code, words, until=until)

    # --- a round ----------------------------------------------------------------------------------

    async def _work(self, message: pb.Assignment, calls: Calls) -> None:
        assignment = assignment_from_proto(message)
        plan = assignment.plan
        why = refusal(
            self._policy, plan, model_bytes=assignment.model_bytes, now=datetime.now().time()
        )
        if why is not None:
            raise why
        until = self._clock.monotonic() + assignment.deadline_s
        model = await calls.download(
            assignment.token,
            plan.model_sha256,
            assignment.model_bytes,
            cache=self._cache,
            until=until,
        )
        out = self._state / "contribution.bin"
        metrics = self._policy.file.metrics
        request = Train(
            plan_to_json(plan), model, out, None if ANY in metrics else frozenset(metrics)
        )
        if isinstance(plan.aggregation, Secure):
            receipt = await self._secure(assignment, model, request, calls)
        else:
            await self._train(request, assignment.deadline_s)
            receipt = await calls.upload(assignment.token, out, Kind.CONTRIBUTION, until=until)
            self._check(receipt, assignment, out)
        if receipt is not None:
            settle_kept(out, personal_file(self._state, plan.run_id))
        out.unlink(missing_ok=True)

    async def _train(self, request: Train, limit_s: float) -> None:
        """Train in the child; its time ends with the lease.

        Raises:
            Unavailable: The time is over.
            ChoralError: What went wrong.
        """
        try:
            found = await asyncio.wait_for(self._trainer.ask(request), limit_s)
        except TimeoutError:
            raise Unavailable(f"training took longer than {limit_s:.0f} s") from None
        if not isinstance(found, Trained):
            raise _as_error(found)

    async def _secure(
        self, assignment: Assignment, model: Path, request: Train, calls: Calls
    ) -> Receipt | None:
        """Take part in a secure sum; return the receipt of the masked vector, if it came so far."""
        plan, enrolled = assignment.plan, self._who.enrolled
        if enrolled is None or not isinstance(plan.encoding, RingGrid):
            raise Refused("this client is not enrolled for secure aggregation")
        file = self._policy.file
        site = site_of(
            self._client,
            enrolled,
            min_cohort=file.min_cohort,
            suites=frozenset(self._policy.suites),
            min_corrupt=file.min_corrupt,
            max_sums=file.max_sums,
        )
        looked = await self._trainer.ask(Look(request.plan, model))
        if not isinstance(looked, Looked):
            raise _as_error(looked)
        expected = Expected(
            plan.run_id,
            plan.round,
            (bytes.fromhex(plan.model_sha256),),
            bytes.fromhex(plan.digest),
            ring_encoding(plan.encoding, looked.vector_size),
        )
        files = VectorFile(
            request.out, self._state / "masked.bin", Ring(plan.encoding.modulus_bits)
        )
        files.masked.unlink(missing_ok=True)
        part = SecureRound(
            assignment,
            site,
            expected,
            once=self._once,
            files=files,
            calls=calls,
            rand=self._rand,
            clock=self._clock,
        )
        training = asyncio.ensure_future(self._train(request, assignment.deadline_s))
        try:
            await part.run(training)
        finally:
            training.cancel()
            with suppress(ChoralError, asyncio.CancelledError):
                await training
            files.forget()
        if part.stopped is not None:
            raise part.stopped
        if not part.counted and part.receipt is not None:
            self._say(f"round {plan.round}: the sum was not reached, or not told of")
        return part.receipt

    def _check(self, receipt: Receipt, assignment: Assignment, out: Path) -> None:
        """Refuse a receipt that is not for what was sent; without certificates nobody signs it."""
        plan, enrolled = assignment.plan, self._who.enrolled
        if enrolled is None:
            return
        expected = Receipt(
            plan.run_id,
            plan.round,
            plan.attempt,
            self._client,
            sha256_of(out),
            out.stat().st_size,
        )
        check_receipt(receipt, server=enrolled.server, expected=expected)

    # --- evaluation -------------------------------------------------------------------------------

    async def _measure(self, message: pb.EvaluationTask, calls: Calls) -> None:
        task: EvaluationTask = task_from_proto(message)
        if not self._policy.file.per_client_metrics:
            raise Refused("the site's policy: no metrics of this client alone")
        why = refusal(
            self._policy,
            task.plan,
            model_bytes=task.model_bytes,
            now=datetime.now().time(),
        )
        if why is not None:
            raise why
        until = self._clock.monotonic() + task.deadline_s
        model = await calls.download(
            task.token, task.model_sha256, task.model_bytes, cache=self._cache, until=until
        )
        found = await asyncio.wait_for(
            self._trainer.ask(Measure(plan_to_json(task.plan), model)), task.deadline_s
        )
        if not isinstance(found, Measurements):
            raise _as_error(found)
        metrics = {
            name: value
            for name, value in allowed_metrics(self._policy, found.metrics).items()
            if value is not None
        }
        await calls.report(Evaluation(task.token, metrics, found.examples), until=until)

    def _say(self, text: str, level: int = logging.INFO) -> None:
        LOG.log(level, "%s: %s", self._client, text, extra={"choral": {"client": self._client}})


def _as_error(found: object) -> ChoralError:
    """Return a child's failure as an error."""
    if not isinstance(found, Failed):
        return ChoralError(f"the process that trains answered {type(found).__name__}")
    error = ChoralError(found.message, details=found.details)
    error.code = found.code
    return error
