"""Faults that a reading found, each with what it did."""

import asyncio
import hashlib
import json
import queue
import threading
from pathlib import Path

import grpc
import pytest

from choral.config.build import Place
from choral.coordinator import actor
from choral.coordinator.spool import SpoolFile
from choral.coordinator.submissions import MAX_DEPTH, submitted
from choral.coordinator.tickets import Arrived, Stop
from choral.coordinator.transfers import WINDOW_BYTES, WINDOW_S, _Pace
from choral.core.errors import ChoralError, Malformed, Refused, StoreError
from choral.stores.files import FolderBlobStore
from choral.wire.errors import from_rpc_error
from choral.wire.frames import chunk_frame
from choral.wire.v1 import admin_pb2 as admin
from choral.wire.v1 import coordinator_pb2 as pb


def status_of(caller, token, sha256):
    return caller.calls.get_upload(pb.UploadRequest(protocol_version=1, token=token, sha256=sha256))


async def until(found, *, seconds=5.0):
    for _ in range(int(seconds / 0.02)):
        if found():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError


# --- calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["Coordinator/JoinRound", "Admin/GetRun", "Admin/WatchRun"])
def test_bytes_that_are_no_message_are_malformed_and_counted(served, tools, call, caplog):
    async def test(site):
        caller = await site.caller("a" if "Join" in call else "oz")
        shape = caller.channel.unary_stream if "Watch" in call else caller.channel.unary_unary
        with tools.refused("malformed"):
            answer = shape(f"/choral.v1.{call}")(b"\xff\xff\xff")
            await (answer.read() if "Watch" in call else answer)
        name = call.partition("/")[2]
        assert site.counted("choral_rejected_calls_total")[name, "malformed"] == 1

    served(test)
    assert "Traceback" not in caplog.text


def test_a_message_may_hold_what_no_status_can(served, tools, caplog):
    async def test(site):
        caller = await site.caller("oz")
        body = b'{"model": {"type": "linear", "\\ud800": 2}, "rounds": 1, "clients_per_round": 2}'
        with tools.refused("malformed"):
            await caller.admin.CreateRun(
                admin.CreateRunRequest(protocol_version=1, federation_json=body)
            )
        with tools.refused("unknown_name") as caught:
            await caller.admin.GetRun(
                admin.GetRunRequest(protocol_version=1, run_id="x\ny\x1b[31m")
            )
        assert caught.value.details().isprintable()

    served(test)
    assert "Traceback" not in caplog.text
    assert not any("\n" in r.message or "\x1b" in r.message for r in caplog.records)


# --- submitted files ------------------------------------------------------------------------------

GOOD = {"model": {"type": "linear", "input_dim": 2}, "rounds": 1, "clients_per_round": 2}


def as_json(**changes):
    return json.dumps(GOOD | changes).encode()


def test_a_federation_can_be_submitted():
    assert submitted(as_json(evaluation={"held_out": "data/test.csv"})).rounds == 1


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"[" * 100_000, Malformed),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), Malformed),
        (b'{"name": "\\ud800"}', Malformed),
        (b"[]", Malformed),
        (b"\xff", Malformed),
        (b" " * (1 << 20) + b"{}", Malformed),
        (as_json(evaluation={"held_out": "/etc/passwd"}), Refused),
        (as_json(evaluation={"held_out": "data/../../secret.csv"}), Refused),
        (as_json(evaluation={"held_out": "os:abort"}), Refused),
        (as_json(evaluation={"held_out": "os.path:devnull"}), Refused),
        (as_json(model=None, task="sys:exit"), Refused),
        (as_json(simulation={"schema": "../schema.yaml"}), Refused),
        (as_json(name="../x"), ChoralError),
    ],
    ids=lambda v: repr(v)[-30:],
)
def test_what_is_submitted_reads_and_calls_nothing_of_the_coordinator_s(raw, kind):
    with pytest.raises(kind):
        submitted(raw)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clients_per_round": 10**12}, "clients_per_round"),
        ({"start": {"wait_s": -1}}, "start.wait_s"),
    ],
)
def test_terms_that_no_run_survives_are_refused_when_it_is_submitted(served, changes, words):
    async def test(site):
        with pytest.raises(ChoralError, match=words):
            site.submit(**changes)
        assert site.runs.all() == []

    served(test)


def test_a_deadline_beyond_the_system_s_own_is_only_long(served):
    async def test(site):
        run = site.submit(round={"quorum": 2, "deadline_s": 1e300}, start={"wait_s": 1e300})
        await site.commits(run, "a", "b")

    served(test)


