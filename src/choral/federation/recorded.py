"""What the records of a run's clients lose, as whoever runs it can know it.

Each client's own training adds the noise, and its own ledger counts it. A run counts beside them:
how often each client was asked to train, with how many records at most and at least. An attempt
that came to nothing counts, since a client may have trained for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from choral.core.errors import BudgetExhausted, PlanError
from choral.core.params import ClientId, Role, Spec
from choral.core.plan import Local
from choral.core.protection import RecordPromise
from choral.core.release import MechanismLedger, ReleaseEvent
from choral.core.task import ClientSource, count_examples
from choral.federation.events import CohortChosen, Event
from choral.federation.participant import own_code
from choral.privacy.record import record_privacy
from choral.privacy.vocabulary import Mechanism
from choral.privacy.worst import Trainings, worst_loss

_TOLERANCE: Final = 1e-6
"""How far, relatively, an epsilon may be above the one that is asked for, by arithmetic alone."""

Counted = Callable[[ClientId], tuple[int, int]]
"""From a client to the fewest and the most records that it trains on."""


def trained_size(spec: Spec) -> int:
    """Return the coordinates that training changes: shared and personal tensors."""
    return sum(t.size for t in spec.tensors if t.role in (Role.SHARED, Role.PERSONAL))


def counted_in(source: ClientSource, test_fraction: float) -> Counted:
    """Return how many records clients train on, as far as their source knows it.

    A source of clients that keep their data says so by a method `training_records`, which takes a
    client and the part that it holds out; another one is asked for the data itself.
    """
    said: Callable[[ClientId, float], tuple[int, int]] | None = getattr(
        source, "training_records", None
    )

    def count(client: ClientId) -> tuple[int, int]:
        if said is not None:
            return said(client, test_fraction)
        with own_code(f"the data of client `{client}`"):
            found = count_examples(source.load(client).train)
        return found, found

    return count


class RecordAccount:
    """A run's own account of its clients' records. It sees every event of the run.

    Args:
        promise: What the run promises.
        local: Its local terms, with `record`.
        counted: How many records clients train on.
    """

    def __init__(self, promise: RecordPromise, local: Local, counted: Counted) -> None:
        self._promise = promise
        self._local = local
        self._counted = counted
        self._sizes: dict[ClientId, tuple[int, int]] = {}
        self._asked: Counter[ClientId] = Counter()

    def sized(self, event: Event) -> Event:
        """Return an event as it is logged: a cohort with the numbers of its clients' records."""
        if not isinstance(event, CohortChosen):
            return event
        pairs = [self._sizes.get(client) or self._counted(client) for client in event.clients]
        numbers = tuple(number for pair in pairs for number in pair)
        return CohortChosen(event.round, event.attempt, event.clients, numbers)

    def __call__(self, item: Any) -> None:
        """Take note of a cohort: each of its clients is going to train."""
        if not isinstance(item, CohortChosen):
            return
        least, most = item.records[::2], item.records[1::2]
        for client, a, b in zip(item.clients, least, most, strict=True):
            before = self._sizes.get(client, (a, b))
            self._sizes[client] = min(a, before[0]), max(b, before[1])
            self._asked[client] += 1

    @property
    def epsilon(self) -> float:
        """Upper bound of what a record of any client has lost, all attempts so far included."""
        terms = record_privacy(self._local)
        if terms.epsilon is not None:
            return terms.epsilon  # each finds the noise for all rounds of the run together
        found = self._loss(exact=False)
        if max(self._asked.values(), default=0) > self._promise.rounds:
            return min(found, self._loss(exact=True))
        sizes = frozenset(self._sizes.values())
        return min(found, planned_loss(self._local, sizes, self._promise))

    def _loss(self, *, exact: bool) -> float:
        clients = [Trainings(*self._sizes[c], times) for c, times in self._asked.items()]
        return worst_loss(
            self._local,
            clients,
            delta=self._promise.delta,
            dimension=self._promise.dimension,
            exact=exact,
        )

    def exhausted(self, round: int) -> BudgetExhausted | None:
        """Return why a cohort that was chosen must not train; None where it may."""
        limit = self._promise.limit
        if limit is None:
            return None
        if record_privacy(self._local).epsilon is not None:
            client, times = self._asked.most_common(1)[0]
            if times <= self._promise.rounds:
                return None
            why = (
                f"`{client}` would be asked to train {times} times, and the noise for epsilon "
                f"{limit:g} is made for {self._promise.rounds}"
            )
        else:
            most = limit * (1 + _TOLERANCE)
            found = self.epsilon
            found = found if found <= most else min(found, self._loss(exact=True))
            if found <= most:
                return None
            why = f"a record would lose epsilon {found:.4g}, and {limit:g} is the limit"
        return BudgetExhausted(
            f"round {round} is not begun: {why}",
            hint="attempts that came to nothing count; plan for more rounds, or with more noise",
        )

    def ledger(self) -> MechanismLedger:
        """Return what makes private values of this run into released ones."""

        def record(what: str, round: int, attempt: int) -> ReleaseEvent:
            kind, delta = Mechanism.GAUSSIAN.value, self._promise.delta
            return ReleaseEvent(what, round, attempt, kind, self.epsilon, delta)

        return MechanismLedger(record)


@lru_cache(maxsize=64)
def planned_loss(local: Local, sizes: frozenset[tuple[int, int]], promise: RecordPromise) -> float:
    """Return an upper bound for clients of these sizes that train in every planned round."""
    found = worst_loss(
        local,
        [Trainings(least, most, promise.rounds) for least, most in sizes],
        delta=promise.delta,
        dimension=promise.dimension,
    )
    if found == float("inf"):
        raise PlanError(
            "that noise gives no epsilon at that delta",
            hint="more noise, or fewer rounds",
        )
    return found
