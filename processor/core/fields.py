"""Where the fields of one JSON object lie, and whether they are those of a plain record.

An object's fields are noted as spans: pairs of (place of the value, place behind it), by number, in an array of int64 that is
given by its address.
"""

from collections.abc import Callable

import numpy as np

from processor.core.compiled import (
    inner,
    load_number,
    load_octet,
    load_some,
    load_word,
    store_number,
)
from processor.core.json_scan import ends_plainly, find_plain_end, peek, skip_key, skip_space, skip_value
from processor.core.key_tables import EMPTY, EVENT_BITS, combine, hash_bytes, hash_short, mix

EVENT_MASK = np.uint64(EVENT_BITS)

_FIELDS = [
    "userIdentity",
    "eventTime",
    "eventSource",
    "eventName",
    "awsRegion",
    "errorCode",
    "requestParameters",
    "eventID",
    "resources",
    "eventType",
    "recipientAccountId",
    "sharedEventID",
    "eventCategory",
    "detail",
]
(
    WHO,
    WHEN,
    SOURCE,
    NAME,
    REGION,
    ERROR,
    PARAMETERS,
    ID,
    RESOURCES,
    TYPE,
    ACCOUNT,
    SHARED,
    CATEGORY,
    DETAIL,
) = range(14)
UNSURE = 2 * len(_FIELDS)
"""Behind the spans of an object's fields: 1 where something in it must be decoded to be known: a key, or a field that is
read, with escapes, or a field that is there twice."""

SPANS = UNSURE + 1
"""Numbers that an object takes."""

_READ_LATER = (WHO, PARAMETERS, RESOURCES, DETAIL)
"""Fields that are no strings, or of which the bytes are all that is looked at here."""

SHAPE_FIELDS = (SOURCE, NAME, ERROR, TYPE, CATEGORY)
PLACE_FIELDS = (REGION, ACCOUNT)
SEED = np.uint64(0)
HIGH = np.uint64(0x8080808080808080)
_ONE = np.uint64(1)


def _words_of(name: str) -> tuple[np.uint64, np.uint64]:
    """The first and the last eight bytes of a name: with its length, all of one of up to 16 bytes, and enough of those here."""
    octets = name.encode()
    return np.uint64(int.from_bytes(octets[:8], "little")), np.uint64(int.from_bytes(octets[-8:], "little"))


(_WHO_1, _WHO_2), (_WHEN_1, _), (_SOURCE_1, _SOURCE_2), (_NAME_1, _), (_REGION_1, _), (_ERROR_1, _) = map(
    _words_of, _FIELDS[:6]
)
(_PARAMETERS_1, _PARAMETERS_2), (_ID_1, _), (_RESOURCES_1, _), (_TYPE_1, _) = map(_words_of, _FIELDS[6:10])
(_ACCOUNT_1, _ACCOUNT_2), (_SHARED_1, _SHARED_2), (_CATEGORY_1, _CATEGORY_2), (_DETAIL_1, _) = map(
    _words_of, _FIELDS[10:]
)


@inner
def find_field(text: int, at: int, end: int) -> int:
    """Which field a key names, -1 for one that nothing here reads."""
    size = end - at
    if size < 6 or size > 18:
        return -1
    first = load_some(text, at, end)
    if size == 9:
        last = load_octet(text, end - 1)
        if last == 0x65:  # eventTime, eventName, eventType, errorCode
            if first == _NAME_1:
                return NAME
            if first == _WHEN_1:
                return WHEN
            if first == _TYPE_1:
                return TYPE
            return ERROR if first == _ERROR_1 else -1
        if last == 0x6E:
            return REGION if first == _REGION_1 else -1
        return RESOURCES if first == _RESOURCES_1 and last == 0x73 else -1
    if size <= 8:
        if size == 7:
            return ID if first == _ID_1 else -1
        return DETAIL if size == 6 and first == _DETAIL_1 else -1
    last_word = load_word(text, end - 8)
    if size == 11:
        return SOURCE if first == _SOURCE_1 and last_word == _SOURCE_2 else -1
    if size == 12:
        return WHO if first == _WHO_1 and last_word == _WHO_2 else -1
    if size == 13:
        if first == _SHARED_1:
            return SHARED if last_word == _SHARED_2 else -1
        return CATEGORY if first == _CATEGORY_1 and last_word == _CATEGORY_2 else -1
    if size == 17:
        return (
            PARAMETERS
            if first == _PARAMETERS_1 and last_word == _PARAMETERS_2 and load_octet(text, at + 8) == 0x61
            else -1
        )
    if size == 18 and first == _ACCOUNT_1 and last_word == _ACCOUNT_2:
        return ACCOUNT if load_octet(text, at + 8) == 0x74 and load_octet(text, at + 9) == 0x41 else -1
    return -1


@inner
def start_of(spans: int, field: int) -> int:
    return load_number(spans, 2 * field)


@inner
def end_of(spans: int, field: int) -> int:
    """0 where the object has no such field."""
    return load_number(spans, 2 * field + 1)


