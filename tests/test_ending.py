"""What runs beside ends, and what is waited for is bounded, though a cancellation be lost on the way."""

import asyncio
import time
from contextlib import suppress

import pytest

from processor.opening import Place, open_store
from processor.shell import ending
from processor.shell import redis as redis_module
from processor.shell.ending import end_tasks, rest_until, try_for, within


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "CANCEL_AGAIN_SECONDS", 0.05)


async def lose(cancellations: int) -> None:
    """Runs until it was cancelled once more than so many times."""
    while True:
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            cancellations -= 1
            if cancellations < 0:
                raise


async def fail() -> None:
    raise ValueError("no")


async def test_tasks_that_lose_cancellations_end() -> None:
    tasks = [asyncio.ensure_future(lose(lost)) for lost in (0, 1, 3)]
    failed = asyncio.ensure_future(fail())
    await asyncio.sleep(0)
    await end_tasks(*tasks, failed)
    assert all(task.cancelled() for task in tasks)
    assert failed.done()


async def test_who_never_ends_is_left_where_a_bound_is_given() -> None:
    over = asyncio.Event()

    async def stay_deaf() -> None:
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await over.wait()

    task = asyncio.ensure_future(stay_deaf())
    await asyncio.sleep(0)
    await end_tasks(task, seconds=0.2)
    await try_for(0.05, stay_deaf(), fail())
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert len(left) == 2
    over.set()
    await asyncio.wait(left)


async def test_what_takes_too_long_is_ended() -> None:
    with pytest.raises(TimeoutError):
        await within(0.05, lose(1))
    assert asyncio.all_tasks() == {asyncio.current_task()}
    with pytest.raises(ValueError, match="no"):
        await within(30, fail())
    assert await within(30, asyncio.sleep(0, "result")) == "result"


async def test_who_waits_is_cancelled_with_what_is_waited_for() -> None:
    waiting = asyncio.ensure_future(within(3_600, lose(1)))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_rest_ends_with_its_event() -> None:
    event = asyncio.Event()
    await rest_until(event, 0.01)
    event.set()
    began = time.monotonic()
    await rest_until(event, 3_600)
    assert time.monotonic() - began < 60


async def test_a_beat_that_is_under_way_at_the_end_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What redis-py sends goes through asyncio.wait_for: in Python 3.11 about each beat that is cut off here went on for ever,
    and `replay` never ended."""
    monkeypatch.setattr(redis_module, "BEAT_SECONDS", 0.0)

    async def begin_and_end() -> None:
        async with open_store(Place(), print) as store:
            await store.claim(exclusive=True)
            for turns in range(40):
                async with store.beating():
                    for _ in range(turns % 8):
                        await asyncio.sleep(0)
            await store.flush([])

    await within(60, begin_and_end())
    assert asyncio.all_tasks() == {asyncio.current_task()}
