"""Every call with messages that its schema allows and nobody meant: refused, or harmless."""

import asyncio

import grpc
import numpy as np
import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc import aio

from choral.wire.errors import STATUS_LOST
from choral.wire.v1 import admin_pb2, coordinator_pb2

FINE = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.NOT_FOUND,
}
"""Never INTERNAL, which is a fault of ours, and never UNKNOWN."""
WORDS = ("", "a", "b", "*", "model:linear", "../../x", "\0", "ä" * 300, "tiny-00000000", "0" * 64)
FEDERATIONS = (
    b'{"rounds": 1, "model": {"type": "linear", "input_dim": 10000000000000}}',
    b'{"rounds": 1, "task": "os:system"}',
    b'{"rounds": 1, "schema": "/etc/passwd", "model": {"type": "linear", "input_dim": 1}}',
    b'{"rounds": 1, "model": {"type": ["linear"], "input_dim": {}}}',
    b'{"rounds": 1, "clients_per_round": 1e308, "model": {"type": "linear", "input_dim": 1}}',
)
"""None of them can begin a run."""
BYTES = (b"", b"\0", b"{}", b"[]", b"null", b"\xff" * 100, b'{"rounds": -1}', b"x" * 70_000)


class Chance:
    """Draws that repeat."""

    def __init__(self, seed):
        self._rng = np.random.default_rng(seed)

    def choice(self, words):
        return words[int(self._rng.integers(len(words)))]

    def random(self):
        return float(self._rng.random())

    def below(self, most):
        return int(self._rng.integers(most))


def value(field, chance, tokens):
    """A value of a field's type: plausible, extreme or nonsense."""
    kind = field.cpp_type
    if field.name == "federation_json":
        return chance.choice((*BYTES, *FEDERATIONS))
    if field.type == field.TYPE_BYTES:
        return chance.choice((*BYTES, *tokens))
    if kind == field.CPPTYPE_STRING:
        return chance.choice(WORDS)
    if kind == field.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if kind in {field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT}:
        return chance.choice((0.0, 0.01, -1.0, 1e308, float("inf"), float("nan")))
    if kind == field.CPPTYPE_ENUM:
        return chance.choice((0, 1, 2, 99))
    bits = 32 if kind in {field.CPPTYPE_UINT32, field.CPPTYPE_INT32} else 64
    return chance.choice((0, 1, 2, 7, 2**31 - 1, 2**bits - 1))


def message(descriptor, chance, tokens, depth=0):
    """A random message of a type."""
    made = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if field.name == "protocol_version" and chance.random() < 0.9:
            made.protocol_version = 1
        elif field.name in {"wait_s"}:
            made.wait_s = chance.choice((0.0, 0.01, -1.0))
        elif chance.random() < 0.3:
            continue
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            pair = getattr(made, field.name)
            for _ in range(chance.below(3)):
                name = chance.choice(WORDS)
                pair[name] = value(field.message_type.fields_by_name["value"], chance, tokens)
        elif field.is_repeated if hasattr(field, "is_repeated") else field.label == 3:
            many = getattr(made, field.name)
            for _ in range(chance.below(3)):
                if field.message_type is None:
                    many.append(value(field, chance, tokens))
        elif field.message_type is not None:
            if depth < 3:
                inner = message(field.message_type, chance, tokens, depth + 1)
                getattr(made, field.name).CopyFrom(inner)
        else:
            setattr(made, field.name, value(field, chance, tokens))
    return made


def calls():
    """Every call of both services."""
    for module, service in ((coordinator_pb2, "Coordinator"), (admin_pb2, "Admin")):
        yield from module.DESCRIPTOR.services_by_name[service].methods


async def status_of(channel, method, requests):
    """Make a call until its own status comes back; return that.

    gRPC's client loses the status of a stream of requests that is refused early, now and then.
    """
    for _ in range(20):
        code, details = await once(channel, method, requests)
        if (code, details) != (grpc.StatusCode.INTERNAL, STATUS_LOST):
            break
    return code, details


async def once(channel, method, requests):
    """Make a call; return its status."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    shape = ("stream" if method.client_streaming else "unary") + (
        "_stream" if method.server_streaming else "_unary"
    )
    call = getattr(channel, shape)(path)
    try:
        if method.client_streaming:
            await call(iter(requests), timeout=5)
        elif method.server_streaming:
            answer = call(requests[0], timeout=5)
            await answer.read()
            answer.cancel()
        else:
            await call(requests[0], timeout=5)
    except aio.AioRpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


async def fuzz(site, count, seed):
    run = site.submit(clients_per_round=3, round={"quorum": 2, "deadline_s": 3000})
    callers = [await site.caller(name) for name in ("a", "b", "c", "oz", "ruth", "audrey")]
    works = await asyncio.gather(*(c.work() for c in callers[:3]))
    chance = Chance(seed)
    tokens = [works[0].token, works[2].token]
    methods = list(calls())
    for at in range(count):
        method, caller = chance.choice(methods), chance.choice(callers[2:])
        many = 1 + chance.below(3) if method.client_streaming else 1
        requests = [
            message(method.input_type, chance, tokens).SerializeToString() for _ in range(many)
        ]
        if chance.random() < 0.1:
            spoiled = bytearray(requests[0] or b"\0")
            spoiled[chance.below(len(spoiled))] ^= 1 << chance.below(8)
            requests[0] = bytes(spoiled)
        code, details = await status_of(caller.channel, method, requests)
        assert code in FINE, (at, method.name, code, details, requests)
    assert site.runs.all() == [run]
    assert run.status == "running"
    accepted = run.actor.conductor.machine.round.accepted
    assert set(accepted) <= {"c"}
    for client, work in zip(callers[:2], works, strict=False):
        await client.contribute(work)
    assert run.actor.conductor.machine.round.accepted.keys() >= {"a", "b"}


@pytest.mark.parametrize(
    ("count", "seed"),
    [(1000, 7), *(pytest.param(10_000, seed, marks=pytest.mark.nightly) for seed in range(10))],
)
@pytest.mark.timeout(1800)
def test_no_message_is_a_fault_and_honest_clients_are_counted(served, count, seed, caplog):
    served(lambda site: fuzz(site, count, seed), limit_s=1700)
    assert "Traceback" not in caplog.text
