"""The run that is simulated: a tiny model, one-hot updates, and what must come out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final

import numpy as np

from choral.core.aggregation import Aggregation, Plain, RingGrid, Secure
from choral.core.errors import RunFailed
from choral.core.exact import Contribution, Encoding, ExactSum, Total
from choral.core.keys import Key
from choral.core.params import ClientId, Params
from choral.core.plan import Local, Plan
from choral.core.release import OpenLedger, Private, Released, public
from choral.core.selection import Strata
from choral.core.task import ClientData
from choral.core.update import Update
from choral.crypto.ring import Ring
from choral.crypto.secret import Secret
from choral.crypto.signatures import SigningKey, Statement
from choral.federation.model import GlobalModel
from choral.federation.participant import Completed, Participant
from choral.federation.policy import RoundPolicy, RunPolicy
from choral.federation.ring import RingContribution, decode_ring
from choral.federation.setup import Evaluation, RunSetup
from choral.secagg.enrolment import Authority
from choral.secagg.parameters import Suite
from choral.secagg.site import Site
from choral.selection.uniform import Uniform
from choral.strategies.fedavg import FedAvg
from choral.testing.faults.draws import Draws
from choral.testing.faults.schedule import NAMES, Schedule
from choral.wire.contributions import contribution_blocks

RUN: Final = "run"
RETRIES: Final = 2
DEADLINE_S: Final = 30.0
STEP_S: Final = 6.0

CLIENTS: Final = tuple(ClientId(name) for name in NAMES)


class RememberingKey(SigningKey):
    """A signing key that does not sign the same statement twice: Ed25519 repeats itself anyway."""

    __slots__ = ("_signed",)

    def __init__(self, secret: Secret) -> None:
        super().__init__(secret)
        self._signed: dict[bytes, bytes] = {}

    def sign(self, what: Statement) -> bytes:
        """Return the signature."""
        if what not in self._signed:
            if len(self._signed) > _MOST:
                self._signed.clear()
            self._signed[what] = super().sign(what)
        return self._signed[what]


_MOST: Final = 20_000


@cache
def key_of(name: str) -> SigningKey:
    """Return the signing key of a party."""
    return RememberingKey(Secret(Draws("key", name).token(32)))


@cache
def site_of(client: ClientId) -> Site:
    """Return a client's identity and policy."""
    key, authority = key_of(client), Authority(key_of("authority"))
    return Site(
        client,
        key,
        authority.enrol(client, key.public),
        authority.public,
        key_of("coordinator").public,
        min_cohort=3,
        suites=frozenset({Suite.FULL, Suite.SEMI_HONEST}),
    )


class OneHot:
    """A task whose update says whose it is, and of which round."""

    def __init__(self, clients: int, rounds: int) -> None:
        self._size = clients * rounds
        self._rounds = rounds

    def init(self, key: Key) -> Params:
        """Return a model of zeros."""
        return Params({"w": np.zeros(self._size, np.float32)})

    def train(self, params: Params, data: Any, plan: Plan, key: Key) -> Update:
        """Return 1 in the place of this client and round."""
        delta = np.zeros(self._size, np.float32)
        delta[data * self._rounds + plan.round - 1] = 1.0
        return Update(delta, 1.0, {})

    def evaluate(self, params: Params, data: Any) -> Mapping[str, float]:
        """Return a number that says who measured."""
        return {"who": float(2**data)}


class Nowhere:
    """A `ClientSource` for what needs none."""

    ids: Sequence[ClientId] = ()

    def load(self, client: ClientId) -> ClientData:
        """Return what a client trains on: its number."""
        return ClientData(CLIENTS.index(client))

    def strata(self, client: ClientId) -> Strata:
        """Return no labels."""
        return {}

    def examples(self, client: ClientId) -> int | None:
        """Return one example."""
        return 1


