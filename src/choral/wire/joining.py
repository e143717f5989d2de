"""What a client says when it is available, and what it is given to do."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from choral.core.aggregation import Secure
from choral.core.errors import Malformed
from choral.core.params import ClientId
from choral.core.plan import Metrics, Plan
from choral.wire.frames import MAX_TOKEN, check_sha256
from choral.wire.plans import plan_from_json, plan_to_json
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.versions import OLDEST_VERSION, PROTOCOL_VERSION, check_version

MAX_TEXT: Final = 256
MAX_ITEMS: Final = 256
MAX_BUCKET: Final = 63
MAX_BLOB_BYTES: Final = 2**63 - 1
MAX_SCHEMA_BYTES: Final = 64 << 10
"""Of a data schema in canonical JSON; of a longer one a client tells the fingerprint alone."""


@dataclass(frozen=True, slots=True)
class Join:
    """A client's offer.

    Attributes:
        client: Who; the coordinator holds it against the certificate.
        tasks: Names of the tasks that its site allows, in order, each once.
        schema_version: Version of its data's schema.
        schema_fingerprint: Digest over the schema, never over values; empty where it has none.
        schema_json: The schema as canonical JSON, which is what the digest is over; may be empty.
        examples_bucket: `bucket_of` its number of training examples.
        strata: Labels, such as `{"region": "north"}`.
        capabilities: What else it can do, by name.
        wait_s: How long it would have the call held, in seconds.
        available_s: How long it expects to be available, in seconds; 0 where it does not know.
        versions: Oldest and newest version of the protocol that it speaks.
    """

    client: ClientId
    tasks: tuple[str, ...]
    schema_version: str = ""
    schema_fingerprint: str = ""
    examples_bucket: int = 0
    strata: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    wait_s: float = 0.0
    available_s: float = 0.0
    versions: tuple[int, int] = (OLDEST_VERSION, PROTOCOL_VERSION)
    schema_json: bytes = b""


def bucket_of(examples: int) -> int:
    """Return how a client tells its number of examples: by the power of two above it.

    >>> [bucket_of(n) for n in (0, 1, 2, 3, 4, 1000)]
    [0, 1, 2, 3, 3, 11]
    """
    return (examples - 1).bit_length() + 1 if examples > 0 else 0


def examples_in(bucket: int) -> int:
    """Return the most examples that a client with this bucket has.

    >>> [examples_in(b) for b in (0, 1, 2, 3, 11)]
    [0, 1, 2, 4, 1024]
    """
    return 1 << (bucket - 1) if bucket else 0


def join_to_proto(join: Join) -> pb.JoinRequest:
    """Return an offer as a message."""
    return pb.JoinRequest(
        protocol_version=join.versions[1],
        min_protocol_version=join.versions[0],
        client_id=join.client,
        tasks=join.tasks,
        schema_version=join.schema_version,
        schema_fingerprint=join.schema_fingerprint,
        examples_bucket=join.examples_bucket,
        strata=join.strata,
        capabilities=join.capabilities,
        wait_s=join.wait_s,
        available_s=join.available_s,
        schema_json=join.schema_json,
    )


def join_from_proto(message: pb.JoinRequest) -> Join:
    """Return the offer that a message makes; its versions are for `versions.agree` to judge.

    Raises:
        Malformed: A text that is empty, too long or not printable, too many of them, or a number
            that cannot be.
    """
    fingerprint = message.schema_fingerprint
    if len(message.strata) > MAX_ITEMS:
        raise Malformed(f"{len(message.strata)} strata, expected up to {MAX_ITEMS}")
    if message.examples_bucket > MAX_BUCKET:
        raise Malformed(f"examples_bucket {message.examples_bucket}, expected up to {MAX_BUCKET}")
    if len(message.schema_json) > MAX_SCHEMA_BYTES:
        raise Malformed(
            f"schema_json of {len(message.schema_json)} bytes, expected up to {MAX_SCHEMA_BYTES}"
        )
    if message.schema_json and hashlib.sha256(message.schema_json).hexdigest() != fingerprint:
        raise Malformed("schema_json is not what schema_fingerprint is the SHA-256 of")
    return Join(
        client=ClientId(_text("client_id", message.client_id)),
        tasks=_texts("tasks", message.tasks),
        schema_version=_text("schema_version", message.schema_version, least=0),
        schema_fingerprint=fingerprint and check_sha256("schema_fingerprint", fingerprint),
        examples_bucket=message.examples_bucket,
        strata={
            _text("strata", name): _text("strata", message.strata[name], least=0)
            for name in sorted(message.strata)
        },
        capabilities=_texts("capabilities", message.capabilities),
        wait_s=_seconds("wait_s", message.wait_s),
        available_s=_seconds("available_s", message.available_s),
        versions=(message.min_protocol_version, message.protocol_version),
        schema_json=message.schema_json,
    )


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that a plan needs besides the model."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """A client's work in one attempt.

    Attributes:
        token: Names the assignment in later calls; opaque to the client.
        plan: The terms. Run, round, attempt, model and whether the sum is secure are its.
        model_bytes: Size of the model's file.
        states: Further blobs, such as a strategy's vectors.
        deadline_s: Seconds from now; less than the plan's for a client that was called late.
        audit_head: Head of the coordinator's audit trail; empty where there is none.
        without_crc: Whether chunks of the upload may come without their checksum.
    """

    token: bytes
    plan: Plan
    model_bytes: int
    deadline_s: float
    states: tuple[Blob, ...] = ()
    audit_head: bytes = b""
    without_crc: bool = False


def assignment_to_proto(assignment: Assignment) -> pb.Assignment:
    """Return an assignment as a message."""
    plan = assignment.plan
    return pb.Assignment(
        run_id=plan.run_id,
        round=plan.round,
        attempt=plan.attempt,
        token=assignment.token,
        plan_json=plan_to_json(plan),
        model_sha256=plan.model_sha256,
        model_bytes=assignment.model_bytes,
        states=[
            pb.Blob(name=state.name, sha256=state.sha256, size_bytes=state.size_bytes)
            for state in assignment.states
        ],
        deadline_s=assignment.deadline_s,
        secure=isinstance(plan.aggregation, Secure),
        audit_head=assignment.audit_head,
        without_crc=assignment.without_crc,
    )


def assignment_from_proto(message: pb.Assignment) -> Assignment:
    """Return the assignment that a message gives.

    Raises:
        Malformed: It contradicts its own plan, or a field cannot be.
    """
    plan = plan_from_json(message.plan_json)
    for name, said, planned in (
        ("run_id", message.run_id, plan.run_id),
        ("round", message.round, plan.round),
        ("attempt", message.attempt, plan.attempt),
        ("model_sha256", message.model_sha256, plan.model_sha256),
        ("secure", message.secure, isinstance(plan.aggregation, Secure)),
    ):
        if said != planned:
            raise Malformed(f"an assignment with {name} {said!r}, and a plan with {planned!r}")
    if len(message.states) > MAX_ITEMS:
        raise Malformed(f"{len(message.states)} states, expected up to {MAX_ITEMS}")
    return Assignment(
        token=check_token(message.token),
        plan=plan,
        model_bytes=_size("model_bytes", message.model_bytes),
        deadline_s=_seconds("deadline_s", message.deadline_s),
        states=tuple(
            Blob(
                _text("states", state.name),
                check_sha256("states", state.sha256),
                _size("states", state.size_bytes),
            )
            for state in message.states
        ),
        audit_head=bytes(message.audit_head),
        without_crc=message.without_crc,
    )


@dataclass(frozen=True, slots=True)
class EvaluationTask:
    """A model to measure on a client's own held-out examples.

    Attributes:
        token: Names the task in later calls; opaque to the client.
        plan: The plan of the round that made the model, or of the first one: its task, and how a
            client splits its examples.
        model_sha256: Digest of the model.
        model_bytes: Size of its file.
        final: Whether it is the run's last model.
        deadline_s: Seconds from now.
    """

    token: bytes
    plan: Plan
    model_sha256: str
    model_bytes: int
    final: bool
    deadline_s: float


def task_to_proto(task: EvaluationTask) -> pb.EvaluationTask:
    """Return an evaluation task as a message."""
    return pb.EvaluationTask(
        token=task.token,
        plan_json=plan_to_json(task.plan),
        model_sha256=task.model_sha256,
        model_bytes=task.model_bytes,
        final=task.final,
        deadline_s=task.deadline_s,
    )


def task_from_proto(message: pb.EvaluationTask) -> EvaluationTask:
    """Return the evaluation task that a message gives.

    Raises:
        Malformed: A field cannot be.
    """
    return EvaluationTask(
        token=check_token(message.token),
        plan=plan_from_json(message.plan_json),
        model_sha256=check_sha256("model_sha256", message.model_sha256),
        model_bytes=_size("model_bytes", message.model_bytes),
        final=message.final,
        deadline_s=_seconds("deadline_s", message.deadline_s),
    )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a client measured.

    Attributes:
        token: Of the task.
        metrics: Finite scalars by name.
        examples: Held-out examples that they are means over.
    """

    token: bytes
    metrics: Metrics
    examples: int


