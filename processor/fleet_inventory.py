"""The inventory of a fleet, fresh from AWS: one intake at a time reads it, and writes it to topic `grants`.

    P:leases     the lease of INVENTORY: whoever has it reads AWS, all others stand by
    P:changes    list of what records told was changed, by whichever intake read them, for the one that reads AWS

What accounts log, and how reading them went, stands in the store (shell/inventory_store.py), where the ledgers look. An intake that
takes the lease over reads every account whole: nothing that its predecessor had noted is missed.
"""

import asyncio
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec
from xxhash import xxh3_128_digest

from processor.core.catalogue import Catalogue
from processor.core.fresh import Settled
from processor.core.iam_changes import ChangeTable, IamChange, read_change
from processor.core.inventory import InventoryPrincipal
from processor.shell.brokers import BrokerError
from processor.shell.ending import within
from processor.shell.grants import pack_grants
from processor.shell.inventory_store import load_logging, load_statuses
from processor.shell.leases import Leases
from processor.shell.metrics import Health
from processor.shell.published_grants import (
    Message,
    PublishedGrants,
    encode_names,
    encode_principal,
    unpack_published,
)
from processor.shell.redis import Store, StoreError
from processor.shell.scans import InventoryPlan
from processor.shell.tables import load_changes
from processor.taking import Taking, Warn, write_taken
from topics import grants

INVENTORY = xxh3_128_digest(b"inventory\0default")
TURN_SECONDS = 0.5
GIVE_UP_SECONDS_MAX = 1.0

CHANGES_MAX = 100_000
"""The oldest beyond are found when the account is read whole the next time."""

CHANGES_A_TURN = 1_000


class GrantsLog(Protocol):
    """Topic `grants`, as an intake writes it."""

    async def publish_grants(self, messages: Sequence[Message]) -> None:
        """Write (shard, key, value), None for a principal that is gone. Raises BrokerError."""


class ChangeList:
    """What records told of changes, on its way from all intakes to the one that reads AWS."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = store.key(b"changes")
        self.table: ChangeTable = load_changes()

    async def put(self, records: Sequence[bytes]) -> None:
        """Pass on what records, as JSON, say was changed."""
        found = [each for raw in records if (each := read_change(raw, self.table)) is not None]
        if found:
            packed = [msgspec.msgpack.encode(each) for each in found]
            await self._store.read_many([("RPUSH", self._key, *packed), ("LTRIM", self._key, -CHANGES_MAX, -1)])

    async def take(self) -> list[IamChange]:
        """The oldest changes, which are taken off the list."""
        (packed,) = await self._store.read_many([("LPOP", self._key, CHANGES_A_TURN)])
        return [msgspec.msgpack.decode(each, type=IamChange) for each in packed or ()]


class FleetInventory:
    """One intake's part in it. `health` shows what is known of the accounts while this one reads them; what `explicit` accounts log
    is set."""

    def __init__(
        self,
        plan: InventoryPlan,
        store: Store,
        log: GrantsLog,
        published: PublishedGrants,
        catalogue: Catalogue,
        health: Health,
        warn: Warn,
        clock: Callable[[], float],
        explicit: Container[str] = (),
    ) -> None:
        self.changes = ChangeList(store)
        self._plan = plan
        self._store = store
        self._log = log
        self._published = published
        self._catalogue = catalogue
        self._health = health
        self._warn = warn
        self._clock = clock
        self._explicit = explicit
        self._leases = Leases(store)
        self._taking: Taking | None = None
        self._written: dict[bytes, tuple[InventoryPrincipal | None, bytes]] = {}

    async def run(self) -> None:
        """Read AWS whenever this intake has the lease, until cancelled."""
        try:
            while True:
                (ours,) = await self._leases.take([INVENTORY])
                if ours:
                    await self._turn()
                else:
                    self._end()
                await asyncio.sleep(TURN_SECONDS)
        finally:
            if self._end():
                with suppress(TimeoutError, StoreError):
                    await within(GIVE_UP_SECONDS_MAX, self._leases.give_up([INVENTORY]))

    def _end(self) -> bool:
        """Stand by. Whether this intake was reading AWS."""
        taking, self._taking = self._taking, None
        if taking is None:
            return False
        taking.stop()
        self._written, self._published.moved = {}, None
        self._health.inventory = {}
        return True

    async def _turn(self) -> None:
        """Take what changed and what was read; tell the ledgers, then the store."""
        if self._taking is None:
            self._taking = await self._begin()
        self._taking.note(await self.changes.take())
        taken = await self._taking.take()
        await self._publish([*self._encode_undone(), *self._encode_settled(taken.settled)])
        await self._store.read_many(list(write_taken(self._store, taken)))
        self._health.inventory, self._health.inventory_changes = self._taking.statuses, self._taking.changes

    def _encode_undone(self) -> Iterator[Message]:
        """What another intake has written over, which was frozen while it had the lease: once more."""
        moved, self._published.moved = self._published.moved or set(), set()
        for name in moved & self._written.keys():
            found, packed = self._written[name]
            published = self._published.packed.get(name)
            if packed != (b"" if published is None else published.packed):
                yield self._encode(name, found, packed)

    def _encode_settled(self, settled: Sequence[Settled]) -> Iterator[Message]:
        """The catalogue's names where they are not, then each principal."""
        if any(each.set or each.removed for each in settled):
            yield from encode_names(self._published, self._catalogue)
        for each in settled:
            for key in each.removed:
                yield self._encode(key.to_bytes(8, "big"), None, b"")
            for key, found in each.set.items():
                yield self._encode(key.to_bytes(8, "big"), found, pack_grants(found, self._catalogue.version))

    def _encode(self, name: bytes, found: InventoryPrincipal | None, packed: bytes) -> Message:
        self._written[name] = found, packed
        if found is None:
            return grants.TOPIC.partition_of(name), name, None
        return encode_principal(name, found, self._catalogue, packed, int(self._clock()))

    async def _begin(self) -> Taking:
        statuses, logging = await load_statuses(self._store), await load_logging(self._store)
        inventory = unpack_published(self._published, self._catalogue)
        taking = Taking(
            self._plan, self._catalogue, inventory, logging, statuses, self._warn, self._clock, self._explicit
        )
        taking.start()
        self._published.moved = set()
        return taking

    async def _publish(self, messages: Sequence[Message]) -> None:
        """Write to `grants`, however long that takes: the lease is held, or another intake reads all of it anew."""
        while messages:
            try:
                await self._log.publish_grants(messages)
            except BrokerError as error:
                self._warn(f"topic grants: {error}; trying again")
                await self._leases.take([INVENTORY])
                await asyncio.sleep(TURN_SECONDS)
            else:
                return
