"""Who calls, and what: the parts of a use that many uses have in common."""

import re
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

from xxhash import xxh3_64_intdigest

from processor.core.actions import ActionRule
from processor.core.principals import Principal
from processor.core.tally import AccountLog

SHARDS = 64
"""Fixed for a store's life: a principal's shard is the top 6 bits of its key."""

SUCCEEDED, FAILED, DENIED = range(3)


def key_of(principal: Principal) -> int:
    """The 64-bit key of a principal in a store: XXH3-64 of `ARN NUL unique id`. Its top 6 bits are the shard."""
    return xxh3_64_intdigest(_name_of(principal))


def shard_of(key: int) -> int:
    return key >> 58


def salt_of(principal: Principal) -> int:
    """Makes one event's hash another one for each principal: an event is a duplicate of its own principal's only."""
    return xxh3_64_intdigest(_name_of(principal), seed=1)


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
    """A principal as far as calls go. `excluded` is the class of its records where they are credited to nobody; `calls`
    are by event name; `usage` is where a ledger keeps the principal's usage at hand."""

    __slots__ = ("calls", "excluded", "principal", "salt", "usage")

    def __init__(self, principal: Principal | None, excluded: str | None) -> None:
        self.principal = principal
        self.excluded = excluded
        self.salt = 0 if principal is None else salt_of(principal)
        self.calls: dict[str, Call] = {}
        self.usage: Any = None


class Session:
    """Who called: one distinct userIdentity. `calls` are its actor's."""

    __slots__ = ("account_id", "actor", "calls", "operator", "via")

    def __init__(self, actor: Actor, operator: str, via: str, account_id: str) -> None:
        self.actor = actor
        self.calls = actor.calls
        self.operator = operator
        self.via = via
        self.account_id = account_id


class Call:
    """A principal's calls of one name, in one region and with one outcome.

    `plain`: its records are uses of `actions` without another look. `others` are calls of the same principal and name that
    differ in source, region, error code, log or actions. `cells` are a ledger's, who finds its state by them.
    """

    __slots__ = (
        "account_id",
        "actions",
        "actor",
        "cells",
        "error_code",
        "event_source",
        "log",
        "others",
        "outcome",
        "plain",
        "region",
        "rule",
        "salt",
    )

    def __init__(
        self,
        actor: Actor,
        rule: ActionRule | None,
        actions: tuple[int, ...],
        outcome: int,
        log: AccountLog,
        key: "CallKey",
    ) -> None:
        self.actor = actor
        self.rule = rule
        self.actions = actions
        self.outcome = outcome
        self.log = log
        self.event_source, self.region, self.error_code, self.account_id = key
        self.salt = actor.salt
        self.plain = actor.excluded is None and rule is not None and rule.proves is None
        self.others: dict[CallKey | tuple[int, ...], Call] = {}
        self.cells: tuple[Any, ...] = ()


CallKey = tuple[str, str | None, str | None, str | None]
"""eventSource, awsRegion, errorCode, recipientAccountId"""