def evaluation_to_proto(evaluation: Evaluation) -> pb.Evaluation:
    """Return an evaluation as a message."""
    return pb.Evaluation(
        protocol_version=PROTOCOL_VERSION,
        token=evaluation.token,
        metrics=evaluation.metrics,
        examples=evaluation.examples,
    )


def evaluation_from_proto(message: pb.Evaluation) -> Evaluation:
    """Return the evaluation of a message.

    Raises:
        Malformed: A name that cannot be, a number that is not finite, or too many of them.
        VersionMismatch: The message is of a version that is not spoken here.
    """
    check_version(message.protocol_version)
    if len(message.metrics) > MAX_ITEMS:
        raise Malformed(f"{len(message.metrics)} metrics, expected up to {MAX_ITEMS}")
    metrics = {_text("metrics", name): message.metrics[name] for name in sorted(message.metrics)}
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Malformed(f"metric `{name}` is {value!r}, expected a finite number")
    return Evaluation(check_token(message.token), metrics, _size("examples", message.examples))


def check_token(token: bytes) -> bytes:
    """Return an assignment's token; raise `Malformed` where it is empty or too long."""
    if not 0 < len(token) <= MAX_TOKEN:
        raise Malformed(f"a token of {len(token)} bytes, expected 1 to {MAX_TOKEN}")
    return token


def _text(name: str, value: str, *, least: int = 1) -> str:
    if not least <= len(value) <= MAX_TEXT or not value.isprintable():
        raise Malformed(
            f"{name} {value[:80]!r}: expected a printable text of {least} to {MAX_TEXT} characters"
        )
    return value


def _texts(name: str, values: Iterable[str]) -> tuple[str, ...]:
    found = tuple(_text(name, value) for value in values)
    if len(set(found)) != len(found) or len(found) > MAX_ITEMS:
        raise Malformed(f"{name}: expected up to {MAX_ITEMS} texts, each once")
    return found


def _seconds(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise Malformed(f"{name} {value!r}: expected a finite number of at least 0")
    return value + 0.0


def _size(name: str, value: int) -> int:
    if value > MAX_BLOB_BYTES:
        raise Malformed(f"{name} {value}: expected at most 2^63 - 1")
    return value
