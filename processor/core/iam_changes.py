"""Records that change what somebody may do -> whom they concern.

The table (tables/iam_changes.tsv) says for each event what it concerns and where in the record that is named. A change is
looked up by what AWS has afterwards, never derived from the record: records come late, twice and in any order.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from processor.core.records import parse_time

CONCERNS = ("role", "user", "group", "policy", "organization", "logging")
ALL = "-"
"""Stands in the table where a record names nobody."""

_RESPONSE = "response."
_THROUGH = ("policyArn", "policyName", "groupName")


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One row of the table; `where` are ways to the name, the first that is there counts."""

    event_source: str
    event_name: str
    concerns: str
    where: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class Concern:
    """Who has to be read again: a role, user or group by name, a policy by ARN; `name` is empty for an organization's policies
    and for what is logged in an account."""

    account_id: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class IamChange:
    """One record's concerns; `time` is when it happened, in seconds since 1970, `through` the policy (its ARN, or the name of an
    inline one) or the group that it is about, empty where it is about all that somebody has."""

    event_name: str
    time: int
    concerns: tuple[Concern, ...]
    through: str = ""


ChangeTable = Mapping[tuple[str, str], tuple[ChangeRow, ...]]
"""Rows by (eventSource, eventName)."""


class _Caller(Struct, gc=False):
    accountId: str | None = None


class _ChangeRecord(Struct, gc=False):
    """What is read of such a record, under CloudTrail's names."""

    eventSource: str
    eventName: str
    eventTime: str
    recipientAccountId: str | None = None
    userIdentity: _Caller | None = None
    requestParameters: Any = None
    responseElements: Any = None


_decode = msgspec.json.Decoder(_ChangeRecord).decode


def index_changes(rows: Iterable[ChangeRow]) -> ChangeTable:
    """The rows of each event."""
    found: dict[tuple[str, str], tuple[ChangeRow, ...]] = {}
    for row in rows:
        place = row.event_source, row.event_name
        found[place] = (*found.get(place, ()), row)
    return found


def read_change(raw: bytes, table: ChangeTable) -> IamChange | None:
    """What a record concerns; None for one of no such event, that names nobody, or that cannot be read."""
    try:
        record = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    account_id = record.recipientAccountId or (record.userIdentity and record.userIdentity.accountId) or ""
    time = parse_time(record.eventTime)
    if not account_id or time is None:
        return None
    concerns = []
    for row in table.get((record.eventSource, record.eventName), ()):
        name = "" if row.where == (ALL,) else _find_name(record, row.where)
        if name is not None:
            concerns.append(Concern(account_id, row.concerns, name))
    if not concerns:
        return None
    return IamChange(record.eventName, time, tuple(dict.fromkeys(concerns)), _find_name(record, _THROUGH) or "")


def _find_name(record: _ChangeRecord, where: tuple[str, ...]) -> str | None:
    """The first text that one of the ways leads to."""
    for way in where:
        found = record.responseElements if way.startswith(_RESPONSE) else record.requestParameters
        for key in way.removeprefix(_RESPONSE).split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, str) and found:
            return found
    return None
