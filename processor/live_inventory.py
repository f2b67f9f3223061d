"""The pipeline's side of a fresh inventory: which records to watch for, and what was read anew -> grants in the store and gaps."""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Container

import msgspec

from processor.core.fleet import known_by_id
from processor.core.fresh import Change, Fresh, Settled, find_holders, find_removed, settle_some
from processor.core.gap import Logging
from processor.core.iam_changes import ChangeTable, Concern, read_change
from processor.core.intake import Intake
from processor.core.inventory import InventoryPrincipal
from processor.core.tracker import Tracker
from processor.core.trails import date_logging
from processor.opening import Opened
from processor.pausing import Pauses
from processor.refresh import Found, FreshLogging, Refresher, Tried
from processor.shell.commands import Command
from processor.shell.inventory_store import (
    AccountStatus,
    find_held,
    load_statuses,
    write_logging,
    write_settled,
    write_status,
)
from processor.shell.metrics import Health
from processor.shell.scans import InventoryPlan
from processor.shell.tables import load_changes

Warn = Callable[[str], None]

TAKEN_A_STEP = 20
TAKEN_A_FLUSH = 500
"""Principals whose grants are stored with one flush, some megabytes: an account of thousands is taken in parts."""


class LiveInventory:
    """Holds the refresher of a run. `changes` counts the changes that records told of; what `explicit` accounts log is set."""

    def __init__(
        self,
        plan: InventoryPlan,
        opened: Opened,
        warn: Warn,
        clock: Callable[[], float] = time.time,
        explicit: Container[str] = (),
    ) -> None:
        self._opened = opened
        self._warn = warn
        self._clock = clock
        self._table: ChangeTable = load_changes()
        self._refresher = Refresher(plan, opened.catalogue, clock)
        self._found: deque[Found] = deque()
        self._unsettled: list[int] | None = None
        self._room = 0
        self._moved: list[int] = []
        self._relogged: dict[str, Logging] = {}
        self._by_account: dict[str, dict[int, InventoryPrincipal]] = {}
        for key, found in opened.inventory.items():
            self._by_account.setdefault(found.account_id, {})[key] = found
        self._explicit = explicit
        self.statuses: dict[str, AccountStatus] = {}
        self.changes = 0

    async def start(self) -> None:
        """Learn what the store knows of the accounts, and begin to read."""
        self.statuses = await load_statuses(self._opened.store)
        self._opened.pipeline.intake.watch(self._table)
        self._refresher.start()

    def stop(self) -> None:
        self._refresher.stop()

    def note(self, intake: Intake) -> None:
        """Take the records that changed what somebody may do."""
        records, intake.changes = intake.changes, []
        found = [each for raw in records if (each := read_change(raw, self._table)) is not None]
        self.changes += len(found)
        pairs = [(concern, Change(each.time, each.through)) for each in found for concern in each.concerns]
        # Whoever had it before, as far as known: AWS tells only who has it now.
        shared: dict[Concern, list[Change]] = {}
        for concern, change in pairs:
            if concern.kind in ("policy", "group"):
                shared.setdefault(concern, []).append(change)
        for account_id in {concern.account_id for concern in shared}:
            for concern, principal in find_holders(self._by_account.get(account_id, {}).values(), shared):
                pairs += ((principal, change) for change in shared[concern])
        self._refresher.note(pairs)

    async def tell(self, tracker: Tracker, health: Health) -> list[int]:
        """Let the gaps and the metrics follow what was taken, once it is stored; the principals that have other grants now."""
        moved, self._moved = self._moved, []
        pauses = Pauses()
        for at in range(0, len(moved), TAKEN_A_STEP):
            tracker.apply_grants(moved[at : at + TAKEN_A_STEP])
            await pauses.pause()
        for account_id, logging in self._relogged.items():
            tracker.set_logging(account_id, logging)
        self._relogged = {}
        tracker.hold(find_held(self.statuses))
        health.inventory, health.inventory_changes = self.statuses, self.changes
        return moved

    async def take(self) -> list[Command]:
        """Take what was read since the last time into the inventory, of TAKEN_A_FLUSH principals at most; returns what to store
        of it. The rest is taken the next time."""
        self._found.extend(self._refresher.take())
        commands: list[Command] = []
        self._room = TAKEN_A_FLUSH
        while self._found and self._room > 0:
            found = self._found[0]
            if isinstance(found, Tried):
                commands += self._note_tried(found)
            elif isinstance(found, FreshLogging):
                commands += self._note_logging(found)
            else:
                commands += await self._take_fresh(found)
            if self._unsettled is None:
                self._found.popleft()
        return commands

    async def _take_fresh(self, found: Fresh) -> list[Command]:
        """Take a part of an account, `_unsettled` what is left of it; with the last one what is gone, and that it was read."""
        status = self.statuses.get(found.account_id, AccountStatus())
        known = self._by_account.setdefault(found.account_id, {})
        rest = self._unsettled = list(found.principals) if self._unsettled is None else self._unsettled
        commands: list[Command] = []
        pauses = Pauses()
        while rest:
            if self._room <= 0:
                return commands
            keys = rest[-TAKEN_A_STEP:]
            del rest[-TAKEN_A_STEP:]
            self._room -= len(keys)
            await pauses.pause()
            commands += self._settle(known, Settled(settle_some(known, found, keys, status.first or None), ()))
        self._unsettled = None
        commands += self._settle(known, Settled({}, find_removed(known, found)))
        if found.whole:
            commands.append(self._note_read(found, status))
        return commands

    def _settle(self, known: dict[int, InventoryPrincipal], each: Settled) -> list[Command]:
        known.update(each.set)
        for key in each.removed:
            del known[key]
        self._moved += (*each.removed, *each.set)
        # Records that give no ARN are resolved by unique id.
        self._opened.known.update(known_by_id(list(each.set.values())))
        return write_settled(self._opened.store, self._opened.catalogue, self._opened.inventory, [each])

    def _note_logging(self, found: FreshLogging) -> list[Command]:
        """What an account logs; what the settings say of it counts more."""
        before = self._opened.logging.get(found.account_id)
        logging = date_logging(found.logging, before, found.as_of)
        if logging == before or found.account_id in self._explicit:
            return []
        self._opened.logging[found.account_id] = self._relogged[found.account_id] = logging
        return [write_logging(self._opened.store, found.account_id, logging)]

    def _note_read(self, found: Fresh, before: AccountStatus) -> Command:
        if before.failed:
            self._warn(f"account {found.account_id}: its inventory can be read again")
        return self._set_status(found.account_id, AccountStatus(before.first or found.as_of, found.as_of))

    def _note_tried(self, found: Tried) -> list[Command]:
        before = self.statuses.get(found.account_id, AccountStatus())
        if found.why and before.why != found.why:
            kept = "" if not found.account_id.isdecimal() else ", and its verdicts stay as of then"
            self._warn(f"{found.why}. It is tried again; what was last read is kept{kept}")
        failed = (before.failed or int(self._clock())) if found.why else 0
        status = msgspec.structs.replace(before, failed=failed, why=found.why)
        return [] if status == before else [self._set_status(found.account_id, status)]

    def _set_status(self, account_id: str, status: AccountStatus) -> Command:
        self.statuses[account_id] = status
        return write_status(self._opened.store, account_id, status)


StartInventory = Callable[[Opened, Warn, Callable[[], float]], Awaitable[LiveInventory]]


def plan_inventory(plan: InventoryPlan, explicit: Container[str] = ()) -> StartInventory:
    """What starts a live inventory by this plan on a store that was opened."""

    async def start(opened: Opened, warn: Warn, clock: Callable[[], float]) -> LiveInventory:
        live = LiveInventory(plan, opened, warn, clock, explicit)
        await live.start()
        return live

    return start