def test_a_request_is_its_owner_s_and_begins_one_run(served, tools):
    async def test(site):
        place, file = Place(Path()), tools.federation()

        def begin(owner):
            return site.runs.submit(file, place, owner=owner, request_id="r")

        found = await asyncio.gather(*(asyncio.to_thread(begin, "ruth") for _ in range(4)))
        assert len({run.id for run in found}) == 1
        other = await asyncio.to_thread(begin, "rolf")
        assert (other.owner, len(site.runs.all())) == ("rolf", 2)

    served(test)


def test_a_run_does_not_take_the_first_model_of_another_away(served):
    """Both start from the same bytes; the quick one had them removed for the slow one, too."""

    async def test(site):
        slow = site.submit()
        callers = [await site.caller(name) for name in ("a", "b")]
        works = await asyncio.gather(*(c.work() for c in callers))
        quick = site.submit(rounds=4, selection={"name": "stratified", "by": "team"})
        others = [await site.caller(name) for name in ("c", "d")]
        for _ in range(4):
            again = await asyncio.gather(*(c.work(strata={"team": "x"}) for c in others))
            assert {w.plan.run_id for w in again} == {quick.id}
            for client, work in zip(others, again, strict=True):
                await client.contribute(work)
        await site.ended(quick)
        for client, work in zip(callers, works, strict=True):
            assert work.plan.run_id == slow.id
            assert len(await client.model(work)) == 3
            await client.contribute(work)
        await site.ended(slow)
        assert (slow.status, quick.status) == ("completed", "completed")

    served(test)


# --- uploads --------------------------------------------------------------------------------------


def test_a_receipt_waits_for_a_client_whose_call_was_cut(served, tools, monkeypatch):
    """The contribution counts, so its client must be able to learn it."""

    async def test(site):
        run = site.submit(clients_per_round=3)
        a = await site.caller("a")
        asking = asyncio.ensure_future(a.work())
        others = [await site.caller(name) for name in ("b", "c")]
        works = await asyncio.gather(*(c.work() for c in others))
        work = await asking
        raw = tools.contribution()
        gate, taken = threading.Event(), run.actor._arrived

        def slowly(message):
            gate.wait(10)
            return taken(message)

        monkeypatch.setitem(actor._TAKE, Arrived, lambda _, message: slowly(message))
        call = a.calls.send_update(iter(tools.upload(work.token, raw)))
        ticket = site.server._desk.ticket(work.token, "a")
        await until(lambda: ticket.answer is not None)
        call.cancel()
        again = asyncio.ensure_future(a.contribute(work))
        await asyncio.sleep(0.1)
        gate.set()
        first = await again
        sha256 = first.receipt.sha256
        assert (await status_of(a, work.token, sha256)).receipt == first.receipt
        for client, mine in zip(others, works, strict=True):
            await client.contribute(mine)
        result = await site.ended(run)
        assert (result["rounds"][0]["completed"], result["failures"]) == (3, [])

    served(test)


@pytest.mark.parametrize("fault", ["writing", "keeping", "half kept"])
def test_an_upload_that_cannot_be_stored_now_is_asked_for_again(
    served, tools, monkeypatch, caplog, fault
):
    """A full disk costs a client time, and not its training."""
    failing = True

    def fails(call, *, after=False):
        def called(self, *args):
            if not failing:
                return call(self, *args)
            if after:
                call(self, *args)
            raise StoreError("cannot write to /some/folder: no space left", hint="make room")

        return called

    if fault == "writing":
        monkeypatch.setattr(SpoolFile, "write", fails(SpoolFile.write))
    else:
        adopt = fails(FolderBlobStore.adopt, after=fault == "half kept")
        monkeypatch.setattr(FolderBlobStore, "adopt", adopt)

    async def test(site):
        nonlocal failing
        run = site.submit()
        a, b = await site.caller("a"), await site.caller("b")
        work, other = await asyncio.gather(a.work(), b.work())
        raw = tools.contribution()
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as caught:
                await a.contribute(work, raw)
            error = from_rpc_error(caught.value)
            assert (error.code, error.retryable) == ("store_unavailable", True)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "/some" not in str(error)
        sha256 = hashlib.sha256(raw).hexdigest()
        held = (await status_of(a, work.token, sha256)).offset
        assert held == (len(raw) if fault == "keeping" else 0)
        failing = False
        await a.send(tools.upload(work.token, raw, offset=held))
        await b.contribute(other)
        result = await site.ended(run)
        assert (result["rounds"][0]["completed"], result["failures"]) == (2, [])
        folder = site.server._settings.storage
        assert list((folder / "uploads").iterdir()) == []
        assert not list(folder.rglob(sha256))

    served(test)
    assert "an upload cannot be stored: cannot write to /some/folder" in caplog.text


