"""What an agent does with one assignment: a round, plain or secure, or an evaluation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import time
from pathlib import Path
from typing import Final, Protocol

from choral.client.cache import ModelCache
from choral.client.calls import Calls, check_receipt, sha256_of
from choral.client.policy import ANY, Policy, allowed_metrics, refusal
from choral.client.records import Allowance
from choral.client.secure import SecureRound, VectorFile
from choral.client.settings import Settings
from choral.client.spent import Spent
from choral.client.who import Who
from choral.client.witness import NAME as WITNESS
from choral.client.witness import Witness
from choral.client.work import (
    Answer,
    Look,
    Looked,
    Measure,
    Measurements,
    Request,
    Train,
    Trained,
    kept_beside,
    settle_kept,
)
from choral.core.aggregation import RingGrid, Secure
from choral.core.errors import ChoralError, Refused, Unavailable, VersionMismatch
from choral.core.failpoints import reach
from choral.core.params import ClientId
from choral.core.plan import Plan
from choral.core.ports import Clock, Rand
from choral.crypto.ring import Ring
from choral.federation.participant import Failed
from choral.federation.secure import ring_encoding
from choral.secagg.ports import OnceStore
from choral.secagg.site import Expected, Site
from choral.wire.frames import Kind
from choral.wire.joining import (
    Assignment,
    Evaluation,
    EvaluationTask,
    assignment_from_proto,
    task_from_proto,
)
from choral.wire.plans import plan_to_json
from choral.wire.receipts import Receipt
from choral.wire.v1 import coordinator_pb2 as pb

CONTRIBUTION: Final = "contribution.bin"
MASKED: Final = "masked.bin"


class Say(Protocol):
    """Logs a line."""

    def __call__(self, text: str, level: int = logging.INFO) -> None:
        """Log `text`."""
        ...


class Asks(Protocol):
    """Where the site's own code runs."""

    async def ask(self, request: Request) -> Answer:
        """Return the answer to a request."""
        ...

    def end(self) -> None:
        """End whatever runs."""
        ...