@dataclass(slots=True)
class Stage:
    """What all runs of the same terms share.

    Attributes:
        setup: The run; its source is to be replaced.
        participant: The clients' side.
        first: The model before round 1.
        bodies: What a client sends in a round: a plain contribution, or its vector to be masked.
        found: What a client has trained in a round.
        models: Rounds' survivors to the model that they must lead to.
    """

    setup: RunSetup
    participant: Participant
    first: Params
    bodies: dict[tuple[ClientId, int], bytes] = field(default_factory=dict)
    models: dict[tuple[tuple[str, ...], ...], Released[GlobalModel]] = field(default_factory=dict)
    found: dict[tuple[ClientId, int], Contribution | RingContribution] = field(default_factory=dict)

    def body(self, client: ClientId, plan: Plan) -> bytes:
        """Return what a client has trained in a round, as bytes."""
        name = (client, plan.round)
        if name not in self.bodies:
            found = self._contribution(client, plan)
            if isinstance(found, Contribution):
                self.bodies[name] = b"".join(contribution_blocks(found))
            else:
                self.bodies[name] = found.vector.tobytes()
        return self.bodies[name]

    def _contribution(self, client: ClientId, plan: Plan) -> Contribution | RingContribution:
        name = (client, plan.round)
        if name not in self.found:
            self.found[name] = self._trained(client, plan)
        return self.found[name]

    def _trained(self, client: ClientId, plan: Plan) -> Contribution | RingContribution:
        found = self.participant.attempt(
            client,
            self.first,
            Nowhere().load,
            plan=plan,
            key=Key.of_state(plan.key).fold(client),
        )
        if not isinstance(found, Completed):
            raise RunFailed(f"{client} cannot train: {found.message}")
        return found.contribution

    def model(self, plan: Plan, past: tuple[tuple[str, ...], ...]) -> GlobalModel:
        """Return the model after rounds with these survivors, each counted once.

        Args:
            plan: Of the last of these rounds.
            past: The survivors of each round in turn, sorted.
        """
        if past not in self.models:
            strategy = self.setup.strategy
            if len(past) == 1:
                start = GlobalModel.start(strategy, self.participant.spec, self.first)
                before = public(start, what="first model")
            else:
                before = self.models[past[:-1]]
            total = OpenLedger(lambda _: None).release(
                Private(self._total(plan, past[-1])), what="model", round=plan.round, attempt=1
            )
            self.models[past] = before.value.step(strategy, total, round=plan.round)
        return self.models[past].value

    def _total(self, plan: Plan, clients: tuple[str, ...]) -> Total:
        spec = self.participant.spec
        found = [self._contribution(ClientId(client), plan) for client in clients]
        if isinstance(plan.encoding, Encoding):
            exact = ExactSum(spec.vector_size, plan.encoding)
            for each in found:
                if isinstance(each, Contribution):
                    exact.add(each)
            return exact.total(last=True)
        vectors = [each.vector for each in found if isinstance(each, RingContribution)]
        ring = Ring(plan.encoding.modulus_bits)
        total = np.sum(np.stack(vectors), axis=0, dtype=ring.dtype)
        ring.reduce(total)
        grid = plan.encoding
        return decode_ring(total, spec, plan=plan, grid=grid, count=len(clients))


def stage_of(schedule: Schedule) -> Stage:
    """Return the run of a schedule."""
    terms = (schedule.goal, schedule.grace_s, schedule.asks)
    return _stage(schedule.clients, schedule.rounds, schedule.suite, terms)


@cache
def _stage(clients: int, rounds: int, suite: str, rest: tuple[int | None, float, bool]) -> Stage:
    goal, grace_s, asks = rest
    terms: Aggregation = Secure(suite=suite, min_cohort=3) if suite else Plain()
    if suite:
        goal = None if goal is None else max(3, goal)
    policy = RunPolicy(
        rounds,
        RoundPolicy(
            clients,
            goal=goal,
            deadline_s=DEADLINE_S,
            grace_s=grace_s,
            retries=RETRIES,
            secure=terms if isinstance(terms, Secure) else None,
        ),
    )
    setup = RunSetup(
        RUN,
        RUN,
        OneHot(clients, rounds),
        "one_hot",
        Nowhere(),
        FedAvg(weighting="uniform"),
        Uniform(),
        policy,
        Local(),
        seed=0,
        range=2.0,
        aggregation=terms,
        evaluation=Evaluation(clients=asks),
        population=clients,
    )
    participant, first = setup.participant()
    bodies, found, models = _shared(clients, rounds, suite)
    return Stage(setup, participant, first, bodies, models, found)


@cache
def _shared(clients: int, rounds: int, suite: str) -> tuple[Any, Any, Any]:
    """Return what does not depend on the other terms."""
    return {}, {}, {}


def ring_of(plan: Plan) -> Ring:
    """Return the ring of a secure plan."""
    if not isinstance(plan.encoding, RingGrid):
        raise RunFailed("a secure plan without a ring")
    return Ring(plan.encoding.modulus_bits)


def with_source(setup: RunSetup, source: Any) -> RunSetup:
    """Return the run with other clients."""
    return replace(setup, source=source)
