"""The engine with processes: clients' work in spawned workers, in batches.

The parent writes the global model once a round into a block that all workers map; each worker
writes its clients' int32 vectors into slots of its own, and only names and numbers go through
pipes. Batches are handed out in order and delivered in order, so that a run does not depend on
which worker was faster. Parent and workers are one program in one trust domain; between machines
other rules hold.
"""

from __future__ import annotations

import multiprocessing as mp
import signal
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from choral.core.checks import whole
from choral.core.errors import ConfigError, WorkerLost, by_code
from choral.core.params import ClientId, Params
from choral.core.tensors import encode_tensors
from choral.federation.evaluation import Measured
from choral.federation.participant import Completed, Failed, Outcome
from choral.simulation.blocks import Block
from choral.simulation.engine import Work
from choral.simulation.worker import Job, Rebuild, Shared, serve

_BATCH = 32
_SLOT_BYTES = 16 << 20
_IN_FLIGHT = 2
"""Batches that a worker holds: one it works on, one that waits for it."""


@dataclass(slots=True)
class _Worker:
    """The parent's end of a worker process."""

    process: BaseProcess
    pipe: Connection
    slots: Block
    free: list[tuple[int, ...]]
    jobs: dict[int, Job] = field(default_factory=dict)


class WorkersEngine:
    """Runs clients in spawned processes.

    Args:
        rebuild: Makes the clients' side in each worker.
        params: A model like those of the run, for its size.
        payload_bytes: Bytes of a contribution's vector.
        workers: Number of processes, at least 1.

    Raises:
        ConfigError: The clients' side cannot be rebuilt in a worker.
    """

    name = "workers"

    def __init__(
        self, rebuild: Rebuild, *, params: Params, payload_bytes: int, workers: int
    ) -> None:
        workers = whole("workers", workers, least=1)
        self._rebuild = rebuild
        self._payload_bytes = payload_bytes
        self._batch = max(1, min(_BATCH, _SLOT_BYTES // max(1, payload_bytes)))
        self._model_bytes = sum(block.nbytes for block in encode_tensors(params))
        self._model = Block(self._model_bytes)
        self._context = mp.get_context("spawn")
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._workers.append(self._launch())
            for worker in self._workers:
                _greet(worker)
        except BaseException:
            self.close()
            raise

    def _launch(self) -> _Worker:
        """Start a process; `_greet` waits until it is ready."""
        ours, theirs = self._context.Pipe()
        count = _IN_FLIGHT * self._batch
        slots = Block(count * self._payload_bytes)
        shared = Shared(self._model.name, self._model_bytes, slots.name, self._payload_bytes)
        process = self._context.Process(
            target=serve, args=(theirs, self._rebuild, shared), daemon=True
        )
        try:
            with _deaf_to_interrupts():
                process.start()
        except (AttributeError, TypeError, ValueError) as error:
            slots.close()
            raise ConfigError(
                f"the task or the data cannot be handed to a worker process: {error}",
                hint="define them at the top level of a module, or use engine `inline`",
            ) from None
        theirs.close()
        free = [tuple(range(at, at + self._batch)) for at in range(0, count, self._batch)]
        return _Worker(process, ours, slots, free)

    def train(self, work: Work) -> Iterator[Outcome]:
        """Yield one outcome per client of `work`, in that order."""
        bare = replace(work, params=Params({}), clients=(), personal={})
        self._publish(work.params)
        for job, answer in self._spread(self._jobs(work.clients, work.personal, bare)):
            for client, outcome in zip(job.clients, answer, strict=True):
                if outcome is None:
                    yield Failed(client, WorkerLost.code, "its worker process ended")
                else:
                    yield outcome

    def evaluate(
        self, params: Params, clients: tuple[ClientId, ...], personal: Mapping[ClientId, Params]
    ) -> Iterator[Measured]:
        """Yield every client's evaluation of `params`, in that order."""
        self._publish(params)
        for job, answer in self._spread(self._jobs(clients, personal, None)):
            for client, measured in zip(job.clients, answer, strict=True):
                if measured is None:
                    raise WorkerLost(f"a worker process ended while evaluating client `{client}`")
                yield measured

    def _publish(self, params: Params) -> None:
        """Write the model where the workers read it; none of them is at work now."""
        at = 0
        for block in encode_tensors(params):
            self._model.view[at : at + block.nbytes] = block
            at += block.nbytes

    def _jobs(
        self,
        clients: tuple[ClientId, ...],
        personal: Mapping[ClientId, Params],
        work: Work | None,
    ) -> deque[Job]:
        """Return batches: few messages, yet several per worker, so that none waits long."""
        size = max(1, min(self._batch, -(-len(clients) // (4 * len(self._workers)))))
        parts = [clients[at : at + size] for at in range(0, len(clients), size)]
        return deque(
            Job(number, part, {c: dict(personal[c]) for c in part if c in personal}, work)
            for number, part in enumerate(parts)
        )

    def _spread(self, waiting: deque[Job]) -> Iterator[tuple[Job, Any]]:
        """Hand batches out in order and yield answers in order; None for a client that was lost.

        No batch is handed out far ahead of the one that is wanted next, so memory is bounded.
        """
        done: dict[int, tuple[Job, Any]] = {}
        ahead = 2 * _IN_FLIGHT * len(self._workers)
        try:
            for number in range(len(waiting)):
                while number not in done:
                    self._assign(waiting, below=number + ahead)
                    done.update({job.number: (job, answer) for job, answer in self._collect()})
                self._assign(waiting, below=number + ahead)
                job, answer = done.pop(number)
                yield job, self._one_by_one(job) if answer is None else answer
        except GeneratorExit:
            # The attempt is over. After anything else, such as Ctrl-C, `close` kills the busy ones.
            while any(worker.jobs for worker in self._workers):
                list(self._collect())
            raise

    def _one_by_one(self, job: Job) -> list[Any]:
        """Do a lost job again, client by client in a process of its own; None for who ends it.

        So a client that kills its process costs itself and nobody else, whoever was beside it.
        """
        answers: list[Any] = []
        worker = self._launch()
        try:
            _greet(worker)
            for client in job.clients:
                kept = {client: job.personal[client]} if client in job.personal else {}
                alone = replace(job, clients=(client,), personal=kept, slots=worker.free[0])
                worker.jobs[job.number] = alone
                try:
                    worker.pipe.send(alone)
                    _, (answer,) = _unwrap(worker.pipe.recv())
                    answers.append(self._with_vector(answer, worker, alone.slots[0]))
                except (EOFError, ConnectionResetError, BrokenPipeError):
                    answers.append(None)
                    _end(worker)
                    worker = self._launch()
                    _greet(worker)
                worker.jobs.clear()
        finally:
            _end(worker)
        return answers

    def _assign(self, waiting: deque[Job], *, below: int) -> None:
        """Give workers with room the next batches, the least busy worker first."""
        while waiting and waiting[0].number < below:
            worker = min(self._workers, key=lambda w: len(w.jobs))
            # A worker at work reads nothing. Personal tensors may fill the pipe both ways, so a job
            # that carries any goes to an idle worker only, or both sides would wait for ever.
            if not worker.free or (worker.jobs and waiting[0].personal):
                return
            job = replace(waiting.popleft(), slots=worker.free.pop())
            worker.jobs[job.number] = job
            # A worker that has died is found when its answer is waited for.
            with suppress(BrokenPipeError):
                worker.pipe.send(job)

    def _collect(self) -> Iterator[tuple[Job, Any]]:
        """Wait for at least one worker; yield its jobs with answers, None where it died."""
        busy = [worker for worker in self._workers if worker.jobs]
        ready = set(wait([worker.pipe for worker in busy]))
        for worker in busy:
            if worker.pipe not in ready:
                continue
            try:
                number, answer = _unwrap(worker.pipe.recv())
            except (EOFError, ConnectionResetError):
                yield from [(job, None) for job in worker.jobs.values()]
                self._replace(worker)
                continue
            job = worker.jobs.pop(number)
            pairs = zip(answer, job.slots, strict=False)
            yield job, [self._with_vector(item, worker, slot) for item, slot in pairs]
            worker.free.append(job.slots)

    def _with_vector(self, outcome: Any, worker: _Worker, slot: int) -> Any:
        """Copy a contribution's vector out of its slot, which will be used again."""
        if not isinstance(outcome, Completed):
            return outcome
        dtype = outcome.contribution.vector.dtype
        vector = worker.slots.payload(slot, self._payload_bytes, dtype).copy()
        return replace(outcome, contribution=outcome.contribution.with_vector(vector))

    def _replace(self, worker: _Worker) -> None:
        """Start another worker in the place of one that ended."""
        worker.jobs.clear()
        _end(worker)
        fresh = self._launch()
        self._workers[self._workers.index(worker)] = fresh
        _greet(fresh)

    def close(self) -> None:
        """End the workers and let go of shared memory."""
        for worker in self._workers:
            _end(worker)
        self._workers = []
        self._model.close()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: they would die in the middle of an import."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _greet(worker: _Worker) -> None:
    """Wait until a worker has built its clients' side."""
    try:
        _unwrap(worker.pipe.recv())
    except (EOFError, ConnectionResetError):
        worker.process.join(timeout=5)
        raise ConfigError(
            f"a worker process ended while starting (exit code {worker.process.exitcode})",
            hint="in a script, start the simulation under `if __name__ == '__main__':`",
        ) from None


def _end(worker: _Worker) -> None:
    """Close the pipe, which ends an idle worker; a busy one is killed."""
    worker.pipe.close()
    if worker.jobs:
        worker.process.kill()
    worker.process.join(timeout=5)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
    worker.slots.close()


def _unwrap(message: tuple[Any, ...]) -> Any:
    """Return a worker's answer, or raise the error that it met."""
    if message[0] == "error":
        _, code, text, hint, details = message
        raise by_code(code)(text, hint=hint, details=details)
    return message[1]
