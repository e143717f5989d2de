"""Offers, assignments and evaluations, checked where they come in."""

import hashlib
import math
from dataclasses import replace

import pytest

from choral.core.errors import Malformed, VersionMismatch
from choral.core.params import ClientId
from choral.wire.joining import (
    Assignment,
    Blob,
    Evaluation,
    EvaluationTask,
    Join,
    assignment_from_proto,
    assignment_to_proto,
    bucket_of,
    evaluation_from_proto,
    evaluation_to_proto,
    examples_in,
    join_from_proto,
    join_to_proto,
    task_from_proto,
    task_to_proto,
)
from choral.wire.v1 import coordinator_pb2 as pb

JOIN = Join(
    client=ClientId("hospital-a"),
    tasks=("heart_task:task", "other:task"),
    schema_version="2",
    schema_fingerprint="c3" * 32,
    examples_bucket=9,
    strata={"region": "north", "size": ""},
    capabilities=("secure",),
    wait_s=30.0,
    available_s=3600.0,
    versions=(1, 1),
)


def refused(read, message, text):
    with pytest.raises(Malformed, match=text):
        read(message)


def changed(message, **fields):
    copy = type(message)()
    copy.CopyFrom(message)
    for name, value in fields.items():
        copy.ClearField(name)
        if isinstance(value, list):
            getattr(copy, name).extend(value)
        elif isinstance(value, dict):
            getattr(copy, name).update(value)
        else:
            setattr(copy, name, value)
    return copy


def test_an_offer_comes_back():
    assert join_from_proto(join_to_proto(JOIN)) == JOIN
    stated = replace(JOIN, schema_json=b"{}", schema_fingerprint=hashlib.sha256(b"{}").hexdigest())
    assert join_from_proto(join_to_proto(stated)) == stated
    least = Join(ClientId("a"), ())
    assert join_from_proto(join_to_proto(least)) == least


def test_the_number_of_examples_is_told_by_the_power_of_two_above_it():
    assert [bucket_of(n) for n in (0, 1, 255, 256, 257)] == [0, 1, 9, 9, 10]
    assert [examples_in(b) for b in (0, 1, 9, 10)] == [0, 1, 256, 512]


@pytest.mark.parametrize("plan", ["plain_plan", "secure_plan"])
def test_an_evaluation_task_comes_back(plan, request):
    task = EvaluationTask(b"t", request.getfixturevalue(plan), "cd" * 32, 9, True, 60.0)
    assert task_from_proto(task_to_proto(task)) == task


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"token": b""}, "token"),
        ({"plan_json": b"{}"}, "plan"),
        ({"model_sha256": "x"}, "model_sha256"),
        ({"model_bytes": 2**63}, "model_bytes"),
        ({"deadline_s": -1.0}, "deadline_s"),
    ],
)
def test_an_evaluation_task_that_cannot_be(plain_plan, fields, text):
    message = task_to_proto(EvaluationTask(b"t", plain_plan, "cd" * 32, 9, True, 60.0))
    refused(task_from_proto, changed(message, **fields), text)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"client_id": ""}, "client_id"),
        ({"client_id": "a" * 257}, "client_id"),
        ({"client_id": "a\n"}, "client_id"),
        ({"tasks": ["x", "x"]}, "each once"),
        ({"tasks": [""]}, "tasks"),
        ({"tasks": [str(i) for i in range(257)]}, "up to 256 texts"),
        ({"capabilities": ["\x1b"]}, "capabilities"),
        ({"schema_version": "v" * 257}, "schema_version"),
        ({"schema_fingerprint": "abc"}, "schema_fingerprint"),
        ({"schema_json": b"x" * 65_537}, "schema_json of 65537 bytes, expected up to 65536"),
        ({"schema_json": b"{}"}, "schema_json is not what"),
        ({"schema_json": b"{}", "schema_fingerprint": ""}, "schema_json is not what"),
        ({"examples_bucket": 64}, "examples_bucket 64, expected up to 63"),
        ({"strata": {"": "x"}}, "strata"),
        ({"strata": {"region": "\0"}}, "strata"),
        ({"strata": {str(i): "" for i in range(257)}}, "257 strata"),
        ({"wait_s": -1.0}, "wait_s"),
        ({"wait_s": math.nan}, "wait_s"),
        ({"available_s": math.inf}, "available_s"),
    ],
)
def test_an_offer_that_cannot_be(fields, text):
    refused(join_from_proto, changed(join_to_proto(JOIN), **fields), text)


@pytest.fixture
def assignment(secure_plan):
    return Assignment(
        b"token", secure_plan, 123, 599.5, (Blob("drift", "d4" * 32, 7), Blob("m", "e5" * 32, 0))
    )


def test_an_assignment_comes_back(assignment, plain_plan):
    message = assignment_to_proto(assignment)
    assert message.secure
    assert assignment_from_proto(message) == assignment
    plain = replace(assignment, plan=plain_plan, states=())
    assert not assignment_to_proto(plain).secure
    assert assignment_from_proto(assignment_to_proto(plain)) == plain


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"run_id": "other"}, "run_id 'other', and a plan with 'heart-1'"),
        ({"round": 4}, "round 4, and a plan with 3"),
        ({"attempt": 1}, "attempt 1"),
        ({"model_sha256": "f" * 64}, "model_sha256"),
        ({"secure": False}, "secure False, and a plan with True"),
        ({"plan_json": b"{}"}, "no plan"),
        ({"token": b""}, "a token of 0 bytes"),
        ({"token": bytes(1025)}, "a token of 1025 bytes"),
        ({"model_bytes": 2**63}, "model_bytes"),
        ({"deadline_s": math.nan}, "deadline_s"),
        ({"states": [pb.Blob(name="", sha256="d4" * 32)]}, "states"),
        ({"states": [pb.Blob(name="x", sha256="d4")]}, "states"),
        ({"states": [pb.Blob(name="x", sha256="d4" * 32)] * 257}, "257 states"),
    ],
)
def test_an_assignment_that_contradicts_itself(assignment, fields, text):
    refused(assignment_from_proto, changed(assignment_to_proto(assignment), **fields), text)


def test_an_evaluation_comes_back():
    evaluation = Evaluation(b"token", {"accuracy": 0.75, "loss": -0.0}, 40)
    assert evaluation_from_proto(evaluation_to_proto(evaluation)) == evaluation


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"metrics": {"loss": math.nan}}, "metric `loss` is nan"),
        ({"metrics": {"loss": -math.inf}}, "metric `loss` is -inf"),
        ({"metrics": {"": 1.0}}, "metrics"),
        ({"metrics": {str(i): 1.0 for i in range(257)}}, "257 metrics"),
        ({"token": b""}, "a token of 0 bytes"),
        ({"examples": 2**63}, "examples"),
    ],
)
def test_an_evaluation_that_cannot_be(fields, text):
    message = evaluation_to_proto(Evaluation(b"token", {"loss": 1.0}, 1))
    refused(evaluation_from_proto, changed(message, **fields), text)


def test_an_evaluation_of_another_version():
    with pytest.raises(VersionMismatch):
        evaluation_from_proto(pb.Evaluation(protocol_version=2, token=b"t"))