@inner
def is_text(text: int, spans: int, field: int, size: int) -> bool:
    """Whether a field is there, and a string of at least so many bytes."""
    at, end = start_of(spans, field), end_of(spans, field)
    return end - at >= 2 + size and load_octet(text, at) == 0x22


@inner
def is_text_or_none(text: int, spans: int, field: int) -> bool:
    """Whether a field is a string, null or not there."""
    if end_of(spans, field) == 0:
        return True
    first = load_octet(text, start_of(spans, field))
    return first == 0x22 or first == 0x6E


@inner
def is_plain(text: int, spans: int) -> bool:
    """Whether all fields that are read have the types that a record's have."""
    return (
        end_of(spans, WHO) != 0
        and is_text(text, spans, WHEN, 0)
        and is_text(text, spans, SOURCE, 0)
        and is_text(text, spans, NAME, 0)
        and is_text(text, spans, ID, 1)
        and is_text_or_none(text, spans, REGION)
        and is_text_or_none(text, spans, ERROR)
        and is_text_or_none(text, spans, TYPE)
        and is_text_or_none(text, spans, ACCOUNT)
        and is_text_or_none(text, spans, CATEGORY)
        and is_text_or_none(text, spans, SHARED)
    )


@inner
def hash_fields(text: int, spans: int, fields: tuple[int, ...]) -> tuple[np.uint64, np.uint64]:
    """One hash of some fields (an absent one and null are one), and their words or-ed."""
    hashed = SEED
    seen = EMPTY
    for field in fields:
        if is_text(text, spans, field, 0):
            one, words = hash_short(text, start_of(spans, field) + 1, end_of(spans, field) - 1)
            hashed = combine(hashed, one)
            seen |= words
        else:
            hashed = combine(hashed, _ONE)
    hashed = mix(hashed)
    return (hashed if hashed != EMPTY else _ONE), seen


@inner
def hash_event(text: int, spans: int) -> tuple[np.uint64, np.uint64]:
    """The hash of sharedEventID, else eventID, its top 6 bits left for the shard (sessions.salt_of), and its words or-ed."""
    hashed, seen = hash_bytes(text, start_of(spans, ID) + 1, end_of(spans, ID) - 1, SEED)
    if is_text(text, spans, SHARED, 1):
        hashed, words = hash_bytes(text, start_of(spans, SHARED) + 1, end_of(spans, SHARED) - 1, SEED)
        seen |= words
    return hashed & EVENT_MASK, seen


@inner
def skip_detail(text: int, at: int, end: int, _spans: int, _repaired: bool) -> int:
    return skip_value(text, at, end)


Scan = Callable[[int, int, int, int, bool], int]


def _build_scan(scan_detail: Scan) -> Scan:
    """A loop over the fields of an object that makes of the one that may be a record what it is told."""

    @inner
    def scan(text: int, at: int, end: int, spans: int, repaired: bool) -> int:
        for place in range(UNSURE + 1):
            store_number(spans, place, 0)
        at = skip_space(text, at + 1, end)
        if peek(text, at, end) == 0x7D:
            return at + 1
        while True:
            key = at + 1
            close = find_plain_end(text, at, end)
            is_plain_key = close > 0 and load_octet(text, close + 1) == 0x3A
            if is_plain_key:
                at = skip_space(text, close + 2, end)
            else:
                at = skip_key(text, at, end)
                if at < 0:
                    return at
                close = at - 2
                while load_octet(text, close) != 0x22:  # White space may stand around the colon.
                    close -= 1
                is_plain_key = ends_plainly(text, key, close, end)
            value = at
            field = find_field(text, key, close)
            stop = find_plain_end(text, at, end)
            if stop > 0:
                at = stop + 1
            else:
                at = scan_detail(text, at, end, spans, repaired) if field == DETAIL else skip_value(text, at, end)
                if at < 0:
                    return at
            if field >= 0:
                if end_of(spans, field) != 0:
                    store_number(spans, UNSURE, 1)
                store_number(spans, 2 * field, value)
                store_number(spans, 2 * field + 1, at)
                if (
                    stop < 0 and not repaired and field not in _READ_LATER and load_octet(text, value) == 0x22
                    and not ends_plainly(text, value + 1, at - 1, end)
                ):  # fmt: skip
                    store_number(spans, UNSURE, 1)
            elif not is_plain_key:
                store_number(spans, UNSURE, 1)
            at = skip_space(text, at, end)
            octet = peek(text, at, end)
            if octet == 0x7D:
                return at + 1
            if octet != 0x2C:
                return -at - 1
            at = skip_space(text, at + 1, end)

    return scan


scan_fields = _build_scan(skip_detail)
"""Notes where the fields of an object lie, from its `{` to behind its `}`."""


@inner
def scan_record(text: int, at: int, end: int, spans: int, repaired: bool) -> int:
    if peek(text, at, end) == 0x7B:
        return scan_fields(text, at, end, spans + 8 * SPANS, repaired)
    return skip_value(text, at, end)


scan_element = _build_scan(scan_record)
"""As `scan_fields`; where the object is an envelope its record's fields are noted SPANS numbers further on."""
