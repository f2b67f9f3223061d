"""Bytes of CloudTrail records -> Record, or the reason why one is none.

Most records are only scanned (scan.py). What the scan leaves, and what is met for the first time, is decoded here into a
narrow struct: fields that nothing reads are skipped, not built. Only a record that the struct refuses is decoded whole
and judged by hand, so that one odd record costs its neighbours nothing.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

NOT_IAM_EVENT_TYPES = frozenset(
    (
        "AwsServiceEvent",
        "AwsConsoleSignIn",
        "AwsConsoleSignin",
        "AwsConsoleAction",
        "AwsVpceEvent",
        "AwsVpceEvents",
        "AwsCloudTrailInsight",
    )
)
"""eventTypes that no IAM action authorises (CloudTrail User Guide, record contents; both spellings are in real logs)."""

NOT_IAM_CATEGORIES = frozenset(("NetworkActivity", "Insight"))
NOT_IAM_SOURCES = frozenset(("signin.amazonaws.com",))

TIME_MAX = 2**32 - 1
"""Times are stored in 32 bits, seconds since 1970: good until 2106."""

DAY_SECONDS = 86_400


class Resource(Struct, gc=False):
    """One element of `resources`; `ARNPrefix` elements have no ARN."""

    ARN: str | None = None


class Record(Struct, gc=False, kw_only=True):
    """What is read of a CloudTrail record, under CloudTrail's names. `userIdentity` and `requestParameters` stay bytes:
    the first is the key of a cache, the second is read only where a rule asks for it.

    The fields stand in the order in which CloudTrail writes them: msgspec looks for the next one first.
    """

    userIdentity: Raw
    eventTime: str
    eventSource: str
    eventName: str
    awsRegion: str | None = None
    errorCode: str | None = None
    requestParameters: Raw = Raw()
    eventID: Annotated[str, Meta(min_length=1)]
    resources: list[Resource] | None = None
    eventType: str | None = None
    recipientAccountId: str | None = None
    sharedEventID: str | None = None
    eventCategory: str | None = None


Origin = tuple[str, int]
"""A source, and the record of it that something was met at or before."""


class Rejected(Struct, gc=False):
    """A record that cannot be used: `reason` is one of a small fixed set, `raw` its bytes (not for storing as they are),
    `origin` where it was met, as far as that was said."""

    reason: str
    raw: bytes
    origin: Origin = ("", 0)


class Judged(Struct, gc=False):
    """What the decoders that look at one record at a time found: records, records known to be no IAM call, and rejects."""

    records: list[Record]
    not_iam: list[dict[str, Any]]
    rejected: list[Rejected]

    @property
    def read(self) -> int:
        return len(self.records) + len(self.not_iam) + len(self.rejected)


_decode_record = msgspec.json.Decoder(Record).decode
_REQUIRED = ("eventID", "eventTime", "eventSource", "eventName")
_OPTIONAL = ("awsRegion", "errorCode", "sharedEventID", "recipientAccountId", "eventType", "eventCategory")


def decode_record(raw: bytes | Raw) -> Record | None:
    """One record, or None for what the narrow struct refuses."""
    try:
        return _decode_record(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def decode_each(raws: Iterable[bytes | Raw]) -> Judged:
    """Records one by one, each judged for itself."""
    found = Judged([], [], [])
    for raw in raws:
        record = decode_record(raw)
        if record is None:
            judge_odd(bytes(raw), found)
        else:
            found.records.append(record)
    return found


def judge_odd(raw: bytes, found: Judged) -> None:
    """Put a record that the narrow struct refused where it belongs: repaired, no IAM call, or rejected."""
    try:
        whole = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found.rejected.append(Rejected("undecodable", raw))
        return
    if not isinstance(whole, dict):
        found.rejected.append(Rejected("not_an_object", raw))
        return
    judge_object(whole, raw, found)


def judge_object(whole: dict[str, Any], raw: bytes, found: Judged) -> None:
    """`judge_odd` for a record that is decoded already."""
    text = {name: value for name in _OPTIONAL if isinstance(value := whole.get(name), str)}
    source = whole.get("eventSource")
    if is_not_iam(text.get("eventType"), text.get("eventCategory"), source if isinstance(source, str) else ""):
        found.not_iam.append(whole)
        return
    if "Sns" in whole or "s3" in whole or "body" in whole or whole.get("Event") == "s3:TestEvent":
        found.rejected.append(Rejected("notification", raw))
        return
    for name in _REQUIRED:
        if not isinstance(whole.get(name), str):
            found.rejected.append(Rejected(f"no_{name}" if whole.get(name) is None else f"bad_{name}", raw))
            return
    if not whole["eventID"]:
        # All calls without an id would be duplicates of the first.
        found.rejected.append(Rejected("no_eventID", raw))
        return
    caller = whole.get("userIdentity")
    if not isinstance(caller, dict):
        found.rejected.append(Rejected("no_userIdentity" if caller is None else "bad_userIdentity", raw))
        return
    parameters = whole.get("requestParameters")
    found.records.append(
        Record(
            **{name: whole[name] for name in _REQUIRED},
            **text,
            userIdentity=Raw(msgspec.json.encode(caller)),
            resources=_read_resources(whole.get("resources")),
            requestParameters=Raw(msgspec.json.encode(parameters)) if parameters is not None else Raw(),
        )
    )


def _read_resources(listed: object) -> list[Resource] | None:
    if not isinstance(listed, list):
        return None
    return [
        Resource(arn if isinstance(arn := element.get("ARN"), str) else None)
        for element in listed
        if isinstance(element, dict)
    ]


def is_not_iam(event_type: str | None, category: str | None, source: str) -> bool:
    """Whether a record is none of an IAM action's: a service event, a sign-in, an Insight. No eventType: an API call."""
    return event_type in NOT_IAM_EVENT_TYPES or category in NOT_IAM_CATEGORIES or source in NOT_IAM_SOURCES


