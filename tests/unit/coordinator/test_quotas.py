"""What one caller can cost: the size of a submitted model, messages, threads."""

import asyncio
import json

import pytest

from choral.coordinator.runs import Run
from choral.coordinator.submissions import submitted
from choral.core.errors import ConfigError, TooLarge
from choral.core.keys import Key
from choral.tasks.zoo import build, elements
from choral.wire.v1 import admin_pb2 as admin
from choral.wire.v1 import coordinator_pb2 as pb
from choral.wire.v1 import run_pb2


def raw(**model):
    return json.dumps({"name": "x", "model": model, "rounds": 1, "clients_per_round": 2}).encode()


@pytest.mark.parametrize(
    "model",
    [
        {"type": "linear", "input_dim": 7},
        {"type": "logistic", "input_dim": 7},
        {"type": "logistic", "input_dim": 7, "classes": 3},
        {"type": "mlp", "input_dim": 5, "classes": 3},
        {"type": "mlp", "input_dim": 5, "classes": 3, "hidden": [4, 6]},
        {"type": "mlp", "input_dim": 5, "classes": 3, "hidden": []},
        {"type": "cnn", "classes": 10},
        {"type": "cnn", "classes": 3, "input_shape": [3, 9, 11]},
    ],
    ids=str,
)
def test_the_size_of_a_built_in_model_is_known_before_it_is_made(model):
    if model["type"] in {"mlp", "cnn"}:
        pytest.importorskip("torch")
    made = sum(a.size for a in build(**model).init(Key.root(1)).values())
    said = elements(**model)
    assert made <= said < 2.1 * made
    if model["type"] != "logistic":
        assert said == made


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ({"type": "linear", "input_dim": 10**12}, TooLarge),
        ({"type": "linear", "input_dim": 10**4000}, TooLarge),
        ({"type": "logistic", "input_dim": 1, "classes": 1 << 40}, TooLarge),
        ({"type": "linear", "input_dim": 0}, ConfigError),
        ({"type": "linear"}, ConfigError),
        ({"type": "linear", "input_dim": 1, "size": 1}, ConfigError),
        ({"type": "none"}, ConfigError),
    ],
    ids=lambda v: str(v)[:60],
)
def test_a_model_that_cannot_be_submitted(model, kind):
    with pytest.raises(kind):
        submitted(raw(**model))


def test_a_large_network_is_refused_without_being_made():
    pytest.importorskip("torch")
    with pytest.raises(TooLarge, match="--max-model-bytes"):
        submitted(raw(type="mlp", input_dim=10**6, classes=10, hidden=[10**6, 10**6]))


def test_what_has_no_type_is_for_the_builder_to_refuse():
    assert submitted(raw(input_dim=3)).model == {"input_dim": 3}
    assert submitted(raw(type=["linear"])).model is not None


def test_the_limit_is_the_operator_s(served, tools):
    async def test(site):
        ruth = await site.caller("ruth")
        large = raw(type="linear", input_dim=100)
        with tools.refused("too_large"):
            await ruth.admin.CreateRun(
                admin.CreateRunRequest(protocol_version=1, federation_json=large)
            )
        assert site.counted("choral_rejected_calls_total")["CreateRun", "too_large"] == 1
        assert site.runs.all() == []
        small = raw(type="linear", input_dim=98)
        await ruth.admin.CreateRun(
            admin.CreateRunRequest(protocol_version=1, federation_json=small)
        )

    served(test, model_bytes=400)


def test_messages_of_a_round_have_a_quota(served, tools, monkeypatch):
    monkeypatch.setattr("choral.coordinator.service.MAX_SAID", 1000)

    async def test(site):
        site.submit(clients_per_round=3, aggregation="secure", round={"quorum": 3})
        a, b, c = [await site.caller(name) for name in "abc"]
        work, *_ = await asyncio.gather(*(client.work() for client in (a, b, c)))

        async def say(sequence, body):
            message = pb.ProtocolMessage(
                protocol_version=1, token=work.token, sequence=sequence, body=body
            )
            return await a.calls.exchange(message)

        for _ in range(5):
            await say(0, b"")  # asking costs nothing
        await say(1, b"x" * 100)
        await say(1, b"x" * 100)  # what is sent once more counts
        with tools.refused("too_large") as caught:
            await say(2, b"x" * 100)
        assert "expected up to 1000" in caught.value.details()
        assert site.counted("choral_rejected_calls_total")["Exchange", "too_large"] == 1

    served(test)


def test_a_run_that_is_slow_to_stop_holds_no_thread(served, monkeypatch):
    """More callers than threads wait for it; others get their answers meanwhile."""
    monkeypatch.setattr("choral.coordinator.admin.STOPPING_S", 0.5)

    async def test(site):
        run = site.submit(clients_per_round=4)
        oz = await site.caller("oz")
        show = admin.GetRunRequest(protocol_version=1, run_id=run.id)
        await oz.admin.GetRun(show)
        with monkeypatch.context() as deaf:
            deaf.setattr(Run, "post", lambda run, message: None)
            stop = admin.StopRunRequest(protocol_version=1, run_id=run.id)
            stopping = [asyncio.ensure_future(oz.admin.StopRun(stop)) for _ in range(8)]
            await oz.admin.GetRun(show)
            assert not any(call.done() for call in stopping)
            answers = await asyncio.gather(*stopping)
        assert {answer.status for answer in answers} == {run_pb2.RUN_STATUS_RUNNING}

    served(test)
