"""The agent: it asks for work, holds it against the site's policy, does it, and asks again."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, time
from functools import partial
from typing import Final

import grpc

from choral.client.cache import ModelCache
from choral.client.calls import Calls
from choral.client.line import Line
from choral.client.once import DurableOnce
from choral.client.policy import Policy, seconds_to_open
from choral.client.rounds import Asks, Rounds
from choral.client.settings import Settings
from choral.client.trainer import Trainer
from choral.client.who import Who
from choral.client.work import (
    Describe,
    Described,
)
from choral.core.errors import (
    ChoralError,
    ClientError,
    DataError,
    Malformed,
    Refused,
    SchemaMismatch,
    Stale,
    Unavailable,
    by_code,
)
from choral.core.params import ClientId
from choral.core.ports import Clock, Rand
from choral.federation.participant import Failed
from choral.wire.errors import from_rpc_error
from choral.wire.joining import (
    MAX_SCHEMA_BYTES,
    Join,
    bucket_of,
    join_to_proto,
)
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.v1 import run_pb2

LOG: Final = logging.getLogger("choral.client")
HELD_S: Final = 20.0
SLACK_S: Final = 15.0
BACKOFF_S: Final = (0.5, 30.0)
"""Shortest and longest pause between attempts to reach the coordinator."""
LEAST_REST_S: Final = 0.05
"""A coordinator that answers at once with nothing is not asked again in a tight loop."""
LONGEST_REST_S: Final = 3600.0
ROUND: Final = "the round"
EVALUATION: Final = "the evaluation"
MAX_TEXT: Final = 1000
"""Characters of the coordinator's words on one line of the log."""
AGAIN_S: Final = 1.0
"""Rest before work that failed is tried again."""

