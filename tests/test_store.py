"""The store on a real Redis: what goes in comes back, one writer at a time, and a flush is whole, applied once, or seen."""

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis.asyncio as aioredis
from building import (
    ACTIONS,
    DAY,
    build_holding,
    build_ledger,
    build_principal,
    build_session,
    build_small_catalogue,
    build_use,
)

from processor.core import day_counts
from processor.core.catalogue import Catalogue, stable_hash
from processor.core.day_counts import DAY_MAX, Days
from processor.core.inventory import InventoryPrincipal
from processor.core.ledger import Ledger
from processor.core.sessions import DENIED, FAILED, SUCCEEDED, key_of
from processor.core.usage import Cell
from processor.shell import redis as storing
from processor.shell import sparing
from processor.shell.action_names import ActionNames
from processor.shell.day_packer import DayPacker
from processor.shell.embedded import EmbeddedRedis, find_server, start_redis
from processor.shell.ending import within
from processor.shell.grants import load_grants, write_grants
from processor.shell.holds import Member, ShardHold
from processor.shell.modes import check_mode, enter_kafka_mode
from processor.shell.redis import Store, StoreBusy, StoreError, StoreLost
from processor.shell.state import State
from processor.shell.tables import load_catalogue

ROOT = Path(__file__).parent.parent
SMALL = build_small_catalogue()
NOW = 20_000 * DAY
DAYS_KEPT = 91
BYTES_PER_PAIR_MAX = 64
DICT_ENTRY_BYTES = 48
"""What a key costs besides its MEMORY USAGE: an entry and a slot in the database's own table, which is half empty."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    redis = start_redis(tmp_path_factory.mktemp("store") / "state")
    yield redis
    redis.stop()


@pytest.fixture
async def connect(server: EmbeddedRedis) -> AsyncIterator[Callable[..., Awaitable[Store]]]:
    """Opens stores on a Redis that is empty at first; `waits` of a store are what it waited for."""
    opened: list[Store] = []

    async def open_one(url: str = server.url, **options: Any) -> Store:
        store = await Store.connect(url, **options)
        opened.append(store)
        return store

    first = await open_one()
    await first.client.flushall()
    yield open_one
    await first.client.config_set("maxmemory", 0)
    for store in opened:
        await store.close()


Connect = Callable[..., Awaitable[Store]]


async def claim_new(connect: Connect, **options: Any) -> Store:
    store = await connect(**options)
    await store.claim()
    return store


def open_state(store: Store, ledger: Ledger | None = None, catalogue: Catalogue = SMALL) -> State:
    return State(store, ledger or build_ledger(1_800, 5), catalogue, DAYS_KEPT)


async def load_state(store: Store, catalogue: Catalogue = SMALL) -> State:
    state = open_state(store, catalogue=catalogue)
    await state.load()
    return state


def fill_ledger(ledger: Ledger, first: int = 0, uses: int = 400) -> None:
    """Uses by five roles over 30 days: used, failed and refused; several a day, and some of them late."""
    sessions = [build_session(build_principal(f"role{at}"), f"operator{at}") for at in range(5)]
    for number in range(first, first + uses):
        time = NOW + number * 7_001 - (5 * DAY if number % 29 == 28 else 0)
        outcome = (SUCCEEDED, SUCCEEDED, SUCCEEDED, FAILED, DENIED)[number * 7 % 5]
        actions = [number % SMALL.size, (number * 5 + 1) % SMALL.size][: 1 + (number % 3 == 0)]
        ledger.apply_uses([build_use(ledger, sessions[number * 3 % 5], dict.fromkeys(actions), time, number, outcome)])


def read_cells(ledger: Ledger, names: list[str] | tuple[str, ...]) -> dict[tuple[str, str], tuple[int, ...]]:
    """Every cell's numbers, by ARN and action."""
    fields = ("count", "denied", "first", "last", "first_success", "last_success", "day", "day_count")
    return {
        (usage.principal.arn, names[action]): tuple(getattr(cell, name) for name in fields)
        for usage in ledger.principals.values()
        for action, cell in usage.cells.items()
    }


async def read_all_keys(store: Store) -> dict[bytes, bytes]:
    """Everything but the owner's keys, as it is dumped."""
    keys = [key async for key in store.client.scan_iter(b"*") if key != store.key(b"meta")]
    return {key: await store.client.dump(key) for key in keys}


