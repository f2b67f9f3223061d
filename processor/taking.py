"""What was read anew of accounts, against what is known of them: what has to be stored and judged again, in parts.

Whoever runs it stores and passes on what `take` returns: `run` into its store, an intake to topic `grants`.
"""

import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from processor.core.catalogue import Catalogue
from processor.core.fresh import Change, Fresh, Settled, find_holders, find_removed, settle_some
from processor.core.gap import Logging
from processor.core.iam_changes import Concern, IamChange
from processor.core.inventory import InventoryPrincipal
from processor.core.trails import date_logging
from processor.pausing import Pauses
from processor.refresh import Found, FreshLogging, Refresher, Tried
from processor.shell.commands import Command
from processor.shell.inventory_store import AccountStatus, write_logging, write_status
from processor.shell.redis import Store
from processor.shell.scans import InventoryPlan

Warn = Callable[[str], None]

TAKEN_A_STEP = 20
TAKEN_A_FLUSH = 500
"""Principals whose grants are stored with one flush, some megabytes: an account of thousands is taken in parts."""


@dataclass(slots=True)
class Taken:
    """What is to be stored, in order. `logging` and `statuses` are by account."""

    settled: list[Settled] = field(default_factory=list)
    logging: dict[str, Logging] = field(default_factory=dict)
    statuses: dict[str, AccountStatus] = field(default_factory=dict)


def write_taken(store: Store, taken: Taken) -> Iterator[Command]:
    """What the store keeps of accounts by it; grants are kept as each mode does."""
    for account_id, logging in taken.logging.items():
        yield write_logging(store, account_id, logging)
    for account_id, status in taken.statuses.items():
        yield write_status(store, account_id, status)


class Taking:
    """Runs from `start` to `stop`. `inventory` is what is known by principal key, `logging` by account; what `explicit` accounts
    log is set. `changes` counts the changes that records told of."""

    def __init__(
        self,
        plan: InventoryPlan,
        catalogue: Catalogue,
        inventory: Mapping[int, InventoryPrincipal],
        logging: Mapping[str, Logging],
        statuses: Mapping[str, AccountStatus],
        warn: Warn,
        clock: Callable[[], float] = time.time,
        explicit: Container[str] = (),
    ) -> None:
        self._warn = warn
        self._clock = clock
        self._refresher = Refresher(plan, catalogue, clock)
        self._found: deque[Found] = deque()
        self._unsettled: list[int] | None = None
        self._room = 0
        self._by_account: dict[str, dict[int, InventoryPrincipal]] = {}
        for key, found in inventory.items():
            self._by_account.setdefault(found.account_id, {})[key] = found
        self._logging = dict(logging)
        self._explicit = explicit
        self.statuses = dict(statuses)
        self.changes = 0

    def start(self) -> None:
        self._refresher.start()

    def stop(self) -> None:
        self._refresher.stop()

    def note(self, found: Iterable[IamChange]) -> None:
        """Have a look at what changes concern."""
        pairs: list[tuple[Concern, Change]] = []
        for each in found:
            self.changes += 1
            pairs += ((concern, Change(each.time, each.through)) for concern in each.concerns)
        # Whoever had it before, as far as known: AWS tells only who has it now.
        shared: dict[Concern, list[Change]] = {}
        for concern, change in pairs:
            if concern.kind in ("policy", "group"):
                shared.setdefault(concern, []).append(change)
        for account_id in {concern.account_id for concern in shared}:
            for concern, principal in find_holders(self._by_account.get(account_id, {}).values(), shared):
                pairs += ((principal, change) for change in shared[concern])
        self._refresher.note(pairs)

    async def take(self) -> Taken:
        """What was read since the last time, of TAKEN_A_FLUSH principals at most. The rest is taken the next time."""
        self._found.extend(self._refresher.take())
        taken = Taken()
        self._room = TAKEN_A_FLUSH
        while self._found and self._room > 0:
            found = self._found[0]
            if isinstance(found, Tried):
                self._note_tried(taken, found)
            elif isinstance(found, FreshLogging):
                self._note_logging(taken, found)
            else:
                await self._take_fresh(taken, found)
            if self._unsettled is None:
                self._found.popleft()
        return taken

    async def _take_fresh(self, taken: Taken, found: Fresh) -> None:
        """Take a part of an account, `_unsettled` what is left of it; with the last one what is gone, and that it was read."""
        status = self.statuses.get(found.account_id, AccountStatus())
        known = self._by_account.setdefault(found.account_id, {})
        rest = self._unsettled = list(found.principals) if self._unsettled is None else self._unsettled
        pauses = Pauses()
        while rest:
            if self._room <= 0:
                return
            keys = rest[-TAKEN_A_STEP:]
            del rest[-TAKEN_A_STEP:]
            self._room -= len(keys)
            await pauses.pause()
            self._settle(taken, known, Settled(settle_some(known, found, keys, status.first or None), ()))
        self._unsettled = None
        self._settle(taken, known, Settled({}, find_removed(known, found)))
        if found.whole:
            self._note_read(taken, found, status)

    def _settle(self, taken: Taken, known: dict[int, InventoryPrincipal], each: Settled) -> None:
        known.update(each.set)
        for key in each.removed:
            del known[key]
        if each.set or each.removed:
            taken.settled.append(each)

    def _note_logging(self, taken: Taken, found: FreshLogging) -> None:
        """What an account logs; what the settings say of it counts more."""
        before = self._logging.get(found.account_id)
        logging = date_logging(found.logging, before, found.as_of)
        if logging != before and found.account_id not in self._explicit:
            self._logging[found.account_id] = taken.logging[found.account_id] = logging

    def _note_read(self, taken: Taken, found: Fresh, before: AccountStatus) -> None:
        if before.failed:
            self._warn(f"account {found.account_id}: its inventory can be read again")
        self._set_status(taken, found.account_id, AccountStatus(before.first or found.as_of, found.as_of))

    def _note_tried(self, taken: Taken, found: Tried) -> None:
        before = self.statuses.get(found.account_id, AccountStatus())
        if found.why and before.why != found.why:
            kept = "" if not found.account_id.isdecimal() else ", and its verdicts stay as of then"
            self._warn(f"{found.why}. It is tried again; what was last read is kept{kept}")
        failed = (before.failed or int(self._clock())) if found.why else 0
        status = msgspec.structs.replace(before, failed=failed, why=found.why)
        if status != before:
            self._set_status(taken, found.account_id, status)

    def _set_status(self, taken: Taken, account_id: str, status: AccountStatus) -> None:
        self.statuses[account_id] = taken.statuses[account_id] = status
