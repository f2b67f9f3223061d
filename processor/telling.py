"""What a ledger tells of the shards that it owns, beside topic gap-changes: metrics, topic `alerts`, pushes to Alertmanager."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping

from processor.core.fleet import Member
from processor.core.gap_changes import Written
from processor.core.gap_counts import GapCounts
from processor.core.sessions import shard_of
from processor.shard import Shard
from processor.shard_parts import ShardParts
from processor.shell.brokers import BrokerError
from processor.shell.ending import within
from processor.shell.gap_text import GapText
from processor.shell.push import Pusher
from processor.shell.watch_text import WatchText
from processor.watching import ExemptionsFile

ALERT_SECONDS_MAX = 5.0

WriteAlerts = Callable[[Iterable[Written]], Awaitable[None]]
"""Writes to topic `alerts`, and waits until all is acknowledged. Raises BrokerError."""


class Telling:
    """Of `owned`, by number. `pusher` is told of first uses, where there is one. `counts` are of messages of topic alerts."""

    def __init__(self, parts: ShardParts, owned: Mapping[int, Shard], write: WriteAlerts) -> None:
        self.text = GapText(note=self._note_counts, forget=self._forget_counts)
        self.watch_text = WatchText(parts.watching, parts.settings.gap_windows, {})
        self.pusher: Pusher | None = None
        self.exemptions = ExemptionsFile(parts.settings.alerts, parts.watching, parts.warn)
        self._parts = parts
        self._owned = owned
        self._write = write
        self.counts = {"sent": 0, "failed": 0}
        self._failed = ""
        self._pushed: list[int] = []

    def add(self, shard: Shard) -> None:
        """Tell of a shard that was claimed."""
        shard.rewatch(self.watch_text.watching)
        self.text.add(shard.tracker)
        self.watch_text.add(shard.tracker, shard.watch)

    def remove(self, number: int, shard: Shard) -> None:
        """Tell of it no more."""
        self.text.remove(shard.tracker, number)
        self.watch_text.remove(shard.tracker, shard.watch)

    def members(self) -> list[bytes]:
        """The metrics of all shards as gzip members."""
        return [*self.text.members(), *self.watch_text.members(int(self._parts.clock()))]

    async def tell(self) -> None:
        """Let all that is told follow what was stored."""
        now = int(self._parts.clock())
        if (watching := self.exemptions.look(now)) is not None:
            self.watch_text.watching = watching
            for shard in self._owned.values():
                shard.rewatch(watching)
                await asyncio.sleep(0)
        for _ in itertools.chain(self.text.refresh(), self.watch_text.refresh(now)):
            await asyncio.sleep(0)
        self._push(now)
        await self._alert(now)

    def _note_counts(self, key: int, member: Member, counts: list[GapCounts]) -> None:
        if (shard := self._owned.get(shard_of(key))) is not None:
            shard.alerts.note_counts(key, member, counts)

    def _forget_counts(self, key: int) -> None:
        if (shard := self._owned.get(shard_of(key))) is not None:
            shard.alerts.forget(key)

    def _push(self, now: int) -> None:
        """Let Alertmanager know of first uses where any came, and each minute of what is news no more."""
        if self.pusher is None:
            return
        seen = [now // 60, *(shard.tracker.first_uses.changes for shard in self._owned.values())]
        if seen != self._pushed:
            self._pushed = seen
            self.pusher.note(
                use for shard in self._owned.values() for use in shard.tracker.first_uses.by_place.values()
            )

    async def _alert(self, now: int) -> None:
        """Write what is to be told at once; what was acknowledged is stored with the next flush, and the rest tried again."""
        for number, shard in list(self._owned.items()):
            messages = shard.alerts.collect(now)
            if not messages:
                continue
            try:
                await within(ALERT_SECONDS_MAX, self._write([each.written for each in messages]))
            except (TimeoutError, BrokerError) as error:
                why = str(error) or "no answer"
                self.counts["failed"] += len(messages)
                if why != self._failed:
                    self._parts.warn(f"topic alerts: {why}; trying again")
                self._failed = why
                return
            self._failed = ""
            self.counts["sent"] += len(messages)
            if self._owned.get(number) is shard:
                shard.note_alerted(messages)
