"""The loop of one intake: rounds over its files, what its streams and queues bring in between, marks and leases."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from xxhash import xxh3_128_digest

from processor.core.intake import Intake
from processor.core.inventory import InventoryPrincipal
from processor.core.records import DAY_SECONDS, Rejected
from processor.core.uses_writer import UsesWriter
from processor.leased_feeds import LeasedFeeds
from processor.leased_files import LeasedFiles
from processor.opening import RejectLog
from processor.rejecting import FUTURE_SECONDS_MAX, RejectRatio
from processor.sending import NoteChanges, Sender, Sent, UsesLog, ignore_changes
from processor.settings import Settings
from processor.shell.brokers import BrokerError, BrokerSettings
from processor.shell.ending import rest_until
from processor.shell.feeds import Feed, OpenFeed, Slice
from processor.shell.files import resolve_file
from processor.shell.leases import RENEW_SECONDS, Leases
from processor.shell.metrics import Health
from processor.shell.redis import Store, StoreLost
from processor.shell.sharing import Shared
from processor.stopping import Pulse, Warn
from topics.uses import Mark

if TYPE_CHECKING:
    from processor.shell.scans import InventoryPlan

MARK_SECONDS = 5.0
FEED = xxh3_128_digest(b"feed\0default")
"""All intakes of a store are one source of marks: each says how far all that they read together is read."""


@dataclass(slots=True)
class IntakeOrder:
    """What `intake` was asked for. `clock` gives seconds since 1970. `once`: end when all is read and sent. `feeds` are read
    beside the paths, by the `names` that were given. `plan`: an inventory that is kept fresh from AWS."""

    brokers: BrokerSettings
    prefix: str
    url: str
    paths: tuple[str, ...]
    settings: Settings
    inventory: dict[int, InventoryPrincipal]
    once: bool = False
    feeds: tuple[OpenFeed, ...] = ()
    names: tuple[str, ...] = ()
    inventory_time: int | None = None
    plan: "InventoryPlan | None" = None
    clock: Callable[[], float] = time.time
    health: Health = field(default_factory=Health)
    pulse: Pulse = field(default_factory=Pulse)

    @property
    def digest(self) -> bytes:
        """What stands for all sources: equal where two intakes read the same."""
        named = sorted([*map(resolve_file, self.paths), *self.names])
        return xxh3_128_digest("\0".join(named).encode()).hex().encode()


class Log(UsesLog, Protocol):
    """Kafka, as an intake writes it."""

    async def cover(self, accounts: Mapping[str, int], watermark: int) -> None: ...


class IntakeRunner:
    """The loop of one intake: rounds over its sources, marks, leases."""

    def __init__(
        self,
        order: IntakeOrder,
        store: Store,
        log: Log,
        intake: Intake,
        names: Sequence[str],
        warn: Warn,
        note_changes: NoteChanges = ignore_changes,
    ) -> None:
        self._order = order
        self._store = store
        self._log = log
        self._warn = warn
        self._leases = Leases(store)
        self._rejects = RejectLog()
        self._ratio = RejectRatio(order.settings.run.reject_ratio_max)
        self._sender = Sender(
            intake, UsesWriter(names), self._leases, log, self._note_rejects, self._note_sent, note_changes
        )
        self._open_sources()
        self._feeds: LeasedFeeds | None = None
        self._marked_at = 0.0
        self._renewed_at = 0.0
        self._told: dict[str, int] = {}

    def _open_sources(self) -> None:
        """Raises SourceError for a path that is not there."""
        order = self._order
        self._files = LeasedFiles(order.paths, self._leases) if order.paths else None
        self._sharing = Shared(self._store, self._leases, order.digest)

    def _note_rejects(self, rejects: list[Rejected]) -> None:
        self._rejects.note(rejects)
        self._ratio.check(self._sender.intake.tally, self._rejects)

    def _note_sent(self, sent: Sent) -> None:
        if self._feeds is not None:
            self._feeds.note_sent(sent)

    async def run(self, stopping: asyncio.Event) -> None:
        """Read until `stopping` is set, or with `once` until all is read. Raises StoreError, SourceError."""
        health = self._order.health
        try:
            while not stopping.is_set():
                self._order.pulse.beat()
                try:
                    await self._open_feeds(stopping)
                    await self._round(stopping)
                    if self._order.once and (self._files is None or self._files.caught_up):
                        return
                    health.ready = True
                    await self._follow_feeds(stopping)
                    continue
                except (StoreLost, BrokerError) as error:
                    self._warn(str(error))
                    await self._start_again()
                health.ready = True
                await self._rest(stopping)
        finally:
            with suppress(StoreLost, BrokerError):
                await self._send_rest()
            held = [*(self._files.held if self._files is not None else ()), *self._sharing.held]
            if self._feeds is not None:
                await self._feeds.close()
                await self._sharing.close()
            await self._leases.close(held)

    async def _rest(self, stopping: asyncio.Event) -> None:
        await rest_until(stopping, self._order.settings.run.poll_seconds)

    async def _start_again(self) -> None:
        """Read on from what is stored."""
        feeds, self._feeds = self._feeds, None
        await self._sender.reset()
        if feeds is not None:
            await feeds.close()
        self._open_sources()

    async def _round(self, stopping: asyncio.Event) -> None:
        """Send all that is there and free, and tell how far everything is."""
        order, sender = self._order, self._sender
        began = order.clock()
        sender.intake.future = int(began) + FUTURE_SECONDS_MAX
        if self._files is not None:
            await self._read_files(self._files, began, stopping)
        await sender.send()
        await sender.settle()
        order.health.flushed_at = order.clock()
        order.health.waiting = False
        caught_up = (self._files is None or self._files.caught_up) and not stopping.is_set()
        if (
            (caught_up and order.once)
            or order.clock() - self._marked_at >= MARK_SECONDS
            or order.clock() < self._marked_at
        ):
            await self._mark(int(began) if caught_up else 0)

    async def _read_files(self, files: LeasedFiles, began: float, stopping: asyncio.Event) -> None:
        async for lease, before, found in files.poll():
            if found.damage is not None:
                self._warn(f"{found.origin} {found.damage}: what could be read of it was")
            self._order.pulse.beat()
            self._sender.add(lease, before, found)
            if self._sender.is_full:
                await self._sender.send()
                self._order.health.flushed_at = self._order.clock()
            await self._keep(began)
            if stopping.is_set():
                break

    async def _open_feeds(self, stopping: asyncio.Event) -> None:
        """Open the feeds on what is stored, before anything is said of how far all is read."""
        order = self._order
        if order.feeds and self._feeds is None:
            self._feeds = LeasedFeeds(order.feeds, self._store, self._sharing, stopping)
            order.health.feeds = [feed.health for feed in self._feeds.feeds]
            await self._feeds.start()

    async def _follow_feeds(self, stopping: asyncio.Event) -> None:
        """Send what feeds have, until it is time for the next round."""
        order, loop = self._order, asyncio.get_running_loop()
        if self._feeds is None:
            await self._rest(stopping)
            return
        end = loop.time() + order.settings.run.poll_seconds
        while (left := end - loop.time()) > 0 and not stopping.is_set():
            for feed, found in await self._feeds.take(left):
                self._add(feed, found)
            if self._sender.is_full or self._feeds.empty:
                await self._sender.send()

    def _add(self, feed: Feed, found: Slice) -> None:
        if found.damage is not None:
            self._warn(f"{found.origin} {found.damage}: what could be read of it was")
        if found.name:
            self._sender.add(found.name, self._sharing.find_before(found.name, found.position), found)
        else:
            self._sender.add_unplaced(feed, found)

    async def _send_rest(self) -> None:
        """At the end: all that was read is sent and stored."""
        if self._feeds is not None:
            for feed, found in await self._feeds.stop():
                self._add(feed, found)
            await self._sender.send()
        await self._sender.settle()

    async def _keep(self, began: float) -> None:
        """Hold the leases while a long round is on its way."""
        now = self._order.clock()
        if now - self._renewed_at >= RENEW_SECONDS or now < self._renewed_at:
            self._renewed_at = now
            await self._renew()
            if now - self._marked_at >= MARK_SECONDS:
                await self._sender.send()
                await self._mark(0)

    async def _renew(self) -> None:
        if self._files is not None:
            await self._files.renew()
        await self._sharing.renew_files()
        await self._sharing.forget_files(int(self._order.clock()) // DAY_SECONDS)

    async def _mark(self, watermark: int) -> None:
        """Tell the ledgers how far all is read; 0: not up to the end."""
        await self._leases.check()
        await self._renew()
        watermark = await self._sharing.find_watermark(watermark)
        accounts: dict[str, int] = {}
        if watermark:
            known = await self._leases.read_accounts()
            accounts = {account: first for account, first in known.items() if self._told.get(account) != first}
        await self._sender.mark(Mark(source=FEED, watermark=watermark, accounts=accounts))
        if watermark:
            await self._log.cover(accounts or self._told, watermark)
            self._told |= accounts
        self._order.health.as_of = watermark
        self._marked_at = self._order.clock()
