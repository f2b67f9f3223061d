"""How a process that runs on and on comes to its end: told by a signal, and in time; or starts again, where it gets nowhere."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from processor.shell.brokers import StalledError
from processor.shell.ending import end_tasks

STOP_SECONDS_MAX = 3.0
"""How long a Redis that does not answer may hold up the end."""

END_SECONDS_MAX = 20.0
PULSE_SECONDS = 5.0

Warn = Callable[[str], None]


class Pulse:
    """Whether a loop gets anywhere: it beats wherever it does, also where it waits for something and says so."""

    def __init__(self) -> None:
        self._beats = 0

    def beat(self) -> None:
        self._beats += 1

    async def watch(self, seconds: float) -> None:
        """Raise StalledError once there was no beat for so long. Time in which this process stood still does not count."""
        seen, silent = self._beats, 0.0
        while silent < seconds:
            await asyncio.sleep(min(PULSE_SECONDS, seconds))
            silent = silent + min(PULSE_SECONDS, seconds) if self._beats == seen else 0.0
            seen = self._beats
        raise StalledError(f"nothing was read, sent or waited for in {seconds:.0f} s")


def start_again(error: StalledError, warn: Warn) -> NoReturn:
    """Put a new process in the place of this one, as it was called."""
    warn(f"{error}; starting again")
    os.execv(sys.executable, [sys.executable, "-m", "processor", *sys.argv[1:]])  # noqa: S606 - ourselves, as we were called


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set. The process ends END_SECONDS_MAX later at the latest, whatever a client of Kafka or AWS
    waits for that cannot be cut off: what is not stored by then is read again."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not stopping.is_set():
            end = threading.Timer(END_SECONDS_MAX, _end_at_last)
            end.daemon = True
            end.start()
        stopping.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    return stopping


def _end_at_last() -> None:
    sys.stderr.write(
        "gapwatch: something does not come to its end: what is not stored yet is read again at the next start\n"
    )
    sys.stderr.flush()
    os._exit(0)


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
        await end_tasks(stop, holding)
