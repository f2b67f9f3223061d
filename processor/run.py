"""`gapwatch run`: follow sources, keep the gap by the clock, serve metrics, until told to stop."""

import asyncio
import gc
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client import Histogram

from processor.core.board import Board
from processor.core.horizon import Horizon
from processor.core.inventory import InventoryPrincipal
from processor.core.sessions import SHARDS
from processor.core.tally import Tally
from processor.core.tracker import Tracker
from processor.core.watch import NOT_WATCHING, Watch, Watching
from processor.notify import notify_people
from processor.opening import Opened, Place, load_loops, load_opened, open_store
from processor.page.reading import Look, Reader
from processor.page.site import open_pages
from processor.rejecting import FUTURE_SECONDS_MAX, RejectRatio
from processor.settings import Settings, dump_settings
from processor.shell.channels import check_channels
from processor.shell.follow import Follower, Slice
from processor.shell.gap_text import GapText
from processor.shell.grants import load_inventory_times, write_grants, write_inventory_times
from processor.shell.http import Handler, Server
from processor.shell.metrics import Health, PipelineCollector, make_registry, render_pipeline
from processor.shell.push import Pusher
from processor.shell.redis import RENEW_SECONDS, Store, StoreLost
from processor.shell.watch_text import WatchText
from processor.stopping import Warn, end_in_time


@dataclass(slots=True)
class Held:
    """Which runner holds the store at the time, for those who look on."""

    runner: "Runner | None" = None


@dataclass(slots=True)
class RunOrder:
    """What `run` was asked for. `inventory_time` is when the inventory was taken (None: now); `clock` gives seconds since
    1970; `pages` are served beside /metrics, and `links` to them are named on every page."""

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
        self._ratio = RejectRatio(order.settings.run.reject_ratio_max)

    async def load(self) -> None:
        """Take the store's state, and the inventory that was given."""
        order, clock = self._order, self._order.clock
        # Spans as long as a replay's, so that each can take over the other's store.
        horizon = Horizon(spans_max=order.settings.run.horizon_hours + 1)
        opened = self.opened = await load_opened(self._store, order.settings, horizon, fresh=order.inventory)
        commands = write_grants(self._store, opened.catalogue, opened.inventory, order.inventory, int(clock()))
        taken = int(clock()) if order.inventory_time is None else order.inventory_time
        fresh_times = dict.fromkeys({found.account_id for found in order.inventory.values()}, taken)
        self.inventoried = {**await load_inventory_times(self._store), **fresh_times}
        commands += write_inventory_times(self._store, fresh_times)
        commands.append(("HSET", self._store.key(b"meta"), "settings", dump_settings(order.settings), "as_of", "0"))
        await opened.state.flush(commands)
        usages = opened.ledger.principals.values()
        fleet = opened.build_fleet(order.settings, None)
        tally = opened.pipeline.tally
        self._ratio.start(tally)
        as_of = min(tally.newest, int(clock()))
        self.tracker = Tracker(fleet, usages, as_of, order.watching)
        self.watch = Watch(fleet, usages, order.watching, int(clock()))
        self.board = Board(window.label for window in fleet.windows)
        self.text = GapText(self.tracker, note=self.board.note, forget=self.board.forget)
        self.watch_text = WatchText(self.tracker, self.watch, order.watching.exemptions, self.inventoried)
        await self._refresh_text()
        # What is loaded is here to stay: a collection that walks over all of it would hold everything up for 0.3 s and more.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self.health.flushed_at = clock()
        self.health.ready = True
        self.health.shards = SHARDS

    def look(self) -> Look:
        """What those who look on need of a runner that has loaded."""
        assert self.tracker is not None  # noqa: S101 - load came before
        assert self.opened is not None  # noqa: S101 - load came before
        assert self.board is not None  # noqa: S101 - load came before
        return Look(self.tracker, self.opened, self.board)

    async def follow(self, stopping: asyncio.Event, flush_seconds: Histogram) -> None:
        """Read, apply, flush, and let time pass, until `stopping` is set; then flush once more and return."""
        assert self.opened is not None  # noqa: S101 - load came before
        run = self._order.settings.run
        follower = Follower(self._order.paths, self.opened.state.positions)
        while not stopping.is_set():
            await self._poll_once(follower, stopping, flush_seconds)
            await self._flush(follower, flush_seconds)
            try:
                await asyncio.wait_for(stopping.wait(), run.poll_seconds)
            except TimeoutError:
                continue
        await self.opened.state.flush()

    async def _poll_once(self, follower: Follower, stopping: asyncio.Event, flush_seconds: Histogram) -> None:
        clock, run = self._order.clock, self._order.settings.run
        for found in follower.poll():
            self._apply(found)
            await asyncio.sleep(0)
            if clock() - self.health.flushed_at >= run.flush_seconds:
                await self._flush(follower, flush_seconds)
            if stopping.is_set():
                return

    def _apply(self, found: Slice) -> None:
        assert self.opened is not None  # noqa: S101 - load came before
        intake = self.opened.pipeline.intake
        intake.future = int(self._order.clock()) + FUTURE_SECONDS_MAX
        found.decoded.name_origin((found.source.name, 0))
        self.opened.pipeline.feed(found.decoded)
        if found.damage is not None:
            self._warn(f"{found.source.name} {found.damage}: what could be read of it was")
        if intake.rejects:
            self.opened.rejects.note(intake.rejects)
            intake.rejects.clear()
        self.opened.state.move(found.name, found.position)
        self._ratio.check(self.opened.pipeline.tally, self.opened.rejects)

    async def _flush(self, follower: Follower, flush_seconds: Histogram) -> None:
        """Store what changed, then let the gap and the metrics follow what is stored."""
        assert self.opened is not None  # noqa: S101 - load came before
        assert self.tracker is not None  # noqa: S101 - load came before
        assert self.watch is not None  # noqa: S101 - load came before
        clock = self._order.clock
        changed = [(usage, list(usage.dirty)) for usage in self.opened.ledger.dirty]
        if changed or clock() - self.health.flushed_at >= min(1.0, RENEW_SECONDS):
            with flush_seconds.time():
                await self.opened.state.flush()
            self.health.flushed_at = clock()
        self.health.waiting = False
        now = int(clock())
        as_of = now if follower.caught_up else min(self.opened.pipeline.tally.newest, now)
        # Coverage comes first: it says which first uses are of principals that are learning.
        self.tracker.note_coverage(self.opened.pipeline.tally.accounts)
        span = (self.tracker.as_of, max(as_of, self.tracker.as_of))
        for usage, actions in changed:
            self.tracker.apply_uses(usage, actions, now)
            self.watch.apply_uses(usage, actions, span, now)
        self.tracker.advance(as_of)
        await self._refresh_text()

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
        self.health.first_uses_evicted = self.tracker.first_uses_evicted
        self.health.first_uses_lost = self.tracker.first_uses_lost
        if self._order.pusher is not None:
            self._order.pusher.note(self.tracker.first_uses)