PRIVATE: Final = (ClientError, DataError)
"""Failures whose words may speak of the data; the coordinator gets the code alone."""


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
        trainer: Where the task runs; default a child process.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        who: Who,
        policy: Policy,
        clock: Clock,
        rand: Rand,
        trainer: Asks | None = None,
    ) -> None:
        self._settings = settings
        self._client = ClientId(settings.local.client)
        self._who = who
        self._policy = policy
        self._clock = clock
        self._rand = rand
        self._trainer: Asks = trainer or Trainer(settings.local)
        self._once = DurableOnce(settings.local.state)
        self._rounds = Rounds(
            settings,
            who=who,
            policy=policy,
            trainer=self._trainer,
            cache=ModelCache(settings.local.state / "cache", settings.cache_bytes),
            once=self._once,
            clock=clock,
            rand=rand,
            now=self._now,
            say=self._say,
        )
        self._described = Described(0)
        self._reached = True
        self._tries = 0
        self._address = settings.coordinators[0]
        self._failed = b""
        self._refusals: list[str] = []

    async def run(self, *, until_done: bool = False) -> Ended | None:
        """Work until cancelled, or until a run has ended that this client took part in.

        Args:
            until_done: Return when a run has ended.

        Raises:
            DataError: The data cannot be used.
            Refused: The coordinator does not let this client in.
        """
        try:
            self._rounds.tidy()
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
        self._say(f"its data has {self._described.examples} examples")

    async def _connected(self, until_done: bool) -> Ended | None:
        """Work over one connection, until it breaks for good or a run has ended."""
        addresses = self._settings.coordinators
        at = addresses.index(self._address)
        async with Line(self._who.channel, addresses[at:] + addresses[:at]) as line:
            while True:
                await self._opened()
                calls = Calls(line, self._who.metadata, self._clock, tls=self._who.tls)
                answer = await self._join(calls, line)
                if answer is None:
                    line.turn()
                    self._address = line.address
                    return None  # a new connection, with certificates as they are now
                ended = await self._answer(answer, calls)
                if ended is not None and until_done:
                    return ended

    async def _join(self, calls: Calls, line: Line) -> pb.JoinResponse | None:
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
            if isinstance(found, Refused | Malformed) and not found.retryable:
                raise found from None
            if isinstance(found, SchemaMismatch):
                self._refused([f"{found.code}: {found}"])
                await self._back_off()
            else:
                await self._pause(found, line.address)
            return None
        if not self._reached or not self._tries:
            self._say(f"connected to {line.address}")
        self._reached, self._tries = True, 1
        return answer

    async def _opened(self) -> None:
        """Ask for no work that the site's hours would refuse: rest until they begin."""
        told = False
        while (left := seconds_to_open(self._policy, self._now())) > 0:
            if not told:
                self._say(f"the site works {self._policy.file.hours}: it rests until then")
            told = True
            await self._rest(min(left, LONGEST_REST_S))

    def _now(self) -> time:
        """Return the time of the day at the site."""
        return datetime.fromtimestamp(self._clock.wall()).time()

    @staticmethod
    async def _rest(seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _offer(self) -> Join:
        tasks, schema = self._policy.file.tasks, self._described.schema_json
        return Join(
            client=self._client,
            tasks=tuple(dict.fromkeys(tasks)),
            schema_version=self._described.schema_version,
            schema_fingerprint=self._described.schema_fingerprint,
            examples_bucket=bucket_of(self._described.examples),
            strata=self._settings.strata,
            capabilities=() if self._policy.file.secure_aggregation == "off" else ("secure",),
            wait_s=HELD_S,
            schema_json=schema if len(schema) <= MAX_SCHEMA_BYTES else b"",
        )

    def _refused(self, refusals: Sequence[str]) -> None:
        """Say which runs do not ask this client, each time that it is something else."""
        said = ["".join(c for c in text[:MAX_TEXT] if c.isprintable()) for text in refusals[:8]]
        for text in said:
            if text not in self._refusals:
                self._say(f"refused: {text}", logging.WARNING)
        self._refusals = said

    async def _pause(self, why: ChoralError, address: str) -> None:
        """Wait before the next attempt to connect."""
        if self._reached:
            self._say(f"{address} is not there: {why.message}", logging.WARNING)
        self._reached = False
        await self._back_off()

    async def _back_off(self) -> None:
        """Rest, the longer the more often, at random so that clients come apart."""
        least, most = BACKOFF_S
        rounds = self._tries // len(self._settings.coordinators)  # each of them is tried first
        longest = min(most, least * 2.0 ** min(rounds, 16))
        self._tries += 1
        await self._rest(least / 2 + self._share() * (longest - least / 2))

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
            self._refused(back.refusals)
            wait = back.after_s + self._share() * back.window_s
            await self._rest(min(max(LEAST_REST_S, wait), LONGEST_REST_S))
        elif kind == "assignment":
            given = answer.assignment
            work = partial(self._rounds.train, given, calls)
            await self._guarded(given.token, calls, work, what=ROUND)
        elif kind == "evaluation":
            asked = answer.evaluation
            work = partial(self._rounds.measure, asked, calls)
            await self._guarded(asked.token, calls, work, what=EVALUATION)
        return None

    async def _guarded(
        self,
        token: bytes,
        calls: Calls,
        work: Callable[[], Awaitable[None]],
        *,
        what: str,
    ) -> None:
        """Do some work; whatever goes wrong, say so, and go on with the next."""
        if token == self._failed:
            await self._rest(AGAIN_S)  # the coordinator did not hear that it failed before
        try:
            await work()
        except Stale as error:
            self._say(f"the work is over: {error.message}")
        except ChoralError as error:
            await self._tell_failure(token, calls, error, what=what)
        except grpc.RpcError as error:
            self._say(f"the coordinator: {from_rpc_error(error)}", logging.WARNING)
        except OSError as error:
            found = Unavailable(f"this site's disk: {error}")
            await self._tell_failure(token, calls, found, what=what)
        except Exception as error:  # noqa: BLE001  # one round never takes the client with it
            text = "".join(traceback.format_exception(error))
            fault = ClientError(f"{type(error).__name__}: {error}", details=text)
            await self._tell_failure(token, calls, fault, what=what)

    async def _tell_failure(
        self, token: bytes, calls: Calls, error: ChoralError, *, what: str
    ) -> None:
        self._failed = token
        if isinstance(error, Refused):
            self._say(f"refused: {error}", logging.WARNING if what == ROUND else logging.INFO)
        else:
            self._say(f"{what} failed: {error.code}: {error}", logging.WARNING)
        if error.details:
            LOG.warning("%s", error.details)
        private = issubclass(by_code(error.code), PRIVATE)
        words = "the reason is in the site's own log" if private else error.message
        with suppress(ChoralError, grpc.RpcError):
            until = self._clock.monotonic() + SLACK_S
            await calls.fail(token, error.code, words, until=until)

    def _say(self, text: str, level: int = logging.INFO) -> None:
        LOG.log(level, "%s: %s", self._client, text, extra={"choral": {"client": self._client}})
