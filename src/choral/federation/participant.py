"""The client's part of a round. Simulation and deployment run this same function."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from choral.core.aggregation import RingGrid
from choral.core.errors import (
    ChoralError,
    ClientError,
    DataError,
    PlanError,
    UpdateRejected,
    WrongShape,
)
from choral.core.exact import Contribution, encode
from choral.core.keys import Key
from choral.core.params import ClientId, Params, Spec
from choral.core.plan import Plan
from choral.core.ports import Rand
from choral.core.task import ClientData, Task
from choral.core.transform import Chain
from choral.core.update import Update
from choral.federation.noised import encode_noised
from choral.federation.ring import RingContribution, encode_ring
from choral.privacy.clip import Clip

NORM = "update_norm"
"""Metric that every update carries: the L2 norm of its delta."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A client's encoded contribution, and the personal tensors that stay with it."""

    client: ClientId
    contribution: Contribution | RingContribution
    kept: Params | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a client contributes nothing.

    Attributes:
        client: The client.
        code: Code of the error, `client_error` for one of the client's own.
        message: One line for people.
        details: The client's traceback where its own code raised, else empty.
    """

    client: ClientId
    code: str
    message: str
    details: str = ""


_OWN = (Exception, SystemExit)
"""What a client's own code may raise; `sys.exit` in it ends that client's work, not the run."""

Outcome: TypeAlias = Completed | Failed


@dataclass(frozen=True, slots=True)
class Participant:
    """What a client runs: the task, the model's schema and the transforms of its updates.

    Attributes:
        task: The task.
        spec: The model's schema.
        chain: Transforms of its updates.
        rand: Secret randomness of its own noise; None where it adds none.
    """

    task: Task
    spec: Spec
    chain: Chain
    rand: Rand | None = None

    def contribute(
        self, client: ClientId, params: Params, data: Any, *, plan: Plan, key: Key
    ) -> Completed:
        """Train, check, transform and encode; raise what goes wrong.

        Args:
            client: The client.
            params: The global model with the client's own personal tensors.
            data: The client's training part.
            plan: The round's terms, with its objective.
            key: Key of (run, round, client).
        """
        check_record_privacy(self.task, plan)
        update = self.task.train(params, data, plan, key.fold("train"))
        if not isinstance(update, Update):
            raise UpdateRejected(
                f"train returned {type(update).__name__}, expected an Update",
                hint="build it with `choral.Update.between`",
            )
        update.check(self.spec)
        self._check_kept(update.kept)
        weight = 1.0 if plan.weighting == "uniform" else update.weight
        norm = math.sqrt(float(np.dot(update.delta, update.delta)))
        # Noise in the training covers the update alone, and not what a task says of its training.
        said = update.metrics if plan.local.record is None else {}
        metrics = {**said, NORM: norm} if math.isfinite(norm) else said
        measured = Update(update.delta, weight, metrics)
        sent = self.chain.encode(measured, self.spec, plan, key.fold("transform"))
        if plan.privacy is not None:  # nothing may change an update after its clip
            clip = Clip(plan.privacy.max_norm, report=plan.privacy.quantile > 0)
            sent = clip.encode(sent, self.spec, plan, key)
        return Completed(client, self._encoded(sent, plan, key.fold("rounding")), update.kept)

    def _encoded(self, sent: Update, plan: Plan, key: Key) -> Contribution | RingContribution:
        """Return an update on the round's grid, with the client's noise where it adds any."""
        if plan.privacy is not None and not plan.privacy.central:
            return encode_noised(sent, self.spec, plan=plan, key=key, rand=self.rand)
        if isinstance(plan.encoding, RingGrid):
            return encode_ring(sent, self.spec, plan=plan, grid=plan.encoding, key=key)
        return encode(sent, self.spec, plan.encoding, key)

    def _check_kept(self, kept: Params | None) -> None:
        """Raise unless what the client keeps is its personal tensors."""
        if kept is None:
            return
        if not isinstance(kept, Params):
            raise UpdateRejected(f"kept is of type {type(kept).__name__}, expected Params")
        wanted = {t.name: t for t in self.spec.tensors if t.role == "personal"}
        for name in kept.keys() | wanted.keys():
            if name not in kept or name not in wanted or kept[name].shape != wanted[name].shape:
                raise WrongShape(f"kept tensor `{name}` is not a personal tensor of the model")

    def attempt(
        self,
        client: ClientId,
        params: Params,
        load: Callable[[ClientId], ClientData],
        *,
        plan: Plan,
        key: Key,
    ) -> Outcome:
        """Return the client's contribution, or why there is none.

        Args:
            client: The client.
            params: The global model with the client's own personal tensors.
            load: Reads the client's data.
            plan: The round's terms, with its objective.
            key: Key of (run, round, client).

        Raises:
            DataError: `load` says that the data cannot be used. Nothing else that the client's own
                code raises gets out, but `KeyboardInterrupt` and its like.
        """
        try:
            data = load(client).train
        except DataError:
            raise
        except _OWN as error:
            return _own_fault(client, error)
        try:
            return self.contribute(client, params, data, plan=plan, key=key)
        except ChoralError as error:
            return Failed(client, error.code, _clean(str(error)))
        except _OWN as error:
            return _own_fault(client, error)

    def measure(self, params: Params, data: Any, *, who: str) -> dict[str, float | None]:
        """Return the task's metrics of `params` on `data`; None for what is no finite number.

        Raises:
            ClientError: The task's own code raised; `who` names the owner of the data.
        """
        with own_code(f"evaluating the model on {who}"):
            found = dict(self.task.evaluate(params, data))
            return {_clean(str(name)): _number(value) for name, value in found.items()}


def check_record_privacy(task: Task, plan: Plan) -> None:
    """Refuse a plan whose record-level privacy the task would ignore.

    Raises:
        PlanError: The task does not say `record_privacy = True`, or says so of another `train`.
    """
    if plan.local.record is not None:
        check_keeps_records(task)


def check_keeps_records(task: Any) -> None:
    """Refuse a task that does not train with record-level privacy.

    Raises:
        PlanError: It does not say `record_privacy = True`, or says so of another `train`.
    """
    if not _keeps_records(task):
        why = getattr(task, "no_record_privacy", "it does not say `record_privacy = True`")
        raise PlanError(
            f"{type(task).__name__} does not train with record-level privacy: {why}",
            hint="`LinearTask` and `TorchTask` do; or choose a privacy mode without it",
        )


def _keeps_records(task: Task) -> bool:
    """Return whether a task says it; a class that has its own `train` must say it again."""
    for where in (task, *type(task).__mro__):
        said: dict[str, Any] = dict(getattr(where, "__dict__", {}))
        if "record_privacy" in said or "train" in said:
            return said.get("record_privacy") is True
    return False


@contextmanager
def own_code(what: str) -> Iterator[None]:
    """Run somebody else's code: what it raises becomes a `ClientError` that names `what`."""
    try:
        yield
    except ChoralError:
        raise
    except _OWN as error:
        message = f"{what} failed: {_line(error)}"
        raise ClientError(message, details=_details(error)) from error


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _line(error: BaseException) -> str:
    """Return an exception in one line; it may not even be able to say its own message."""
    return _clean("".join(traceback.format_exception_only(error)).strip().splitlines()[-1])


def _details(error: BaseException) -> str:
    return _clean("".join(traceback.format_exception(error)))


def _clean(text: str) -> str:
    """Return text that can be stored: half a surrogate pair cannot."""
    return text.encode("utf-8", "replace").decode()


def _own_fault(client: ClientId, error: BaseException) -> Failed:
    return Failed(client, ClientError.code, _line(error), _details(error))


def round_key(root: Key, round: int) -> Key:
    """Return the key of a round, from the run's root key; a client's own is a fold of its id.

    The attempt is not in it: a client that is asked again after a crash gives the same bits.
    """
    return root.fold("client", round)


def overlay(params: Params, personal: Params | None) -> Params:
    """Return the global model with a client's personal tensors in their places."""
    if personal is None:
        return params
    return Params({name: personal.get(name, array) for name, array in params.items()})
