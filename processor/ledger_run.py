"""`gapwatch ledger`: own shards together with other ledgers, until told to stop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from processor.collecting import Collecting
from processor.core.tally import Tally
from processor.opening import load_loops
from processor.settings import Settings, dump_settings
from processor.settings_error import SettingsError
from processor.shard_parts import ShardParts
from processor.shards import CALLBACK_SECONDS_MAX, Shards
from processor.shell.brokers import BrokerError, BrokerSettings, StalledError, connect_admin
from processor.shell.ending import end_tasks, rest_until, try_for
from processor.shell.grants import write_catalogue
from processor.shell.holds import Member
from processor.shell.http import Server
from processor.shell.inventory_store import AccountsRead, read_accounts
from processor.shell.kafka import LedgerLog
from processor.shell.metrics import Health, PipelineCollector, make_registry, render_pipeline
from processor.shell.modes import enter_kafka_mode
from processor.shell.push import Pusher
from processor.shell.redis import Store
from processor.shell.tables import load_catalogue
from processor.stopping import end_in_time, start_again
from processor.watching import read_watching
from topics import uses
from topics.contract import SHARDS

LOOK_SECONDS = 2.0
STALLED_SECONDS = 45.0
"""Faust's consumers may stall for good after days (upstream #175, #523, #532): messages are there and none is applied."""

BEHIND_MESSAGES = 500
INVENTORY_SECONDS = 10.0

BROKER_WAIT_SECONDS = 2.0
STOP_SECONDS = 8.0


@dataclass(slots=True)
class LedgerOrder:
    """What `ledger` was asked for. `clock` gives seconds since 1970."""

    brokers: BrokerSettings
    prefix: str
    group: str
    url: str
    settings: Settings
    clock: Callable[[], float] = time.time
    stalled_seconds: float = STALLED_SECONDS
    health: Health = field(default_factory=Health)
    pusher: Pusher | None = None


async def wait_for_brokers(
    brokers: BrokerSettings, topic: str, stopping: asyncio.Event, warn: Callable[[str], None], expected: int = SHARDS
) -> str:
    """The id of the cluster, once it answers; empty where `stopping` was set before. Raises SettingsError where a topic is
    missing there or has other partitions than `expected`."""
    told = ""
    while not stopping.is_set():
        try:
            async with connect_admin(brokers) as admin:
                cluster = await admin.describe_cluster()
                (found,) = await admin.describe_topics([topic])
            break
        except BrokerError as error:
            if str(error) != told:
                warn(f"{error}; waiting for it")
            told = str(error)
            await rest_until(stopping, BROKER_WAIT_SECONDS)
    else:
        return ""
    partitions = len(found.get("partitions") or ())
    if partitions != expected:
        wrong = f"has {partitions} partitions instead of {expected}" if partitions else "is missing"
        raise SettingsError(f"topic {topic} {wrong} on {brokers.where}: see `gapwatch topics create` and `check`")
    return str(cluster["cluster_id"])


async def run_ledger(
    order: LedgerOrder, warn: Callable[[str], None], started: Callable[[str], None], stopping: asyncio.Event
) -> int:
    """Run until `stopping` is set, or until another process must take over from this one. Returns the exit code."""
    load_loops(warn)
    topic = uses.TOPIC.full_name(order.prefix)
    health = order.health
    catalogue = load_catalogue()
    running: list[Ledgers] = []
    registry, _ = make_registry(
        PipelineCollector(lambda: running[0].add_up() if running else Tally(), health, order.clock, catalogue.version)
    )

    def members() -> list[bytes]:
        shards = running[0].shards if running else None
        return [render_pipeline(registry), *([] if shards is None else shards.telling.members())]

    server = Server(members, lambda: None if health.ready else health.why_not, {})
    await server.start(order.settings.run.host, order.settings.run.port)
    started(server.url)
    if order.pusher is not None:
        health.pushed = order.pusher.counts
        order.pusher.start()

    def wait(text: str) -> None:
        if not health.waiting:
            warn(text)
        health.waiting = True

    try:
        health.why_not = "waiting for Kafka"
        cluster = await wait_for_brokers(order.brokers, topic, stopping, warn)
        if not cluster:
            return 0
        health.why_not = "loading"
        store = await Store.connect(order.url, wait=wait)
        try:
            owning = asyncio.ensure_future(_own_shards(order, store, cluster, warn, stopping, running))
            await end_in_time(owning, stopping, warn, STOP_SECONDS)
        finally:
            await store.close()
    except StalledError as error:
        await server.stop()
        start_again(error, warn)
    finally:
        if order.pusher is not None:
            await order.pusher.stop()
        await server.stop()
    return 0


async def _own_shards(
    order: LedgerOrder,
    store: Store,
    cluster: str,
    warn: Callable[[str], None],
    stopping: asyncio.Event,
    running: "list[Ledgers]",
) -> None:
    watching = read_watching(order.settings.alerts)
    await enter_kafka_mode(store)
    catalogue = load_catalogue()
    known = {"settings": dump_settings(order.settings), "catalogue": catalogue.version}
    await store.persist(
        lambda: store.client.hset(store.key(b"meta"), mapping=known),
        "store settings",
    )
    await write_catalogue(store, catalogue)
    log = LedgerLog(order.brokers, order.prefix)
    parts = ShardParts(catalogue, order.settings, order.clock, warn, {}, watching)
    shards = Shards(store, Member(cluster, order.group, store.member), parts, log)
    shards.telling.pusher, order.health.alerted = order.pusher, shards.telling.counts
    ledgers = Ledgers(order, shards, log, warn, partial(read_accounts, store))
    running[:] = [ledgers]
    try:
        await ledgers.run(stopping)
    finally:
        await log.stop()


