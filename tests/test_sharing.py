"""How intakes share streams, queues and files: fair shares of leases, stale holders, and how far all is sent together."""

from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from test_run import plain_redis

from processor.core.tally import Tally
from processor.shell.embedded import EmbeddedRedis
from processor.shell.layout import Position
from processor.shell.leases import Leases, Move, count_now
from processor.shell.objects import pack_place
from processor.shell.redis import Store, StoreLost
from processor.shell.sharing import Shared
from processor.shell.stream_places import END, ShardPosition

__all__ = ["plain_redis"]

NOW = 1_795_000_000
SHARDS = [b"shard %010d" % number for number in range(6)]
FLAT = dict.fromkeys(SHARDS[:4], ())


class One:
    """One intake."""

    def __init__(self, store: Store, digest: bytes) -> None:
        self.store = store
        self.leases = Leases(store)
        self.shared = Shared(store, self.leases, digest)
        self.shared.add_stream("s")

    async def choose(self, lineage: Any = FLAT, ready: Any = None, **reached: float) -> set[bytes]:
        listed = list(lineage) if ready is None else ready
        times = {SHARDS[int(name[1:])]: at for name, at in reached.items()}
        return await self.shared.choose("s", lineage, listed, times)

    async def move(self, name: bytes, before: bytes, position: bytes, *, ends: bool = False) -> None:
        moves = [Move(name, name, before, position, ends)]
        await self.leases.advance(moves, count_now(Tally()))
        self.shared.note_stored(moves)


Intake = Callable[..., Coroutine[Any, Any, One]]


@pytest.fixture
async def intake(plain_redis: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Intake]:
    stores: list[Store] = []

    async def start(digest: bytes = b"same") -> One:
        stores.append(await Store.connect(plain_redis.url))
        return One(stores[-1], digest)

    yield start
    for store in stores:
        await store.close()


async def age(store: Store, key: bytes, field: bytes, seconds: int) -> None:
    """Let a lease or a member have been silent for some seconds."""
    when, _, rest = (await store.client.hget(store.key(key), field)).partition(b" ")
    await store.client.hset(store.key(key), field, b"%d %b" % (int(when) - seconds, rest))


# --- leases -------------------------------------------------------------------------------------------------------------


async def test_each_has_a_fair_share_and_gives_up_what_is_more(intake: Intake) -> None:
    one = await intake()
    assert await one.choose() == set(SHARDS[:4])
    two = await intake()
    assert await two.choose() == set()
    kept = await one.choose()
    assert len(kept) == 2
    left = FLAT.keys() - kept
    # What was handed out of a shard is stored before another one reads on.
    for name in left:
        await one.shared.leave(name, b"9" if name == max(left) else b"")
    assert await one.choose() == kept
    assert await two.choose() == {min(left)}
    await one.move(max(left), b"", b"9")
    assert await one.choose() == kept
    assert await two.choose() == left
    assert two.shared.positions[max(left)] == b"9"
    assert (await one.choose(), await two.choose()) == (kept, left)


async def test_who_is_silent_is_replaced_and_can_store_nothing_more(intake: Intake) -> None:
    one, two = await intake(), await intake()
    assert await one.choose() == set(SHARDS[:4])
    await one.move(SHARDS[0], b"", b"1")
    await age(one.store, b"members", one.store.member.encode(), 9)
    for name in FLAT:
        await age(one.store, b"leases", name, 9)
    assert await two.choose() == set(SHARDS[:4])
    assert two.shared.positions[SHARDS[0]] == b"1"
    with pytest.raises(StoreLost, match="another intake has the lease"):
        await one.move(SHARDS[0], b"1", b"2")
    with pytest.raises(StoreLost, match="another intake has taken 4 shards"):
        await one.choose()
    # Nor once it has the lease again, as long as it has not read where the shard is.
    await two.move(SHARDS[0], b"1", b"5")
    await two.leases.give_up([SHARDS[0]])
    assert await one.leases.take([SHARDS[0]]) == [True]
    with pytest.raises(StoreLost, match="a source is not where it was left"):
        await one.move(SHARDS[0], b"1", b"2")


async def test_a_shard_that_ended_is_nobodys(intake: Intake) -> None:
    one = await intake()
    await one.choose()
    await one.move(SHARDS[0], b"", END, ends=True)
    # Asked for once more by who has not seen its end yet.
    assert await one.choose() == set(SHARDS[1:4])
    assert not await one.store.client.hexists(one.store.key(b"leases"), SHARDS[0])


async def test_a_file_is_read_by_one(intake: Intake) -> None:
    one, two = await intake(), await intake()
    file, whole = SHARDS[0], pack_place(Position(3, whole=True), 7)
    assert await one.shared.take(file)
    assert not await two.shared.take(file)
    assert one.shared.held == [file]
    assert one.shared.find_before(file, b"half") == b""
    assert one.shared.find_before(file, whole) == b"half"
    await one.move(file, b"", whole, ends=True)
    assert one.shared.held == []
    assert await two.shared.take(file)
    assert (two.shared.positions[file], two.shared.held) == (whole, [])


async def test_log_files_are_forgotten_after_days_and_nothing_else(intake: Intake) -> None:
    one = await intake()
    one.shared.add_queue("https://q", lambda: 0)
    line, shard = b"l" + bytes(16), ShardPosition().move(["1"], NOW).pack()
    kept = {b"young": pack_place(Position(1, whole=True), 98), b"lines": line, b"shard": shard, b"ended": END}
    old = {b"old %d" % number: pack_place(Position(number, whole=True), 97) for number in range(3_000)}
    await one.store.client.hset(one.store.key(b"files"), mapping=kept | old)
    await one.shared.forget_files(100)
    assert await one.store.client.hgetall(one.store.key(b"files")) == kept