def test_an_upload_for_a_run_that_has_just_ended_is_answered(served, tools):
    async def test(site):
        run = site.submit(clients_per_round=3)
        callers = [await site.caller(name) for name in ("a", "b", "c")]
        works = await asyncio.gather(*(c.work() for c in callers))
        ticket = site.server._desk.ticket(works[0].token, "a")
        await asyncio.to_thread(_stopped, site, run)
        ticket.over = False  # as if its last frame had come just before
        with tools.refused("stale"):
            await asyncio.wait_for(callers[0].contribute(works[0]), 5)

    def _stopped(site, run):
        run.post(Stop("enough"))
        run.ended.wait(10)
        answers = queue.SimpleQueue()
        run.post(Arrived(None, None, None, answers.put))
        assert answers.get(timeout=5).code == "stale"

    served(test)


def test_dripping_and_beginning_anew_hold_no_round_open(served, tools):
    """A deadline is renewed by what is new, a window's worth at a time."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    class Upload:
        size = 0

        def held(self):
            return self.size

    class Ticket:
        upload = (Upload(), None)
        moved, moved_bytes = float("-inf"), 0

    clock, ticket = Clock(), Ticket()
    pace = _Pace(clock)
    pace.note(ticket)
    assert ticket.moved == 0.0
    for second in range(1, 60):  # a byte a second, and the whole once more
        clock.now = float(second)
        ticket.upload[0].size = second % 30
        pace.note(ticket)
    assert ticket.moved == 0.0
    ticket.upload[0].size = WINDOW_BYTES
    pace.note(ticket)
    assert ticket.moved == 59.0
    clock.now = 59.0 + WINDOW_S
    _Pace(clock).note(ticket)  # another call, the same bytes
    assert ticket.moved == 59.0


def test_a_thread_that_lags_leaves_no_file(served, tools, tmp_path):
    spool = SpoolFile(tmp_path / "x.upload")
    spool.write(0, memoryview(b"12"))
    spool.close()
    with pytest.raises(Refused, match="is over"):
        spool.write(2, memoryview(b"34"))
    assert list(tmp_path.glob("*.upload")) == []


# --- words of clients -----------------------------------------------------------------------------


def test_a_failure_is_told_once_and_by_a_code_that_we_know(served):
    async def test(site):
        run = site.submit(clients_per_round=3)
        callers = [await site.caller(name) for name in ("a", "b", "c")]
        works = await asyncio.gather(*(c.work() for c in callers))
        for at in range(20):
            report = pb.FailureReport(protocol_version=1, token=works[0].token, code=f"mine{at}")
            await callers[0].calls.report_failure(report)
        await callers[1].contribute(works[1])
        await callers[1].calls.report_failure(
            pb.FailureReport(protocol_version=1, token=works[1].token, code="data")
        )
        await callers[2].contribute(works[2])
        result = await site.ended(run)
        assert [(f["client"], f["code"]) for f in result["failures"]] == [("a", "client_error")]
        assert site.counted("choral_failures_total") == {("client_error",): 1}
        assert result["rounds"][0]["completed"] == 2

    served(test)


@pytest.mark.parametrize(("loss", "examples"), [(1e308, 3), (1.0, 2**62), (-1e31, 1)])
def test_an_evaluation_beyond_measure_is_refused(served, tools, loss, examples):
    async def test(site):
        run = site.submit(evaluation={"clients": True})
        callers = [await site.caller(name) for name in ("a", "b")]
        works = await asyncio.gather(*(c.work() for c in callers))
        for client, work in zip(callers, works, strict=True):
            await client.contribute(work)
        asked = [(await client.join()).evaluation for client in callers]
        with tools.refused("out_of_range"):
            await callers[0].calls.report_evaluation(
                pb.Evaluation(
                    protocol_version=1,
                    token=asked[0].token,
                    metrics={"loss": loss},
                    examples=examples,
                )
            )
        for client, task in zip(callers, asked, strict=True):
            await client.calls.report_evaluation(
                pb.Evaluation(
                    protocol_version=1, token=task.token, metrics={"loss": 0.5}, examples=2
                )
            )
        result = await site.ended(run)
        assert (run.status, result["metrics"]["loss"]) == ("completed", 0.5)

    served(test)


STRATIFIED = {"selection": {"name": "stratified", "by": "region", "minimum": 1}}


def test_a_client_without_a_label_ends_no_run(served):
    async def test(site):
        run = site.submit(**STRATIFIED)
        plain = await site.caller("a")
        assert not (await plain.join(wait_s=0.3)).HasField("assignment")
        presence = site.server._desk.presences()["a"]
        await until(lambda: "no label `region`" in presence.refusal)
        others = [await site.caller(name) for name in ("b", "c")]
        works = await asyncio.gather(
            *(c.work(strata={"region": r}) for c, r in zip(others, "ns", strict=True))
        )
        for client, work in zip(others, works, strict=True):
            await client.contribute(work)
        await site.ended(run)
        assert run.status == "completed"

    served(test)


def test_labels_that_give_no_cohort_are_waited_out(served):
    """Three strata and two seats: the run says so, and goes on when that changes."""

    async def test(site):
        callers = [await site.caller(name) for name in ("a", "b", "c")]
        for client, region in zip(callers, "nse", strict=True):
            await client.join(wait_s=0.0, strata={"region": region})
        run = site.submit(**STRATIFIED, clients_per_round=2)  # two of them would be a cohort
        await until(
            lambda: run.actor is not None and "no cohort can be chosen" in run.actor.waiting
        )
        assert run.status == "running"
        works = await asyncio.gather(*(c.join(wait_s=3.0, strata={"region": "n"}) for c in callers))
        assert sum(answer.HasField("assignment") for answer in works) == 2

    served(test)


def test_a_chunk_after_the_round_is_stale(served, tools):
    """A straggler in the middle of its upload when the round closes."""

    async def test(site):
        run = site.submit(clients_per_round=3, round={"goal": 2, "quorum": 2}, start={"wait_s": 5})
        callers = [await site.caller(name) for name in ("a", "b", "c")]
        works = await asyncio.gather(*(c.work() for c in callers))
        raw, go_on = tools.contribution(), asyncio.Event()
        frames = tools.upload(works[0].token, raw)

        async def straggling():
            yield frames[0]
            yield chunk_frame(0, [raw[:4]])
            await go_on.wait()
            yield chunk_frame(4, [raw[4:]])
            yield frames[-1]

        call = asyncio.ensure_future(callers[0].calls.send_update(straggling()))
        await asyncio.sleep(0.1)
        for client, work in zip(callers[1:], works[1:], strict=True):
            await client.contribute(work)
        await site.ended(run)
        go_on.set()
        with tools.refused("stale"):
            await call
        assert list((site.server._settings.storage / "uploads").iterdir()) == []

    served(test)


@pytest.mark.nightly
def test_a_byte_a_second_is_cut_in_time_and_a_slow_line_is_not(served, tools):
    """The real window: 512 KiB in 40 s. One client drips, one sends 32 KiB/s for a minute."""
    size = (60 * 32 << 10) // 4 - 1

    async def at_pace(frames):
        for frame in frames:
            yield frame
            await asyncio.sleep(1.0)

    async def test(site):
        run = site.submit(model={"type": "linear", "input_dim": size}, clients_per_round=3)
        drips, slow, quick = [await site.caller(name) for name in ("a", "b", "c")]
        works = await asyncio.gather(*(c.work() for c in (drips, slow, quick)))
        raw = tools.contribution(range(size + 1))
        bytewise = [chunk_frame(at, [raw[at : at + 1]]) for at in range(100)]
        whole = tools.upload(works[1].token, raw)
        pieces = [chunk_frame(at, [raw[at : at + 32768]]) for at in range(0, len(raw), 32768)]
        head = tools.upload(works[0].token, raw)[0]
        began = asyncio.get_running_loop().time()
        cutting = asyncio.ensure_future(drips.calls.send_update(at_pace([head, *bytewise])))
        slowly = asyncio.ensure_future(
            slow.calls.send_update(at_pace([whole[0], *pieces, whole[-1]]))
        )
        await quick.contribute(works[2], raw)
        with tools.refused("unavailable"):
            await cutting
        assert asyncio.get_running_loop().time() - began < 45
        await slowly
        assert run.actor.conductor.machine.round.accepted.keys() >= {"b", "c"}

    served(test, limit_s=150)
