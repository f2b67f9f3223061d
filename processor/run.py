"""`gapwatch run`: follow sources, keep the gap by the clock, serve metrics, until told to stop."""

import asyncio
import itertools
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import Histogram

from processor.core.horizon import Horizon
from processor.core.inventory import InventoryPrincipal
from processor.core.tracker import Tracker
from processor.opening import Opened, Place, load_loops, load_opened, open_store
from processor.settings import Settings, dump_settings
from processor.shell.follow import Follower, Slice
from processor.shell.grants import write_grants
from processor.shell.http import Handler, Server
from processor.shell.metrics import GapText, Health, PipelineCollector, make_registry, render_pipeline
from processor.shell.redis import RENEW_SECONDS, Store, StoreError, StoreLost

if TYPE_CHECKING:
    from processor.live_inventory import (  # with them AWS' client is loaded: not for nothing
        LiveInventory,
        StartInventory,
    )

FUTURE_SECONDS_MAX = 15 * 60
"""A record that is further ahead of the clock is rejected: its time would hold back every later verdict."""

REJECTS_OF = 10_000
STOP_SECONDS_MAX = 3.0
"""How long a Redis that does not answer may hold up the end."""

Warn = Callable[[str], None]


class RejectRatioError(StoreError):
    """Too many records are bad: something else than CloudTrail is being read."""


@dataclass(slots=True)
class Held:
    """Which runner holds the store at the time, for those who look on."""

    runner: "Runner | None" = None


@dataclass(slots=True)
class RunOrder:
    """What `run` was asked for. `clock` gives seconds since 1970; `pages` are served beside /metrics."""

    paths: tuple[str, ...]
    settings: Settings
    inventory: dict[int, InventoryPrincipal]
    clock: Callable[[], float] = time.time
    pages: Mapping[str, Handler] = field(default_factory=dict)
    held: Held = field(default_factory=Held)
    start_inventory: "StartInventory | None" = None


class Runner:
    """One hold of a store: from its claim to the end, or to the loss of it."""

    def __init__(self, order: RunOrder, store: Store, health: Health, warn: Warn) -> None:
        self._order = order
        self._store = store
        self._warn = warn
        self.health = health
        self.text: GapText | None = None
        self.tracker: Tracker | None = None
        self.opened: Opened | None = None
        self.live: LiveInventory | None = None
        self._recent: deque[tuple[int, int]] = deque()

    async def load(self) -> None:
        """Take the store's state, and the inventory that was given."""
        order, clock = self._order, self._order.clock
        # Spans as long as a replay's, so that each can take over the other's store.
        horizon = Horizon(spans_max=order.settings.run.horizon_hours + 1)
        opened = self.opened = await load_opened(self._store, order.settings, horizon, fresh=order.inventory)
        commands = write_grants(self._store, opened.catalogue, opened.inventory, order.inventory, int(clock()))
        commands += opened.release_held(order.inventory)
        meta = ("settings", dump_settings(order.settings), "as_of", "0", "catalogue", opened.catalogue.version)
        commands.append(("HSET", self._store.key(b"meta"), *meta))
        if opened.moved:
            self._warn(opened.moved)
        await opened.state.flush(commands)
        usages = opened.ledger.principals.values()
        fleet = opened.build_fleet(order.settings, None)
        tally = opened.pipeline.tally
        self._recent.append((tally.read, tally.classes["rejected"]))
        self.tracker = Tracker(fleet, usages, min(tally.newest, int(clock())))
        self.text = GapText(self.tracker)
        if order.start_inventory is not None:
            self.live = await order.start_inventory(opened, self._warn, clock)
            self.live.tell(self.tracker, self.health)
        await self._refresh_text()
        self.health.flushed_at = clock()
        self.health.ready = True

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
        if intake.changes and self.live is not None:
            self.live.note(intake)
        self.opened.state.move(found.name, found.position)
        self._check_rejects()

    def _check_rejects(self) -> None:
        """Stop rather than throw everything away: a share of the last 10,000 records is too high."""
        assert self.opened is not None  # noqa: S101 - load came before
        tally = self.opened.pipeline.tally
        now = (tally.read, tally.classes["rejected"])
        self._recent.append(now)
        while len(self._recent) > 1 and now[0] - self._recent[1][0] >= REJECTS_OF:
            self._recent.popleft()
        read, rejected = now[0] - self._recent[0][0], now[1] - self._recent[0][1]
        if read >= REJECTS_OF and rejected > read * self._order.settings.run.reject_ratio_max:
            raise RejectRatioError(
                f"{rejected} of the last {read} records were rejected, more than reject_ratio_max allows: is this CloudTrail? "
                + "; ".join(itertools.islice(self.opened.rejects.lines(), 3))
            )

    async def _flush(self, follower: Follower, flush_seconds: Histogram) -> None:
        """Store what changed, then let the gap and the metrics follow what is stored."""
        assert self.opened is not None  # noqa: S101 - load came before
        assert self.tracker is not None  # noqa: S101 - load came before
        clock = self._order.clock
        changed = [(usage, list(usage.dirty)) for usage in self.opened.ledger.dirty]
        commands = self.live.take() if self.live is not None else []
        if changed or commands or clock() - self.health.flushed_at >= min(1.0, RENEW_SECONDS):
            with flush_seconds.time():
                await self.opened.state.flush(commands)
            self.health.flushed_at = clock()
        self.health.waiting = False
        for usage, actions in changed:
            self.tracker.apply_uses(usage, actions)
        if self.live is not None:
            self.live.tell(self.tracker, self.health)
        self.tracker.note_coverage(self.opened.pipeline.tally.accounts)
        newest = self.opened.pipeline.tally.newest
        now = int(clock())
        self.tracker.advance(now if follower.caught_up else min(newest, now))
        await self._refresh_text()

    async def _refresh_text(self) -> None:
        assert self.tracker is not None  # noqa: S101 - load came before
        assert self.text is not None  # noqa: S101 - load came before
        for _ in self.text.refresh():
            await asyncio.sleep(0)
        self.health.as_of = self.tracker.as_of
        self.health.principals = len(self.tracker)
        self.health.first_uses_evicted = self.tracker.first_uses_evicted


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    return stopping


