"""All principals of a store as of a time: grants, usage, coverage and settings brought together for their verdicts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from processor.core.catalogue import Catalogue, mask_of_ids
from processor.core.gap import (
    Granted,
    Logging,
    PrincipalGap,
    Verdicts,
    Window,
    begin_masks,
    judge,
    observable_mask,
    recompute,
)
from processor.core.inventory import InventoryPrincipal
from processor.core.principals import Principal
from processor.core.sessions import Scope, key_of, shard_of
from processor.core.usage import PrincipalUsage

NO_LOGGING_SET = Logging()


@dataclass(frozen=True, slots=True)
class Member:
    """One principal: in the inventory, used, or both."""

    principal: Principal
    usage: PrincipalUsage | None
    inventory: InventoryPrincipal | None
    granted: Granted | None


@dataclass(frozen=True, slots=True)
class Coverage:
    """Since when the log of an account is known to be complete: its first record, or `since` for every account.

    `shards` are what some shards know of accounts instead; `holes` are by shard the ends of spans of event time that it may
    have missed: what lies before one is not proven.
    """

    accounts: Mapping[str, int]
    since: int | None = None
    shards: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    holes: Mapping[int, int] = field(default_factory=dict)

    def since_of(self, account_id: str, shard: int) -> int | None:
        first = self.since
        if first is None:
            first = self.shards.get(shard, self.accounts).get(account_id)
        return None if first is None else max(first, self.holes.get(shard, 0))

    def since_of_all(self, account_id: str) -> int | None:
        """Since when every shard's part of an account's log is known."""
        of_no_shard = -1
        known = [self.since_of(account_id, shard) for shard in (of_no_shard, *self.shards, *self.holes)]
        return max((since for since in known if since is not None), default=None)


class Fleet:
    """`logging` maps an account id, or "*" for all others, to what its trails log. `held` are accounts whose inventory could not be
    read since a time: their verdicts stay as of then, or a grant that is no longer there would turn unused."""

    def __init__(
        self,
        catalogue: Catalogue,
        windows: Sequence[Window],
        usages: Mapping[int, PrincipalUsage],
        inventory: Mapping[int, InventoryPrincipal],
        coverage: Coverage,
        logging: Mapping[str, Logging],
        scope: Scope,
    ) -> None:
        self.catalogue = catalogue
        self.windows = tuple(windows)
        self.coverage = coverage
        self._usages = usages
        self._inventory = inventory
        self._logging = dict(logging)
        self._scope = scope
        self.held: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._observable: dict[str, int] = {}
        self._begins: dict[str, tuple[tuple[int, int], ...]] = {}
        self._noted: dict[str, int] = {}

    def members(self) -> Iterator[Member]:
        """Every principal in scope, by ARN and unique id."""
        found = [member for _, member in self.find_members()]
        found.sort(key=lambda member: (member.principal.arn, member.principal.unique_id or ""))
        return iter(found)

    def find_members(self) -> Iterator[tuple[int, Member]]:
        """Every principal in scope, by key, one at a time and in no order."""
        for key in self._usages.keys() | self._inventory.keys():
            if self.has(key):
                yield key, self.member(key)

    def has(self, key: int) -> bool:
        """Whether a principal is in scope, and known by inventory or by use."""
        if key in self._usages:
            return True
        found = self._inventory.get(key)
        return found is not None and self._scope.covers(principal_of(found))

    def time_of(self, account_id: str, as_of: int) -> int:
        """The time that an account's verdicts are of."""
        return min(as_of, self.held.get(account_id, as_of))

    def member(self, key: int) -> Member:
        usage, inventory = self._usages.get(key), self._inventory.get(key)
        if inventory is None:
            assert usage is not None  # noqa: S101 - keys come from one of the two
            return Member(usage.principal, usage, None, None)
        return Member(principal_of(inventory), usage, inventory, granted_of(inventory))

    def granted_mask(self, key: int) -> int | None:
        """The actions that are granted to a principal, None where no inventory has it."""
        found = self._inventory.get(key)
        return None if found is None else found.grants.granted

    def logging_of(self, account_id: str) -> Logging:
        return self._logging.get(account_id) or self._logging.get("*", NO_LOGGING_SET)

    def set_logging(self, account_id: str, logging: Logging) -> None:
        """Take in what an account logs from now on; its verdicts are to be judged again."""
        self._logging[account_id] = logging
        self._observable.pop(account_id, None)
        self._begins.pop(account_id, None)
        self._seen = {}

    def begins(self, account_id: str) -> tuple[tuple[int, int], ...]:
        """Since when some actions are logged in an account, where that is not as old as its log: (time, mask)."""
        found = self._begins.get(account_id)
        if found is None:
            found = self._begins[account_id] = begin_masks(self.catalogue, self.logging_of(account_id))
        return found

    def observable(self, account_id: str) -> int:
        """The actions that the log of an account shows, for all that is known of it."""
        found = self._observable.get(account_id)
        if found is None:
            seen = self.seen_by_account().get(account_id, 0) | self._noted.get(account_id, 0)
            found = observable_mask(self.catalogue, self.logging_of(account_id), seen)
            self._observable[account_id] = found
        return found

    def seen_by_account(self) -> dict[str, int]:
        """The actions used in each account by this fleet's principals."""
        if not self._seen:
            self._seen = self._find_seen()
        return self._seen

    def _find_seen(self) -> dict[str, int]:
        """The actions used in each account, ever: what was logged once can be seen."""
        by_account: dict[str, set[int]] = {"": set()}
        for usage in self._usages.values():
            seen = by_account.setdefault(usage.principal.account_id, set())
            seen.update(action for action, cell in usage.cells.items() if cell.last)
        size = self.catalogue.size
        return {account: mask_of_ids(a for a in seen if a < size) for account, seen in by_account.items()}

    def note_seen(self, account_id: str, actions: int) -> None:
        """Take in that actions were used in an account, by whomever: the log shows them there."""
        actions &= self.catalogue.all_mask
        self._observable[account_id] = self.observable(account_id) | actions
        self._noted[account_id] = self._noted.get(account_id, 0) | actions

    def covered_since(self, principal: Principal) -> int | None:
        """Since when the log that a principal's uses stand in is known."""
        return self.coverage.since_of(principal.account_id, shard_of(key_of(principal)))

    def gap_of(self, member: Member, as_of: int) -> PrincipalGap:
        cells = {} if member.usage is None else member.usage.cells
        account = member.principal.account_id
        covered = self.covered_since(member.principal)
        return recompute(
            cells, member.granted, covered, self.time_of(account, as_of), self.windows, self.begins(account)
        )

    def verdicts_of(self, member: Member, gap: PrincipalGap, as_of: int) -> list[Verdicts]:
        """The verdicts of a member with grants, one element a window."""
        assert member.granted is not None  # noqa: S101 - the caller asks for members with grants
        account = member.principal.account_id
        as_of = self.time_of(account, as_of)
        observable = self.observable(account)
        covered, begins = self.covered_since(member.principal), self.begins(account)
        return [
            judge(member.granted, used, observable, covered, as_of, window.seconds, begins)
            for used, window in zip(gap.used, self.windows, strict=True)
        ]


def principal_of(found: InventoryPrincipal) -> Principal:
    return Principal(found.arn, found.unique_id, found.account_id, found.kind)


def granted_of(found: InventoryPrincipal) -> Granted:
    grants = found.grants
    return Granted(grants.granted, grants.conditional, found.created or 0, grants.births)


def inventory_by_key(found: Sequence[InventoryPrincipal]) -> dict[int, InventoryPrincipal]:
    return {key_of(principal_of(each)): each for each in found}


def known_by_id(found: Sequence[InventoryPrincipal]) -> dict[str, Principal]:
    """Principals by unique id, for records that give no ARN."""
    return {each.unique_id: principal_of(each) for each in found if each.unique_id}