class Rounds:
    """Does assignments, one at a time.

    Args:
        settings: Who the client is and what it has.
        who: Its identity.
        policy: What its site allows.
        trainer: Where the task runs.
        cache: Models.
        once: Durable answers of secure aggregation.
        clock: Time.
        rand: Secret randomness.
        now: Says the time of the day at the site.
        say: Logs.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        who: Who,
        policy: Policy,
        trainer: Asks,
        cache: ModelCache,
        once: OnceStore,
        clock: Clock,
        rand: Rand,
        now: Callable[[], time],
        say: Say,
    ) -> None:
        self._client = ClientId(settings.local.client)
        self._state = settings.local.state
        self._witness = Witness(self._state / WITNESS)
        self._who = who
        self._policy = policy
        self._trainer = trainer
        self._cache = cache
        self._once = once
        self._clock = clock
        self._rand = rand
        self._now = now
        self._say = say
        self._spent = Spent(self._state, policy.file.max_epsilon)

    def tidy(self) -> None:
        """Remove what is of one round alone: nothing of it is wanted after it."""
        out = self._state / CONTRIBUTION
        for path in (out, kept_beside(out), self._state / MASKED):
            path.unlink(missing_ok=True)

    # --- a round ----------------------------------------------------------------------------------

    async def train(self, message: pb.Assignment, calls: Calls) -> None:
        """Take part in a round.

        Raises:
            ChoralError: Why the client contributes nothing.
        """
        try:
            await self._round(message, calls)
        finally:
            self.tidy()

    async def _round(self, message: pb.Assignment, calls: Calls) -> None:
        assignment = assignment_from_proto(message)
        reach("client.assigned")
        plan = assignment.plan
        self._witness.check(assignment.audit_head)
        self._allow(plan, assignment.model_bytes)
        if assignment.states:
            raise VersionMismatch(
                f"the plan needs the blob `{assignment.states[0].name}`",
                hint="a newer version of the client knows what to do with it",
            )
        self._say(f"round {plan.round}, attempt {plan.attempt} of {plan.run_id}: {plan.task}")
        until = self._clock.monotonic() + assignment.deadline_s
        model = await calls.download(
            assignment.token,
            plan.model_sha256,
            assignment.model_bytes,
            cache=self._cache,
            until=until,
        )
        reach("client.downloaded")
        await self._check_privacy(plan, model, assignment.deadline_s)
        out = self._state / CONTRIBUTION
        metrics = self._policy.file.metrics
        request = Train(
            plan_to_json(plan),
            model,
            out,
            None if ANY in metrics else frozenset(metrics),
            Allowance(self._policy.file.max_epsilon, self._policy.file.delta),
        )
        if isinstance(plan.aggregation, Secure):
            receipt = await self._secure(assignment, model, request, calls)
        else:
            await self._train(request, assignment.deadline_s)
            reach("client.trained")
            receipt = await calls.upload(
                assignment.token,
                out,
                Kind.CONTRIBUTION,
                until=until,
                without_crc=assignment.without_crc,
            )
            reach("client.sent")
            self._check(receipt, assignment, out)
        reach("client.receipted")
        if receipt is not None:
            settle_kept(out, self._state, plan)
            self._say(f"round {plan.round}: {receipt.size_bytes} bytes are receipted")

    def _allow(self, plan: Plan, model_bytes: int) -> None:
        why = refusal(self._policy, plan, model_bytes=model_bytes, now=self._now())
        if why is not None:
            raise why

    async def _check_privacy(self, plan: Plan, model: Path, limit_s: float) -> None:
        """Check what the plan promises of its privacy, and count it in the site's ledger.

        Raises:
            Refused: Its noise does not keep the promise, or the site allows no more.
        """
        if plan.privacy is None:
            return
        looked = await self._in_time(Look(plan_to_json(plan), model), limit_s)
        if not isinstance(looked, Looked):
            raise _as_error(looked)
        await asyncio.to_thread(self._spent.allow, plan, looked.vector_size)

    async def _train(self, request: Train, limit_s: float) -> None:
        """Train in the child; its time ends with the lease.

        Raises:
            Unavailable: The time is over.
            ChoralError: What went wrong.
        """
        found = await self._in_time(request, limit_s)
        if not isinstance(found, Trained):
            raise _as_error(found)
        if found.lost:
            self._say(f"a record here has lost at most {found.lost}, over all runs")

    async def _in_time(self, request: Request, limit_s: float) -> Answer:
        """Return the child's answer; a child that takes too long is ended."""
        try:
            return await asyncio.wait_for(self._trainer.ask(request), limit_s)
        except TimeoutError:
            raise Unavailable(f"the site's work took longer than {limit_s:.0f} s") from None

    async def _secure(
        self, assignment: Assignment, model: Path, request: Train, calls: Calls
    ) -> Receipt | None:
        """Take part in a secure sum; return the receipt of the masked vector, if it came so far."""
        plan, enrolled = assignment.plan, self._who.enrolled
        if enrolled is None or not isinstance(plan.encoding, RingGrid):
            raise Refused("this client is not enrolled for secure aggregation")
        file = self._policy.file
        site = Site(
            self._client,
            enrolled.key,
            enrolled.enrolment,
            enrolled.authority,
            enrolled.server,
            min_cohort=max(file.min_cohort, 0 if plan.privacy is None else plan.privacy.survivors),
            suites=self._policy.suites,
            min_corrupt=file.min_corrupt,
            max_sums=file.max_sums,
        )
        looked = await self._in_time(Look(request.plan, model), assignment.deadline_s)
        if not isinstance(looked, Looked):
            raise _as_error(looked)
        expected = Expected(
            plan.run_id,
            plan.round,
            (bytes.fromhex(plan.model_sha256),),
            bytes.fromhex(plan.digest),
            ring_encoding(plan.encoding, looked.vector_size, plan.privacy),
        )
        files = VectorFile(request.out, self._state / MASKED, Ring(plan.encoding.modulus_bits))
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
            if part.receipt is not None:
                self._check(part.receipt, assignment, files.masked)
        finally:
            training.cancel()
            with suppress(ChoralError, asyncio.CancelledError):
                await training
            files.forget()
        if part.stopped is not None:
            self._say(f"it left the sum: {part.stopped}", logging.WARNING)
        elif not part.counted and part.receipt is not None:
            self._say(f"round {plan.round}: the sum was not reached, or not told of")
        return part.receipt

    def _check(self, receipt: Receipt, assignment: Assignment, out: Path) -> None:
        """Refuse a receipt that the coordinator did not sign for what was sent."""
        plan, server = assignment.plan, self._who.server
        if server is None:
            raise Refused("a receipt of a coordinator whose key is not known")
        expected = Receipt(
            plan.run_id,
            plan.round,
            plan.attempt,
            self._client,
            sha256_of(out),
            out.stat().st_size,
        )
        check_receipt(receipt, server=server, expected=expected)
        self._witness.remember(receipt)

    # --- evaluation -------------------------------------------------------------------------------

    async def measure(self, message: pb.EvaluationTask, calls: Calls) -> None:
        """Measure a model on the client's own held-out part.

        Raises:
            ChoralError: Why nothing is reported.
        """
        task: EvaluationTask = task_from_proto(message)
        if not self._policy.file.per_client_metrics:
            raise Refused("the site's policy: no metrics of this client alone")
        self._allow(task.plan, task.model_bytes)
        until = self._clock.monotonic() + task.deadline_s
        model = await calls.download(
            task.token, task.model_sha256, task.model_bytes, cache=self._cache, until=until
        )
        request = Measure(plan_to_json(task.plan), model)
        found = await self._in_time(request, task.deadline_s)
        if not isinstance(found, Measurements):
            raise _as_error(found)
        reach("client.measured")
        metrics = {
            name: value
            for name, value in allowed_metrics(self._policy, found.metrics).items()
            if value is not None
        }
        await calls.report(Evaluation(task.token, metrics, found.examples), until=until)


def _as_error(found: object) -> ChoralError:
    """Return a child's failure as an error."""
    if not isinstance(found, Failed):
        return ChoralError(f"the process that trains answered {type(found).__name__}")
    error = ChoralError(found.message, details=found.details)
    error.code = found.code
    return error
