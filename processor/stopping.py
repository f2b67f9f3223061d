"""How a process that runs on and on comes to its end: told by a signal, and in time."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress

STOP_SECONDS_MAX = 3.0
"""How long a Redis that does not answer may hold up the end."""

Warn = Callable[[str], None]


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    return stopping


async def end_in_time(
    holding: asyncio.Future[None], stopping: asyncio.Event, warn: Warn, seconds: float = STOP_SECONDS_MAX
) -> None:
    """Wait for the end of `holding`; once `stopping` is set no longer than so many seconds."""
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((holding, stop), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((holding,), timeout=seconds)
        if holding.done():
            holding.result()
            return
        warn("Redis does not answer: what it has not stored yet is read again at the next start")
    finally:
        stop.cancel()
        holding.cancel()
    with suppress(asyncio.CancelledError):
        await holding
