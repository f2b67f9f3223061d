"""`gapwatch intake`: read sources together with other intakes, and write topic `uses`, until told to stop."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from processor.core.catalogue import Catalogue
from processor.core.intake import Intake
from processor.core.tally import Tally
from processor.intake_runner import IntakeOrder, IntakeRunner
from processor.ledger_run import BROKER_WAIT_SECONDS, STOP_SECONDS, wait_for_brokers
from processor.opening import build_actions, load_loops
from processor.sending import NoteChanges, ignore_changes
from processor.shell.brokers import BrokerError, StalledError
from processor.shell.ending import end_tasks
from processor.shell.grants import date_grants, pack_grants, unpack_grants, write_inventory_times
from processor.shell.http import Server
from processor.shell.kafka import IntakeLog
from processor.shell.metrics import PipelineCollector, make_registry, render_pipeline
from processor.shell.modes import enter_kafka_mode
from processor.shell.published_grants import PublishedGrants, encode_names, encode_principal
from processor.shell.redis import Store
from processor.shell.tables import load_catalogue
from processor.stopping import Warn, end_in_time, start_again
from topics import grants, uses

STALLED_SECONDS = 300.0
"""Longer than any step may take: a Kafka that does not answer is noticed after half of it."""


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
        order.pulse.beat()
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
    except StalledError as error:
        await server.stop()
        start_again(error, warn)
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
                await _note_inventory(order, store)
                break
            except BrokerError as error:
                warn(f"{error}; trying again")
                await log.stop()
                await asyncio.sleep(BROKER_WAIT_SECONDS)
        catalogue = load_catalogue()
        actions, scope = build_actions(catalogue), order.settings.scope
        intake = Intake(actions, scope, published.known, tally, seed=secrets.randbits(64))
        works: list[Coroutine[Any, Any, None]] = [_follow(log, published, warn), order.pulse.watch(STALLED_SECONDS)]
        note_changes: NoteChanges = ignore_changes
        if order.plan is not None:
            from processor.fleet_inventory import FleetInventory  # with it AWS' client is loaded

            fresh = FleetInventory(
                order.plan, store, log, published, catalogue, order.health, warn, order.clock, order.settings.logging
            )
            intake.watch(fresh.changes.table)
            note_changes = fresh.changes.put
            works.append(fresh.run())
        beside = [asyncio.ensure_future(each) for each in works]
        runner = IntakeRunner(order, store, log, intake, catalogue.names, warn, note_changes)
        running = asyncio.ensure_future(runner.run(stopping))
        try:
            await asyncio.wait((running, *beside), return_when=asyncio.FIRST_COMPLETED)
            for done in (*beside, running):
                if done.done():
                    done.result()
        finally:
            await end_tasks(running, *beside, seconds=STOP_SECONDS)
    finally:
        await log.stop()


async def _note_inventory(order: IntakeOrder, store: Store) -> None:
    """Let the ledgers tell when the inventory that was given was taken."""
    taken = int(order.clock()) if order.inventory_time is None else order.inventory_time
    accounts = {found.account_id for found in order.inventory.values()}
    await store.read_many(write_inventory_times(store, dict.fromkeys(accounts, taken)))


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
    yield from encode_names(published, catalogue)
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
            yield encode_principal(name, found, catalogue, packed, now)