# --- round trip -------------------------------------------------------------------------------------------------------


async def test_a_whole_state_comes_back(connect: Connect) -> None:
    store = await claim_new(connect)
    state = open_state(store)
    ledger = state.ledger
    fill_ledger(ledger)
    ledger.tally.count_rejected("bad_eventTime")
    ledger.tally.count_unmapped("ec2.amazonaws.com", "NoSuchCall")
    ledger.tally.classes["not_iam"] = 3
    state.move(b"\x00source", b"\xffposition")
    await state.flush()
    fill_ledger(ledger, 400, 100)
    await state.flush()

    again = await load_state(store)
    assert read_cells(again.ledger, SMALL.names) == read_cells(ledger, SMALL.names)
    assert asdict_tally(again.ledger) == asdict_tally(ledger)
    assert again.ledger.tally.late == ledger.tally.late > 0
    assert again.positions == {b"\x00source": b"\xffposition"}
    assert again.ledger.dirty == []
    assert {usage.principal for usage in again.ledger.principals.values()} == {
        usage.principal for usage in ledger.principals.values()
    }


def asdict_tally(ledger: Ledger) -> dict[str, Any]:
    found = {name: value for name, value in asdict(ledger.tally).items() if name != "logs"}
    return found | {"accounts": ledger.tally.accounts}


async def test_duplicates_are_known_after_a_restart(connect: Connect) -> None:
    store = await claim_new(connect)
    state = open_state(store)
    session = build_session(build_principal("builder"))
    uses = [build_use(state.ledger, session, [0], NOW + at, at) for at in range(50)]
    state.ledger.apply_uses(uses)
    await state.flush()

    again = await load_state(store)
    session = build_session(build_principal("builder"))
    again.ledger.apply_uses([build_use(again.ledger, session, [0], NOW + at, at) for at in range(60)])
    assert again.ledger.tally.classes["duplicate"] == 50
    assert again.ledger.tally.classes["use"] == 60


async def test_spans_that_are_over_leave_the_store(connect: Connect) -> None:
    store = await claim_new(connect)
    state = open_state(store)
    session = build_session(build_principal("builder"))
    for span in range(12):
        state.ledger.apply_uses([build_use(state.ledger, session, [0], NOW + span * 1_800, span)])
        await state.flush()
    kept = [key async for key in store.client.scan_iter(b"gapwatch:seen:*")]
    assert 5 <= len(kept) <= 6
    again = await load_state(store)
    session = build_session(build_principal("builder"))
    again.ledger.apply_uses([build_use(again.ledger, session, [0], NOW + 11 * 1_800, 11)])
    assert again.ledger.tally.classes["duplicate"] == 1


