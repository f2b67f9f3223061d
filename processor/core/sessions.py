"""Who calls, and what: the parts of a use that many uses have in common."""

import re
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

from xxhash import xxh3_64_intdigest

from processor.core.actions import ActionRule
from processor.core.key_tables import EVENT_BITS, SHARD_SHIFT
from processor.core.principals import Principal

SHARDS = 64
"""Fixed for a store's life: a principal's shard is the top 6 bits of its key."""

SUCCEEDED, FAILED, DENIED = range(3)

WORD = 2**64 - 1


def key_of(principal: Principal) -> int:
    """The 64-bit key of a principal in a store: XXH3-64 of `ARN NUL unique id`. Its top 6 bits are the shard."""
    key: int = xxh3_64_intdigest(_name_of(principal))
    return key


def shard_of(key: int) -> int:
    """The shard of a principal's key, or of the hash of an event of it."""
    return key >> SHARD_SHIFT


def salt_of(principal: Principal) -> int:
    """Makes one event's hash another one for each principal: an event is a duplicate of its own principal's only.

    Its top 6 bits are the shard, and those of an event's own hash are 0: what was seen is divided like all else of a store.
    """
    hashed: int = xxh3_64_intdigest(_name_of(principal), seed=1)
    return (hashed & EVENT_BITS) + (shard_of(key_of(principal)) << SHARD_SHIFT)


def _name_of(principal: Principal) -> bytes:
    return f"{principal.arn}\0{principal.unique_id or ''}".encode()


@dataclass(frozen=True, slots=True)
class Scope:
    """What a run is narrowed to: patterns (`*`, `?`) of account ids, ARNs or names; nothing in `only` means all."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    service_linked: bool = False

    def covers(self, principal: Principal) -> bool:
        if principal.service_linked and not self.service_linked:
            return False
        if self.only and not any(_matches(pattern, principal) for pattern in self.only):
            return False
        return not any(_matches(pattern, principal) for pattern in self.skip)


def _matches(pattern: str, principal: Principal) -> bool:
    matches = re.compile(translate(pattern)).match
    return any(matches(text) for text in (principal.account_id, principal.arn, principal.arn.rpartition("/")[2]))


class Actor:
    """A principal as far as calls go. `excluded` is the class of its records where they are credited to nobody; `usage` is
    where a ledger keeps the principal's usage at hand."""

    __slots__ = ("excluded", "number", "principal", "salt", "usage")

    def __init__(self, principal: Principal | None, excluded: str | None, number: int = 0) -> None:
        self.principal = principal
        self.excluded = excluded
        self.number = number
        self.salt = 0 if principal is None else salt_of(principal)
        self.usage: Any = None


class Session:
    """Who called: there are many of them, so that each is small."""

    __slots__ = ("account_id", "actor", "operator", "via")

    def __init__(self, actor: Actor, operator: str, via: str, account_id: str) -> None:
        self.actor = actor
        self.operator = operator
        self.via = via
        self.account_id = account_id

    @property
    def operator_hash(self) -> int:
        return hash_text(self.operator)

    @property
    def via_hash(self) -> int:
        """0 for a via that is not there."""
        return hash_text(self.via) if self.via else 0


def hash_text(text: str) -> int:
    """64 bits that hold for this process only: Python's own hash, which a text keeps."""
    return hash(text) & WORD


@dataclass(slots=True, eq=False)
class Shape:
    """What was called, and how that ended. `stop`: why its records are no uses, or must each be looked at; `watched`: each is
    to be told of, as it changes what somebody may do."""

    event_source: str
    event_name: str
    rule: ActionRule | None
    outcome: int
    stop: str = ""
    watched: bool = False


@dataclass(slots=True, eq=False)
class Place:
    """Where something was called: the region, and the account whose log has it."""

    region: str | None
    account_id: str | None

    @property
    def region_hash(self) -> int:
        return hash_text(self.region or "")


class Call:
    """A principal's calls of one shape, and with the same `actions`.

    `others` are calls that differ in those, by what their parameters prove; None before there is one.
    """

    __slots__ = ("actions", "actor", "number", "others", "outcome", "rule", "salt")

    def __init__(
        self,
        actor: Actor,
        rule: ActionRule | None,
        actions: tuple[int, ...],
        outcome: int,
        number: int,
    ) -> None:
        self.actor = actor
        self.rule = rule
        self.actions = actions
        self.outcome = outcome
        self.number = number
        self.salt = actor.salt
        self.others: dict[tuple[int, ...], Call] | None = None