# --- how far all is sent ------------------------------------------------------------------------------------------------

SPLIT = {SHARDS[0]: (), SHARDS[1]: (), SHARDS[2]: (SHARDS[0],), SHARDS[3]: (SHARDS[0],)}
MERGED = {SHARDS[0]: (), SHARDS[1]: (), SHARDS[2]: (SHARDS[0], SHARDS[1])}


@pytest.mark.parametrize(
    ("lineage", "ended", "reached", "expected"),
    [
        (FLAT, (), {0: 50, 1: 40, 2: 60, 3: 70}, 40),
        (FLAT, (), {0: 50, 1: 40, 2: 60}, 0),  # nobody has begun one
        (FLAT, (0,), {0: 10, 1: 40, 2: 60, 3: 70}, 10),  # its children are not listed yet
        (SPLIT, (0,), {0: 10, 1: 40, 2: 60, 3: 70}, 40),
        (SPLIT, (0,), {0: 10, 1: 40, 2: 60}, 10),  # a child that nobody has begun is where its parent was
        (SPLIT, (), {0: 30, 1: 40}, 30),  # listed, but the parent is still being read
        (SPLIT, (0,), {1: 40, 2: 60}, 0),
        (MERGED, (0, 1), {0: 20, 1: 30}, 20),
        (MERGED, (0, 1), {0: 20, 1: 30, 2: 90}, 90),
        (MERGED, (0,), {0: 20, 1: 30}, 20),
        ({}, (), {}, 0),
        (FLAT, (), {0: 5_000, 1: 5_000, 2: 5_000, 3: 5_000}, 100),  # no later than asked for
    ],
)
async def test_the_slowest_shard_holds_all_back(
    intake: Intake, lineage: Any, ended: tuple[int, ...], reached: dict[int, int], expected: int
) -> None:
    one, other = await intake(), await intake()
    assert await other.shared.find_watermark(100) == 0  # not looked at yet
    await one.choose(lineage)
    for number in ended:
        await one.move(SHARDS[number], b"", END, ends=True)
    await one.choose(lineage, **{f"s{number}": at + 0.9 for number, at in reached.items()})
    ready = [name for name in lineage if name not in [SHARDS[number] for number in ended]]
    await other.choose(lineage, ready)
    assert await other.shared.find_watermark(100) == expected
    # Times go forward only, though one that was slow says less.
    await one.choose(lineage, ready, **{f"s{number}": 1 for number in reached})
    await other.choose(lineage, ready)
    assert await other.shared.find_watermark(100) == expected


async def test_a_queue_is_as_far_as_the_slowest_of_those_that_read_it(intake: Intake) -> None:
    one, two = await intake(), await intake()
    watermarks = {"one": 50, "two": 40}
    for each, name in ((one, "one"), (two, "two")):
        each.shared = Shared(each.store, each.leases, b"same")
        each.shared.add_queue("https://q", lambda name=name: watermarks[name])  # type: ignore[misc]  # mypy sees no default
    await one.shared.open()
    assert await one.shared.find_watermark(100) == 50
    # Who begins may receive something old before it has said so.
    await two.shared.open()
    assert await one.shared.find_watermark(100) == 0
    assert await two.shared.find_watermark(100) == 40
    assert await one.shared.find_watermark(100) == 40
    # One that died counts until what it had received is visible to others; one that gave it back, not so long.
    member = two.store.member.encode()
    (field,) = [name for name in await one.store.client.hkeys(one.store.key(b"queues")) if name.endswith(member)]
    until, _, at = (await one.store.client.hget(one.store.key(b"queues"), field)).partition(b" ")
    assert at == b"40"
    await two.shared.close()
    sooner, _, _ = (await one.store.client.hget(one.store.key(b"queues"), field)).partition(b" ")
    assert int(until) - int(sooner) in (119, 120)
    assert await one.shared.find_watermark(100) == 40
    await one.store.client.hset(one.store.key(b"queues"), field, b"%d 40" % (int(until) - 200))
    assert await one.shared.find_watermark(100) == 50
    assert not await one.store.client.hexists(one.store.key(b"queues"), field)


async def test_files_that_anybody_has_read_are_not_to_be_read_again(intake: Intake) -> None:
    one, other = await intake(), await intake()
    whole, part = (pack_place(Position(5, whole=is_whole), 1) for is_whole in (True, False))
    read, begun, new = (bytes([number]) * 16 for number in range(3))
    assert await one.shared.take(read)
    assert await one.shared.take(begun)
    await one.move(read, b"", whole, ends=True)
    await one.move(begun, b"", part)
    assert await other.shared.find_unread([read, begun, new]) == {begun, new}
    assert not await other.shared.take(begun)
    assert await other.shared.take(new)


async def test_intakes_with_other_sources_make_marks_wait(intake: Intake) -> None:
    one, other = await intake(), await intake(b"other")
    await one.choose(s0=50.0, s1=50.0, s2=50.0, s3=50.0)
    assert await one.shared.find_watermark(100) == 50
    await other.choose()
    await one.choose()
    assert await one.shared.find_watermark(100) == 0
    await other.leases.close(other.shared.held)
    await one.choose()
    assert await one.shared.find_watermark(100) == 50


async def test_files_alone_wait_for_nothing(intake: Intake) -> None:
    one = await intake()
    files = Shared(one.store, one.leases, b"same")
    assert await files.find_watermark(100) == 100
    assert await files.find_watermark(0) == 0
