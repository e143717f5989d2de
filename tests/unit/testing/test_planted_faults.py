"""Faults planted in the coordinator, its stores and its clients: the simulation finds each one."""

import os
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest

from choral.coordinator import assignments
from choral.coordinator.actor import Actor
from choral.coordinator.outbox import Outbox
from choral.coordinator.polls import Poll
from choral.coordinator.tickets import Arrived, Reported
from choral.federation import events as ev
from choral.federation.round import ROUND_TABLE, Phase, RoundMachine
from choral.testing.faults import Fault, Parts, explore, schedule_of
from choral.testing.faults.agent import Agent, SimOnce
from choral.testing.faults.calls import Later, Service
from choral.testing.faults.disk import DiskBlobStore, DiskRunStore
from choral.testing.faults.process import Process, SimActor


@contextmanager
def patched(**attributes):
    """Replace attributes of classes and modules while a simulation runs."""
    with pytest.MonkeyPatch.context() as patch:
        for where, name, value in attributes["them"]:
            if isinstance(where, dict):
                patch.setitem(where, name, value)
            else:
                patch.setattr(where, name, value)
        yield


def made(**classes):
    """Parts with a process whose pieces are replaced."""
    return Parts(process=type("Planted", (Process,), {f"{k}_class": v for k, v in classes.items()}))


# --- what is planted ------------------------------------------------------------------------------


class Twice(Service):
    """An upload that is sent again is handed to the run again."""

    def deliver(self, call, ticket):
        answer = ticket.answer
        if answer is not None and ticket.upload is not None:
            upload, header = ticket.upload
            ticket.post(Arrived(ticket, upload, header, lambda found: None))
        super().deliver(call, ticket)


def accept_again(machine, event):
    machine.accepted[event.client] = None
    return (ev.Accumulate(machine.round, machine.attempt, event.client), *machine._after_report())


def no_dedupe():
    them = [
        (ROUND_TABLE, (Phase.COLLECTING, ev.UpdateReceived), accept_again),
        (assignments.Assignments, "answered", lambda self, client: False),
    ]
    return made(service=Twice), patched(them=them)


def receipt_before_log():
    def flush(self):
        self.send()
        if self._journal.waits:
            self.insist(self._journal.flush)

    return Parts(), patched(them=[(Outbox, "flush", flush)])


class Lazy(DiskBlobStore):
    """Says that a blob is stored, and leaves it to the system when."""

    def sync(self, digest):
        pass


class LazyState(DiskBlobStore):
    """Says that a model is stored, and leaves it to the system when."""

    def sync(self, digest):
        data = self._disk.blob(digest) or b""
        if data[8:9] != b"{":  # where a safetensors header begins
            super().sync(digest)


class LazyLog(DiskRunStore):
    """Says that records are stored, and leaves it to the system when."""

    def sync(self):
        if len(self._disk._loose) > 3:
            super().sync()


class Unfenced(DiskRunStore):
    """Lets anybody write who ever held the run."""

    def check(self, lease):
        pass


class Hasty(Service):
    """Acknowledges a message before the run has taken it."""

    def say(self, ticket, body):
        super().say(ticket, body)
        ticket.hearing = Later()
        ticket.hearing.set_result(None)


class Forgetful(SimOnce):
    """Forgets which attempt of a round it has joined."""

    def read(self, slot):
        return None if slot.startswith("joined-") else super().read(slot)

    def claim(self, slot, answer):
        if slot.startswith("joined-"):
            self._slots.pop(slot, None)
        return super().claim(slot, answer)


class Amnesiac(Agent):
    once_class = Forgetful


def new_tokens():
    drawn = iter(range(1 << 40))

    def token_of(key, plan, *, client, use):
        return next(drawn).to_bytes(16, "little")

    def restore(self, cohort, accepted):
        found = self._attempts.restore(cohort, accepted, (), spec=self.conductor.spec)
        return None if found is None else replace(found, held=())

    them = [(assignments, "token_of", token_of), (Actor, "_restore", restore)]
    return Parts(), patched(them=them)


class Remasking(Agent):
    """Sends a masked vector with a fresh mask each time that it is sent again."""

    tries = 0

    def again(self, body):
        self.tries += 1
        if self.tries == 1 or not self.field.schedule.suite:
            return body
        return bytes(b ^ self.tries for b in body)

    def upload(self, token, plan, body, *, until):
        self.tries = 0
        return super().upload(token, plan, body, until=until)


def chosen_again():
    plain = RoundMachine._restart

    def restart(self, event):
        if self.phase is Phase.SEALED:
            self.phase = Phase.COLLECTING
            self._goal = len(self._invited)
        return plain(self, event)

    return Parts(), patched(them=[(ROUND_TABLE, (Phase.SEALED, ev.Restarted), restart)])


