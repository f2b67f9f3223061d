"""A store that was filled by one process goes on by shard in Kafka mode, and back.

Going to Kafka mode divides what is kept once for the whole store among the shards, in one transaction; coming back puts it
together again with the first flush. Counters stay where they are and are added up by whoever reads.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import numpy as np

from processor.core.compiled import Words
from processor.core.key_tables import SHARD_SHIFT
from processor.core.records import TIME_MAX
from processor.core.sessions import SHARDS
from processor.shell.commands import Command
from processor.shell.holds import SHARD_SILENT_SECONDS
from processor.shell.owners import name_owner
from processor.shell.redis import EMBEDDED, LAYOUT, Store, StoreBusy, StoreLost, StoreRefused

KAFKA = b"kafka"


@dataclass(frozen=True, slots=True)
class ShardPart:
    """What a shard keeps for itself in Kafka mode. `seen` is by span; `hole_end` 0 where nothing was missed."""

    number: int
    meta: dict[bytes, bytes]
    accounts: dict[str, int]
    names: dict[bytes, bytes]
    seen: dict[int, Words]

    @property
    def hole_end(self) -> int:
        """Up to when in event time the shard may have missed something."""
        holes = self.meta.get(b"holes")
        return max((end for _, end in msgspec.msgpack.decode(holes)), default=0) if holes else 0


async def read_mode(store: Store) -> bytes:
    """`kafka`, or empty for a store of one process."""
    ((mode,),) = await store.read_many([("HMGET", store.key(b"meta"), "mode")])
    return mode or b""


async def read_parts(store: Store) -> list[ShardPart]:
    """What the shards that have been claimed in Kafka mode keep for themselves."""
    names = (b"meta", b"accounts", b"names")
    answers = await store.read_many(
        [("HGETALL", store.shard_key(shard, name)) for shard in store.shards for name in names]
    )
    parts = []
    for shard in store.shards:
        meta, accounts, action_names = (dict(each) for each in answers[3 * shard : 3 * shard + 3])
        if not meta:
            continue
        spans = [int(number) for number in meta.get(b"spans", b"").split()]
        packed = await store.read_many([("GET", store.shard_key(shard, b"seen", b"%d" % number)) for number in spans])
        parts.append(
            ShardPart(
                shard,
                meta,
                {account.decode(): int(first) for account, first in accounts.items()},
                action_names,
                {number: np.frombuffer(each or b"", np.uint64) for number, each in zip(spans, packed, strict=True)},
            )
        )
    return parts


async def enter_kafka_mode(store: Store) -> None:
    """Divide a store among its shards, unless it is; waits while another process holds the whole of it. Raises StoreRefused for
    another layout."""
    while True:
        found = await store.read_meta()
        if found.get("mode") == KAFKA.decode() and "owner" not in found:
            return
        await store.claim(standby=True, mode=KAFKA.decode())
        with suppress(StoreLost):  # Frozen meanwhile, and another one has done it, or does.
            if await read_mode(store) != KAFKA:
                await store.flush(await _divide(store))
            await store.persist(store.release, "give up the whole store")


async def check_mode(store: Store) -> None:
    """Raise StoreBusy where a process has taken the whole store over: it and ledgers would both write it. One that only asks for
    it is refused while ledgers live, and nobody must end for that."""
    ((owner, mode),) = await store.read_many([("HMGET", store.key(b"meta"), "owner", "mode")])
    if owner and owner.startswith(EMBEDDED.encode()) and mode != KAFKA:
        raise StoreBusy(f"the store at {store.where} is held as a whole by {name_owner(owner)}: stop one of the two")


async def _divide(store: Store) -> list[Command]:
    meta, accounts, names = (
        dict(answer)
        for answer in await store.read_many([("HGETALL", store.key(name)) for name in (b"meta", b"accounts", b"names")])
    )
    spans = [int(number) for number in meta.get(b"spans", b"").split()]
    newest = meta.get(b"newest", b"0")
    commands: list[Command] = [("HSET", store.key(b"meta"), "mode", KAFKA), ("HDEL", store.key(b"meta"), "spans")]
    claimed = await store.read_many([("HMGET", store.shard_key(shard, b"meta"), "offset") for shard in range(SHARDS)])
    divided = [shard for shard, (offset,) in enumerate(claimed) if offset is None]
    for shard in divided:
        commands.append(
            ("HSET", store.shard_key(shard, b"meta"), "layout", LAYOUT, "newest", newest,
             "floor", meta.get(b"floor", b"0"), "spans", meta.get(b"spans", b""))
        )  # fmt: skip
        for name, held in ((b"accounts", accounts), (b"names", names)):
            if held:
                pairs = [part for pair in held.items() for part in pair]
                commands.append(("HSET", store.shard_key(shard, name), *pairs))
    for number in spans:
        (packed,) = await store.read_many([("GET", store.key(b"seen", b"%d" % number))])
        hashes = np.frombuffer(packed or b"", np.uint64)
        shards = hashes >> np.uint64(SHARD_SHIFT)
        commands += [
            ("SET", store.shard_key(shard, b"seen", b"%d" % number), hashes[shards == shard].tobytes())
            for shard in np.unique(shards).tolist()
            if shard in divided
        ]
        commands.append(("UNLINK", store.key(b"seen", b"%d" % number)))
    return commands


async def check_drained(store: Store, parts: Iterable[ShardPart], *, accept_hole: bool) -> None:
    """Refuse to take a store out of Kafka mode while ledgers write it, or before all that was sent is applied."""
    seconds, _ = await store.persist(store.client.time, "read its clock")
    behind = 0
    for part in parts:
        owner = part.meta.get(b"owner")
        if owner and seconds - float(part.meta.get(b"renewed", b"0")) <= SHARD_SILENT_SECONDS:
            raise StoreBusy(
                f"the store at {store.where} is in Kafka mode, and shard {part.number} is held by {name_owner(owner)}: stop the "
                "intakes, wait until the ledgers have read all, and stop those"
            )
        behind += b"offset" in part.meta and b"drained" not in part.meta
    if behind and not accept_hole:
        raise StoreRefused(
            f"the store at {store.where} was left in Kafka mode with {behind} shards that may not have applied all of topic uses: "
            "start `gapwatch ledger` without intakes until it has read all, or give --accept-hole"
        )


def leave_kafka_mode(store: Store, parts: Iterable[ShardPart], newest: int, *, accept_hole: bool) -> list[Command]:
    """What to write to come back, with the flush that writes what the shards kept as the whole store's. With `accept_hole` the
    shards that had not applied everything have a hole up to `newest`."""
    shared = [store.key(name) for name in (b"leases", b"members", b"reached", b"queues")]
    commands: list[Command] = [("HDEL", store.key(b"meta"), "mode"), ("UNLINK", *shared)]
    for part in parts:
        key = store.shard_key(part.number, b"meta")
        names = (b"meta", b"accounts", b"names", b"files")
        seen = (store.shard_key(part.number, b"seen", b"%d" % number) for number in part.seen)
        commands.append(("UNLINK", *(store.shard_key(part.number, name) for name in names), *seen))
        end = part.hole_end if part.hole_end < TIME_MAX else newest
        if accept_hole and b"offset" in part.meta and b"drained" not in part.meta:
            end = newest
        commands.append(("HSET", key, "layout", LAYOUT))
        if end:
            commands.append(("HSET", key, "holes", msgspec.msgpack.encode([(0, end)])))
    return commands
