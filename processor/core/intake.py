"""Decoded records -> uses: classes 1 to 6 of a record are decided here, and need no state.

The loop in `resolve` is the hot path. What repeats is remembered: a session's userIdentity is the same bytes in all of
its records, so that who called is found by one look-up; times repeat; so do pairs of (eventSource, eventName).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate
from itertools import count
from typing import Any

from xxhash import xxh3_64_intdigest

from processor.core.actions import ActionMap, ActionRule
from processor.core.principals import Known, Principal, decode_user_identity, resolve_caller
from processor.core.records import (
    NOT_IAM_CATEGORIES,
    NOT_IAM_SOURCES,
    TIME_MAX,
    Decoded,
    Record,
    Rejected,
    Resource,
    is_denied,
    is_not_iam,
    parse_time,
)

SHARDS = 64
"""Fixed for a store's life: a principal's shard is the top 6 bits of its key."""

SESSIONS_MAX = 65_536
MINUTES_MAX = 262_144
UNMAPPED_MAX = 2_000
"""Bounds of what is remembered; a memory that is full is emptied, as the same things soon come again."""

SUCCEEDED, FAILED, DENIED = range(3)

_SECONDS = {f"{second:02}Z": second for second in range(60)}
"""How a time in CloudTrail's form ends, behind its minute."""

Use = tuple["Session", tuple[int, ...], int, int, int, str | None, list[Resource] | None]
"""session, action ids, event time, hash of the event's id, outcome, region, resources"""


class Session:
    """Who called: one distinct userIdentity. `excluded` is the class of its records where they are credited to nobody.

    `usage` is where a ledger keeps the principal's usage at hand; `number` plus an action's id is unlike any other
    session's.
    """

    __slots__ = ("account_id", "excluded", "number", "operator", "principal", "salt", "usage", "via")

    def __init__(
        self, principal: Principal | None, operator: str, via: str, account_id: str, excluded: str | None
    ) -> None:
        self.principal = principal
        self.operator = operator
        self.via = via
        self.account_id = account_id
        self.excluded = excluded
        self.salt = 0 if principal is None else salt_of(principal)
        self.usage: Any = None
        self.number = next(_numbers) << 24


_numbers = count(1)


def key_of(principal: Principal) -> int:
    """The 64-bit key of a principal in a store: XXH3-64 of `ARN NUL unique id`. Its top 6 bits are the shard."""
    return xxh3_64_intdigest(f"{principal.arn}\0{principal.unique_id or ''}".encode())


def shard_of(key: int) -> int:
    return key >> 58


def salt_of(principal: Principal) -> int:
    """Makes one event's hash another one for each principal: an event is a duplicate of its own principal's only."""
    return xxh3_64_intdigest(f"{principal.arn}\0{principal.unique_id or ''}".encode(), seed=1)


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


CLASSES = (
    "use",
    "denied",
    "duplicate",
    "not_iam",
    "no_principal",
    "out_of_scope",
    "unmapped",
    "rejected",
)


@dataclass(slots=True)
class Tally:
    """What was counted: records by class, rejects by reason, names that no action bears, and times seen."""

    classes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    rejected: dict[str, int] = field(default_factory=dict)
    unmapped: dict[str, int] = field(default_factory=dict)
    accounts: dict[str, int] = field(default_factory=dict)
    newest: int = 0
    second_newest: int = 0
    late: int = 0

    @property
    def read(self) -> int:
        return sum(self.classes.values())

    def note_time(self, account_id: str, time: int) -> None:
        """Take notice of a record of an account's log: since when the log is known, and how far."""
        first = self.accounts.get(account_id)
        if first is None or time < first:
            self.accounts[account_id] = time
        if time > self.newest:
            self.second_newest, self.newest = self.newest, time
        elif time > self.second_newest and time != self.newest:
            self.second_newest = time