async def run_forever(
    order: RunOrder, place: Place, warn: Warn, started: Callable[[str], None], stopping: asyncio.Event
) -> int:
    """Run until `stopping` is set. A store that is lost is claimed again, and read again from what it holds."""
    load_loops(warn)
    health, held = Health(), order.held
    server, flush_seconds = make_server(order, health, held)
    await server.start(order.settings.run.host, order.settings.run.port)
    started(server.url)

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
                    health.ready, health.why_not = False, "the store was lost: starting again"

    try:
        await end_in_time(asyncio.ensure_future(hold()), stopping, warn)
    finally:
        await server.stop()
    return 0


async def end_in_time(holding: asyncio.Future[None], stopping: asyncio.Event, warn: Warn) -> None:
    """Wait for the end of `holding`; once `stopping` is set no longer than STOP_SECONDS_MAX."""
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((holding, stop), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((holding,), timeout=STOP_SECONDS_MAX)
        if holding.done():
            holding.result()
            return
        warn("Redis does not answer: what it has not stored yet is read again at the next start")
    finally:
        stop.cancel()
        holding.cancel()
    with suppress(asyncio.CancelledError):
        await holding


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
    try:
        await runner.follow(stopping, flush_seconds)
    finally:
        if runner.live is not None:
            runner.live.stop()


def make_server(order: RunOrder, health: Health, held: Held) -> tuple[Server, Histogram]:
    """The HTTP server over whatever runner holds the store at the time."""
    from processor.core.tally import Tally
    from processor.shell.tables import load_catalogue

    empty = Tally()

    def tally() -> Tally:
        opened = held.runner.opened if held.runner is not None else None
        return empty if opened is None else opened.pipeline.tally

    registry, flush_seconds = make_registry(PipelineCollector(tally, health, order.clock, load_catalogue().version))

    def members() -> list[bytes]:
        text = held.runner.text if held.runner is not None else None
        return [render_pipeline(registry), *(text.members() if text is not None else [])]

    return Server(members, lambda: None if health.ready else health.why_not, order.pages), flush_seconds
