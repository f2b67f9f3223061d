"""JSON text -> rows: one compiled pass over many records, which makes no object of any.

A row says where a record and the parts of it lie that are looked at, its time, and hashes of what it may have in common
with others. What is no plain record (a field of a wrong type, an envelope, a number) is left to the decoders that look at
one record at a time, by the place where it lies.
"""

from typing import NamedTuple

import numpy as np

from processor.core.compiled import (
    Numbers,
    Table,
    Word,
    Words,
    address_of,
    compiled,
    inner,
    load_number,
    load_octet,
    store_number,
)
from processor.core.fields import (
    DETAIL,
    HIGH,
    ID,
    PARAMETERS,
    PLACE_FIELDS,
    RESOURCES,
    SEED,
    SHAPE_FIELDS,
    SPANS,
    UNSURE,
    WHEN,
    WHO,
    end_of,
    hash_event,
    hash_fields,
    is_plain,
    is_text,
    is_text_or_none,
    scan_element,
    start_of,
)
from processor.core.json_scan import has_escapes, peek, skip_comma, skip_key, skip_space, skip_value
from processor.core.key_tables import EMPTY, hash_bytes
from processor.core.time_scan import read_time

(START, END, TIME, WHO_AT, WHO_END, PARAMETERS_AT, PARAMETERS_END, ARNS_FROM, ARNS_TO) = range(9)
PLACES = 9
"""Columns of `Rows.places`. Places are addresses, so that rows of several texts can stand together. TIME is in seconds since
1970, 0 where it is not in CloudTrail's own form. The places of the parameters are one where a record has none. ARNS_FROM
to ARNS_TO are rows of `Rows.arns`."""

SHAPE, PLACE, EVENT, CALLER = range(4)
HASHES = 4
"""Columns of `Rows.hashes`: of what was called, and how that ended; of where (region and account); of the event's id; of
userIdentity as it stands, hashed here while it is at hand: later it has to come from memory again."""

RECORD_BYTES_FEW = 800
ARN_BYTES_FEW = 400
"""Real records are longer, and name fewer ARNs. Arrays are made for these: small ones come from the heap, where those that
any text would fit into had to be had from the system for each scan. Where one is full the scan ends early."""

ARN_BYTES_MIN = 10
"""No ARN in a list can be shorter."""

ODD_MAX = 4_096
"""Of one scan; it ends early, between two elements, where there are more."""

RAN_OUT, CLOSED, CUT, BROKEN, FULL = range(5)
"""How a scan ends: between two elements; behind the `]` of its array; in an element that goes on behind the text; at one
that is no JSON; at one for which there is no room, but will be in another scan."""

NO_ROOM = -2

_ROWS, _ARNS, _ODD, _ENDING = range(4)
"""Of the notes of a scan: how many of each it wrote, and how it ended."""

_CALLER_SEED: Words = np.zeros(1, np.uint64)
ROOM_ARNS_MAX = 1_000_000
_ROOMS: list[tuple[Numbers, Words]] = []
"""What the last scan wrote ARNs to, if it was no larger; of several threads at once, of one of them."""


class Rows(NamedTuple):
    """What a scan found. `places` and `hashes` have a row a record; `arns` a row an ARN of `resources`, as (at, end), with
    `arn_hashes`; `odd` the elements that are no plain records, as (at, end, rows before it); these two
    are places in the text."""

    places: Numbers
    hashes: Words
    arns: Numbers
    arn_hashes: Words
    odd: Numbers


@inner
def find_arn(text: int, at: int, end: int, found: int) -> int:
    """Note at `found` where the value of `ARN` lies in an object, 0 where there is none; answers the place behind the
    object, or -1 where a key has escapes, and may be any."""
    store_number(found, 0, 0)
    store_number(found, 1, 0)
    at = skip_space(text, at + 1, end)
    while load_octet(text, at) != 0x7D:
        key = at + 1
        at = skip_key(text, at, end)
        stop = skip_value(text, at, end)
        if load_octet(text, key) == 0x41 and load_octet(text, key + 1) == 0x52 and load_octet(text, key + 2) == 0x4E:
            if load_octet(text, key + 3) == 0x22:
                store_number(found, 0, at)
                store_number(found, 1, stop)
        elif has_escapes(text, key, at):
            return -1
        at = skip_comma(text, stop, end)
    return at + 1


@inner
def scan_arns(
    text: int, at: int, end: int, repaired: bool, found: int, arns: Table[Numbers], hashes: Words, count: int
) -> int:
    """Write a row for each ARN in a list of resources, whose JSON is known to be good, behind `count` others; answers how many
    there are then, -1 where an element is no plain resource, NO_ROOM where there are more than there is room for."""
    at = skip_space(text, at + 1, end)
    while load_octet(text, at) != 0x5D:
        if load_octet(text, at) != 0x7B:
            return -1
        at = find_arn(text, at, end, found)
        if at < 0:
            return -1
        begin, stop = load_number(found, 0), load_number(found, 1)
        if stop:
            if load_octet(text, begin) == 0x22:
                if count == len(hashes):
                    return NO_ROOM
                hashed, seen = hash_bytes(text, begin + 1, stop - 1, SEED)
                if not repaired and (seen & HIGH or has_escapes(text, begin, stop)):
                    return -1
                arns[count, 0], arns[count, 1], hashes[count] = text + begin, text + stop, hashed
                count += 1
            elif load_octet(text, begin) != 0x6E:
                return -1
        at = skip_comma(text, at, end)
    return count


