"""What a queue's message says: events themselves, or which log files were written.

    S3 notification         {"Records":[{"eventSource":"aws:s3","s3":{"bucket":{"name"},"object":{"key","eTag"}}}]}
    S3 through EventBridge  {"source":"aws.s3","detail-type":"Object Created","detail":{"bucket":{"name"},"object":{"key","etag"}}}
    CloudTrail's own (SNS)  {"s3Bucket":"…","s3ObjectKey":["…"]}
    through SNS             {"Type":"Notification","Message":"any of these, as text"}
    S3's test               {"Event":"s3:TestEvent"}: nothing

The key is URL-encoded in the first form only (S3 User Guide, event message structure).
All else is taken for events: an EventBridge event around a record, or what `rejected` is for.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

import msgspec

_WRAPPED_MAX = 3


@dataclass(frozen=True, slots=True)
class LogObject:
    """A log file in a bucket; `etag` is empty where the message does not tell it."""

    bucket: str
    key: str
    etag: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """What one message holds: a payload of events, or names of files; neither where it says nothing."""

    payload: bytes | None = None
    files: tuple[LogObject, ...] = ()


def read_message(body: str | bytes) -> Message:
    """Never raises: what is not understood is a payload, which becomes a reject."""
    raw = body.encode(errors="replace") if isinstance(body, str) else body
    for _ in range(_WRAPPED_MAX):
        whole = _decode(raw)
        if whole is None:
            break
        if whole.get("Type") == "Notification" and isinstance(message := whole.get("Message"), str):
            raw = message.encode(errors="replace")
            continue
        if whole.get("Event") == "s3:TestEvent":
            return Message()
        try:
            files = _find_files(whole)
        except (KeyError, TypeError, AttributeError):
            break  # Like a notification, but none: a reject.
        return Message(payload=raw) if files is None else Message(files=files)
    return Message(payload=raw)


def _decode(raw: bytes) -> dict[str, Any] | None:
    try:
        whole = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return whole if isinstance(whole, dict) else None


def _find_files(whole: dict[str, Any]) -> tuple[LogObject, ...] | None:
    """The files that a notification names; None where it is no notification. Raises KeyError and its like for a broken one."""
    if isinstance(bucket := whole.get("s3Bucket"), str):
        return tuple(LogObject(bucket, str(key)) for key in whole["s3ObjectKey"])
    if whole.get("source") == "aws.s3" and str(whole.get("detail-type", "")).startswith("Object "):
        detail = whole["detail"]
        if whole["detail-type"] != "Object Created":
            return ()
        written = detail["object"]
        return (
            LogObject(detail["bucket"]["name"], written["key"], written.get("etag", ""), int(written.get("size", 0))),
        )
    records = whole.get("Records")
    if isinstance(records, list) and records and all(isinstance(each, dict) and "s3" in each for each in records):
        return tuple(_read_s3(each["s3"]) for each in records if _is_created(each))
    return None


def _is_created(record: dict[str, Any]) -> bool:
    return str(record.get("eventName", "ObjectCreated")).removeprefix("s3:").startswith("ObjectCreated")


def _read_s3(told: dict[str, Any]) -> LogObject:
    written = told["object"]
    return LogObject(
        told["bucket"]["name"], unquote_plus(written["key"]), written.get("eTag", ""), int(written.get("size", 0))
    )
