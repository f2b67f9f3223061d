"""One hold of a store by `gapwatch run`: what is loaded, read, flushed and shown, from the claim to the end or the loss."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import Histogram

from processor.applying import apply_slice
from processor.collecting import Collecting
from processor.core.board import Board
from processor.core.horizon import Horizon
from processor.core.inventory import InventoryPrincipal
from processor.core.sessions import SHARDS
from processor.core.tracker import Tracker
from processor.core.watch import NOT_WATCHING, Watch, Watching
from processor.flush_pace import FlushPace
from processor.opening import Opened, load_opened
from processor.page.reading import Look
from processor.pausing import Pauses, take_in_turns
from processor.rejecting import FUTURE_SECONDS_MAX, RejectRatio
from processor.settings import Settings, dump_settings
from processor.shell.commands import Command
from processor.shell.durable import Acknowledger
from processor.shell.feeds import Feed, Merged, OpenFeed, Slice
from processor.shell.follow import FileFeed
from processor.shell.gap_text import GapText
from processor.shell.grants import load_inventory_times, write_grants, write_inventory_times
from processor.shell.http import Handler
from processor.shell.metrics import Health
from processor.shell.push import Pusher
from processor.shell.redis import RENEW_SECONDS, Store
from processor.shell.watch_text import WatchText
from processor.stopping import Warn
from processor.watching import ExemptionsFile

if TYPE_CHECKING:
    from processor.live_inventory import (  # with them AWS' client is loaded: not for nothing
        LiveInventory,
        StartInventory,
    )

JUDGED_A_TURN = 100
"""Principals whose gaps are reckoned anew before others may go on: some 5 ms."""


@dataclass(slots=True)
class Held:
    """Which runner holds the store at the time, for those who look on."""

    runner: "Runner | None" = None


@dataclass(slots=True)
class RunOrder:
    """What `run` was asked for. `inventory_time` is when the inventory was taken (None: now); `clock` gives seconds since
    1970; `pages` are served beside /metrics, and `links` to them are named on every page; `feeds` are read, too."""

    paths: tuple[str, ...]
    settings: Settings
    inventory: dict[int, InventoryPrincipal]
    watching: Watching = NOT_WATCHING
    inventory_time: int | None = None
    pusher: Pusher | None = None
    clock: Callable[[], float] = time.time
    pages: Mapping[str, Handler] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    held: Held = field(default_factory=Held)
    feeds: tuple[OpenFeed, ...] = ()
    start_inventory: "StartInventory | None" = None

    def open_feeds(self, positions: Mapping[bytes, bytes]) -> list[Feed]:
        """Raises SourceError for a path that is not there."""
        files = [FileFeed(self.paths, positions, self.settings.run.poll_seconds, self.clock)] if self.paths else []
        return [*files, *(open_feed(positions) for open_feed in self.feeds)]


class Runner:
    """One hold of a store: from its claim to the end, or to the loss of it."""

    def __init__(self, order: RunOrder, store: Store, health: Health, warn: Warn) -> None:
        self._order = order
        self._store = store
        self._warn = warn
        self.health = health
        self.text: GapText | None = None
        self.tracker: Tracker | None = None
        self.board: Board | None = None
        self.watch: Watch | None = None
        self.watch_text: WatchText | None = None
        self.inventoried: dict[str, int] = {}
        self.opened: Opened | None = None
        self.live: LiveInventory | None = None
        self._pace = FlushPace(order.settings.run.flush_seconds)
        self._exemptions = ExemptionsFile(order.settings.alerts, order.watching, warn)
        self._ratio = RejectRatio(order.settings.run.reject_ratio_max)
        self._receipts: list[tuple[Feed, tuple[object, ...]]] = []
        self._applied = False

    async def load(self) -> None:
        """Take the store's state, and the inventory that was given."""
        order, clock = self._order, self._order.clock
        # Spans as long as a replay's, so that each can take over the other's store.
        horizon = Horizon(spans_max=order.settings.run.horizon_hours + 1)
        opened = self.opened = await load_opened(self._store, order.settings, horizon, fresh=order.inventory)
        commands = await take_in_turns(
            write_grants(self._store, opened.catalogue, opened.inventory, order.inventory, int(clock()))
        )
        taken = int(clock()) if order.inventory_time is None else order.inventory_time
        fresh_times = dict.fromkeys({found.account_id for found in order.inventory.values()}, taken)
        self.inventoried = {**await load_inventory_times(self._store), **fresh_times}
        commands += [*write_inventory_times(self._store, fresh_times), *opened.release_held(order.inventory)]
        meta = ("settings", dump_settings(order.settings), "as_of", "0", "catalogue", opened.catalogue.version)
        commands.append(("HSET", self._store.key(b"meta"), *meta))
        if opened.moved:
            self._warn(opened.moved)
        await opened.state.flush(commands)
        usages = opened.ledger.principals.values()
        fleet = opened.build_fleet(order.settings, None)
        tally = opened.pipeline.tally
        self._ratio.start(tally)
        as_of = min(tally.newest, int(clock()))
        self.tracker = Tracker(fleet, usages, as_of, order.watching, fill=False)
        await take_in_turns(self.tracker.fill(usages))
        self.tracker.judge_later()
        self.watch = Watch(fleet, usages, order.watching, int(clock()), fill=False)
        await take_in_turns(self.watch.fill(usages, int(clock())))
        self.board = Board(window.label for window in fleet.windows)
        self.text = GapText(self.tracker, note=self.board.note, forget=self.board.forget)
        self.watch_text = WatchText(order.watching, fleet.windows, self.inventoried)
        self.watch_text.add(self.tracker, self.watch)
        if order.start_inventory is not None:
            self.live = await order.start_inventory(opened, self._warn, clock)
            await self._follow_inventory()
        await self._refresh_text()
        self.health.flushed_at = clock()
        self.health.ready = True
        self.health.shards = SHARDS

    def look(self) -> Look:
        """What those who look on need of a runner that has loaded."""
        assert self.tracker is not None  # noqa: S101 - load came before
        assert self.opened is not None  # noqa: S101 - load came before
        assert self.board is not None  # noqa: S101 - load came before
        return Look(self.tracker, self.opened, self.board)

    async def follow(self, stopping: asyncio.Event, flush_seconds: Histogram, collecting: Collecting) -> None:
        """Read, apply, flush, and let time pass, until `stopping` is set; then flush once more and return."""
        assert self.opened is not None  # noqa: S101 - load came before
        run = self._order.settings.run
        feeds = self._order.open_feeds(self.opened.state.positions)
        self.health.feeds = [feed.health for feed in feeds]
        acknowledger = Acknowledger(self._store)
        pace, ticked_at = self._pace, 0.0
        try:
            async with Merged(feeds, stopping) as merged:
                while not stopping.is_set():
                    tick_at = ticked_at + run.poll_seconds
                    due = pace.due_at(applied=self._applied, crowded=False, tick_at=tick_at)
                    found = await merged.take(max(0.0, due - time.monotonic()))
                    if found is not None:
                        self._apply(*found)
                        due = pace.due_at(applied=True, crowded=merged.crowded, tick_at=tick_at)
                        await asyncio.sleep(0)
                    if time.monotonic() >= due:
                        await self._flush(merged, acknowledger, flush_seconds)
                        ticked_at = time.monotonic()
                        collecting.settle()
                await merged.stop()
                for found in merged.take_rest():
                    self._apply(*found)
                await self._store_applied(acknowledger)
                await acknowledger.finish()
        finally:
            await acknowledger.stop()

    def _apply(self, feed: Feed, found: Slice) -> None:
        assert self.opened is not None  # noqa: S101 - load came before
        self.opened.pipeline.intake.future = int(self._order.clock()) + FUTURE_SECONDS_MAX
        apply_slice(self.opened, feed, found, self._warn)
        if self.live is not None and self.opened.pipeline.intake.changes:
            self.live.note(self.opened.pipeline.intake)
        if found.receipts:
            self._receipts.append((feed, found.receipts))
        self._applied = True
        self._ratio.check(self.opened.pipeline.tally, self.opened.rejects)

    async def _store_applied(self, acknowledger: Acknowledger, commands: Iterable[Command] = ()) -> None:
        """Flush, `commands` with it, and let the feeds know what is stored."""
        assert self.opened is not None  # noqa: S101 - as above
        receipts, self._receipts = self._receipts, []
        self._applied = False
        await self.opened.state.flush(commands)
        acknowledger.note_flushed(receipts)

    async def _flush(self, merged: Merged, acknowledger: Acknowledger, flush_seconds: Histogram) -> None:
        """Store what changed, then let the gap and the metrics follow what is stored."""
        assert self.opened is not None  # noqa: S101 - load came before
        assert self.tracker is not None  # noqa: S101 - load came before
        assert self.watch is not None  # noqa: S101 - load came before
        clock = self._order.clock
        changed = [(usage, list(usage.dirty)) for usage in self.opened.ledger.dirty]
        commands = await self.live.take() if self.live is not None else []
        if self._applied or changed or commands or clock() - self.health.flushed_at >= min(1.0, RENEW_SECONDS):
            begun = time.monotonic()
            with flush_seconds.time():
                await self._store_applied(acknowledger, commands)
            self._pace.note_flush(begun)
            self.health.flushed_at = clock()
        self.health.waiting = False
        now = int(clock())
        as_of = merged.find_as_of(self.opened.pipeline.tally.newest, now)
        # Coverage comes first: it says which first uses are of principals that are learning.
        self.tracker.note_coverage(self.opened.pipeline.tally.accounts)
        await self._follow_inventory()
        self._follow_exemptions()
        span = (self.tracker.as_of, max(as_of, self.tracker.as_of))
        pauses = Pauses()
        for usage, actions in changed:
            self.tracker.apply_uses(usage, actions, now)
            self.watch.apply_uses(usage, actions, span, now)
            await pauses.pause()
        for _ in self.tracker.let_pass(as_of, JUDGED_A_TURN):
            await asyncio.sleep(0)
        if self._pace.text_is_due:
            begun = time.monotonic()
            await self._refresh_text()
            self._pace.note_text(begun)

    def _follow_exemptions(self) -> None:
        """Look at the file of exemptions again."""
        watching = self._exemptions.look(self._order.clock())
        self.health.exemptions_failed = self._exemptions.failed
        if watching is None:
            return
        assert self.tracker is not None  # noqa: S101 - load came before
        assert self.watch is not None  # noqa: S101 - load came before
        assert self.watch_text is not None  # noqa: S101 - load came before
        assert self.opened is not None  # noqa: S101 - load came before
        self._order.watching = watching
        self.tracker.rewatch(watching)
        self.watch.rewatch(watching, self.opened.ledger.principals.values())
        self.watch_text.watching = watching

    async def _follow_inventory(self) -> None:
        """Let the gaps and what is told follow what was read of AWS, once it is stored."""
        assert self.tracker is not None  # noqa: S101 - load came before
        assert self.watch is not None  # noqa: S101 - load came before
        if self.live is None:
            return
        self.watch.note_grants(await self.live.tell(self.tracker, self.health), int(self._order.clock()))
        for account_id, status in self.live.statuses.items():
            if status.read:
                self.inventoried[account_id] = max(status.read, self.inventoried.get(account_id, 0))

    def members(self) -> list[bytes]:
        """The gap's metrics and those beside it as gzip members; nothing while nothing is loaded."""
        if self.text is None or self.watch_text is None:
            return []
        return [*self.text.members(), *self.watch_text.members(int(self._order.clock()))]

    async def _refresh_text(self) -> None:
        assert self.tracker is not None  # noqa: S101 - load came before
        assert self.text is not None  # noqa: S101 - load came before
        assert self.watch_text is not None  # noqa: S101 - load came before
        for _ in itertools.chain(self.text.refresh(), self.watch_text.refresh(int(self._order.clock()))):
            await asyncio.sleep(0)
        self.health.as_of = self.tracker.as_of
        self.health.principals = len(self.tracker)
        self.health.first_uses_evicted = self.tracker.first_uses.evicted
        self.health.first_uses_lost = self.tracker.first_uses.lost
        if self._order.pusher is not None:
            self._order.pusher.note(self.tracker.first_uses.by_place.values())