@compiled
def scan_loop(
    text: int, at: int, end: int, listed: bool, repaired: bool, seed: Word, element: int, found: int, notes: Numbers,
    places: Table[Numbers], hashes: Table[Words], arns: Table[Numbers], arn_hashes: Words, odd: Table[Numbers],
) -> int:  # fmt: skip
    """Every element from `at` on, separated by white space, and by commas where they are `listed`; answers the place behind
    the last whole one."""
    row = resources = strange = 0
    ending = RAN_OUT
    while True:
        at = skip_space(text, at, end)
        while listed and peek(text, at, end) == 0x2C:
            at = skip_space(text, at + 1, end)
        first = peek(text, at, end)
        if at >= end:
            break
        if strange == len(odd) or row == len(places):
            ending = FULL
            break
        if first == 0x5D:
            ending = CLOSED
            at += 1
            break
        spans = element
        stop = scan_element(text, at, end, spans, repaired) if first == 0x7B else skip_value(text, at, end)
        if stop < 0:
            ending = CUT if -stop - 1 >= end else BROKEN
            break
        start, close = at, stop
        if first == 0x7B and not is_text(text, spans, ID, 0) and end_of(spans, DETAIL) > 0:
            start, close = start_of(spans, DETAIL), end_of(spans, DETAIL)
            if load_octet(text, start) == 0x7B and load_number(spans, UNSURE) == 0:
                spans = element + 8 * SPANS
        count = -1
        if first == 0x7B and load_number(spans, UNSURE) == 0 and is_plain(text, spans):
            shape, seen = hash_fields(text, spans, SHAPE_FIELDS)
            place, more = hash_fields(text, spans, PLACE_FIELDS)
            event, words = hash_event(text, spans)
            time = read_time(text, start_of(spans, WHEN), end_of(spans, WHEN))
            if repaired or (time != 0 and (seen | more | words) & HIGH == EMPTY):
                count = resources
                if not is_text_or_none(text, spans, RESOURCES):
                    at_list = start_of(spans, RESOURCES)
                    if load_octet(text, at_list) == 0x5B:
                        count = scan_arns(text, at_list, close, repaired, found, arns, arn_hashes, resources)
                    else:
                        count = -1
                elif is_text(text, spans, RESOURCES, 0):
                    count = -1
        if count == NO_ROOM and row + strange > 0:
            ending = FULL
            break
        if count < 0:
            odd[strange, 0], odd[strange, 1], odd[strange, 2] = at, stop, row
            strange += 1
        else:
            places[row, START], places[row, END] = text + start, text + close
            places[row, TIME] = time
            who, who_end = start_of(spans, WHO), end_of(spans, WHO)
            places[row, WHO_AT], places[row, WHO_END] = text + who, text + who_end
            hashes[row, CALLER], _ = hash_bytes(text, who, who_end, np.uint64(seed))
            places[row, PARAMETERS_AT] = text + start_of(spans, PARAMETERS)
            places[row, PARAMETERS_END] = text + end_of(spans, PARAMETERS)
            places[row, ARNS_FROM], places[row, ARNS_TO] = resources, count
            hashes[row, SHAPE], hashes[row, PLACE], hashes[row, EVENT] = shape, place, event
            resources = count
            row += 1
        at = stop
    notes[_ROWS], notes[_ARNS], notes[_ODD], notes[_ENDING] = row, resources, strange, ending
    return at


def seed_callers(seed: int) -> None:
    """Hash callers under a seed from here on. A random one, so that nobody can make up a session name whose hash is another's."""
    _CALLER_SEED[0] = seed


def scan_elements(
    text: bytes | bytearray,
    at: int = 0,
    end: int | None = None,
    *,
    listed: bool = False,
    repaired: bool = False,
    most: int | None = None,
) -> tuple[Rows, int, int]:
    """The elements of a sequence of values, or (`listed`) of an array from behind its `[`; the place behind the last whole
    one, and how the scan ended.

    `repaired` texts were written by this program from decoded records: an id may hold escapes and any letter. With `most`
    there is room for so many elements, whatever they are.
    """
    end = len(text) if end is None else end
    octets = np.frombuffer(text, np.uint8)
    size = end - at
    rows = size // RECORD_BYTES_FEW + 64 if most is None else most + 1
    places, hashes = np.empty((rows, PLACES), np.int64), np.empty((rows, HASHES), np.uint64)
    room = _take_room(size // (ARN_BYTES_FEW if most is None else ARN_BYTES_MIN) + 256)
    arns, arn_hashes = room
    odd = np.empty((ODD_MAX if most is None else most + 1, 3), np.int64)
    notes = np.zeros(4, np.int64)
    spans = np.empty(2 * SPANS + 2, np.int64)
    held = address_of(spans)
    found = held + 16 * SPANS
    at = int(
        scan_loop(
            address_of(octets), at, end, listed, repaired, _CALLER_SEED[0], held, found, notes, places, hashes, arns,
            arn_hashes, odd,
        )
    )  # fmt: skip
    rows, resources, strange, ending = notes.tolist()
    arns, arn_hashes = arns[:resources].copy(), arn_hashes[:resources].copy()
    if len(room[1]) <= ROOM_ARNS_MAX:
        _ROOMS.append(room)
    return Rows(places[:rows], hashes[:rows], arns, arn_hashes, odd[:strange]), at, ending


def _take_room(arns: int) -> tuple[Numbers, Words]:
    """Where so many ARNs and their hashes have room: the last scan's, or new where that is too small, or another thread's just now.
    Where it was new each time, the system took back and cleared thousands of pages, also the text's: 0.9 us a record."""
    try:
        room = _ROOMS.pop()
    except IndexError:
        room = None
    _ROOMS.clear()
    if room is None or len(room[1]) < arns:
        room = np.empty((arns, 2), np.int64), np.empty(arns, np.uint64)
    return room
