"""Streams and queues that several intakes read together: their slices, and what becomes of these once they are sent."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from processor.shell.durable import Acknowledger
from processor.shell.feeds import Feed, Merged, OpenFeed, Slice

if TYPE_CHECKING:
    import asyncio

    from processor.sending import Sent
    from processor.shell.redis import Store
    from processor.shell.sharing import Shared


class LeasedFeeds:
    """The feeds of one intake, from one opening on what is stored to the next. They are opened by `start`."""

    def __init__(
        self, openers: Sequence[OpenFeed], store: "Store", sharing: "Shared", stopping: "asyncio.Event"
    ) -> None:
        self._sharing = sharing
        self._acknowledger = Acknowledger(store)
        self.feeds = [open_feed(sharing.positions, sharing) for open_feed in openers]
        self._merged = Merged(self.feeds, stopping)

    async def start(self) -> None:
        """Begin to read."""
        await self._sharing.open()
        await self._merged.__aenter__()

    async def take(self, seconds: float) -> list[tuple[Feed, Slice]]:
        """What has come, waited for as long as that. Raises what a feed failed with."""
        found: list[tuple[Feed, Slice]] = []
        most = len(self.feeds) * 2 + 2
        while len(found) < most and (each := await self._merged.take(0.0 if found else seconds)) is not None:
            found.append(each)
        return found

    @property
    def empty(self) -> bool:
        """Whether nothing was read that was not taken."""
        return self._merged.empty

    def note_sent(self, sent: "Sent") -> None:
        """Take notice of what is sent and stored: what came through a queue may be forgotten there."""
        self._sharing.note_stored(sent.moves)
        self._acknowledger.note_flushed(sent.receipts)

    async def stop(self) -> list[tuple[Feed, Slice]]:
        """Read no more; what was read, and not taken."""
        await self._merged.stop()
        return list(self._merged.take_rest())

    async def close(self) -> None:
        """Give back to queues what was not acknowledged. May be called again."""
        await self._acknowledger.finish()
        await self._acknowledger.stop()
        await self._merged.__aexit__(None, None, None)