class TimerLost(SimActor):
    """Forgets the timers of an attempt that it takes up again."""

    def start(self):
        self.starts = True
        super().start()
        self.starts = False


def timer_lost():
    plain = Actor._set_timer

    def set_timer(self, command):
        if not getattr(self, "starts", False):
            plain(self, command)

    from choral.coordinator import actor

    return made(actor=TimerLost), patched(them=[(actor._DO, ev.SetTimer, set_timer)])


class Counting(Service):
    """Hands an evaluation over as often as it comes."""

    def report(self, call, token, metrics):
        ticket = self.host.desk.ticket(token, call.client)
        ticket.post(Reported(ticket, metrics, 1))
        super().report(call, token, metrics)


def counted_twice():
    def take(self, ticket, found):
        self._waiting.pop(ticket.client, None)
        if found is not None:
            self._found.append(found)
        return not self._waiting

    return made(service=Counting), patched(them=[(Poll, "take", take)])


def no_backoff():
    plain = Actor._set_timer

    def set_timer(self, command):
        if command.timer != "backoff":
            plain(self, command)

    from choral.coordinator import actor

    return Parts(), patched(them=[(actor._DO, ev.SetTimer, set_timer)])


def told_early():
    def tell(self, client, body):
        ticket = self.tickets.get(client)
        if ticket is not None:
            self._world.desk.tell(ticket, body)

    return Parts(), patched(them=[(assignments.Assignments, "tell", tell)])


def sent_anyway():
    return Parts(), patched(them=[(Outbox, "drop", lambda self: None)])


class Eager(SimActor):
    """Shows people what is not durable yet."""

    def __init__(self, *arguments, auditing=(), observers=(), **rest):
        super().__init__(*arguments, auditing=(*auditing, *observers), **rest)


PLANTED = {
    "no dedupe of uploads": ("plain", "safety", no_dedupe),
    "receipt before the log": ("plain", "safety", receipt_before_log),
    "blobs that are not synced": ("plain", "safety", lambda: (made(blobs=Lazy), nullcontext())),
    "a commit before its model is synced": (
        "plain",
        "safety",
        lambda: (made(blobs=LazyState), nullcontext()),
    ),
    "a log that is not synced": ("plain", "safety", lambda: (made(store=LazyLog), nullcontext())),
    "a lease without a fence": ("plain", "safety", lambda: (made(store=Unfenced), nullcontext())),
    "acknowledged before stored": (
        "secure",
        "safety",
        lambda: (made(service=Hasty), nullcontext()),
    ),
    "a client forgets its answers": (
        "secure",
        "safety",
        lambda: (Parts(agent=Amnesiac), nullcontext()),
    ),
    "new tokens, contributions forgotten": ("plain", "safety", new_tokens),
    "masked again for the same attempt": (
        "secure",
        "safety",
        lambda: (Parts(agent=Remasking), nullcontext()),
    ),
    "survivors chosen again": ("secure", "liveness", chosen_again),
    "a timer lost at a restart": ("plain", "liveness", timer_lost),
    "an evaluation counted twice": ("plain", "safety", counted_twice),
    "a backoff that never ends": ("plain", "liveness", no_backoff),
    "survivors told before they are stored": ("secure", "safety", told_early),
    "a commit shown before it is stored": (
        "plain",
        "safety",
        lambda: (made(actor=Eager), nullcontext()),
    ),
    "what was never stored is sent at the end": ("plain", "safety", sent_anyway),
}
"""Planted fault to where it shows, and what plants it."""

MOST = 20_000
"""Schedules within which each is to be found."""


def schedules_of(name):
    """Seeds; for one that shows only where a sealed attempt is taken up again, a crash anywhere."""
    if name != "survivors chosen again":
        return range(MOST)
    late = replace(schedule_of(0, aggregation="secure"), clients=4, rounds=1, goal=3, slow=5.0)
    late = replace(late, suite="semi_honest", mode="safety")
    return [late.having((Fault("crash", effect, 0.5),)) for effect in range(150)]


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name):
    aggregation, mode, plant = PLANTED[name]
    parts, planted = plant()
    with planted:
        report = explore(schedules_of(name), aggregation=aggregation, mode=mode, parts=parts)
        assert report.failed, f"not found in {report.schedules} schedules"
        smallest = report.failed[0]
    assert len(smallest.schedule.faults) <= 12
    if os.environ.get("SHOW"):
        print(name, report.schedules, smallest.violation, smallest.detail, smallest.schedule.faults)