_midnights: dict[str, int] = {}
_MIDNIGHTS_MAX = 4_096


def parse_time(text: str) -> int | None:
    """Seconds since 1970 of an ISO 8601 time with a zone, or None. Fractions are cut off: CloudTrail has none."""
    if len(text) == 20 and text[10] == "T" and text[13] == text[16] == ":" and text[19] == "Z":
        midnight = _midnights.get(text[:10])
        clock = text[11:13] + text[14:16] + text[17:19]
        if midnight is not None and clock.isdecimal() and clock.isascii():
            seconds = int(clock[4:])
            minutes = int(clock[2:4])
            hours = int(clock[:2])
            return midnight + hours * 3600 + minutes * 60 + seconds if hours < 24 and minutes < 60 > seconds else None
    return _parse_any_time(text)


def _parse_any_time(text: str) -> int | None:
    if not 20 <= len(text) <= 40 or text[10] not in "Tt":
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
        if moment.tzinfo is None:
            return None
        seconds = int(moment.replace(microsecond=0).timestamp())
    except (ValueError, OverflowError):
        return None
    if not DAY_SECONDS <= seconds <= TIME_MAX:
        return None
    if len(_midnights) < _MIDNIGHTS_MAX:
        day = seconds - seconds % DAY_SECONDS
        _midnights[format_time(day)[:10]] = day
    return seconds


_dates: dict[int, str] = {}
_TWO_DIGITS = tuple(f"{number:02}" for number in range(60))


def format_time(seconds: int) -> str:
    """`YYYY-MM-DDTHH:MM:SSZ` of seconds since 1970."""
    day, clock = divmod(seconds, DAY_SECONDS)
    date = _dates.get(day)
    if date is None:
        if len(_dates) >= _MIDNIGHTS_MAX:
            _dates.clear()
        date = _dates[day] = datetime.fromtimestamp(day * DAY_SECONDS, UTC).strftime("%Y-%m-%d")
    return f"{date}T{_TWO_DIGITS[clock // 3600]}:{_TWO_DIGITS[clock // 60 % 60]}:{_TWO_DIGITS[clock % 60]}Z"


AUTHORIZATION_ERRORS = frozenset(
    (
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedOperation",
        "UnauthorizedAccess",
        "AuthorizationError",
        "AuthorizationErrorException",
        "NotAuthorized",
        "NotAuthorizedException",
    )
)
AUTHENTICATION_ERRORS = frozenset(
    (
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "UnrecognizedClientException",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "IncompleteSignature",
    )
)


def is_denied(error_code: str, event_source: str) -> bool:
    """Whether a call was refused before it was authorised. At cognito-idp NotAuthorizedException is a wrong password
    of one of its own users, so that the call itself was authorised (Cognito API reference)."""
    last = error_code.rpartition(".")[2]
    if last == "NotAuthorizedException" and event_source.startswith("cognito-idp."):
        return False
    return last in AUTHORIZATION_ERRORS or last in AUTHENTICATION_ERRORS
