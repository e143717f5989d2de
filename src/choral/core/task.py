"""Local work, and the local data that it works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard, runtime_checkable

from choral.core.keys import Key
from choral.core.params import Array, ClientId, Params, Role, Spec
from choral.core.plan import Plan
from choral.core.selection import Strata
from choral.core.update import Update


@runtime_checkable
class Task(Protocol):
    """What a client does with a model and its data. Anything with these three methods is one.

    A task may also have `roles`, a mapping of tensor names or glob patterns to a `Role`.
    One whose `train` honours `plan.local.record` says so by `record_privacy = True`; any other is
    refused a plan with record-level privacy. It may have a method `check_record_privacy`, which
    raises `PlanError` where its model has a part that no record can be hidden in: a run asks it
    before anybody trains.
    """

    def init(self, key: Key) -> Params | Mapping[str, Array]:
        """Return the first global model; equal keys give equal models."""
        ...

    def train(self, params: Params, data: Any, plan: Plan, key: Key) -> Update:
        """Train on `data` from `params` by `plan.local` and `plan.objective`.

        Args:
            params: The global model, with the client's own values of personal tensors.
            data: The client's training part.
            plan: The round's terms.
            key: Key of (run, round, client, "train"); equal arguments give equal updates.

        Returns:
            The update, weighted by the number of examples. `Update.between` builds it.
        """
        ...

    def evaluate(self, params: Params, data: Any) -> Mapping[str, float]:
        """Return the mean of each metric over the examples of `data`."""
        ...


def spec_of(task: Task, params: Mapping[str, Array]) -> Spec:
    """Return the spec of a task's model, with the roles that the task declares."""
    roles: Mapping[str, Role | str] | None = getattr(task, "roles", None)
    return Spec.of(params, roles)


@dataclass(frozen=True, slots=True)
class ClientData:
    """One client's examples.

    Attributes:
        train: What the task trains on: `(X, y)` arrays, tensors or a dataset with a length.
        test: The client's own held-out part, or None where it has none.
        strata: Declared labels, such as `{"region": "north"}`.
    """

    train: Any
    test: Any = None
    strata: Strata = field(default_factory=dict)


class ClientSource(Protocol):
    """Clients by id, loaded when they are asked for."""

    @property
    def ids(self) -> Sequence[ClientId]:
        """Ids, in an order that does not depend on how the source was built."""
        ...

    def load(self, client: ClientId) -> ClientData:
        """Return the client's data; raise `DataError` where it cannot be used."""
        ...

    def strata(self, client: ClientId) -> Strata:
        """Return the client's labels without loading its data."""
        ...

    def examples(self, client: ClientId) -> int | None:
        """Return the most examples that it can train on; None where it must not be loaded twice.

        Those of unsplit data, whatever part will be held out.
        """
        ...


def is_columns(data: Any) -> TypeGuard[tuple[Any, ...] | list[Any]]:
    """Return whether `data` is columns such as `(X, y)`: a tuple, or a list of arrays."""
    if isinstance(data, tuple):
        return bool(data) and all(hasattr(c, "__len__") for c in data)
    return isinstance(data, list) and bool(data) and all(hasattr(c, "shape") for c in data)


def count_examples(data: Any) -> int:
    """Return the number of examples of a client's data: columns, or a dataset with a length.

    >>> import numpy as np
    >>> count_examples((np.zeros((3, 2)), np.zeros(3)))
    3
    """
    return len(data[0]) if is_columns(data) else len(data)