class Ledgers:
    """The Faust worker of one process with what runs beside it."""

    def __init__(
        self,
        order: LedgerOrder,
        shards: Shards,
        log: LedgerLog,
        warn: Callable[[str], None],
        read_accounts: Callable[[], Awaitable[AccountsRead]],
    ) -> None:
        self.shards = shards
        self._order = order
        self._log = log
        self._warn = warn
        self._read_accounts = read_accounts
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._moved_at = order.clock()
        self._seen = (0, 0)

    def add_up(self) -> Tally:
        """What the owned shards counted."""
        whole = Tally()
        for shard in self.shards.owned.values():
            for name, count in shard.tally.classes.items():
                whole.classes[name] += count
            whole.late += shard.tally.late
            whole.newest = max(whole.newest, shard.tally.newest)
        return whole

    async def run(self, stopping: asyncio.Event) -> None:
        """Own shards until `stopping` is set. Raises StalledError, and what else ends the process."""
        from processor.app import build_app, seeker

        topic = uses.TOPIC.full_name(self._order.prefix)
        app = build_app(self._order.brokers, self._order.group, topic, self.shards, self._fail)
        await self._log.start()
        self._log.seek_uses = seeker(app, topic)
        await app.start()
        tasks: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(each)
            for each in (self._tick(), self._look(app), self._read_grants(), self._follow_accounts())
        ]
        stop: asyncio.Future[Any] = asyncio.ensure_future(stopping.wait())
        try:
            await asyncio.wait({stop, self._failed, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for done in (self._failed, *tasks):
                if done.done() and not stopping.is_set():
                    done.result()
        finally:
            await end_tasks(stop, *tasks, seconds=CALLBACK_SECONDS_MAX)
            await self.shards.stop()
            self._order.health.ready = False
            await try_for(CALLBACK_SECONDS_MAX, app.stop())

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    async def _tick(self) -> None:
        health, run = self._order.health, self._order.settings.run
        collecting = Collecting()
        while True:
            await self.shards.tick()
            owned = self.shards.owned.values()
            health.waiting = False
            health.shards, health.shards_lost = len(owned), self.shards.lost
            health.shards_untold = sum(not shard.is_told for shard in owned)
            health.as_of = min((shard.tracker.as_of for shard in owned), default=0)
            health.flushed_at = min((shard.flushed_at for shard in owned), default=0.0)
            health.principals = sum(len(shard.tracker) for shard in owned)
            health.first_uses_evicted = sum(shard.tracker.first_uses.evicted for shard in owned)
            health.first_uses_lost = sum(shard.tracker.first_uses.lost for shard in owned)
            health.exemptions_failed = self.shards.telling.exemptions.failed
            compared = self.shards.parts.compared
            health.feeds = [compared] if compared.compared else []
            health.ready, health.why_not = bool(owned), "no shards are assigned yet"
            collecting.settle()
            await asyncio.sleep(min(0.05, run.flush_seconds / 2))

    async def _follow_accounts(self) -> None:
        while True:
            found = await self._read_accounts()
            self.shards.telling.watch_text.inventoried = found.times
            self.shards.parts.take_read(found.logging, found.held)
            for shard in self.shards.owned.values():
                shard.take_read()
            await asyncio.sleep(INVENTORY_SECONDS)

    async def _read_grants(self) -> None:
        while True:
            try:
                await self._log.read_grants(self.shards.take_grants)
            except BrokerError as error:
                self._warn(f"topic grants: {error}; trying again")
                await asyncio.sleep(BROKER_WAIT_SECONDS)

    async def _look(self, app: Any) -> None:
        """See how far the shards are behind their partitions, and whether anything moves."""
        health, clock = self._order.health, self._order.clock
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if app.crash_reason is not None:
                raise StalledError(f"the consumer ended: {app.crash_reason}")
            owned = dict(self.shards.owned)
            offsets = {number: shard.offset for number, shard in owned.items()}
            try:
                bounds = await self._log.find_bounds(owned) if owned else {}
            except BrokerError:
                self._moved_at = clock()
                continue
            for number, (_, end) in bounds.items():
                if (back := owned[number].look_at_end(offsets[number], end)) is not None:
                    await self._log.seek(number, back)
            health.log_lag = sum(
                max(0, end - 1 - (owned[number].offset or 0)) if end else 0 for number, (_, end) in bounds.items()
            )
            self.shards.is_behind = health.log_lag > BEHIND_MESSAGES
            await self.shards.look_at_told()
            seen = (sum(shard.offset or 0 for shard in owned.values()), len(owned))
            if seen != self._seen or not health.log_lag or health.waiting:
                self._seen, self._moved_at = seen, clock()
            elif clock() - self._moved_at > self._order.stalled_seconds:
                raise StalledError(
                    f"{health.log_lag} messages of topic uses wait, and none was applied for {self._order.stalled_seconds:.0f} s"
                )
