"""The sum of a run's attempt: made for a new one, rebuilt for one that was open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from choral.coordinator import steps
from choral.coordinator.assignments import Assignments, Model
from choral.coordinator.sums import RemoteSum, SpooledSum
from choral.coordinator.world import World
from choral.core.aggregation import Secure
from choral.core.errors import ChoralError, StoreError
from choral.core.params import ClientId, Spec
from choral.core.plan import Cohort, Plan
from choral.federation.conductor import Restored
from choral.federation.journal import Journal
from choral.federation.participant import Failed
from choral.federation.setup import RunSetup
from choral.secagg.enrolment import authority_id


class Attempts:
    """Makes the sums of a run's attempts.

    Args:
        setup: The run.
        journal: Its log.
        work: Its tickets.
        world: What is outside.
        show: Shows something to everyone who watches.
    """

    def __init__(
        self,
        setup: RunSetup,
        journal: Journal,
        work: Assignments,
        *,
        world: World,
        show: Callable[[Any], None],
    ) -> None:
        self._setup = setup
        self._journal = journal
        self._work = work
        self._world = world
        self._show = show
        self._deadline = 0

    def new(self, plan: Plan, clients: tuple[ClientId, ...], spec: Spec) -> SpooledSum | RemoteSum:
        """Return the empty sum of a new attempt."""
        self._deadline = int(self._world.clock.wall() + plan.deadline_s)
        return self._sum(plan, clients, spec)

    def opened(self, plan: Plan, model_bytes: int) -> None:
        """Write down on what terms the attempt is opened."""
        self._journal.step(steps.opened(plan, deadline=self._deadline, model_bytes=model_bytes))

    def _sum(self, plan: Plan, clients: tuple[ClientId, ...], spec: Spec) -> SpooledSum | RemoteSum:
        terms, world = self._setup.aggregation, self._world
        if not isinstance(terms, Secure):
            return SpooledSum(plan, spec)
        return RemoteSum(
            plan,
            spec,
            terms=terms,
            clients=clients,
            key=self._setup.key.fold("secure", plan.round, plan.attempt),
            signing_key=world.keys.signing,
            authority=world.keys.authority,
            authority_digest=authority_id(world.keys.authority),
            deadline=self._deadline,
            tell=self._work.tell,
            note=self._show,
        )

    def restore(
        self,
        cohort: Cohort,
        accepted: Sequence[ClientId],
        failed: Sequence[ClientId],
        *,
        spec: Spec,
    ) -> Restored | None:
        """Go on with the attempt that was open; None where too little of it is left.

        Args:
            cohort: Its clients.
            accepted: Those whose contributions were taken.
            failed: Those that had failed.
            spec: The model's schema.
        """
        past = self._journal.steps()
        try:
            plan = steps.plan_of(past)
            if plan is None:
                return None
            self._deadline = int(past[0]["deadline"])
            total = self._sum(plan, cohort.clients, spec)
            model = Model(plan.model_sha256, int(past[0]["model_bytes"]))
            deadline = self._world.clock.monotonic() + plan.deadline_s
            self._work.give(cohort.clients, plan, model=model, deadline=deadline)
            held = tuple(accepted)
            if isinstance(total, RemoteSum):
                steps.redo_secure(total, past, find=self._world.kept.find)
            else:
                held = steps.redo_plain(total, past, accepted, find=self._world.kept.find)
        except (ChoralError, KeyError, ValueError) as error:
            why = f"the open attempt cannot go on: {error}"
            self._show(Failed(ClientId(""), StoreError.code, why))
            self._work.retire()
            return None
        self._mark(past, held, failed)
        return Restored(plan, total, held)

    def _mark(
        self, past: Sequence[steps.Step], held: Sequence[ClientId], failed: Sequence[ClientId]
    ) -> None:
        """Note on the tickets how far everybody had come."""
        for step in past:
            ticket = self._work.tickets.get(step.get("client", ""))
            if ticket is None:
                continue
            if step["step"] == "said":
                ticket.mailbox.received += 1
            elif step["step"] == "took" and ticket.client in held:
                ticket.receipt = self._work.receipt(ticket, step["sha256"], step["size"])
                ticket.done = True
        for client in failed:
            if client in self._work.tickets:
                self._work.tickets[client].done = True
        for ticket in self._work.tickets.values():
            if not ticket.done:
                ticket.upload = self._world.left(ticket.token)