async def run_forever(
    order: RunOrder, place: Place, warn: Warn, started: Callable[[str], None], stopping: asyncio.Event
) -> int:
    """Run until `stopping` is set. A store that is lost is claimed again, and read again from what it holds."""
    check_channels(order.settings.notify)
    load_loops(warn)
    health, held = Health(), order.held
    server, flush_seconds = make_server(order, health, held)
    await server.start(order.settings.run.host, order.settings.run.port)
    started(server.url)
    if order.pusher is not None:
        health.pushed = order.pusher.counts
        order.pusher.start()

    def wait(text: str) -> None:
        if not health.waiting:
            warn(text)
        health.waiting = True

    async def hold() -> None:
        async with open_store(place, wait) as store:
            while not stopping.is_set():
                try:
                    await hold_once(order, store, place, health, held, stopping, flush_seconds, warn)
                except StoreLost as error:
                    warn(f"{error}; starting again from what it holds")
                    health.ready, health.why_not, health.as_of = False, "the store was lost: starting again", 0

    try:
        await end_in_time(asyncio.ensure_future(hold()), stopping, warn)
    finally:
        if order.pusher is not None:
            await order.pusher.stop()
        await server.stop()
    return 0


async def hold_once(
    order: RunOrder,
    store: Store,
    place: Place,
    health: Health,
    held: Held,
    stopping: asyncio.Event,
    flush_seconds: Histogram,
    warn: Warn,
) -> None:
    """Claim the store and run on it. Returns when `stopping` is set; raises StoreLost when the hold is gone."""
    health.why_not = "standby: another gapwatch holds the store"
    claim = asyncio.ensure_future(store.claim(exclusive=place.url is None, standby=True))
    stop = asyncio.ensure_future(stopping.wait())
    await asyncio.wait((claim, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not claim.done():
        claim.cancel()
        return
    claim.result()
    health.why_not = "loading"
    runner = Runner(order, store, health, warn)
    await runner.load()
    held.runner = runner
    async with notify_people(order.settings.notify, runner.look(), store, order.clock, warn):
        await runner.follow(stopping, flush_seconds)


def make_server(order: RunOrder, health: Health, held: Held) -> tuple[Server, Histogram]:
    """The HTTP server over whatever runner holds the store at the time."""
    from processor.shell.tables import load_catalogue

    empty = Tally()

    def tally() -> Tally:
        opened = held.runner.opened if held.runner is not None else None
        return empty if opened is None else opened.pipeline.tally

    registry, flush_seconds = make_registry(PipelineCollector(tally, health, order.clock, load_catalogue().version))

    def members() -> list[bytes]:
        return [render_pipeline(registry), *(held.runner.members() if held.runner is not None else [])]

    def look() -> Look | None:
        return None if held.runner is None else held.runner.look()

    pages = open_pages(order.settings, Reader(look, health, order.clock), order.pages, order.links)
    return Server(members, lambda: None if health.ready else health.why_not, pages), flush_seconds