class Intake:
    """Turns records into uses. `known` are the inventory's principals by unique id.

    Records newer than `future` are rejected (a long-running process sets it, `now` + 15 min); those newer than `until`
    count in the classes, but leave no trace elsewhere.
    """

    def __init__(self, actions: ActionMap, scope: Scope, known: Known, tally: Tally, until: int = TIME_MAX) -> None:
        self.tally = tally
        self.until = until
        self.future = TIME_MAX
        self.rejects: list[Rejected] = []
        self._actions = actions
        self._scope = scope
        self._known = known
        self._sessions: dict[bytes, Session] = {}
        self._minutes: dict[str, int] = {}
        self._rules: dict[str, dict[str, ActionRule | None]] = {}
        self._outcomes: dict[str, int] = {}

    def forget_sessions(self, known: Known) -> None:
        """Take another inventory: callers are resolved anew."""
        self._known = known
        self._sessions.clear()

    def resolve(self, decoded: Decoded) -> list[Use]:
        """The uses in a slice, in order; what is no use is counted in `tally`, what is bad is left in `rejects`."""
        tally = self.tally
        classes, accounts = tally.classes, tally.accounts
        sessions, minutes, rules, outcomes = self._sessions, self._minutes, self._rules, self._outcomes
        until, future, newest = self.until, self.future, tally.second_newest
        uses: list[Use] = []
        append = uses.append
        for record in decoded.records:
            if (record.eventType != "AwsApiCall" or record.eventCategory in NOT_IAM_CATEGORIES) and is_not_iam(
                record.eventType, record.eventCategory, ""
            ):
                self._count_not_iam(record.eventTime, record.recipientAccountId)
                continue
            try:
                rule = rules[record.eventSource][record.eventName]
            except KeyError:
                rule = self._find_rule(record.eventSource, record.eventName)
            if rule is None and record.eventSource in NOT_IAM_SOURCES:
                self._count_not_iam(record.eventTime, record.recipientAccountId)
                continue
            text = record.eventTime
            try:
                time = minutes[text[:17]] + _SECONDS[text[17:]]
            except KeyError:
                time = self._read_time(text)
            caller = bytes(record.userIdentity)
            session = sessions.get(caller) or self._open_session(caller)
            if not time or session is None or time > future or not record.eventID:
                self._reject(record, time, session)
                continue
            account = record.recipientAccountId or session.account_id
            if (time > newest or time < accounts.get(account, TIME_MAX)) and time <= until:
                tally.note_time(account, time)
                newest = tally.second_newest
            if session.excluded is not None:
                classes[session.excluded] += 1
                continue
            if rule is None:
                self._count_unmapped(record)
                continue
            code = record.errorCode
            if not code:
                outcome = SUCCEEDED
            elif (outcome := outcomes.get(code, -1)) < 0:
                outcome = self._judge_outcome(code, record.eventSource)
            append(
                (
                    session,
                    rule.actions
                    if rule.proves is None
                    else self._actions.resolve(rule, bytes(record.requestParameters)),
                    time,
                    xxh3_64_intdigest((record.sharedEventID or record.eventID).encode()) ^ session.salt,
                    outcome,
                    record.awsRegion,
                    record.resources,
                )
            )
        if decoded.not_iam or decoded.rejected:
            self._count_odd(decoded)
        return uses

    def _count_odd(self, decoded: Decoded) -> None:
        """What the decoder itself found to be no IAM call, or no record."""
        for found in decoded.not_iam:
            if isinstance(found, Record):
                self._count_not_iam(found.eventTime, found.recipientAccountId)
            else:
                self._count_not_iam(found.get("eventTime"), found.get("recipientAccountId"))
        self.reject_all(decoded.rejected)

    def reject_all(self, rejected: Iterable[Rejected]) -> None:
        for found in rejected:
            self.tally.classes["rejected"] += 1
            self.tally.rejected[found.reason] = self.tally.rejected.get(found.reason, 0) + 1
            self.rejects.append(found)

    def _count_not_iam(self, event_time: object, account_id: object) -> None:
        self.tally.classes["not_iam"] += 1
        time = parse_time(event_time) if isinstance(event_time, str) else None
        if time is not None and time <= min(self.until, self.future) and isinstance(account_id, str):
            self.tally.note_time(account_id, time)

    def _count_unmapped(self, record: Record) -> None:
        self.tally.classes["unmapped"] += 1
        name = f"{record.eventSource}:{record.eventName}"[:256]
        unmapped = self.tally.unmapped
        if name not in unmapped and len(unmapped) >= UNMAPPED_MAX:
            name = "(others)"
        unmapped[name] = unmapped.get(name, 0) + 1

    def _reject(self, record: Record, time: int, session: Session | None) -> None:
        if not record.eventID:
            reason = "no_eventID"
        elif not time:
            reason = "bad_eventTime"
        else:
            reason = "bad_userIdentity" if session is None else "future"
        self.reject_all((Rejected(reason, f"{record.eventSource} {record.eventName} {record.eventTime}".encode()),))

    def _read_time(self, text: str) -> int:
        """Seconds since 1970, 0 for what is no time; remembers the minute of a time in CloudTrail's own form."""
        time = parse_time(text) or 0
        if time and text[17:] in _SECONDS:
            if len(self._minutes) >= MINUTES_MAX:
                self._minutes.clear()
            self._minutes[text[:17]] = time - time % 60
        return time

    def _open_session(self, raw: bytes) -> Session | None:
        found = decode_user_identity(raw)
        if found is None:
            return None
        caller = resolve_caller(found, self._known)
        principal = caller.principal
        excluded = "no_principal" if principal is None else None if self._scope.covers(principal) else "out_of_scope"
        account_id = found.accountId or (principal.account_id if principal is not None else "")
        session = Session(principal, caller.operator, caller.via, account_id, excluded)
        if len(self._sessions) >= SESSIONS_MAX:
            self._sessions.clear()
        self._sessions[raw] = session
        return session

    def _find_rule(self, event_source: str, event_name: str) -> ActionRule | None:
        by_name = self._rules.setdefault(event_source, {})
        if len(by_name) >= UNMAPPED_MAX or len(self._rules) >= UNMAPPED_MAX:
            self._rules.clear()
            by_name = self._rules[event_source] = {}
        rule = by_name[event_name] = self._actions.lookup(event_source, event_name)
        return rule

    def _judge_outcome(self, code: str, event_source: str) -> int:
        outcome = DENIED if is_denied(code, event_source) else FAILED
        if not code.endswith("NotAuthorizedException") and len(self._outcomes) < UNMAPPED_MAX:
            self._outcomes[code] = outcome
        return outcome
