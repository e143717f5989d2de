"""What one round asks of a client. Values only: no code travels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from choral.core.aggregation import Aggregation, Grid
from choral.core.canonical import digest_of
from choral.core.checks import flag, one_of, real, whole
from choral.core.errors import ConfigError, UnknownKey, did_you_mean
from choral.core.params import ClientId, Vector
from choral.core.protection import Protection

WEIGHTINGS: Final = ("examples", "uniform")
"""How clients are weighed: by their number of training examples, or by 1 each."""


@dataclass(frozen=True, slots=True)
class RecordPrivacy:
    """Terms of record-level privacy: how a client's training hides each of its records.

    Each step draws records by Poisson sampling, clips the gradient of each, adds Gaussian noise to
    their sum and divides by the batch size. How much noise is one of two things: a multiplier that
    is the same for everybody, or an epsilon, from which each client finds its own multiplier by its
    own number of records.

    Attributes:
        max_grad_norm: C, bound of the L2 norm of one record's gradient, above 0.
        noise_multiplier: z, noise over C; 0 clips and adds nothing, which protects nobody. None
            where `epsilon` is given.
        epsilon: Bound for one record over `rounds` rounds; None where `noise_multiplier` is given.
        delta: That it goes with.
        rounds: Rounds that are planned for; needed with `epsilon`.

    Raises:
        ConfigError: One of them is out of range, or both or none of the two are given.
    """

    max_grad_norm: float
    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    rounds: int | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "max_grad_norm", real("record.max_grad_norm", self.max_grad_norm, above=0))
        if (self.noise_multiplier is None) == (self.epsilon is None):
            raise ConfigError(
                "record-level privacy needs `noise_multiplier` or `epsilon`, and not both",
                hint="an epsilon is met by noise that each client finds for itself",
            )
        if self.noise_multiplier is not None:
            z = real("record.noise_multiplier", self.noise_multiplier, least=0, most=1e6)
            set_(self, "noise_multiplier", z)
        if self.delta is not None:
            set_(self, "delta", real("record.delta", self.delta, above=0, below=1))
        if self.rounds is not None:
            set_(self, "rounds", whole("record.rounds", self.rounds, least=1))
        if self.epsilon is not None:
            set_(self, "epsilon", real("record.epsilon", self.epsilon, above=0))
            if self.delta is None or self.rounds is None:
                raise ConfigError(
                    "record.epsilon needs `delta` and `rounds`",
                    hint="how much noise is enough depends on both",
                )


@dataclass(frozen=True, slots=True)
class Local:
    """Hyper-parameters of local training.

    Attributes:
        epochs: Passes over the client's training examples; ignored where `steps` is given.
        steps: Optimiser steps, or None to count in epochs.
        batch_size: Examples per step, or None for all of them at once.
        lr: Learning rate of the client's optimiser.
        shuffle: Draw a new order of examples for every pass.
        record: Terms of record-level privacy, or a mapping of them; None for none. With them,
            `batch_size` is the mean of a random batch size, and `shuffle` says nothing.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int | None = 32
    lr: float = 0.01
    shuffle: bool = True
    record: RecordPrivacy | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch_size"):
            value = getattr(self, name)
            if value is not None or name == "epochs":
                object.__setattr__(self, name, whole(f"local.{name}", value, least=1))
        object.__setattr__(self, "lr", real("local.lr", self.lr, above=0))
        object.__setattr__(self, "shuffle", flag("local.shuffle", self.shuffle))
        object.__setattr__(self, "record", _record_privacy(self.record))

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object, without `record` where there is none."""
        body = asdict(self)
        if self.record is None:
            del body["record"]
        return body


def _record_privacy(terms: Any) -> RecordPrivacy | None:
    """Return terms that may be written as a mapping."""
    if terms is None or isinstance(terms, RecordPrivacy):
        return terms
    if not isinstance(terms, Mapping):
        raise ConfigError(f"local.record {terms!r}: expected terms of record privacy")
    odd = sorted(set(terms) - set(RecordPrivacy.__dataclass_fields__))
    if odd:
        raise UnknownKey(
            f"local.record: unknown key `{odd[0]}`",
            hint=did_you_mean(odd[0], tuple(RecordPrivacy.__dataclass_fields__)),
        )
    if "max_grad_norm" not in terms:
        raise ConfigError("local.record needs `max_grad_norm`")
    return RecordPrivacy(**terms)


@dataclass(frozen=True, slots=True)
class Objective:
    """The one form of local objective: gradient + mu * (w - anchor) + drift.

    FedProx has mu > 0; SCAFFOLD and FedDyn have a drift; Ditto and pFedMe have an anchor of their
    own.

    Attributes:
        mu: Pull towards the anchor, at least 0.
        anchor: Flat vector over the shared tensors; None stands for the received model.
        drift: Flat vector added to the gradient of the shared tensors; None stands for zero.
    """

    mu: float = 0.0
    anchor: Vector | None = None
    drift: Vector | None = None

    @property
    def plain(self) -> bool:
        """True where the objective is the task's own loss and nothing else."""
        return self.mu == 0.0 and self.drift is None


