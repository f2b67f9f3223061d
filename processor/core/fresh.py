"""What was read anew of an account -> what that changes in the inventory, with the age of what is new.

A grant is dated by the change that granted it, as far as the log showed it; else by the time of the first inventory that has
it, if an earlier one did not. In a first inventory all is old, but for what a change in the log was about.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from processor.core.iam_changes import Concern
from processor.core.inventory import InventoryPrincipal


@dataclass(frozen=True, slots=True)
class Change:
    """When something was changed that a principal has, and what: a policy (ARN, or name of an inline one), a group, or all of it
    (empty)."""

    time: int
    through: str = ""


Changes = Mapping[Concern, tuple[Change, ...]]
"""Changes by the principal that they concern."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """An account as read at `as_of` (`whole`), or some principals of it and those that are `gone`. `principals` are by key."""

    account_id: str
    as_of: int
    whole: bool
    principals: Mapping[int, InventoryPrincipal]
    gone: frozenset[Concern] = frozenset()
    changes: Changes | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What has to be stored and judged again."""

    set: dict[int, InventoryPrincipal]
    removed: tuple[int, ...]


def concern_of(found: InventoryPrincipal) -> Concern:
    return Concern(found.account_id, found.kind, found.name)


def settle_fresh(inventory: Mapping[int, InventoryPrincipal], fresh: Fresh, first: int | None) -> Settled:
    """What of `fresh` differs from the inventory. `first` is when the account was first read whole, None where never: changes
    before that date what they were about, as there is nothing to compare with."""
    return Settled(settle_some(inventory, fresh, fresh.principals, first), find_removed(inventory, fresh))


def find_removed(inventory: Mapping[int, InventoryPrincipal], fresh: Fresh) -> tuple[int, ...]:
    """The principals of the inventory that are no longer there."""
    # Of a role that was made anew both keys are looked at: one name is one principal.
    named = fresh.gone | {concern_of(found) for found in fresh.principals.values()}
    return tuple(
        key
        for key, found in inventory.items()
        if found.account_id == fresh.account_id
        and key not in fresh.principals
        and (fresh.whole or concern_of(found) in named)
    )


def settle_some(
    inventory: Mapping[int, InventoryPrincipal], fresh: Fresh, keys: Iterable[int], first: int | None
) -> dict[int, InventoryPrincipal]:
    """As `settle_fresh`, for some of the principals that were read."""
    changes = fresh.changes or {}
    changed: dict[int, InventoryPrincipal] = {}
    for key in keys:
        found, before = fresh.principals[key], inventory.get(key)
        dated = date_changes(found, before, fresh.as_of, changes.get(concern_of(found), ()), first)
        if dated != before:
            changed[key] = dated
    return changed


def date_changes(
    found: InventoryPrincipal,
    before: InventoryPrincipal | None,
    as_of: int,
    changes: Iterable[Change],
    first: int | None,
) -> InventoryPrincipal:
    """Give grants the age that is known of them, and keep what was known before."""
    listed = tuple(changes)
    granted = found.grants.granted
    births: dict[int, int] = {}
    for born, mask in (*found.grants.births, *(() if before is None else before.grants.births)):
        births[born] = births.get(born, 0) | (mask & granted)
    new = 0 if before is None else granted & ~before.grants.granted
    if new:
        born = max((change.time for change in listed), default=as_of)
        births[born] = births.get(born, 0) | new
    for change in listed:
        if before is None or first is None or change.time < first:
            births[change.time] = births.get(change.time, 0) | granted_through(found, change.through)
    return replace(found, grants=replace(found.grants, births=keep_newest(births)))


def keep_newest(births: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    """Each action with its newest birth only, which is the one that counts: so they do not become ever more."""
    kept: list[tuple[int, int]] = []
    seen = 0
    for born in sorted(births, reverse=True):
        if mask := births[born] & ~seen:
            kept.append((born, mask))
            seen |= mask
    return tuple(reversed(kept))


def granted_through(found: InventoryPrincipal, through: str) -> int:
    """The actions that a principal has by a policy or group only, all of them where none is said."""
    granted = found.grants.granted
    if not through:
        return granted
    by, otherwise = 0, 0
    for granting in found.grants.provenance:
        if through in (granting.policy_arn or granting.policy, granting.via_group):
            by |= granting.mask
        else:
            otherwise |= granting.mask
    return by & granted & ~otherwise


def find_holders(
    inventory: Iterable[InventoryPrincipal], concerns: Iterable[Concern]
) -> Iterator[tuple[Concern, Concern]]:
    """Pairs of a concern about a policy or group, and a principal that is known to have it."""
    wanted = [concern for concern in concerns if concern.kind in ("policy", "group")]
    if not wanted:
        return
    for found in inventory:
        for concern in wanted:
            if found.account_id == concern.account_id and _has(found, concern):
                yield concern, concern_of(found)


def _has(found: InventoryPrincipal, concern: Concern) -> bool:
    if concern.kind == "policy" and found.boundary == concern.name:
        return True
    return any(
        concern.name == (granting.policy_arn if concern.kind == "policy" else granting.via_group)
        for granting in found.grants.provenance
    )
