"""The inventory of `run`, fresh from AWS: which records to watch for, and what was read anew -> grants in the store and gaps."""

import time
from collections.abc import Awaitable, Callable, Container

from processor.core.fleet import known_by_id
from processor.core.gap import Logging
from processor.core.iam_changes import ChangeTable, read_change
from processor.core.intake import Intake
from processor.core.tracker import Tracker
from processor.opening import Opened
from processor.pausing import Pauses
from processor.shell.commands import Command
from processor.shell.inventory_store import (
    AccountStatus,
    find_held,
    load_statuses,
    write_settled,
)
from processor.shell.metrics import Health
from processor.shell.scans import InventoryPlan
from processor.shell.tables import load_changes
from processor.taking import TAKEN_A_STEP, Taking, Warn, write_taken


class LiveInventory:
    """Holds what a run takes from AWS."""

    def __init__(self, opened: Opened, taking: Taking) -> None:
        self._opened = opened
        self._taking = taking
        self._table: ChangeTable = load_changes()
        self._moved: list[int] = []
        self._relogged: dict[str, Logging] = {}
        opened.pipeline.intake.watch(self._table)
        taking.start()

    @property
    def statuses(self) -> dict[str, AccountStatus]:
        """What is known of the inventories of accounts."""
        return self._taking.statuses

    def stop(self) -> None:
        self._taking.stop()

    def note(self, intake: Intake) -> None:
        """Take the records that changed what somebody may do."""
        records, intake.changes = intake.changes, []
        self._taking.note(each for raw in records if (each := read_change(raw, self._table)) is not None)

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
        health.inventory, health.inventory_changes = self.statuses, self._taking.changes
        return moved

    async def take(self) -> list[Command]:
        """Take what was read since the last time into the inventory; returns what to store of it."""
        taken, opened = await self._taking.take(), self._opened
        commands: list[Command] = []
        pauses = Pauses()
        for each in taken.settled:
            await pauses.pause()
            commands += write_settled(opened.store, opened.catalogue, opened.inventory, [each])
            self._moved += (*each.removed, *each.set)
            # Records that give no ARN are resolved by unique id.
            opened.known.update(known_by_id(list(each.set.values())))
        opened.logging.update(taken.logging)
        self._relogged.update(taken.logging)
        return [*commands, *write_taken(opened.store, taken)]


StartInventory = Callable[[Opened, Warn, Callable[[], float]], Awaitable[LiveInventory]]


def plan_inventory(plan: InventoryPlan, explicit: Container[str] = ()) -> StartInventory:
    """What starts a live inventory by this plan on a store that was opened; what `explicit` accounts log is set."""

    async def start(opened: Opened, warn: Warn, clock: Callable[[], float] = time.time) -> LiveInventory:
        statuses = await load_statuses(opened.store)
        taking = Taking(plan, opened.catalogue, opened.inventory, opened.logging, statuses, warn, clock, explicit)
        return LiveInventory(opened, taking)

    return start
