"""Payload bytes -> records, whatever they came wrapped in. The form is recognised, not asked for.

One payload is a JSON object: a record, an EventBridge event around one, a CloudWatch Logs batch, a `LookupEvents` event,
or an S3 log file's `{"Records":[…]}`. `stream.py` cuts files into payloads; queues and streams hand them over whole.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from processor.core.records import Judged, Rejected, decode_each, judge_object

GZIP_MAGIC = b"\x1f\x8b"
NESTING_MAX = 4
"""Envelopes within envelopes: deeper than any that AWS makes."""

CROWD_MIN = 65_536
CROWD_ELEMENT_BYTES = 64
"""More values than this in one payload, of less than so many bytes each, are no records: a megabyte of `0,` would
become a hundred megabytes of rejects."""


class LogEvent(Struct, gc=False):
    message: str


class LogBatch(Struct, gc=False):
    """A CloudWatch Logs subscription's batch, unzipped. A CONTROL_MESSAGE carries no record."""

    logEvents: list[LogEvent]
    messageType: str | None = None


_decode_batch = msgspec.json.Decoder(LogBatch).decode
_decode_raws = msgspec.json.Decoder(list[Raw]).decode


def judge_payloads(payloads: Sequence[bytes]) -> Judged:
    """Payloads of any form, unzipped, one by one."""
    found = Judged([], [], [])
    for payload in payloads:
        add_judged(found, judge_payload(payload))
    return found


def judge_payload(payload: bytes) -> Judged:
    """One payload of any form, unzipped."""
    return _judge_listed(payload) if payload.startswith(b"[") else judge_value(payload)


def _judge_listed(payload: bytes) -> Judged:
    """A payload that is an array of others. An array among its elements is none that AWS makes: a reject."""
    try:
        # Counted as values, of which a number takes 8 bytes, before each becomes an object of its own.
        if len(payload) <= CROWD_MIN or not is_crowd(len(msgspec.json.decode(payload)), len(payload)):
            return judge_elements(_decode_raws(payload))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # Broken, or nested too deep: a reject.
    return judge_value(payload)


def add_judged(found: Judged, more: Judged) -> None:
    """Append all of `more` to `found`."""
    found.records += more.records
    found.not_iam += more.not_iam
    found.rejected += more.rejected


def judge_value(payload: bytes | Raw) -> Judged:
    """One payload of any form but an array: that is a reject."""
    found = decode_each((payload,))
    if found.records:
        return found
    raw = bytes(payload)
    try:
        whole = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return found
    opened = _open(whole, raw, 0)
    return found if opened is None else opened


def _open(whole: object, raw: bytes, depth: int) -> Judged | None:
    """The records in an envelope, or None where `whole` is no envelope but a record, good or bad."""
    if not isinstance(whole, dict) or depth > NESTING_MAX:
        return None
    detail = whole.get("detail")
    if isinstance(detail, dict) and "eventID" not in whole:
        return _judge_detail(detail, raw)
    if isinstance(events := whole.get("logEvents"), list) and not is_crowd(len(events), len(raw)):
        return _open_batch(whole, events, raw)
    if isinstance(event := whole.get("CloudTrailEvent"), str):
        return decode_each((event.encode(errors="replace"),))
    for key in ("Records", "Events"):
        if isinstance(listed := whole.get(key), list) and not is_crowd(len(listed), len(raw)):
            found = Judged([], [], [])
            for element in listed:
                add_judged(found, _open_element(element, depth))
            return found
    return None


def is_crowd(count: int, size: int) -> bool:
    """Whether a payload of `size` bytes holds too many values to be records: it is one reject."""
    return count > CROWD_MIN and count * CROWD_ELEMENT_BYTES > size


def _open_element(element: object, depth: int) -> Judged:
    raw = msgspec.json.encode(element)
    return _open(element, raw, depth + 1) or decode_each((raw,))


def _judge_detail(detail: dict[str, Any], raw: bytes) -> Judged:
    found = Judged([], [], [])
    if any(key in detail for key in ("eventVersion", "eventName", "eventSource", "eventID")):
        judge_object(detail, msgspec.json.encode(detail), found)
    else:
        found.rejected.append(Rejected("notification", raw))
    return found


def _open_batch(whole: dict[str, Any], events: list[Any], raw: bytes) -> Judged:
    if whole.get("messageType") == "CONTROL_MESSAGE":
        return Judged([], [], [])
    found = Judged([], [], [])
    sample = raw[:4096]
    for event in events:
        message = event.get("message") if isinstance(event, dict) else None
        if isinstance(message, str):
            add_judged(found, decode_each((message.encode(errors="replace"),)))
        else:
            found.rejected.append(Rejected("no_message", sample))
    return found


def read_messages(batch: bytes | bytearray) -> list[str] | None:
    """The messages of a CloudWatch Logs batch, unzipped, each a record as it should be; none of a CONTROL_MESSAGE. None
    where the batch is no batch, or not only of messages."""
    try:
        found = _decode_batch(batch)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return [] if found.messageType == "CONTROL_MESSAGE" else [event.message for event in found.logEvents]


def judge_elements(raws: Iterable[bytes | Raw]) -> Judged:
    """Array elements or lines of any form."""
    found = Judged([], [], [])
    for raw in raws:
        add_judged(found, judge_value(raw))
    return found