@dataclass(frozen=True, slots=True)
class Plan:
    """The terms of one round, signed and hashed where a network is between.

    Attributes:
        run_id: The run.
        round: Counted from 1.
        attempt: Counted from 1; a retried round has the next number.
        task: Name of the task, such as `heart_task:task`.
        model_sha256: Digest of the global model that clients start from.
        spec_digest: Digest of that model's schema.
        local: Local hyper-parameters.
        mu: Proximal term of the local objective.
        weighting: `examples`, or `uniform` for weight 1 each.
        aggregation: How the updates become one.
        encoding: Grid of the sum.
        goal: Completed clients that close the round.
        quorum: Completed clients below which it is not closed.
        deadline_s: Seconds that clients have.
        arguments: Of a built-in model, as canonical JSON; empty for a task of the clients' own.
        test_fraction: Part of its examples that each client holds out, in [0, 1).
        split_seed: Seed of the draw of that part, 0 to 2^63 - 1.
        key: State of the key of (run, round), 64 hexadecimal digits: clients' reproducible draws
            descend from it, each from a fold of its own id.
        privacy: Clip, noise and epsilon; None where nothing protects what is released.
        objective: Vectors of the local objective, filled in at the client, outside the digest.
    """

    run_id: str
    round: int
    attempt: int
    task: str
    model_sha256: str
    spec_digest: str
    local: Local
    mu: float
    weighting: str
    aggregation: Aggregation
    encoding: Grid
    goal: int
    quorum: int
    deadline_s: float
    arguments: str = ""
    test_fraction: float = 0.0
    split_seed: int = 0
    key: str = ""
    privacy: Protection | None = None
    objective: Objective = field(default_factory=Objective, compare=False, repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return the hashed fields as a JSON object; without `privacy` where there is none."""
        body = {n: getattr(self, n) for n in self.__dataclass_fields__ if n != "objective"}
        if self.privacy is None:
            del body["privacy"]
        else:
            body["privacy"] = self.privacy.as_json()
        numbers = {n: body[n] + 0.0 for n in ("mu", "deadline_s", "test_fraction")}
        return (
            body
            | numbers
            | {
                "local": self.local.as_json(),
                "aggregation": self.aggregation.as_json(),
                "encoding": asdict(self.encoding),
            }
        )

    @property
    def digest(self) -> str:
        """SHA-256 over all fields but `objective`, in hexadecimal."""
        return digest_of(self.as_json())


@dataclass(frozen=True, slots=True)
class Terms:
    """What a strategy asks for in a round's plan.

    Attributes:
        weighting: `examples` or `uniform`.
        mu: Proximal term of the local objective, at least 0.
    """

    weighting: str = "examples"
    mu: float = 0.0

    def __post_init__(self) -> None:
        one_of("terms.weighting", self.weighting, WEIGHTINGS)
        object.__setattr__(self, "mu", real("terms.mu", self.mu, least=0))


@dataclass(frozen=True, slots=True)
class Cohort:
    """The clients of one attempt, and how many of them it takes.

    Attributes:
        clients: Invited clients, in invitation order, without repeats.
        goal: Completed clients that close the round at once.
        quorum: Completed clients that are enough at the deadline.
    """

    clients: tuple[ClientId, ...]
    goal: int
    quorum: int


Metrics = Mapping[str, float]
"""Scalars by name."""
