"""Which accounts an inventory is of, and what was read of each: one look at the organization, one at an account."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from processor.core.catalogue import Catalogue
from processor.core.fleet import inventory_by_key
from processor.core.gap import Logging
from processor.core.iam_changes import Concern
from processor.core.inventory import InventoryError, InventoryPrincipal, read_inventory
from processor.core.organizations import Organization, OrganizationError, read_organization
from processor.core.trails import build_logging
from processor.shell.aws_accounts import Accounts, RolePlan
from processor.shell.aws_errors import AwsError
from processor.shell.iam import ALONE_MAX, Details, Looker, fetch_details
from processor.shell.organizations import FoundOrganization, fetch_organization
from processor.shell.tables import load_logged_types
from processor.shell.trails import LoggingPlan, fetch_trails


@dataclass(frozen=True, slots=True)
class InventoryPlan:
    """What `--inventory-from aws` was told. No `accounts`: our own, or all of the organization (`from_organization`, which also
    reads its SCPs and RCPs). `known` are organizations from files, `refresh_seconds` the time from one look to the next;
    without `logging` what is logged is not read."""

    accounts: tuple[str, ...] = ()
    from_organization: bool = False
    role: RolePlan = field(default_factory=RolePlan)
    refresh_seconds: int = 6 * 3_600
    known: tuple[Organization, ...] = ()
    logging: LoggingPlan | None = None


@dataclass(slots=True)
class Looked:
    """Some principals of an account as they are now. `too_many`: they are so many that the account is to be read whole."""

    documents: list[Details] = field(default_factory=list)
    gone: frozenset[Concern] = frozenset()
    concerns: frozenset[Concern] = frozenset()
    too_many: bool = False


class Scanner:
    """Reads what a plan names. Bound to one event loop."""

    def __init__(self, plan: InventoryPlan, catalogue: Catalogue) -> None:
        self.plan = plan
        self.accounts = Accounts(plan.role)
        self.organizations: tuple[Organization, ...] = plan.known
        self.found: FoundOrganization | None = None
        self._catalogue = catalogue

    async def find_accounts(self) -> list[str]:
        """The accounts to read, after a look at the organization where the plan asks for it. Raises AwsError."""
        own = await self.accounts.find_own()
        if self.plan.from_organization:
            async with self.accounts.open("organizations", own) as client:
                self.found = await fetch_organization(client)
            try:
                self.organizations = (*self.plan.known, read_organization(self.found.document, "the organization"))
            except OrganizationError as error:
                raise AwsError("failed", "organizations:DescribePolicy", own, str(error)) from error
        if self.plan.accounts:
            return list(dict.fromkeys(self.plan.accounts))
        return sorted(self.found.active) if self.found is not None else [own]

    async def fetch(self, account_id: str) -> Details:
        """The authorization details of an account. Raises AwsError."""
        async with self.accounts.open("iam", account_id) as client:
            return await fetch_details(client)

    async def look(self, account_id: str, concerns: Iterable[Concern]) -> Looked:
        """The principals that some concerns come to. Raises AwsError."""
        async with self.accounts.open("iam", account_id) as client:
            looker = Looker(client)
            found = await looker.widen(concerns)
            if len(found) > ALONE_MAX:
                return Looked(concerns=frozenset(found), too_many=True)
            await looker.read(sorted(found))
        return Looked([looker.details], frozenset(looker.gone), frozenset(found))

    async def find_logging(self, account_id: str) -> Logging:
        """What an account logs, as far as its trails and rules say. Raises AwsError."""
        assert self.plan.logging is not None  # noqa: S101 - asked for only where it is planned
        found = await fetch_trails(self.accounts, account_id, self.plan.logging)
        return build_logging(self._catalogue, found.trails, found.regions, load_logged_types(), found.rules)

    def build(self, account_id: str, documents: Sequence[Details]) -> dict[int, InventoryPrincipal]:
        """The principals of an account's details; a later document counts more. Raises AwsError for what AWS never says."""
        try:
            named = [(f"IAM of account {account_id}", document) for document in documents]
            found = read_inventory(named, self._catalogue, self.organizations)
        except InventoryError as error:
            raise AwsError("failed", "iam:GetAccountAuthorizationDetails", account_id, str(error)) from error
        return inventory_by_key(found)


async def probe(plan: InventoryPlan, catalogue: Catalogue, tries: int = 5) -> None:
    """See that the credentials are good, AWS can be reached, and some account can be read. Raises AwsError, the first one found."""
    scanner = Scanner(plan, catalogue)
    listed = await scanner.find_accounts()
    first: AwsError | None = None
    for account_id in listed[:tries]:
        try:
            async with scanner.accounts.open("iam", account_id) as client:
                await client.call("GetAccountAuthorizationDetails", MaxItems=1)
        except AwsError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


def find_moved_accounts(
    before: Sequence[Organization], now: Sequence[Organization], accounts: Iterable[str]
) -> list[str]:
    """The accounts that other policies limit than before."""

    def limits_of(listed: Sequence[Organization], account_id: str) -> object:
        known = [each for each in listed if each.knows(account_id)]
        if not known or account_id == known[-1].management_account:
            return None
        return [[(policy.kind, policy.clauses) for policy in level.policies] for level in known[-1].levels(account_id)]

    return [account_id for account_id in accounts if limits_of(before, account_id) != limits_of(now, account_id)]


async def run_each(accounts: Iterable[str], task: Callable[[str], object], at_once: int) -> None:
    """Await a coroutine for each account, some at a time."""
    gate = asyncio.Semaphore(at_once)

    async def run_one(account_id: str) -> None:
        async with gate:
            await task(account_id)  # type: ignore[misc]  # a coroutine function: its result is awaited and dropped

    await asyncio.gather(*(run_one(account_id) for account_id in accounts))
