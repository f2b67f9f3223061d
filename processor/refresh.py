"""The inventory as AWS has it, kept fresh in a thread of its own: by schedule, and at once for what a record says was changed.

    schedule   each account whole, every `refresh_seconds` give or take a tenth, some accounts at a time
    records    the principals concerned, and again a little later: IAM may answer with what was before the change
    organization's records    the tree and its policies, then the accounts that are limited otherwise than before

The pipeline's thread gives records (`note`) and takes what was read (`take`); nothing else is shared. An account that cannot be
read is tried again, ever more seldom, and said to have failed.
"""

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from processor.core.catalogue import Catalogue
from processor.core.fresh import Change, Fresh
from processor.core.gap import Logging
from processor.core.iam_changes import Concern
from processor.shell.aws_errors import AwsError
from processor.shell.ending import end_tasks, rest_until
from processor.shell.scans import InventoryPlan, Looked, Scanner, find_moved_accounts

ACCOUNTS_AT_ONCE = 8
GATHER_SECONDS = 0.2
"""Changes come in groups: a role is made and gets its policies at once."""

LOOK_AGAIN_SECONDS = 15.0
RETRY_SECONDS = 30.0
JITTER = 0.1

WHOLE_SECONDS_MIN = 10.0
"""An account is not read whole more often than that, whatever happens there."""

NOTED_MAX = 100_000
"""Changes that wait for AWS to be reached; the oldest beyond are found by the next look at the whole account."""

Noted = tuple[Concern, Change]


ORGANIZATION = "organization"


@dataclass(frozen=True, slots=True)
class Tried:
    """An account, or the ORGANIZATION, that could not be read; `why` is for a person, and empty where it can be read again."""

    account_id: str
    why: str


@dataclass(frozen=True, slots=True)
class FreshLogging:
    """What an account logs, as read at `as_of`."""

    account_id: str
    as_of: int
    logging: Logging


Found = Fresh | FreshLogging | Tried


@dataclass(slots=True)
class _Account:
    """What is planned for an account, in seconds of the loop's clock, and the looks at parts of it since its scan began."""

    due: float = 0.0
    scanned: float = -1e9
    tries: int = 0
    scanning: bool = False
    asked: int = 0
    looks: list[tuple[Looked, dict[Concern, tuple[Change, ...]]]] = field(default_factory=list)


