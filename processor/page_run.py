"""`gapwatch page`: the page and /api over a store that others write: that of a whole fleet in Kafka mode, or of one process.

Nothing in the store is changed. What it holds is read again when it has moved, in a thread of its own, so that pages come
meanwhile; not more often than asked for, and for a fifth of the time at most. The verdicts are of the time up to which
every shard has read, and what of a principal did not change is not reckoned again.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from processor.core.answers import Row
from processor.core.board import Board, build_row
from processor.core.fleet import Member
from processor.core.horizon import Horizon
from processor.core.tally import Tally
from processor.core.tracker import Tracker
from processor.opening import Opened, Place, load_opened, open_store
from processor.page.reading import Look, Reader
from processor.page.site import open_pages
from processor.run import SWITCH_SECONDS
from processor.settings import Settings, load_settings
from processor.shell.commands import Command
from processor.shell.ending import rest_until
from processor.shell.http import Server
from processor.shell.metrics import Health, PipelineCollector, make_registry, render_pipeline
from processor.shell.redis import Store, StoreError
from processor.shell.tables import load_catalogue
from processor.stopping import Warn, end_in_time

EVERY_SECONDS = 15.0
SHARE = 4.0
"""After a reading that took so long, so many times as long nothing is read."""

LOOK_SECONDS = 1.0
AGAIN_SECONDS = 5.0


@dataclass(slots=True)
class PageOrder:
    """What `page` was asked for. `clock` gives seconds since 1970."""

    place: Place
    settings: Settings
    every_seconds: float = EVERY_SECONDS
    clock: Callable[[], float] = time.time
    health: Health = field(default_factory=Health)


class StoreAway(StoreError):
    """The store does not answer: what was read of it before still stands."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """A principal's row, what it was reckoned from, and when that is other by time alone."""

    source: tuple[Any, ...]
    turns_at: int
    row: Row


class FleetReading:
    """What was read of a store last; `look` is None before the first time."""

    def __init__(self) -> None:
        self.look: Look | None = None
        self.counted_anew = 0
        self._counted: dict[int, _Counted] = {}

    async def read(self, store: Store) -> Look:
        """Read all of it, in steps that do not care for whom they hold up. Raises StoreError, StoreRefused."""
        meta = await store.read_meta()
        settings = load_settings(meta["settings"]) if "settings" in meta else Settings()
        opened = await load_opened(store, settings, Horizon(), reading=True)
        covered = meta.get("covered_since")
        fleet = opened.build_fleet(settings, int(covered) if covered else None)
        as_of = find_time(opened, meta)
        tracker = Tracker(fleet, opened.ledger.principals.values(), as_of)
        board = Board(window.label for window in fleet.windows)
        counted, self._counted, self.counted_anew = self._counted, {}, 0
        for key in tracker:
            found = self._count(key, tracker, counted.get(key))
            self._counted[key] = found
            board.put(key, found.row)
        return Look(tracker, opened, board)

    def _count(self, key: int, tracker: Tracker, before: _Counted | None) -> _Counted:
        gap = tracker.gap_of(key)
        source = _find_source(tracker, tracker.fleet.member(key), gap.used)
        if before is not None and before.source == source and tracker.as_of < before.turns_at:
            return before
        self.counted_anew += 1
        return _Counted(source, gap.turns_at, build_row(key, *tracker.count(key)))


def _find_source(tracker: Tracker, member: Member, used: list[int]) -> tuple[Any, ...]:
    """All that a principal's counts depend on beside the time."""
    fleet, account = tracker.fleet, member.principal.account_id
    cells = {} if member.usage is None else member.usage.cells
    newest = max((cell.last_success for cell in cells.values()), default=0)
    return (
        tuple(used), member.granted, fleet.covered_since(member.principal), fleet.observable(account),
        fleet.time_of(account, 0), len(cells), newest,
    )  # fmt: skip


def find_time(opened: Opened, meta: Mapping[str, str]) -> int:
    """The time that all shards have reached; of one process' store the newest event."""
    reached = [int(part.meta.get(b"as_of", 0)) for part in opened.state.parts] if opened.state.is_divided else []
    known = [at for at in reached if at]
    return min(known) if known else max(int(meta.get("as_of") or 0), opened.pipeline.tally.newest)


async def find_moved(store: Store) -> tuple[bytes | None, ...]:
    """How often each part of the store was flushed: as long as that is the same, so is the store."""
    keys = [store.key(b"meta"), *(store.shard_key(shard, b"meta") for shard in store.shards)]
    commands: list[Command] = [("HGET", key, "flush") for key in keys]
    return tuple(await store.read_many(commands))


async def run_page(order: PageOrder, warn: Warn, started: Callable[[str], None], stopping: asyncio.Event) -> int:
    """Serve until `stopping` is set. Raises StoreRefused for a store that cannot be read, SettingsError, BindError."""
    sys.setswitchinterval(SWITCH_SECONDS)  # The reading thread gives way to the pages.
    health, reading = order.health, FleetReading()
    health.why_not = "reading the store"
    registry, _ = make_registry(PipelineCollector(Tally, health, order.clock, load_catalogue().version))
    pages = open_pages(order.settings, Reader(lambda: reading.look, health, order.clock), {}, {})
    server = Server(lambda: [render_pipeline(registry)], lambda: None if health.ready else health.why_not, pages)
    await server.start(order.settings.run.host, order.settings.run.port)
    started(server.url)

    def wait(text: str) -> None:
        if not health.waiting:
            warn(text)
        health.waiting = True

    async def follow() -> None:
        async with open_store(order.place, wait, reading=True) as store:
            await _follow(order, reading, store, warn, stopping)

    try:
        await end_in_time(asyncio.ensure_future(follow()), stopping, warn)
    finally:
        await server.stop()
    return 0


async def _follow(order: PageOrder, reading: FleetReading, store: Store, warn: Warn, stopping: asyncio.Event) -> None:
    """Read again what has moved, until `stopping` is set."""
    moved: tuple[bytes | None, ...] = ()
    while not stopping.is_set():
        pause = LOOK_SECONDS
        now_at = await find_moved(store)
        order.health.waiting = False
        if not any(now_at):
            order.health.why_not = f"the store at {store.where} is empty so far"
        elif now_at != moved:
            began = time.monotonic()
            try:
                reading.look = await read_aside(reading, order.place, store)
                moved, order.health.ready = now_at, True
                pause = max(order.every_seconds, SHARE * (time.monotonic() - began))
            except StoreAway as error:
                warn(f"{error}; what was read of it before is shown")
                order.health.waiting = True
                pause = AGAIN_SECONDS
        await rest_until(stopping, pause)


async def read_aside(reading: FleetReading, place: Place, store: Store) -> Look:
    """Read the store in a thread, over a connection of that thread's; what is read on demand later goes over `store`."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Look] = loop.create_future()

    def say_away(text: str) -> None:
        raise StoreAway(text)

    async def read() -> Look:
        async with open_store(place, say_away, reading=True) as other:
            return await reading.read(other)

    def settle(look: Look | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        elif look is not None:
            done.set_result(look)

    def run() -> None:
        look, failed = None, None
        try:
            look = asyncio.run(read())
        except BaseException as error:  # Whatever it is, who waits must know.
            failed = error
        with suppress(RuntimeError):  # The loop has ended meanwhile.
            loop.call_soon_threadsafe(settle, look, failed)

    # A daemon: it may wait for a store, and the process must end all the same.
    threading.Thread(target=run, name="reading", daemon=True).start()
    look = await done
    look.opened.store = look.opened.state.store = store
    return look
