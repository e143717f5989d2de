"""What runs inside a worker process, and the messages that it understands."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import numpy as np

from choral.core.errors import ChoralError
from choral.core.params import Array, ClientId, Params
from choral.core.task import ClientSource
from choral.core.tensors import decode_tensors
from choral.federation.participant import Completed, Outcome, Participant
from choral.simulation.blocks import Block
from choral.simulation.engine import Work
from choral.simulation.inline import InlineEngine
from choral.system import SystemRand
from choral.tasks.threads import one_thread

Rebuild: TypeAlias = Callable[[], tuple[Participant, ClientSource]]
"""Makes the clients' side anew in a worker; must be importable there, so no lambda."""


@dataclass(frozen=True, slots=True)
class Job:
    """A batch of clients for one worker.

    Attributes:
        number: Counted from 0 within one round or evaluation.
        clients: Who works.
        personal: Personal tensors of those clients that have any.
        work: The round without its arrays, or None to evaluate.
        slots: Where the contributions' vectors go.
    """

    number: int
    clients: tuple[ClientId, ...]
    personal: dict[ClientId, dict[str, Array]]
    work: Work | None
    slots: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Shared:
    """The blocks that a worker maps: the model's file, and its own slots for vectors."""

    model: str
    model_bytes: int
    slots: str
    payload_bytes: int


def serve(pipe: Connection, rebuild: Rebuild, shared: Shared) -> None:
    """Work through jobs until the parent closes the pipe or dies.

    Answers are `("ok", value)`, or `("error", code, message, hint, details)`; an error ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr  # stdout carries the parent's result alone
    model, slots = Block(name=shared.model), Block(name=shared.slots)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            participant, source = rebuild()
            inline = InlineEngine(replace(participant, rand=SystemRand()), source)
            with one_thread():
                pipe.send(("ok", None))
                while True:
                    job: Job = pipe.recv()
                    pipe.send(("ok", (job.number, _answer(job, inline, model, slots, shared))))
        except ChoralError as error:
            pipe.send(("error", error.code, error.message, error.hint, error.details))
    model.close()
    slots.close()


def _answer(
    job: Job, inline: InlineEngine, model: Block, slots: Block, shared: Shared
) -> Sequence[Any]:
    """Do a job; contributions' vectors go into the job's slots."""
    params = Params(decode_tensors(model.view[: shared.model_bytes]))
    personal = {client: Params(arrays) for client, arrays in job.personal.items()}
    if job.work is None:
        return list(inline.evaluate(params, job.clients, personal))
    work = replace(job.work, params=params, clients=job.clients, personal=personal)
    outcomes: list[Outcome] = []
    for slot, outcome in zip(job.slots, inline.train(work), strict=False):
        if isinstance(outcome, Completed):
            vector = outcome.contribution.vector
            slots.payload(slot, shared.payload_bytes, vector.dtype)[...] = vector
            bare = outcome.contribution.with_vector(np.empty(0, vector.dtype))
            outcomes.append(replace(outcome, contribution=bare))
        else:
            outcomes.append(outcome)
    return outcomes
