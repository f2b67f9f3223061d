"""Ends what runs beside, and bounds what is waited for, whatever that waits for itself.

Before Python 3.12 `asyncio.wait_for` loses a cancellation that comes just when what it waits for is done, and redis and aiokafka
send all they send through it: a loop that is cancelled once may go on for ever, and so does who waits for its end. Here it is
cancelled until it has ended.
"""

import asyncio
import math
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, TypeVar

CANCEL_AGAIN_SECONDS = 1.0
"""What a task may take to put its things in order before it is taken for one that did not hear."""

Result = TypeVar("Result")


async def end_tasks(*tasks: "asyncio.Future[Any]", seconds: float = math.inf) -> None:
    """Cancel tasks, and return when all have ended, or when so many seconds are over. What one fails with meanwhile is dropped."""
    pending = {task for task in tasks if not task.done()}
    end = time.monotonic() + seconds
    try:
        while pending and (left := end - time.monotonic()) > 0:
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=min(CANCEL_AGAIN_SECONDS, left))
    finally:
        for task in tasks:
            if not task.done():
                task.cancel()  # we were cancelled ourselves
            elif not task.cancelled():
                task.exception()  # so that asyncio does not say that nobody looked at it


async def within(seconds: float, work: Awaitable[Result]) -> Result:
    """What `work` gives. After so many seconds it is ended, and TimeoutError raised."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,), timeout=seconds)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        await end_tasks(task)


async def try_for(seconds: float, *works: Awaitable[Any]) -> None:
    """Let others' code come to its end, or not: after so many seconds it is cancelled, and no longer waited for."""
    tasks = [asyncio.ensure_future(work) for work in works]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, timeout=seconds)
    finally:
        for task in tasks:
            if not task.done():
                task.cancel()
            elif not task.cancelled():
                task.exception()


async def rest_until(event: asyncio.Event, seconds: float) -> None:
    """Wait until an event is set, and no longer than so many seconds."""
    with suppress(TimeoutError):
        await within(seconds, event.wait())
