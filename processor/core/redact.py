"""What of a rejected record may be kept: where and when it was, and nothing that could be a secret."""

import re
from hashlib import sha256
from typing import Any

import msgspec

KEPT = (
    "eventVersion",
    "eventTime",
    "eventSource",
    "eventName",
    "awsRegion",
    "errorCode",
    "eventID",
    "eventType",
    "eventCategory",
    "recipientAccountId",
    "sharedEventID",
    "readOnly",
)
"""Fields that hold no secret and no text of the caller's; all others are only named."""

TEXT_MAX = 256
HEAD_BYTES = 256
REDACTED = "(redacted)"

_LONG = re.compile(rb"[A-Za-z0-9+/=_-]{16,}")
"""As long as the shortest of AWS' secrets."""


def redact(raw: bytes) -> str | None:
    """A record that is a JSON object with the values of KEPT, and the names only of its other fields; None for other bytes."""
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return msgspec.json.encode({str(name)[:TEXT_MAX]: _keep(name, value) for name, value in found.items()}).decode()


def _keep(name: str, value: Any) -> Any:
    if name == "detail" and isinstance(value, dict):
        return {str(inner)[:TEXT_MAX]: _keep(inner, each) for inner, each in value.items() if inner != "detail"}
    if name not in KEPT or not isinstance(value, (str, int, float, bool, type(None))):
        return REDACTED
    return value[:TEXT_MAX] if isinstance(value, str) else value


def describe_bytes(raw: bytes) -> tuple[str, bytes]:
    """Of bytes that are no JSON object: SHA-256 in hex of all of them, and the first few without what could be a secret."""
    return sha256(raw).hexdigest(), _LONG.sub(REDACTED.encode(), raw[:HEAD_BYTES])[:HEAD_BYTES]