async def test_days_are_counted_over_restarts_and_forgotten_after_the_longest_window(connect: Connect) -> None:
    """Each day's bucket is the number of its uses, whatever came late and however often it was started anew."""
    store = await claim_new(connect)
    builder = build_principal("builder")
    counted: dict[int, int] = {}
    number = 0
    for start in range(6):
        ledger = build_ledger(3_600, 24 * 12)
        state = open_state(store, ledger)
        await state.load()
        session = build_session(builder)
        for day in (start * 2, start * 2 + 1, start * 2 - 3, start * 2):
            if day < 0:
                continue
            number += 1
            counted[day] = counted.get(day, 0) + 1
            ledger.apply_uses([build_use(ledger, session, [2], NOW + day * DAY + number, number)])
            if number % 2:
                await state.flush()
        await state.flush()
    newest = max(counted)
    key = key_of(builder).to_bytes(8, "big")
    shard = key_of(builder) >> 58
    for day, count in counted.items():
        if day < newest:
            found = await store.client.hget(
                store.shard_key(shard, b"d", b"%d" % (NOW // DAY + day), key), stable_hash(SMALL.names[2])
            )
            assert int(found) == count, day
    assert ledger.principals[key_of(builder)].cells[2].day_count == counted[newest]

    ledger.apply_uses([build_use(ledger, session, [2], NOW + 200 * DAY, 999)])
    await state.flush()
    assert [key async for key in store.client.scan_iter(b"gapwatch:{*}:d:*")] == []


@pytest.mark.parametrize("prefix", ["g", "gapwatch-of-the-security-team"])
async def test_day_buckets_are_written_whatever_the_sizes_of_their_parts(connect: Connect, prefix: str) -> None:
    """One of them has more fields than Redis' Lua unpacks at once."""
    store = await claim_new(connect, prefix=prefix)
    rng = random.Random(5)
    ledger, names = build_ledger(), ActionNames(load_catalogue())
    for event in range(8):
        actions = range(5_000) if event == 7 else rng.sample(range(10_000), 9)
        session = build_session(build_principal(f"role{event}"))
        ledger.apply_uses([build_use(ledger, session, actions, NOW, event)])
    rows = {(cell, 20_001): 10 ** rng.randrange(18) for cell in range(7 * 9 + 5_000)}
    rows |= {(cell, day): cell + 1 for cell in range(0, 90, 3) for day in (0, 6, 7, 8, 19_999, DAY_MAX)}
    shuffled = rng.sample(sorted(rows), len(rows))
    cells, days = np.array(shuffled).T
    heads = [store.shard_key(shard, b"d", b"") for shard in store.shards]
    packed = DayPacker(heads, ledger, names).pack(Days(cells, days, np.array([rows[place] for place in shuffled])), 7)
    await store.flush([("SET", store.key(b"beside"), "1")], [packed])
    expected: dict[bytes, dict[bytes, bytes]] = {}
    for (cell, day), count in rows.items():
        usage = ledger.usages[int(ledger.owners[cell])]
        key = store.shard_key(usage.shard, b"d", b"%d" % day, usage.key)
        if day >= 7:
            expected.setdefault(key, {})[names.hashes[int(ledger.actions[cell])]] = b"%d" % count
    assert await read_hashes(store) == expected
    assert packed.commands == len(expected) + 2
    assert await store.client.get(store.key(b"beside")) == b"1"


async def test_facets_are_merged_with_those_that_are_stored(connect: Connect) -> None:
    store = await claim_new(connect)
    for start in range(4):
        state = await load_state(store)
        for number in range(6):
            session = build_session(build_principal("builder"), f"operator{start}-{number}")
            event = start * 10 + number
            state.ledger.apply_uses([build_use(state.ledger, session, [0], NOW + event, event)])
            await state.flush()
        cell = next(iter(state.ledger.principals.values())).cells[0]
    again = await load_state(store)
    usage = next(iter(again.ledger.principals.values()))
    assert usage.cells[0].read_facets() == ([], [], [], [], 0)
    await again.read_facets(usage)
    expected = [f"operator{start}-{number}" for start in range(4) for number in range(6)]
    assert usage.cells[0].read_facets() == (expected[:16], ["eu-central-1"], [], [], 1) == cell.read_facets()


async def read_hashes(store: Store) -> dict[bytes, dict[bytes, bytes]]:
    """What the store holds of facets and days."""
    keys = [key for kind in (b"f", b"d") async for key in store.client.scan_iter(store.key(b"{*}:%s:*" % kind))]
    return {key: dict(await store.client.hgetall(key)) for key in keys}


async def test_what_memory_forgets_after_a_flush_the_store_still_has(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same facets and days are stored, however little of them is held in memory between flushes."""
    found = []
    for forgets in (False, True):
        if forgets:
            for module, name in ((sparing, "FACETS_HELD_MAX"), (sparing, "FACETS_A_CELL"), (day_counts, "HELD_MAX")):
                monkeypatch.setattr(module, name, 0)
        store = await claim_new(connect)
        await store.client.flushall()
        await store.claim()
        state = open_state(store)
        for part in range(20):
            for operator in range(3):
                session = build_session(build_principal(f"role{part % 4}"), f"operator{part * operator}")
                event = part * 10 + operator
                time = NOW + (part - 3 * operator) * 20_000
                state.ledger.apply_uses([build_use(state.ledger, session, [part % 3, 4], time, event)])
            await state.flush()
            held = [cell for usage in state.ledger.principals.values() for cell in usage.cells.values()]
            assert any(cell.facets for cell in held) != forgets
        found.append(await read_hashes(store))
    assert found[0] == found[1]
    assert len(found[0]) > 10


async def test_large_facets_are_forgotten_before_small_ones(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await claim_new(connect)
    state = open_state(store)
    for number in range(8):
        for at, name in enumerate(("x" * 100, "y" * 100) if number == 3 else ("x",)):
            session = build_session(build_principal(f"role{number}"), name)
            state.ledger.apply_uses([build_use(state.ledger, session, [0], NOW, 10 * number + at)])
    monkeypatch.setattr(sparing, "FACETS_HELD_MAX", 0)
    monkeypatch.setattr(sparing, "FACETS_A_CELL", 40)
    await state.flush()
    usages = state.ledger.principals.values()
    assert [usage.principal.arn for usage in usages if usage.cells[0].facets is None] == [build_principal("role3").arn]
    assert sum(len(usage.cells[0].facets or b"") for usage in usages) <= 8 * 40 * 3 // 4


async def test_cells_of_every_size_come_back(connect: Connect) -> None:
    store = await claim_new(connect)
    state = open_state(store)
    usage = state.ledger.open_usage(build_principal("builder"))
    sizes: tuple[tuple[int, int], ...] = ((1, 0), (7, 3), (2**32, 0), (5, 2**40), (0, 9))
    for action, (count, denied) in enumerate(sizes):
        cell = usage.cells[action] = Cell(action)
        cell.count, cell.denied = count, denied
        if count:
            cell.first = cell.first_success = NOW
            cell.last = cell.last_success = NOW + action
            cell.day_count = min(count, 5)
        usage.dirty.append(action)
    await state.flush()
    again = await load_state(store)
    assert read_cells(again.ledger, SMALL.names) == read_cells(state.ledger, SMALL.names)


async def test_an_action_that_left_the_catalogue_keeps_its_name_and_its_usage(connect: Connect) -> None:
    store = await claim_new(connect)
    state = open_state(store)
    fill_ledger(state.ledger)
    await state.flush()
    smaller = build_small_catalogue("small-2", ACTIONS[3:])
    again = await load_state(store, smaller)
    assert read_cells(again.ledger, again.names.names) == read_cells(state.ledger, SMALL.names)
    assert set(again.names.names[smaller.size :]) == {name for name, _ in ACTIONS[:3]}


# --- the inventory ----------------------------------------------------------------------------------------------------


async def test_an_inventory_comes_back(connect: Connect) -> None:
    store = await claim_new(connect)
    builder, user = build_principal("builder"), build_principal("späh/\"quoted'\\")
    fresh = {
        key_of(builder): build_holding(builder, 0b1011, created=NOW, births=((NOW, 0b11),), conditional=0b10),
        key_of(user): build_holding(user, 0, flags=("boundary_missing",)),
    }
    await store.flush(list(write_grants(store, SMALL, {}, fresh, NOW)))
    assert await load_grants(store, SMALL) == fresh


async def test_an_inventory_of_another_catalogue_is_read_by_name(connect: Connect) -> None:
    """Ids move when a catalogue gains and loses actions; grants do not, and what is new in it is not granted."""
    store = await claim_new(connect)
    builder = build_principal("builder")
    holding = build_holding(builder, SMALL.all_mask, births=((NOW, SMALL.mask_of(["s3:GetObject"])),), conditional=1)
    await store.flush(list(write_grants(store, SMALL, {}, {key_of(builder): holding}, NOW)))
    other = build_small_catalogue("small-2", (("aaa:Added", "Write"), *ACTIONS[1:], ("zzz:Added", "Read")))
    found = (await load_grants(store, other))[key_of(builder)].grants
    assert other.names_in(found.granted) == [name for name, _ in ACTIONS[1:]]
    assert other.names_in(found.births[0][1]) == ["s3:GetObject"]
    assert found.conditional == 0
    assert other.names_in(found.provenance[0].mask) == [name for name, _ in ACTIONS[1:]]


async def test_a_later_inventory_replaces_its_accounts_and_dates_what_is_new(connect: Connect) -> None:
    store = await claim_new(connect)
    builder, gone, other = build_principal("builder"), build_principal("gone"), build_principal("far", "444455556666")
    held: dict[int, InventoryPrincipal] = {}
    first = {key_of(each): build_holding(each, 0b001) for each in (builder, gone, other)}
    await store.flush(list(write_grants(store, SMALL, held, first, NOW)))
    second = {key_of(builder): build_holding(builder, 0b011)}
    await store.flush(list(write_grants(store, SMALL, held, second, NOW + 5)))
    third = {key_of(builder): build_holding(builder, 0b110)}
    await store.flush(list(write_grants(store, SMALL, held, third, NOW + 9)))
    found = await load_grants(store, SMALL)
    assert found.keys() == {key_of(builder), key_of(other)}
    assert found == held
    births = dict(found[key_of(builder)].grants.births)
    assert births == {NOW + 5: 0b010, NOW + 9: 0b100}


# --- one writer -------------------------------------------------------------------------------------------------------


async def test_a_second_writer_is_refused_while_the_first_renews(connect: Connect) -> None:
    first = await claim_new(connect)
    second = await connect()

    refused = asyncio.Event()

    async def renew() -> None:
        while not refused.is_set():
            await first.renew()
            await asyncio.sleep(0.1)

    renewing = asyncio.ensure_future(renew())
    with pytest.raises(StoreBusy, match=f"process {os.getpid()} on .*one writer a store"):
        await within(10, second.claim())
    refused.set()
    await renewing  # not cut off: a flush whose answer is not taken was written all the same
    await first.flush([("SET", "mine", "1")])


async def test_no_shard_is_given_away_while_the_whole_store_is_taken_out_of_kafka_mode(connect: Connect) -> None:
    ledger, whole = await connect(), await connect()
    await enter_kafka_mode(ledger)
    hold = ShardHold(ledger, 5, Member("cluster", "group", ledger.member))
    await whole.claim()
    assert not await hold.claim(1)
    # Its process is gone: nobody renews.
    await whole.client.hincrbyfloat(whole.key(b"meta"), "renewed", -11)
    assert await hold.claim(1)
    await whole.client.hincrbyfloat(whole.key(b"meta"), "renewed", 11)
    assert not await hold.claim(2)
    await whole.release()
    assert await hold.claim(2)


async def test_who_only_asks_for_a_store_in_kafka_mode_ends_no_ledger(connect: Connect) -> None:
    ledger = await connect()
    await ledger.client.flushdb()
    await enter_kafka_mode(ledger)
    replay = await connect()
    await replay.claim()
    await check_mode(ledger)
    await replay.flush([("HDEL", replay.key(b"meta"), "mode")])
    with pytest.raises(StoreBusy, match="held as a whole by"):
        await check_mode(ledger)


async def test_a_standby_takes_over_when_the_owner_gives_up(connect: Connect) -> None:
    waits: list[str] = []
    first = await claim_new(connect)
    second = await connect(wait=waits.append)
    claiming = asyncio.ensure_future(second.claim(standby=True))
    for _ in range(12):
        await first.renew()
        await asyncio.sleep(0.1)
    assert not claiming.done()
    assert waits
    await first.close()
    await within(3, claiming)
    await second.flush([("SET", "mine", "2")])


async def test_a_silent_owner_is_replaced_after_a_while(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "OWNER_SILENT_SECONDS", 1.0)
    first = await claim_new(connect)
    second = await connect()
    begin = time.monotonic()
    await within(5, second.claim())
    assert time.monotonic() - begin >= 0.4
    with pytest.raises(StoreLost, match="was taken by"):
        await first.flush([("SET", "mine", "1")])
    assert await second.client.get("mine") is None


async def test_an_owner_that_was_killed_on_this_host_is_replaced_at_once(
    connect: Connect, server: EmbeddedRedis
) -> None:
    with start_writer(server.url) as writer:
        read_number(writer)
        writer.kill()
        writer.wait()
    second = await connect()
    await within(2, second.claim())


async def test_two_that_claim_at_once_do_not_both_hold_it(connect: Connect) -> None:
    stores = [await connect() for _ in range(6)]

    async def claim(store: Store) -> bool:
        try:
            await within(1.0, store.claim())
        except (TimeoutError, StoreBusy):
            return False
        return True

    assert sum(await asyncio.gather(*(claim(store) for store in stores))) == 1


async def test_a_stale_writer_is_refused(connect: Connect) -> None:
    first, second = await claim_new(connect), await connect()
    state = open_state(first)
    fill_ledger(state.ledger, 0, 50)
    await state.flush()
    await second.claim(exclusive=True)
    before = await read_all_keys(first)
    fill_ledger(state.ledger, 50, 50)
    with pytest.raises(StoreLost, match="was taken by"):
        await state.flush()
    with pytest.raises(StoreLost):
        await first.renew()
    await first.close()
    assert await read_all_keys(second) == before
    await second.renew()


async def test_another_layout_is_refused(connect: Connect) -> None:
    store = await connect()
    await store.client.hset("gapwatch:meta", mapping={"layout": "99"})
    with pytest.raises(StoreError, match="layout 99"):
        await store.claim()


# --- a Redis that came back older -------------------------------------------------------------------------------------


async def dump_all(store: Store) -> dict[bytes, bytes]:
    return {key: await store.client.dump(key) async for key in store.client.scan_iter(b"*")}


async def restore_all(store: Store, dumped: dict[bytes, bytes]) -> None:
    await store.client.flushall()
    for key, value in dumped.items():
        await store.client.restore(key, 0, value)


@pytest.mark.parametrize("by", ["flush", "renew"])
@pytest.mark.parametrize("older", ["some flushes", "empty"])
async def test_a_redis_that_came_back_older_is_seen(connect: Connect, by: str, older: str) -> None:
    store = await claim_new(connect)
    state = open_state(store)
    fill_ledger(state.ledger, 0, 50)
    await state.flush()
    dumped = await dump_all(store)
    fill_ledger(state.ledger, 50, 50)
    await state.flush()
    await restore_all(store, dumped if older == "some flushes" else {})
    with pytest.raises(StoreLost, match="came back older"):
        await (state.flush() if by == "flush" else store.renew())
    # It goes on from what is there, as soon as it asks.
    await within(3, store.claim(standby=True))
    again = await load_state(store)
    expected = build_ledger(1_800, 5)
    fill_ledger(expected, 0, 50 if older == "some flushes" else 0)
    assert read_cells(again.ledger, SMALL.names) == read_cells(expected, SMALL.names)


async def test_older_files_under_a_redis_are_seen(tmp_path: Path) -> None:
    """The server ends, an older copy of its append-only files is put back, and it starts again on the same socket."""
    folder = tmp_path / "state"
    redis = start_redis(folder)
    copy = tmp_path / "copy"
    try:
        store = await Store.connect(redis.url)
        await store.claim()
        state = open_state(store)
        fill_ledger(state.ledger, 0, 50)
        await state.flush()
        redis.stop()
        shutil.copytree(folder / "redis", copy)
        redis = start_redis(folder)
        fill_ledger(state.ledger, 50, 50)
        await state.flush()
        redis.stop()
        shutil.rmtree(folder / "redis")
        shutil.copytree(copy, folder / "redis")
        redis = start_redis(folder)
        with pytest.raises(StoreLost, match="came back older"):
            await store.renew()
        await store.close()
    finally:
        redis.stop()


# --- a Redis that is full or away -------------------------------------------------------------------------------------


async def test_a_full_redis_stops_progress_and_nothing_is_lost(connect: Connect) -> None:
    waits: list[str] = []
    store = await claim_new(connect, wait=waits.append)
    state = open_state(store)
    fill_ledger(state.ledger, 0, 200)
    await state.flush()
    used = (await store.client.info("memory"))["used_memory"]
    await store.client.config_set("maxmemory", used // 2)
    before = await read_all_keys(store)
    fill_ledger(state.ledger, 200, 200)
    flushing = asyncio.ensure_future(state.flush())
    await asyncio.sleep(0.6)
    assert not flushing.done()
    assert "maxmemory" in waits[-1]
    assert await read_all_keys(store) == before
    await store.client.config_set("maxmemory", 0)
    await within(30, flushing)
    again = await load_state(store)
    assert read_cells(again.ledger, SMALL.names) == read_cells(state.ledger, SMALL.names)


class PlainRedis:
    """A redis-server on a port of its own that keeps its data, as one of the user's would; it can be killed and frozen."""

    OPTIONS = (
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--loglevel",
        "warning",
    )

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(
            [find_server(), "--port", str(self.port), *self.OPTIONS, "--dir", str(self._folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(500):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                probe.sendall(b"PING\r\n")
                if probe.recv(5) == b"+PONG":
                    return self.process
            time.sleep(0.01)
        raise AssertionError("the redis-server did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def plain_redis(tmp_path: Path) -> Iterator[PlainRedis]:
    redis = PlainRedis(tmp_path)
    yield redis
    redis.kill()


async def test_a_redis_that_was_killed_and_came_back_goes_on(plain_redis: PlainRedis) -> None:
    waits: list[str] = []
    store = await Store.connect(plain_redis.url, wait=waits.append)
    await store.claim()
    state = open_state(store)
    fill_ledger(state.ledger, 0, 100)
    await state.flush()
    plain_redis.kill()
    fill_ledger(state.ledger, 100, 100)
    flushing = asyncio.ensure_future(state.flush())
    await asyncio.sleep(0.5)
    assert not flushing.done()
    assert waits
    await asyncio.to_thread(plain_redis.start)
    await within(30, flushing)
    again = await load_state(store)
    assert read_cells(again.ledger, SMALL.names) == read_cells(state.ledger, SMALL.names)
    await store.close()


async def test_a_frozen_redis_holds_up_and_nothing_more(plain_redis: PlainRedis) -> None:
    store = await Store.connect(plain_redis.url)
    await store.claim()
    state = open_state(store)
    fill_ledger(state.ledger, 0, 100)
    plain_redis.process.send_signal(signal.SIGSTOP)
    flushing = asyncio.ensure_future(state.flush())
    await asyncio.sleep(0.5)
    assert not flushing.done()
    plain_redis.process.send_signal(signal.SIGCONT)
    await within(30, flushing)
    again = await load_state(store)
    assert read_cells(again.ledger, SMALL.names) == read_cells(state.ledger, SMALL.names)
    await store.close()


async def test_a_redis_that_will_not_come_back_is_an_error(tmp_path: Path) -> None:
    redis = start_redis(tmp_path / "state")
    store = await Store.connect(redis.url, alive=lambda: None if redis.poll() is None else "it ended")
    await store.claim()
    os.kill(redis.pid, signal.SIGKILL)
    try:
        with pytest.raises(StoreError, match="it ended"):
            await within(5, store.flush([("SET", "a", "b")]))
    finally:
        await store.close()
        redis.stop()


# --- an answer that got lost ------------------------------------------------------------------------------------------


class Proxy:
    """Between a store and its Redis; where `drops` is set it cuts the connection in place of the next answer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.drops = False
        self.dropped = 0
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Proxy"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield self
        server.close()
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_unix_connection(str(self._path))

        async def forward() -> None:
            while chunk := await reader.read(65_536):
                to_redis.write(chunk)
                await to_redis.drain()

        async def answer() -> None:
            while chunk := await from_redis.read(65_536):
                if self.drops:
                    self.drops = False
                    self.dropped += 1
                    return
                writer.write(chunk)
                await writer.drain()

        ways = [asyncio.ensure_future(way()) for way in (forward, answer)]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for each in (writer, to_redis):
            each.close()
            with suppress(OSError):
                await each.wait_closed()


async def test_a_flush_whose_answer_got_lost_is_not_applied_twice(server: EmbeddedRedis, connect: Connect) -> None:
    async with Proxy(server.path).open() as proxy:
        store = await Store.connect(proxy.url)
        await store.claim()
        await store.flush([("INCRBY", "counter", "1")])
        proxy.drops = True
        await store.flush([("INCRBY", "counter", "10"), ("APPEND", "log", "once")])
        assert proxy.dropped == 1
        await store.flush([("INCRBY", "counter", "100")])
        assert await store.client.get("counter") == b"111"
        assert await store.client.get("log") == b"once"
        assert await store.client.hget("gapwatch:meta", "flush") == b"3"
        await store.close()


async def test_a_connection_that_is_cut_off_is_made_anew(connect: Connect) -> None:
    store, other = await claim_new(connect), await connect()
    for number in range(5):
        await other.client.client_kill_filter(_type="normal", skipme=True)
        await store.flush([("INCRBY", "counter", "1"), ("RPUSH", "numbers", str(number))])
    assert await store.client.get("counter") == b"5"
    assert await store.client.lrange("numbers", 0, -1) == [b"0", b"1", b"2", b"3", b"4"]


# --- a flush is whole -------------------------------------------------------------------------------------------------


async def test_a_command_of_any_length_goes_through(connect: Connect) -> None:
    """Lua's stack holds some 8,000 arguments of one command."""
    store = await claim_new(connect)
    pairs = [part for number in range(20_000) for part in (b"field%d" % number, number)]
    await store.flush([("HSET", b"wide", *pairs), ("SET", b"\x00\xff\r\n", b"\xfe" * 70_000)])
    assert await store.client.hlen(b"wide") == 20_000
    assert await store.client.get(b"\x00\xff\r\n") == b"\xfe" * 70_000


WRITER = """
import asyncio, sys
sys.path[:0] = {paths!r}
from building import build_ledger, build_principal, build_session, build_small_catalogue, build_use
from processor.shell.redis import Store
from processor.shell.state import State

async def write(url):
    store = await Store.connect(url)
    await store.claim()
    ledger = build_ledger(1800, 5)
    state = State(store, ledger, build_small_catalogue(), 91)
    await state.load()
    sessions = [build_session(build_principal(f"role{{at}}")) for at in range(40)]
    number = 0
    while True:
        for session in sessions:
            number += 1
            ledger.apply_uses([build_use(ledger, session, [number % 13], {now} + number, number)])
            state.move(b"source", b"%d" % number)
            if number % 7 == 0:
                await state.flush()
                if number == 70:
                    print(number, flush=True)

asyncio.run(write(sys.argv[1]))
"""


def start_writer(url: str) -> subprocess.Popen[bytes]:
    """A process that applies one use after another by 40 roles, and flushes after every seventh."""
    paths = [str(ROOT), str(ROOT / "tests")]
    return subprocess.Popen(
        [sys.executable, "-c", WRITER.format(paths=paths, now=NOW), url], stdout=subprocess.PIPE, stderr=None
    )


def read_number(writer: subprocess.Popen[bytes]) -> int:
    assert writer.stdout is not None
    return int(writer.stdout.readline())


async def test_a_writer_that_is_killed_leaves_a_whole_prefix(connect: Connect, server: EmbeddedRedis) -> None:
    store = await connect()
    for pause in (0.0, 0.03, 0.11):
        await store.client.flushall()
        with start_writer(server.url) as writer:
            await asyncio.to_thread(read_number, writer)
            await asyncio.sleep(pause)
            writer.kill()
            writer.wait()
        found = await load_state(store)
        applied = int(found.positions[b"source"])
        assert applied >= 70
        assert applied % 7 == 0
        expected = build_ledger(1_800, 5)
        sessions = [build_session(build_principal(f"role{at}")) for at in range(40)]
        for number in range(1, applied + 1):
            session = sessions[(number - 1) % 40]
            expected.apply_uses([build_use(expected, session, [number % 13], NOW + number, number)])
        assert read_cells(found.ledger, SMALL.names) == read_cells(expected, SMALL.names)
        assert found.ledger.tally.classes == expected.tally.classes


# --- the budget -------------------------------------------------------------------------------------------------------


async def test_bytes_of_a_pair_are_within_the_budget(connect: Connect) -> None:
    """All that a (principal, action) pair takes without its history: days, facets and the duplicates' horizon."""
    store = await connect()
    await store.claim()
    catalogue = load_catalogue()
    ledger = build_ledger(1_800, 5)
    state = open_state(store, ledger, catalogue)
    principals, actions = 2_000, 15
    for at in range(principals):
        session = build_session(build_principal(f"some-application-production-{at:04}"))
        wanted = [(at * 31 + number * 577) % 600 for number in range(actions)]
        ledger.apply_uses([build_use(ledger, session, wanted, NOW + at, at)])
    await state.flush()
    pairs = principals * actions
    kept = [key async for key in store.client.scan_iter(b"*") if not is_history(key)]
    pipe = store.client.pipeline(transaction=False)
    for key in kept:
        pipe.memory_usage(key, samples=0)
    used = sum(await pipe.execute()) + DICT_ENTRY_BYTES * len(kept)
    assert used / pairs <= BYTES_PER_PAIR_MAX


def is_history(key: bytes) -> bool:
    kind = key.removeprefix(b"gapwatch:")
    if kind.startswith(b"{"):
        return kind.partition(b"}:")[2][:2] in (b"d:", b"f:")
    return kind.startswith(b"seen:")


async def test_a_url_that_refuses_is_one_clear_error(plain_redis: PlainRedis) -> None:
    client: Any = aioredis.Redis.from_url(plain_redis.url)
    await client.config_set("requirepass", "secret-word")
    await client.aclose()
    for url in (plain_redis.url, plain_redis.url.replace("//", "//:wrong-word@")):
        with pytest.raises(StoreError, match="refuses the connection") as caught:
            await Store.connect(url)
        assert "wrong-word" not in str(caught.value)
    store = await Store.connect(plain_redis.url.replace("//", "//:secret-word@"))
    assert "secret-word" not in store.where
    await store.claim()
    await store.close()
    with pytest.raises(StoreError, match="--redis"):
        await Store.connect("http://127.0.0.1:1")
