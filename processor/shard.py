"""One shard in Kafka mode: its state in memory, what of `uses` and `grants` it has applied, and its gaps.

A message is applied once, and only when it is the next one. A flush stores the state together with how far it is; the gaps, the
metrics and topic `gap-changes` follow what is stored, never what is only in memory.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from struct import Struct as Packer

import msgspec

from processor.alerting import Message as AlertMessage
from processor.alerting import ShardAlerts
from processor.applying import apply_pieces
from processor.core.fleet import Coverage, Fleet
from processor.core.gap_changes import Written, write_all, write_changes
from processor.core.horizon import Horizon
from processor.core.inventory import InventoryPrincipal
from processor.core.ledger import Ledger
from processor.core.records import TIME_MAX
from processor.core.tally import Tally
from processor.core.tracker import Tracker
from processor.core.uses_reader import UnreadableUses, UsesReader, cut_applied
from processor.core.watch import Watch, Watching
from processor.shard_parts import ShardParts
from processor.shell.commands import Command
from processor.shell.grants import Translator, load_grants, pack_grants, unpack_grants
from processor.shell.holds import ShardHold
from processor.shell.state import State
from topics import grants, uses
from topics.contract import ContractError, VersionError

ENDED_MAX = 4_096
"""Sources that have ended and whose positions a shard still has: an intake that was frozen may send their uses once more."""

HOLES_MAX = 256
AHEAD_SECONDS_MAX = 30.0

_POSITION = Packer(">BI")


class Shard:
    """A claimed shard. `offset` is of the last message of `uses` that is applied, `grants_offset` of `grants`; `told_to` the one
    behind the last own message of `gap-changes`, None where none is known, and `telling` how many writings are on their way."""

    def __init__(self, hold: ShardHold, parts: ShardParts) -> None:
        self.hold = hold
        self.lock = asyncio.Lock()
        self._parts = parts
        self._watching = parts.watching
        self.dirty_since: float | None = None
        self.flushed_at = 0.0
        self.flushed_uses = 0
        self.told_at = 0.0
        self._ahead_since: float | None = None
        self.telling = 0
        self.told_to: int | None = None

    async def load(self) -> None:
        """Take the shard's whole state from the store, in place of what is in memory."""
        settings, hold = self._parts.settings, self.hold
        self.tally = Tally()
        self.ledger = Ledger(Horizon(spans_max=settings.run.horizon_hours + 1), self.tally)
        self.state = State(hold, self.ledger, self._parts.catalogue, max(settings.windows) + 1)
        await self.state.load()
        self._reader = UsesReader(self.state.names.find_name)
        self.inventory: dict[int, InventoryPrincipal] = await load_grants(
            hold.store, self._parts.catalogue, hold.shards
        )
        self._new_grants: dict[int, tuple[bytes, InventoryPrincipal | None]] = {}
        self._translators: dict[str, Translator] = {}
        self._waiting: dict[bytes, grants.PrincipalGrants] = {}
        self._ended = {name: None for name, packed in self.state.positions.items() if packed[0]}
        await self._load_place()
        self._build_tracker()
        (told,) = await hold.read_many([("HGETALL", hold.key(b"a"))])
        self.alerts = ShardAlerts(self.tracker, self.watch, settings.alerts, dict(told))
        self.dirty_since = None
        self.hold.is_sound = True

    async def _load_place(self) -> None:
        names = ("offset", "grants_offset", "offset_cluster", "watermarks", "holes", "told", "told_to", "as_of")
        ((offset, grants_offset, cluster, watermarks, holes, told, told_to, as_of),) = await self.hold.read_many(
            [("HMGET", self.hold.key(b"meta"), *names)]
        )
        same = (cluster or b"").decode() == self.hold.member.cluster
        self.offset: int | None = int(offset) if offset is not None and same else None
        self.grants_offset = int(grants_offset) if grants_offset is not None and same else -1
        self._elsewhere = offset is not None and not same
        self.watermarks: dict[bytes, int] = msgspec.msgpack.decode(watermarks) if watermarks else {}
        self.holes: list[tuple[int, int]] = [tuple(each) for each in msgspec.msgpack.decode(holes)] if holes else []
        self.told = int(told or 0)
        self._as_of = int(as_of or 0)
        self.told_to = int(told_to) if told_to is not None and same else None
        self.untold = self.told != self.hold.flushes or self._elsewhere

    def _build_tracker(self) -> None:
        parts, settings = self._parts, self._parts.settings
        fleet = Fleet(
            parts.catalogue, settings.gap_windows, self.ledger.principals, self.inventory, self._find_coverage(),
            {**parts.logging, **settings.logging_by_account}, settings.scope,
        )  # fmt: skip
        fleet.held = dict(parts.held)
        self.tracker = Tracker(fleet, self.ledger.principals.values(), self._as_of, parts.watching, keep_before=True)
        self.watch = Watch(fleet, self.ledger.principals.values(), parts.watching, int(parts.clock()))
        self._watching = parts.watching
        for account_id, seen in fleet.seen_by_account().items():
            new = seen & ~parts.observed.get(account_id, 0)
            if new:
                self.tracker.found_observable.append((account_id, new))
        self.note_observed(parts.observed)

    def take_read(self) -> None:
        """Take in what was read of accounts since the shard was loaded; what the settings say counts more."""
        for account_id, logging in self._parts.logging.items():
            if account_id not in self._parts.settings.logging_by_account:
                self.tracker.set_logging(account_id, logging)
        self.tracker.hold(self._parts.held)

    def _find_coverage(self) -> Coverage:
        number = self.hold.number
        return Coverage(dict(self.tally.accounts), holes={number: max((end for _, end in self.holes), default=0)})

    def note_observed(self, observed: Mapping[str, int]) -> None:
        """Take in what was used in accounts by principals of other shards."""
        for account_id, seen in observed.items():
            self.tracker.note_seen(account_id, seen)

    def look_at_end(self, asked_at: int | None, end: int) -> int | None:
        """Where to read on, where the log has ended before this shard's offset for so long that it is another log: a hole. A broker
        that has just come back says so for a while, and is only late. `asked_at`: the offset when the broker was asked."""
        if self.offset is None or asked_at is None or asked_at < end:
            self._ahead_since = None
            return None
        now = self._parts.clock()
        self._ahead_since = now if self._ahead_since is None else self._ahead_since
        if now - self._ahead_since < AHEAD_SECONDS_MAX:
            return None
        self._open_hole(f"the log ends before {end}, this shard has read up to {self.offset}")
        self.offset = end - 1
        return end

    def place(self, begin: int) -> int:
        """The offset to read on from, where the log's first is `begin`. What the log has no longer may have been missed: a hole."""
        if self.offset is None:
            if begin > 0 or self._elsewhere:
                self._open_hole("the log has lost what this shard has not read" if begin else "it is another cluster")
            self.offset = begin - 1
        elif self.offset + 1 < begin:
            self._open_hole(f"the log begins at {begin}, this shard has read up to {self.offset}")
            self.offset = begin - 1
        return self.offset + 1

    def _open_hole(self, why: str) -> None:
        """From the shard's watermark to the next mark."""
        self._parts.warn(f"{self.hold.where}: {why}: what its principals did may be missing up to the next mark")
        start = min(self.watermarks.values(), default=0)
        self.holes = [*self.holes[-HOLES_MAX + 1 :], (start, TIME_MAX)]
        self._note_dirty()

    def _note_dirty(self) -> None:
        if self.dirty_since is None:
            self.dirty_since = self._parts.clock()

    def apply(self, offset: int, value: bytes) -> None:
        """Apply a message of `uses`, which must be the next one. Raises VersionError for one that a newer gapwatch wrote."""
        try:
            message = uses.CODEC.decode(value)
            if message.batch is not None:
                self._apply_batch(message.batch)
            if message.mark is not None:
                self._apply_mark(message.mark)
        except VersionError:
            raise
        except (ContractError, UnreadableUses) as error:
            self._open_hole(f"message {offset} of its partition cannot be read ({error})")
        self.offset = offset
        self._note_dirty()

    def _apply_batch(self, batch: uses.Batch) -> None:
        pieces, moved = cut_applied(self._reader.read(batch), batch, self._find_applied)
        apply_pieces(self.ledger, pieces, self._parts.compared, self.hold.where, self._parts.warn)
        for source, (sequence, index) in moved.items():
            self.state.move(source, _POSITION.pack(0, index) + sequence)
        for number in batch.ended:
            self._end_source(batch.sources[number])

    def _find_applied(self, source: bytes) -> tuple[bytes, int] | None:
        packed = self.state.positions.get(source)
        return None if packed is None else (packed[_POSITION.size :], _POSITION.unpack_from(packed)[1])

    def _end_source(self, source: bytes) -> None:
        packed = self.state.positions.get(source)
        if packed is None or packed[0]:
            return
        self.state.move(source, b"\1" + packed[1:])
        self._ended[source] = None
        while len(self._ended) > ENDED_MAX:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self.state.forget((oldest,))

    def _apply_mark(self, mark: uses.Mark) -> None:
        if mark.lasting:
            self.watermarks[mark.source] = max(mark.watermark, self.watermarks.get(mark.source, 0))
        else:
            self.watermarks.pop(mark.source, None)
        for account_id, first in mark.accounts.items():
            log = self.tally.log_of(account_id, first)
            log.first = min(log.first, first)
        # Only a source that is read up to its end says that what follows is whole again.
        if mark.watermark:
            self.holes = [(start, max(start, mark.watermark) if end == TIME_MAX else end) for start, end in self.holes]

    def apply_grants(self, offset: int, key: bytes, value: bytes | None) -> None:
        """Apply a message of `grants`. Messages of it may be given again: each tells the whole of its key."""
        version = grants.catalogue_of(key)
        if version is not None:
            if value is not None:
                self._take_catalogue(version, value)
        elif value is None:
            self._waiting.pop(key, None)
            self._new_grants[int.from_bytes(key, "big")] = (b"", None)
        else:
            self._take_grants(key, value)
        self.grants_offset = offset
        self._note_dirty()

    def _take_catalogue(self, version: str, value: bytes) -> None:
        if version == self._parts.catalogue.version:
            return
        self._translators[version] = Translator(grants.decode_catalogue(value), self._parts.catalogue)
        for key, found in list(self._waiting.items()):
            if found.catalogue == version:
                del self._waiting[key]
                self._read_grants(key, found)

    def _take_grants(self, key: bytes, value: bytes) -> None:
        try:
            found = grants.CODEC.decode(value)
        except VersionError:
            raise
        except ContractError as error:
            self._parts.warn(f"{self.hold.where}: {error}; the principal keeps the grants that it had")
            return
        if found.catalogue in self._translators or found.catalogue == self._parts.catalogue.version:
            self._read_grants(key, found)
        else:
            self._waiting[key] = found

    def _read_grants(self, key: bytes, found: grants.PrincipalGrants) -> None:
        """Grants as the store keeps them: over the installed catalogue."""
        version = self._parts.catalogue.version
        read = unpack_grants(found.packed, self._translators)
        packed = found.packed if found.catalogue == version else pack_grants(read, version)
        self._new_grants[int.from_bytes(key, "big")] = (packed, read)

    async def flush(self, *, tell: bool = True) -> list[Written] | None:
        """Store what changed, and let the gaps follow; the messages that tell of it, unless that is put off. Raises StoreLost."""
        changed = [(usage, list(usage.dirty)) for usage in self.ledger.dirty]
        self.dirty_since = None
        uses_before = self.tally.read
        self.hold.is_sound = False
        await self.state.flush(self.describe())
        self.hold.is_sound = True
        self.flushed_at = self._parts.clock()
        self.flushed_uses = uses_before
        # Coverage comes first: it says which first uses are of principals that are learning.
        self.tracker.cover(self._find_coverage())
        now = int(self._parts.clock())
        span = (self.tracker.as_of, max(self._find_as_of(now), self.tracker.as_of))
        for usage, actions in changed:
            self.tracker.apply_uses(usage, actions, now)
            self.watch.apply_uses(usage, actions, span, now)
        new_grants, self._new_grants = self._new_grants, {}
        self.tracker.apply_grants(new_grants, lambda: self._put_grants(new_grants))
        self.watch.note_grants(new_grants, now)
        return self.advance(tell=tell)

    def _put_grants(self, new_grants: Mapping[int, tuple[bytes, InventoryPrincipal | None]]) -> None:
        for key, (_, found) in new_grants.items():
            if found is None:
                self.inventory.pop(key, None)
            else:
                self.inventory[key] = found

    def describe(self) -> Iterator[Command]:
        """What a flush stores beside the state: how far the shard is, as it is in the step in which its cells are written."""
        self._as_of = self.tracker.as_of
        yield (
            "HSET", self.hold.key(b"meta"), "offset", self.offset, "offset_cluster", self.hold.member.cluster,
            "grants_offset", self.grants_offset, "watermarks", msgspec.msgpack.encode(self.watermarks),
            "holes", msgspec.msgpack.encode(self.holes), "told", self.told, "as_of", self._as_of,
        )  # fmt: skip
        if self.told_to is not None:
            yield ("HSET", self.hold.key(b"meta"), "told_to", self.told_to)
        yield from self.alerts.describe(self.hold.key(b"a"), int(self._parts.clock()))
        place = self.hold.shard_key(self.hold.number, b"g")
        for key, (packed, found) in self._new_grants.items():
            name = key.to_bytes(8, "big")
            yield ("HDEL", place, name) if found is None else ("HSET", place, name, packed)

    def rewatch(self, watching: Watching) -> None:
        """Take in other exemptions than those that the shard was loaded with."""
        if watching is not self._watching:
            self._watching = watching
            self.tracker.rewatch(watching)
            self.watch.rewatch(watching, self.ledger.principals.values())

    def note_published(self, begin: int, end: int, count: int) -> None:
        """So many messages were acknowledged, between these offsets of `gap-changes`."""
        if end - begin != count or self.told_to not in (None, begin):
            self.untold = True
        self.told_to = end

    def look_at_told(self, end: int) -> None:
        """Where `gap-changes` ends otherwise than behind what this shard has told, somebody else's may be its last word."""
        if self.told_to not in (None, end):
            self.untold = True
        self.told_to = end

    @property
    def is_told(self) -> bool:
        """Whether all that has moved was given to be told."""
        return not self.untold and not self.tracker.before

    def note_alerted(self, messages: Iterable[AlertMessage]) -> None:
        """These alerts were acknowledged: the next flush says so."""
        self.alerts.note_told(messages)
        self._note_dirty()

    def _find_as_of(self, now: int) -> int:
        return min(now, min(self.watermarks.values(), default=0))

    def advance(self, *, tell: bool = True) -> list[Written] | None:
        """Let time pass, as far as the shard's own watermark lets it; the messages that tell what moved by it or before."""
        self.tracker.advance(self._find_as_of(int(self._parts.clock())))
        if not tell:
            return None
        self.told_at = self._parts.clock()
        before, self.tracker.before = self.tracker.before, {}
        if self.untold:
            self.untold = False
            keys = [key for key in self.inventory if key in self.tracker]
            return [*write_all(self.tracker, keys, "use")]
        return [message for key, each in before.items() for message in write_changes(self.tracker, key, each)]
