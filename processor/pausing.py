"""Long work on the event loop, cut into turns: a scrape, a probe or a page waits for one of them at most."""

import asyncio
import time
from collections.abc import Iterable
from typing import TypeVar

TURN_SECONDS = 0.01
"""A fifth of what the loop may stand still at most: turns of several tasks may follow each other."""

Step = TypeVar("Step")


class Pauses:
    """Made where some work begins; `pause` lets others go on where that is due."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def pause(self) -> None:
        if time.monotonic() - self._since >= TURN_SECONDS:
            await asyncio.sleep(0)
            self._since = time.monotonic()


async def take_in_turns(steps: Iterable[Step]) -> list[Step]:
    """All that an iterator gives, others let go on in between."""
    pauses, taken = Pauses(), []
    for step in steps:
        taken.append(step)
        await pauses.pause()
    return taken