class Refresher:
    """Runs from `start` to `stop`. `clock` gives seconds since 1970."""

    def __init__(self, plan: InventoryPlan, catalogue: Catalogue, clock: Callable[[], float] = time.time) -> None:
        self._plan = plan
        self._catalogue = catalogue
        self._clock = clock
        self._found: deque[Found] = deque()
        self._noted: deque[Noted] = deque(maxlen=NOTED_MAX)
        self._accounts: dict[str, _Account] = {}
        self._random = random.Random()  # noqa: S311 - spreads calls, keeps no secret
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self._stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(ACCOUNTS_AT_ONCE)
        self._organization_due = 0.0
        self._organization_again = False
        self._thread = threading.Thread(target=self._run, name="inventory", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End it, whatever it waits for."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(2.0)

    def note(self, noted: Iterable[Noted]) -> None:
        """Have a look at what some records concern."""
        self._noted.extend(noted)
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake.set)

    def take(self) -> list[Found]:
        """What was read since the last time, in order."""
        found = []
        while self._found:
            found.append(self._found.popleft())
        return found

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._keep_until_stopped())
        finally:
            self._loop.close()

    async def _keep_until_stopped(self) -> None:
        keeping, stop = self._loop.create_task(self._keep()), self._loop.create_task(self._stopped.wait())
        try:
            await asyncio.wait((keeping, stop), return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                keeping.result()
        finally:
            await end_tasks(keeping, stop, *self._tasks)

    async def _keep(self) -> None:
        scanner = Scanner(self._plan, self._catalogue)
        while True:
            self._wake.clear()
            now = self._loop.time()
            if now >= self._organization_due:
                await self._find_accounts(scanner)
            for account_id, account in self._accounts.items():
                if now >= account.due and not account.scanning:
                    account.scanning = True
                    self._spawn(self._scan(scanner, account_id, account))
            if self._noted and self._accounts:
                await asyncio.sleep(GATHER_SECONDS)
                self._look_at_noted(scanner)
            due = [self._organization_due, *(each.due for each in self._accounts.values() if not each.scanning)]
            await rest_until(self._wake, max(0.0, min(due) - self._loop.time()))

    def _spawn(self, task: Coroutine[Any, Any, None]) -> None:
        started = self._loop.create_task(task)
        self._tasks.add(started)
        started.add_done_callback(self._tasks.discard)

    def _jitter(self, seconds: float) -> float:
        return seconds * self._random.uniform(1 - JITTER, 1 + JITTER)

    def _back_off(self, tries: int) -> float:
        return self._jitter(min(self._plan.refresh_seconds, RETRY_SECONDS * 2.0 ** min(tries, 12)))

    async def _find_accounts(self, scanner: Scanner) -> None:
        """Look at the organization, and plan accounts that are new or limited otherwise."""
        before = scanner.organizations
        try:
            listed = await scanner.find_accounts()
        except AwsError as error:
            self._found.append(Tried(ORGANIZATION, str(error)))
            self._organization_due = self._loop.time() + self._back_off(0)
            return
        self._found.append(Tried(ORGANIZATION, ""))
        seconds = self._plan.refresh_seconds if self._plan.from_organization else 10.0**9
        again, self._organization_again = self._organization_again, False
        self._organization_due = self._loop.time() + (LOOK_AGAIN_SECONDS if again else self._jitter(seconds))
        moved = set(find_moved_accounts(before, scanner.organizations, self._accounts))
        for account_id in listed:
            account = self._accounts.setdefault(account_id, _Account())
            if account_id in moved:
                self._read_whole(account)
        for account_id in self._accounts.keys() - set(listed):
            del self._accounts[account_id]
            self._found.append(Tried(account_id, f"account {account_id} is no longer in the organization"))

    async def _read_logging(self, scanner: Scanner, account_id: str) -> None:
        """Read what an account logs; where that fails, what was last known holds."""
        if self._plan.logging is None:
            return
        named = f"logging of {account_id}"
        try:
            async with self._gate:
                found = await scanner.find_logging(account_id)
        except AwsError as error:
            self._found.append(Tried(named, str(error)))
        else:
            self._found += (FreshLogging(account_id, int(self._clock()), found), Tried(named, ""))

    async def _scan(self, scanner: Scanner, account_id: str, account: _Account) -> None:
        """Read an account whole. What was looked at in parts meanwhile may be newer, and counts more."""
        account.looks.clear()
        asked = account.asked
        try:
            async with self._gate:
                organizations, account.scanned = scanner.organizations, self._loop.time()
                details = await scanner.fetch(account_id)
                as_of = int(self._clock())
            looks = account.looks
            documents = [details, *(document for looked, _ in looks for document in looked.documents)]
            gone = frozenset().union(*(looked.gone for looked, _ in looks))
            principals = {
                key: found
                for key, found in scanner.build(account_id, documents).items()
                if Concern(account_id, found.kind, found.name) not in gone
            }
            changes = {concern: dates for _, more in looks for concern, dates in more.items()}
            self._found.append(Fresh(account_id, as_of, True, principals, changes=changes))
            await self._read_logging(scanner, account_id)
            account.tries = 0
            later = self._loop.time() + self._jitter(self._plan.refresh_seconds)
            # Where it was asked for again while it was read, or limits changed, once more.
            account.due = later
            if asked != account.asked or organizations is not scanner.organizations:
                self._read_whole(account)
        except AwsError as error:
            self._fail(account_id, account, str(error))
        except Exception as error:  # a defect of ours must not end the refreshing of all accounts
            self._fail(account_id, account, f"account {account_id} cannot be read: {error!r}")
        finally:
            account.scanning = False
            account.looks = []
            self._wake.set()

    def _fail(self, account_id: str, account: _Account, why: str) -> None:
        self._found.append(Tried(account_id, why))
        account.due = self._loop.time() + self._back_off(account.tries)
        account.tries += 1

    def _read_whole(self, account: _Account) -> None:
        """Have an account read whole soon."""
        account.asked += 1
        account.due = min(account.due, max(self._loop.time(), account.scanned + WHOLE_SECONDS_MIN))
        self._wake.set()

    def _look_at_noted(self, scanner: Scanner) -> None:
        """Begin to look at what records said was changed, account by account."""
        by_account: dict[str, dict[Concern, tuple[Change, ...]]] = {}
        watching: set[str] = set()
        while self._noted:
            concern, change = self._noted.popleft()
            if concern.kind == "organization":
                if self._plan.from_organization:
                    self._organization_due, self._organization_again = 0.0, True
                    self._wake.set()
            elif concern.kind == "logging":
                watching.add(concern.account_id)
            elif concern.account_id in self._accounts:
                changes = by_account.setdefault(concern.account_id, {})
                changes[concern] = (*changes.get(concern, ()), change)
        for account_id in watching:
            # A trail of the organization shows in all of its accounts.
            concerned = self._accounts if self._plan.from_organization else {account_id} & self._accounts.keys()
            for each in concerned:
                self._spawn(self._read_logging(scanner, each))
        for account_id, changes in by_account.items():
            self._spawn(self._look(scanner, account_id, self._accounts[account_id], changes))

    async def _look(
        self, scanner: Scanner, account_id: str, account: _Account, changes: dict[Concern, tuple[Change, ...]]
    ) -> None:
        """Read the principals that some changes concern, twice. Where that fails, the account is read whole."""
        for seconds in (0.0, LOOK_AGAIN_SECONDS):
            await asyncio.sleep(seconds)
            try:
                as_of = int(self._clock())
                looked = await scanner.look(account_id, changes)
                if looked.too_many:
                    self._read_whole(account)
                    continue
                dated = spread_changes(changes, looked.concerns)
                if account.scanning:
                    account.looks.append((looked, dated))
                principals = scanner.build(account_id, looked.documents)
                self._found.append(Fresh(account_id, as_of, False, principals, looked.gone, dated))
            except AwsError:
                self._read_whole(account)


def spread_changes(
    changes: dict[Concern, tuple[Change, ...]], looked_at: Iterable[Concern]
) -> dict[Concern, tuple[Change, ...]]:
    """The changes of each principal: its own, and those of policies and groups, which may be its as well."""
    shared = tuple(
        change for concern, listed in changes.items() if concern.kind in ("policy", "group") for change in listed
    )
    return {concern: (*changes.get(concern, ()), *shared) for concern in looked_at}
