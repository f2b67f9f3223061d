"""Who calls, and what: the parts of a use that many uses have in common."""

import re
from dataclasses import dataclass
from fnmatch import translate
from typing import Any, NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

from processor.core.actions import ActionRule
from processor.core.compiled import Halves
from processor.core.key_tables import EVENT_BITS, SHARD_SHIFT, grow
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


@dataclass(frozen=True, slots=True)
class Origin:
    """What many sessions have in common: who called, through which service, and the caller's account."""

    actor: Actor
    via: str
    account_id: str

    @property
    def via_hash(self) -> int:
        """0 for a via that is not there."""
        return hash_text(self.via) if self.via else 0


class Session(NamedTuple):
    """Who called, and under which name."""

    origin: Origin
    operator: str


class Sessions:
    """Sessions by number: there are many of them, so that each is a text and the number of its origin, and nothing of its own."""

    __slots__ = ("_numbers", "operators", "origin_numbers", "origins")

    def __init__(self) -> None:
        self.operators: list[str] = []
        self.origins: list[Origin] = []
        self.origin_numbers: Halves = np.zeros(64, np.int32)
        self._numbers: dict[tuple[int, str, str], int] = {}

    def reserve(self, more: int) -> None:
        """Make room for the origins of so many more, for a loop to write them."""
        self.origin_numbers = grow(self.origin_numbers, len(self.operators) + more)

    def add(self, actor: Actor, operator: str, via: str, account_id: str) -> int:
        """Add one; answers its number."""
        key = (actor.number, via, account_id)
        origin = self._numbers.get(key)
        if origin is None:
            origin = self._numbers[key] = len(self.origins)
            self.origins.append(Origin(actor, via, account_id))
        number = len(self.operators)
        self.reserve(1)
        self.origin_numbers[number] = origin
        self.operators.append(operator)
        return number

    def origin_of(self, number: int) -> Origin:
        return self.origins[int(self.origin_numbers[number])]

    def __len__(self) -> int:
        return len(self.operators)

    def __getitem__(self, number: int) -> Session:
        return Session(self.origin_of(number), self.operators[number])


def hash_text(text: str) -> int:
    """64 bits that hold for this process only: Python's own hash, which a text keeps."""
    return hash(text) & WORD


@dataclass(frozen=True, slots=True, eq=False)
class Effect:
    """What calls of a shape do: the actions that they are, and how they end. Some of a shape have other actions than the rest, as
    their parameters prove by its `rule`."""

    rule: ActionRule | None
    actions: tuple[int, ...]
    outcome: int


@dataclass(slots=True, eq=False)
class Shape:
    """What was called, and what that did. `stop`: why its records are no uses, or must each be looked at; `watched`: each is
    to be told of, as it changes what somebody may do."""

    event_source: str
    event_name: str
    effect: Effect
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


class Call(NamedTuple):
    """A principal's calls that do the same."""

    actor: Actor
    effect: Effect


class Calls:
    """Calls by number, as small as sessions: tens of thousands of them do the same few hundred things."""

    __slots__ = ("actors", "effects")

    def __init__(self) -> None:
        self.actors: list[Actor] = []
        self.effects: list[Effect] = []

    def add(self, actor: Actor, effect: Effect) -> int:
        """Add one; answers its number."""
        self.actors.append(actor)
        self.effects.append(effect)
        return len(self.actors) - 1

    def __len__(self) -> int:
        return len(self.actors)

    def __getitem__(self, number: int) -> Call:
        return Call(self.actors[number], self.effects[number])
