"""`gapwatch intake`: read sources together with other intakes, and write topic `uses`, until told to stop."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from xxhash import xxh3_128_digest

from processor.core.catalogue import Catalogue
from processor.core.intake import Intake
from processor.core.inventory import InventoryPrincipal
from processor.core.records import Rejected
from processor.core.tally import Tally
from processor.core.uses_writer import UsesWriter
from processor.leased_files import LeasedFiles
from processor.ledger_run import BROKER_WAIT_SECONDS, STOP_SECONDS, wait_for_brokers
from processor.opening import RejectLog, build_actions, load_loops
from processor.rejecting import FUTURE_SECONDS_MAX, RejectRatio
from processor.sending import Sender, UsesLog
from processor.settings import Settings
from processor.shell.brokers import BrokerError, BrokerSettings
from processor.shell.grants import date_grants, pack_grants, unpack_grants
from processor.shell.http import Server
from processor.shell.kafka import IntakeLog, PublishedGrants
from processor.shell.leases import RENEW_SECONDS, Leases
from processor.shell.metrics import Health, PipelineCollector, make_registry, render_pipeline
from processor.shell.modes import enter_kafka_mode
from processor.shell.redis import Store, StoreLost
from processor.shell.tables import load_catalogue
from processor.stopping import end_in_time
from topics import grants, uses
from topics.contract import SHARDS
from topics.uses import Mark

MARK_SECONDS = 5.0
FEED = xxh3_128_digest(b"feed\0default")
"""All intakes of a store are one source of marks: each says how far all that they read together is read."""

Warn = Callable[[str], None]


@dataclass(slots=True)
class IntakeOrder:
    """What `intake` was asked for. `clock` gives seconds since 1970. `once`: end when all is read and sent."""

    brokers: BrokerSettings
    prefix: str
    url: str
    paths: tuple[str, ...]
    settings: Settings
    inventory: dict[int, InventoryPrincipal]
    once: bool = False
    clock: Callable[[], float] = time.time
    health: Health = field(default_factory=Health)


async def run_intake(order: IntakeOrder, warn: Warn, started: Callable[[str], None], stopping: asyncio.Event) -> int:
    """Run until `stopping` is set, or with `once` until all is read. Returns the exit code."""
    load_loops(warn)
    health, tally = order.health, Tally()
    catalogue = load_catalogue()
    registry, _ = make_registry(PipelineCollector(lambda: tally, health, order.clock, catalogue.version))
    server = Server(lambda: [render_pipeline(registry)], lambda: None if health.ready else health.why_not, {})
    await server.start(order.settings.run.host, order.settings.run.port)
    started(server.url)

    def wait(text: str) -> None:
        if not health.waiting:
            warn(text)
        health.waiting = True

    try:
        health.why_not = "waiting for Kafka"
        if not await wait_for_brokers(order.brokers, uses.TOPIC.full_name(order.prefix), stopping, warn):
            return 0
        store = await Store.connect(order.url, wait=wait)
        try:
            reading = asyncio.ensure_future(_read_sources(order, store, tally, warn, stopping))
            await end_in_time(reading, stopping, warn, STOP_SECONDS)
        finally:
            await store.close()
    finally:
        await server.stop()
    return 0


async def _read_sources(order: IntakeOrder, store: Store, tally: Tally, warn: Warn, stopping: asyncio.Event) -> None:
    await enter_kafka_mode(store)
    log = IntakeLog(order.brokers, order.prefix, order.clock)
    try:
        while True:
            try:
                await log.start()
                published = await log.read_inventory()
                await log.publish_grants(list(write_inventory(order, load_catalogue(), published)))
                break
            except BrokerError as error:
                warn(f"{error}; trying again")
                await log.stop()
                await asyncio.sleep(BROKER_WAIT_SECONDS)
        catalogue = load_catalogue()
        actions, scope = build_actions(catalogue), order.settings.scope
        intake = Intake(actions, scope, published.known, tally, seed=secrets.randbits(64))
        runner = IntakeRunner(order, store, log, intake, catalogue.names, warn)
        following = asyncio.ensure_future(_follow(log, published, warn))
        try:
            await runner.run(stopping)
        finally:
            following.cancel()
    finally:
        await log.stop()


async def _follow(log: IntakeLog, published: PublishedGrants, warn: Warn) -> None:
    while True:
        try:
            await log.follow_inventory(published)
        except BrokerError as error:
            warn(f"topic grants: {error}; trying again")
            await asyncio.sleep(BROKER_WAIT_SECONDS)


def write_inventory(
    order: IntakeOrder, catalogue: Catalogue, published: PublishedGrants
) -> Iterator[tuple[int, bytes, bytes | None]]:
    """What must be written to topic `grants` so that it holds the inventory that was given, for the accounts that it tells of.
    A grant that was not there before dates from now."""
    if not order.inventory:
        return
    now = int(order.clock())
    names = grants.encode_catalogue(catalogue.names)
    key = grants.catalogue_key(catalogue.version)
    for shard in range(SHARDS):
        if (shard, catalogue.version) not in published.catalogues:
            yield shard, key, names
    accounts = {found.account_id for found in order.inventory.values()}
    for name, before in published.packed.items():
        if before.account_id in accounts and int.from_bytes(name, "big") not in order.inventory:
            yield grants.TOPIC.partition_of(name), name, None
    for number, found in order.inventory.items():
        name = number.to_bytes(8, "big")
        earlier = published.packed.get(name)
        known = None
        if earlier is not None and earlier.catalogue == catalogue.version:
            known = unpack_grants(earlier.packed, {})
        packed = pack_grants(date_grants(found, known, now), catalogue.version)
        if earlier is None or earlier.packed != packed:
            value = grants.PrincipalGrants(
                as_of=now, arn=found.arn, unique_id=found.unique_id or None, account_id=found.account_id,
                kind=found.kind,  # type: ignore[arg-type]  # an inventory has roles and users
                catalogue=catalogue.version, packed=packed,
            )  # fmt: skip
            yield grants.TOPIC.partition_of(name), name, grants.CODEC.encode(value)


class Log(UsesLog, Protocol):
    """Kafka, as an intake writes it."""

    async def cover(self, accounts: Mapping[str, int], watermark: int) -> None: ...


class IntakeRunner:
    """The loop of one intake: rounds over its sources, marks, leases."""

    def __init__(
        self, order: IntakeOrder, store: Store, log: Log, intake: Intake, names: Sequence[str], warn: Warn
    ) -> None:
        self._order = order
        self._log = log
        self._warn = warn
        self._leases = Leases(store)
        self._rejects = RejectLog()
        self._ratio = RejectRatio(order.settings.run.reject_ratio_max)
        self._sender = Sender(intake, UsesWriter(names), self._leases, log, self._note_rejects)
        self._files = LeasedFiles(order.paths, self._leases)
        self._marked_at = 0.0
        self._renewed_at = 0.0
        self._told: dict[str, int] = {}

    def _note_rejects(self, rejects: list[Rejected]) -> None:
        self._rejects.note(rejects)
        self._ratio.check(self._sender.intake.tally, self._rejects)

    async def run(self, stopping: asyncio.Event) -> None:
        """Read until `stopping` is set, or with `once` until all is read. Raises StoreError, SourceError."""
        health = self._order.health
        try:
            while not stopping.is_set():
                try:
                    await self._round(stopping)
                    if self._order.once and self._files.caught_up:
                        return
                except (StoreLost, BrokerError) as error:
                    self._warn(str(error))
                    await self._start_again()
                health.ready = True
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), self._order.settings.run.poll_seconds)
        finally:
            with suppress(StoreLost, BrokerError):
                await self._sender.settle()
            await self._leases.close(self._files.held)

    async def _start_again(self) -> None:
        """Read on from what is stored."""
        await self._sender.reset()
        self._files = LeasedFiles(self._order.paths, self._leases)

    async def _round(self, stopping: asyncio.Event) -> None:
        """Send all that is there and free, and tell how far everything is."""
        order, sender = self._order, self._sender
        began = order.clock()
        sender.intake.future = int(began) + FUTURE_SECONDS_MAX
        async for lease, before, found in self._files.poll():
            if found.damage is not None:
                self._warn(f"{found.origin} {found.damage}: what could be read of it was")
            sender.add(lease, before, found)
            if sender.is_full:
                await sender.send()
                order.health.flushed_at = order.clock()
            await self._keep(began)
            if stopping.is_set():
                break
        await sender.send()
        await sender.settle()
        order.health.flushed_at = order.clock()
        order.health.waiting = False
        caught_up = self._files.caught_up and not stopping.is_set()
        if (
            (caught_up and order.once)
            or order.clock() - self._marked_at >= MARK_SECONDS
            or order.clock() < self._marked_at
        ):
            await self._mark(int(began) if caught_up else 0)

    async def _keep(self, began: float) -> None:
        """Hold the leases while a long round is on its way."""
        now = self._order.clock()
        if now - self._renewed_at >= RENEW_SECONDS or now < self._renewed_at:
            self._renewed_at = now
            await self._files.renew()
            if now - self._marked_at >= MARK_SECONDS:
                await self._sender.send()
                await self._mark(0)

    async def _mark(self, watermark: int) -> None:
        """Tell the ledgers how far all is read; 0: not up to the end."""
        await self._leases.check()
        await self._files.renew()
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
