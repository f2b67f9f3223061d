"""A ledger's state -> the commands of a flush, and back at the start."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from processor.core.catalogue import Catalogue
from processor.core.compiled import Words
from processor.core.facets import pack_facets
from processor.core.ledger import Ledger
from processor.core.sessions import SHARDS
from processor.core.tally import Tally
from processor.core.usage import PrincipalUsage
from processor.shell.action_names import ActionNames
from processor.shell.commands import Command
from processor.shell.day_packer import DayPacker
from processor.shell.layout import pack_cell, pack_principal, unpack_cell, unpack_principal
from processor.shell.modes import KAFKA, ShardPart, read_parts
from processor.shell.redis import Hold, Store
from processor.shell.sparing import Sparing

_COUNTERS = ("newest", "second_newest", "late")
_LOAD_BATCH = 500


@dataclass(slots=True)
class Written:
    """What the store holds of the counters, so that only what changed is written."""

    counters: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    unmapped: dict[str, int] = field(default_factory=dict)
    accounts: dict[str, int] = field(default_factory=dict)
    newest_day: int = 0


class State:
    """Ties a ledger to its store. `days_kept` day buckets are kept: the longest window and one more."""

    def __init__(self, store: Hold, ledger: Ledger, catalogue: Catalogue, days_kept: int) -> None:
        self.store = store
        self.ledger = ledger
        self.names = ActionNames(catalogue)
        self.days_kept = days_kept
        self.positions: dict[bytes, bytes] = {}
        self._written = Written()
        self._moved: dict[bytes, bytes] = {}
        self._forgotten: set[bytes] = set()
        self._spans: set[int] = set()
        self._sparing = Sparing(ledger)
        heads = [store.shard_key(shard, b"d", b"") for shard in range(SHARDS)]
        self._day_packer = DayPacker(heads, ledger, self.names)
        self.parts: list[ShardPart] = []
        self.is_divided = False

    def move(self, source: bytes, position: bytes) -> None:
        """Note how far a source is applied; stored with the next flush."""
        self.positions[source] = position
        self._moved[source] = position

    def forget(self, sources: Iterable[bytes]) -> None:
        """Note that positions are no longer needed; removed with the next flush."""
        for source in sources:
            if self.positions.pop(source, None) is not None:
                self._moved.pop(source, None)
                self._forgotten.add(source)

    async def load(self) -> None:
        """Take the whole state of the store into the ledger, which must be new."""
        store = self.store
        tally = self.ledger.tally
        found = await store.read_many(
            [
                ("HGETALL", store.key(name))
                for name in (b"meta", b"rejected", b"unmapped", b"accounts", b"files", b"names")
            ]
        )
        meta, rejected, unmapped, accounts, files, names = (dict(answer) for answer in found)
        for name in tally.classes:
            tally.classes[name] = int(meta.get(b"class:" + name.encode(), 0))
        for name in _COUNTERS:
            setattr(tally, name, int(meta.get(name.encode(), 0)))
        for loaded, into in ((rejected, tally.rejected), (unmapped, tally.unmapped)):
            into.update((key.decode(), int(value)) for key, value in loaded.items())
        for account_id, first in accounts.items():
            tally.log_of(account_id.decode(), int(first))
        self.positions = dict(files)
        self.names.load(names)
        self._note_written()
        self.parts = await read_parts(store) if isinstance(store, Store) else []
        for part in self.parts:
            self.names.load(part.names, mark=False)
        await self._load_principals()
        await self._load_horizon(meta)
        self.is_divided = meta.get(b"mode") == KAFKA
        if self.is_divided:
            self._add_parts()

    def _add_parts(self) -> None:
        """Add up what the shards keep for themselves in Kafka mode; the next flush would write it as the whole store's."""
        tally, horizon = self.ledger.tally, self.ledger.horizon
        spans: dict[int, list[Words]] = {}
        for part in self.parts:
            for name in tally.classes:
                tally.classes[name] += int(part.meta.get(b"class:" + name.encode(), 0))
            tally.late += int(part.meta.get(b"late", 0))
            horizon.floor = max(horizon.floor, int(part.meta.get(b"floor", 0)))
            for account_id, first in part.accounts.items():
                log = tally.log_of(account_id, first)
                log.first = min(log.first, first)
            for number, hashes in part.seen.items():
                spans.setdefault(number, []).append(hashes)
        for number in sorted(spans):
            horizon.load(number, np.concatenate(spans[number]), stored=False)
        self.names.stored -= {self.names.find(packed) for part in self.parts for packed in part.names}

    async def _load_principals(self) -> None:
        store = self.store
        by_shard = await store.read_many([("HGETALL", store.shard_key(shard, b"p")) for shard in store.shards])
        listed = [
            (shard, key, packed)
            for shard, answer in zip(store.shards, by_shard, strict=True)
            for key, packed in dict(answer).items()
        ]
        for batch in _batched(listed, _LOAD_BATCH):
            cells = await store.read_many([("HGETALL", store.shard_key(shard, b"u", key)) for shard, key, _ in batch])
            for (_, _, packed), answer in zip(batch, cells, strict=True):
                usage = self.ledger.open_usage(unpack_principal(packed))
                usage.stored = True
                find = self.names.find
                usage.cells = {(action := find(name)): unpack_cell(cell, action) for name, cell in dict(answer).items()}
        self.ledger.dirty.clear()

    async def _load_horizon(self, meta: Mapping[bytes, bytes]) -> None:
        numbers = [int(number) for number in meta.get(b"spans", b"").split()]
        horizon = self.ledger.horizon
        horizon.floor = int(meta.get(b"floor", 0))
        for number in sorted(numbers):
            (packed,) = await self.store.read_many([("GET", self.store.key(b"seen", b"%d" % number))])
            self._spans.add(number)
            if packed:
                self.ledger.horizon.load(number, np.frombuffer(packed, np.uint64))

    def _note_written(self) -> None:
        tally = self.ledger.tally
        written = self._written
        written.counters = self._read_counters()
        written.rejected = dict(tally.rejected)
        written.unmapped = dict(tally.unmapped)
        written.accounts = tally.accounts
        written.newest_day = tally.newest // 86_400

    def _read_counters(self) -> dict[str, int]:
        tally = self.ledger.tally
        counters = {f"class:{name}": count for name, count in tally.classes.items()}
        return counters | {name: getattr(tally, name) for name in _COUNTERS}

    async def flush(self, more: Iterable[Command] = ()) -> None:
        """Write all that changed since the last flush, and `more` with it. Raises StoreLost as Store.flush does.

        `more` is iterated over in the same step as the ledger is read: what it says may depend on that.
        """
        changed = list(self.ledger.take_dirty())
        await self._read_behind(changed)
        commands = [*self._write_counters(), *more]
        for usage in changed:
            commands += self._write_usage(usage)
        days = self.ledger.days
        packed = [self._day_packer.pack(days.take(), self._oldest_day())] if days.changes.count else []
        commands += self._write_names(changed)
        for usage in changed:
            usage.dirty.clear()
        commands += self._write_horizon()
        if self._forgotten:
            commands.append(("HDEL", self.store.key(b"files"), *self._forgotten))
            self._forgotten = set()
        if self._moved:
            commands.append(("HSET", self.store.key(b"files"), *itertools.chain.from_iterable(self._moved.items())))
            self._moved = {}
        await self.store.flush(commands, packed)
        del commands, packed  # so that what they took can be given back
        self._sparing.spare(len(changed))

    async def read_facets(self, usage: PrincipalUsage) -> None:
        """Bring the facets that the store holds of one principal into memory."""
        (answer,) = await self.store.read_many([("HGETALL", self.store.shard_key(usage.shard, b"f", usage.key))])
        for packed_action, packed in dict(answer).items():
            cell = usage.cells.get(self.names.find(packed_action))
            if cell is not None and cell.facets is None:
                self._sparing.hold_facets(cell, packed)

    async def _read_behind(self, changed: Iterable[PrincipalUsage]) -> None:
        """Read what must be merged before it can be written whole: facets not in memory, counts of earlier days."""
        facets = [
            (usage, cell)
            for usage in changed
            for cell in map(usage.cells.__getitem__, usage.dirty)
            if cell.facets is None and cell.fresh
        ]
        ledger, hashes = self.ledger, self.names.hashes
        days = ledger.days.find_behind(ledger.loaded)
        usages = map(ledger.usages.__getitem__, ledger.owners[days.cells].tolist())
        actions = ledger.actions[days.cells].tolist()
        wanted: list[Command] = [
            ("HGET", self.store.shard_key(usage.shard, b"f", usage.key), hashes[cell.action]) for usage, cell in facets
        ]
        wanted += [
            ("HGET", self.store.shard_key(usage.shard, b"d", b"%d" % day, usage.key), hashes[action])
            for usage, day, action in zip(usages, days.days.tolist(), actions, strict=True)
        ]
        answers = await self.store.read_many(wanted)
        for (_, cell), packed in zip(facets, answers, strict=False):
            self._sparing.hold_facets(cell, packed or b"")
        ledger.days.learn(days, [int(count or 0) for count in answers[len(facets) :]])

    def _write_usage(self, usage: PrincipalUsage) -> Iterator[Command]:
        hashes = self.names.hashes
        cells: list[bytes] = []
        facets: list[bytes] = []
        for action in usage.dirty:
            cell = usage.cells[action]
            cell.dirty = False
            cells += (hashes[action], pack_cell(cell))
            if cell.fresh:
                packed = pack_facets(cell.read_facets())
                self._sparing.hold_facets(cell, packed)
                cell.fresh = ()
                facets += (hashes[action], packed)
        if not usage.stored:
            usage.stored = True
            yield ("HSET", self.store.shard_key(usage.shard, b"p"), usage.key, pack_principal(usage.principal))
        if cells:
            yield ("HSET", self.store.shard_key(usage.shard, b"u", usage.key), *cells)
        if facets:
            yield ("HSET", self.store.shard_key(usage.shard, b"f", usage.key), *facets)

    def _oldest_day(self) -> int:
        return self.ledger.tally.newest // 86_400 - self.days_kept

    def _write_names(self, changed: Iterable[PrincipalUsage]) -> Iterator[Command]:
        new = {action for usage in changed for action in usage.dirty if action not in self.names.stored}
        if new:
            self.names.stored |= new
            pairs = [(self.names.hashes[action], self.names.names[action].encode()) for action in sorted(new)]
            yield ("HSET", self.store.key(b"names"), *itertools.chain.from_iterable(pairs))

    def _write_horizon(self) -> Iterator[Command]:
        known = set(self._spans)
        for number, hashes in self.ledger.horizon.take_fresh():
            known.add(number)
            yield ("APPEND", self.store.key(b"seen", b"%d" % number), hashes.tobytes())
        kept = known & set(self.ledger.horizon.numbers)
        for number in known - kept:
            yield ("UNLINK", self.store.key(b"seen", b"%d" % number))
        if kept != self._spans:
            self._spans = kept
            numbers = " ".join(map(str, sorted(kept)))
            yield ("HSET", self.store.key(b"meta"), b"spans", numbers, b"floor", self.ledger.horizon.floor)

    def _write_counters(self) -> Iterator[Command]:
        tally, written, key = self.ledger.tally, self._written, self.store.key
        changes = (
            (key(b"meta"), written.counters, self._read_counters()),
            (key(b"rejected"), written.rejected, tally.rejected),
            (key(b"unmapped"), written.unmapped, tally.unmapped),
            (key(b"accounts"), written.accounts, tally.accounts),
        )
        for name, before, now in changes:
            new = {field: count for field, count in now.items() if before.get(field) != count}
            if new:
                yield ("HSET", name, *itertools.chain.from_iterable(new.items()))
        yield from self._forget_days(written.newest_day, tally)
        self._note_written()

    def _forget_days(self, newest_before: int, tally: Tally) -> Iterator[Command]:
        """Remove the buckets of days that fell out of the longest window: by shard, as each midnight comes for all principals."""
        oldest_before, oldest = newest_before - self.days_kept, self._oldest_day()
        if not newest_before or oldest <= oldest_before:
            return
        by_shard: dict[int, list[bytes]] = {}
        for usage in self.ledger.principals.values():
            by_shard.setdefault(usage.shard, []).append(usage.key)
        for day in range(oldest_before, min(oldest, newest_before + 1)):
            for shard, keys in by_shard.items():
                start = self.store.shard_key(shard, b"d", b"%d" % day, b"")
                yield ("UNLINK", *(start + key for key in keys))


def _batched(listed: list[tuple[int, bytes, bytes]], size: int) -> Iterator[list[tuple[int, bytes, bytes]]]:
    for at in range(0, len(listed), size):
        yield listed[at : at + size]
