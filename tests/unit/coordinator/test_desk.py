"""Clients that wait, and their work: told in order, to their newest call."""

import asyncio

import pytest

from choral.coordinator.desk import PATIENCE_S, Desk, Farewell
from choral.coordinator.tickets import Seen, Ticket, Use
from choral.core.errors import Stale
from choral.wire.joining import Join


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


def ticket(client="a", token=b"t", **changes):
    given = {"plan": None, "model_sha256": "", "model_bytes": 0, "deadline": 0.0}
    return Ticket(
        token, client, Use.TRAIN, post=lambda _: None, keep=lambda *_: None, **given, **changes
    )


def join(client="a", **fields):
    return Join(client, ("*",), **fields)


@pytest.fixture
def desk_with():
    """Return what runs a coroutine with a desk and its clock."""

    def run(test):
        async def whole():
            clock = Clock()
            return await test(Desk(asyncio.get_running_loop(), clock), clock)

        return asyncio.run(asyncio.wait_for(whole(), 10))

    return run


async def settled():
    """Let the loop do what was put on it."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_work_wakes_the_call_that_waits_for_it(desk_with):
    async def test(desk, clock):
        waiting = asyncio.ensure_future(desk.wait(join(), at_most_s=5))
        await settled()
        mine, others = ticket(), ticket("b", b"u")
        desk.assign((others, mine))
        assert await waiting is mine

    desk_with(test)


def test_who_asks_again_gets_the_same_open_work_until_it_is_done(desk_with):
    async def test(desk, clock):
        first, second = ticket(token=b"1"), ticket(token=b"2")
        await desk.wait(join(), at_most_s=0)
        desk.assign((first, second))
        await settled()
        assert [await desk.wait(join(), at_most_s=0) for _ in range(2)] == [first, first]
        first.done = True
        assert await desk.wait(join(), at_most_s=0) is second
        desk.end((second,))
        await settled()
        assert await desk.wait(join(), at_most_s=0) is None

    desk_with(test)


def test_work_for_a_client_that_is_not_here_yet_waits_for_it(desk_with):
    async def test(desk, clock):
        early = ticket()
        desk.assign((early,))
        await settled()
        assert await desk.wait(join(), at_most_s=0) is early

    desk_with(test)


def test_an_older_call_of_the_same_client_gives_way(desk_with):
    async def test(desk, clock):
        older = asyncio.ensure_future(desk.wait(join(), at_most_s=5))
        await settled()
        newer = asyncio.ensure_future(desk.wait(join(), at_most_s=5))
        assert await older is None
        mine = ticket()
        desk.assign((mine,))
        assert await newer is mine
        assert desk.presences()["a"].holding == 0

    desk_with(test)


def test_a_farewell_is_told_once_and_after_the_work(desk_with):
    async def test(desk, clock):
        await desk.wait(join(), at_most_s=0)
        mine, bye = ticket(), Farewell("r", "completed", "")
        desk.assign((mine,))
        desk.farewell(("a", "stranger"), bye)
        await settled()
        assert await desk.wait(join(), at_most_s=0) is mine
        mine.done = True
        assert [await desk.wait(join(), at_most_s=0) for _ in range(2)] == [bye, None]

    desk_with(test)


def test_a_call_that_is_cut_is_no_longer_held(desk_with):
    async def test(desk, clock):
        waiting = asyncio.ensure_future(desk.wait(join(), at_most_s=5))
        await settled()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert desk.presences()["a"].holding == 0
        mine = ticket()
        desk.assign((mine,))
        await settled()
        assert await desk.wait(join(), at_most_s=0) is mine

    desk_with(test)


def test_all_held_calls_end_when_there_is_nothing_more_to_say(desk_with):
    async def test(desk, clock):
        calls = [asyncio.ensure_future(desk.wait(join(c), at_most_s=5)) for c in "abc"]
        await settled()
        desk.wake()
        assert await asyncio.gather(*calls) == [None, None, None]

    desk_with(test)


def test_only_who_was_heard_of_lately_is_available(desk_with):
    async def test(desk, clock):
        await desk.wait(join("a"), at_most_s=0)
        held = asyncio.ensure_future(desk.wait(join("b"), at_most_s=5))
        await settled()
        clock.now += PATIENCE_S
        assert [j.client for j in desk.offers()] == ["b"]
        desk.wake()
        await held

    desk_with(test)


def test_runs_hear_of_new_clients_and_new_words_and_of_nothing_else(desk_with):
    async def test(desk, clock):
        heard = []
        desk.watch(heard.append)
        for said in (join(), join(), join(examples_bucket=3), join(examples_bucket=3)):
            await desk.wait(said, at_most_s=0)
        assert heard == [Seen(), Seen()]
        clock.now += PATIENCE_S
        await desk.wait(join(examples_bucket=3), at_most_s=0)
        assert len(heard) == 3  # it was away
        desk.unwatch(heard.append)
        await desk.wait(join("b"), at_most_s=0)
        assert len(heard) == 3

    desk_with(test)


def test_a_token_names_one_s_own_open_work(desk_with):
    async def test(desk, clock):
        mine = ticket()
        desk.assign((mine,))
        await settled()
        assert desk.ticket(b"t", "a") is mine
        for token, client in ((b"t", "b"), (b"x", "a"), (b"", "a")):
            with pytest.raises(Stale, match="no open work of yours"):
                desk.ticket(token, client)
        desk.end((mine,))
        await settled()
        with pytest.raises(Stale):
            desk.ticket(b"t", "a")
        assert desk.ticket(b"t", "a", over=True) is mine
        assert mine.bell.is_set()
        desk.forget((mine,))
        await settled()
        with pytest.raises(Stale):
            desk.ticket(b"t", "a", over=True)

    desk_with(test)
