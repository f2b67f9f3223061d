"""Opening a store and building the parts around it: what replay, run, report and explain have in common."""

import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from processor.core.actions import ActionMap
from processor.core.catalogue import Catalogue
from processor.core.compiled import load_all
from processor.core.fleet import Coverage, Fleet, known_by_id
from processor.core.gap import Logging
from processor.core.horizon import Horizon
from processor.core.inventory import InventoryPrincipal
from processor.core.ledger import Ledger
from processor.core.principals import Principal
from processor.core.records import TIME_MAX, Rejected
from processor.core.scan import seed_callers
from processor.pipeline import Pipeline
from processor.settings import Settings
from processor.shell.commands import Command
from processor.shell.embedded import EmbeddedRedis, find_socket, start_redis
from processor.shell.grants import load_grants
from processor.shell.inventory_store import find_held, load_logging, load_statuses, say_catalogue_moved
from processor.shell.modes import check_drained, leave_kafka_mode, read_parts
from processor.shell.redis import Store, StoreBusy
from processor.shell.state import State
from processor.shell.tables import load_action_rules, load_catalogue

REJECT_LINES_MAX = 20

LOADING_SECONDS_MAX = 1.5
"""Kept loops are loaded in a tenth of a second."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the store is: a Redis by URL, one embedded in a folder, or (neither) one that is gone at the end."""

    url: str | None = None
    folder: Path | None = None


@dataclass(slots=True)
class RejectLog:
    """A run's rejects in words, by source and reason, for a person; all are counted elsewhere."""

    found: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    others: int = 0

    def note(self, rejects: list[Rejected]) -> None:
        """Take notice of rejects and where they were met."""
        for reject in rejects:
            source, index = reject.origin
            place = source, reject.reason
            count, first = self.found.get(place, (0, index))
            if not count and len(self.found) >= REJECT_LINES_MAX:
                self.others += 1
            else:
                self.found[place] = (count + 1, first)

    def lines(self) -> Iterator[str]:
        for (source, reason), (count, first) in self.found.items():
            yield f"{source}: {count} rejected: {reason} (the first at or before record {first})"
        if self.others:
            yield f"{self.others} more rejected in other files or for other reasons"


@dataclass(slots=True)
class Opened:
    """An open store with the parts that write it. `inventory` is by principal key; `known` are its principals by unique id, which
    the pipeline resolves records by that give no ARN; `held` and `logging` what is known of accounts by reading them from AWS;
    `moved` what another catalogue than the store's moves, in words."""

    catalogue: Catalogue
    store: Store
    state: State
    pipeline: Pipeline
    inventory: dict[int, InventoryPrincipal]
    rejects: RejectLog
    moved: str = ""
    known: dict[str, Principal] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    logging: dict[str, Logging] = field(default_factory=dict)

    @property
    def ledger(self) -> Ledger:
        return self.pipeline.ledger

    def newest_use(self) -> int:
        """The newest use that the store holds, 0 where it has none."""
        cells = (cell.last for usage in self.ledger.principals.values() for cell in usage.cells.values())
        return max(cells, default=0)

    def release_held(self, fresh: Mapping[int, InventoryPrincipal]) -> list[Command]:
        """Hold the accounts no longer whose inventory a file gives; returns what to write."""
        given = {found.account_id for found in fresh.values()} & self.held.keys()
        for account_id in given:
            del self.held[account_id]
        return [("HDEL", self.store.key(b"inventory"), *sorted(given))] if given else []

    def build_fleet(self, settings: Settings, covered_since: int | None) -> Fleet:
        """All principals with their grants and usage, as the settings look at them."""
        fleet = Fleet(
            self.catalogue,
            settings.gap_windows,
            self.ledger.principals,
            self.inventory,
            Coverage(
                self.pipeline.tally.accounts,
                covered_since,
                {part.number: part.accounts for part in self.state.parts} if self.state.is_divided else {},
                {part.number: part.hole_end for part in self.state.parts if part.hole_end},
            ),
            {**self.logging, **settings.logging_by_account},
            settings.scope,
        )
        fleet.held = dict(self.held)
        return fleet


@asynccontextmanager
async def open_store(place: Place, wait: Callable[[str], None], *, reading: bool = False) -> AsyncIterator[Store]:
    """The store of a place, its embedded Redis started and stopped. Raises StoreError where it cannot be had.

    `reading`: where another gapwatch uses the folder, its Redis serves us, too.
    """
    async with AsyncExitStack() as stack:
        url = place.url
        alive: Callable[[], str | None] | None = None
        if url is None:
            try:
                redis = start_redis(place.folder)
            except StoreBusy:
                if not reading or place.folder is None or not find_socket(place.folder).is_socket():
                    raise
                url = f"unix://{find_socket(place.folder)}"
            else:
                stack.callback(redis.stop)
                url = redis.url
                alive = partial(why_ended, redis)
        store = await Store.connect(url, wait=wait, **({} if alive is None else {"alive": alive}))
        stack.push_async_callback(store.close)
        yield store


def why_ended(redis: EmbeddedRedis) -> str | None:
    """Why an embedded Redis is gone, None while it lives."""
    code = redis.poll()
    if code is None:
        return None
    return f"the embedded Redis ended with {code}; start again, what was stored is kept. Its log: {redis.log or 'none'}"


def build_actions(catalogue: Catalogue) -> ActionMap:
    return ActionMap(catalogue, load_action_rules())


def load_loops(say: Callable[[str], None]) -> None:
    """Have the compiled loops at hand before anything waits for them. What takes long, and is said, is the first time on a machine:
    afterwards they are kept."""
    timer = threading.Timer(
        LOADING_SECONDS_MAX, say, ("compiling the hot loops for this machine: some twenty seconds, and only this once",)
    )
    timer.start()
    seed_callers(secrets.randbits(64))
    try:
        load_all()
    finally:
        timer.cancel()


async def load_opened(
    store: Store,
    settings: Settings,
    horizon: Horizon,
    *,
    until: int = TIME_MAX,
    fresh: Mapping[int, InventoryPrincipal] | None = None,
    reading: bool = False,
    accept_hole: bool = False,
) -> Opened:
    """Build the pipeline on what the store holds; `fresh` grants are known besides (and before) the stored ones. A store in Kafka
    mode is one process' own again, unless it is only read. Raises StoreBusy or StoreRefused where it cannot be."""
    catalogue = load_catalogue()
    inventory = await load_grants(store, catalogue)
    known = known_by_id([*inventory.values(), *(fresh or {}).values()])
    pipeline = Pipeline(
        build_actions(catalogue), settings.scope, known, horizon, until=until, seed=secrets.randbits(64)
    )
    state = State(store, pipeline.ledger, catalogue, max(settings.windows) + 1)
    await state.load()
    if state.is_divided and not reading:
        await check_drained(store, state.parts, accept_hole=accept_hole)
        await state.flush(leave_kafka_mode(store, state.parts, pipeline.tally.newest, accept_hole=accept_hole))
        state.parts = await read_parts(store)
        state.is_divided = False
    held = find_held(await load_statuses(store))
    logging = await load_logging(store)
    moved = await say_catalogue_moved(store, catalogue)
    return Opened(catalogue, store, state, pipeline, inventory, RejectLog(), moved, known, held, logging)
