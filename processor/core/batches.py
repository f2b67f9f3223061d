"""Texts -> batches: rows of records that a scan found plain, and what became of the others.

What is no plain record to the scan is judged by itself, as a value of any form. A record that was good all the same, or lay
in an envelope, is written anew as a plain one and scanned, so that behind this module there is one form of record only.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from ctypes import c_char
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Raw, Struct

from processor.core.compiled import Numbers, Octets, address_of
from processor.core.envelopes import judge_payload, judge_payloads, judge_value, read_messages
from processor.core.principals import decode_user_identity
from processor.core.records import Judged, Origin, Record, Rejected, decode_record
from processor.core.scan import (
    ARNS_FROM,
    ARNS_TO,
    END,
    FULL,
    PARAMETERS_AT,
    PARAMETERS_END,
    RAN_OUT,
    START,
    Rows,
    scan_elements,
)

MEMORY: Any = (c_char * (2**63 - 1)).from_address(0)
"""Bytes by address: a slice is copied out in half of the time that string_at takes."""

_NULL = Raw(b"null")

_LOG_EVENTS = b'"logEvents"'
_NEWLINE = 0x0A
_ENVELOPE_BYTES = 1_024
"""Where the key of a CloudWatch Logs batch's events stands, among its first."""


class Batch(NamedTuple):
    """Records in a row. `texts` hold what the addresses in `rows` are addresses of; `origins` says from which row on records
    are of which source."""

    texts: tuple[bytes | bytearray, ...]
    rows: Rows
    origins: tuple[tuple[int, Origin], ...] = ((0, ("", 0)),)

    def read_record(self, row: int) -> Record | None:
        """A record as an object, None where its text is no UTF-8."""
        return decode_record(self.read_raw(row))

    def read_raw(self, row: int) -> bytes:
        return read_bytes(*self.rows.places[row, START : END + 1].tolist())

    def read_parameters(self, row: int) -> bytes:
        """The JSON of a record's requestParameters, empty where it has none."""
        return read_bytes(*self.rows.places[row, PARAMETERS_AT : PARAMETERS_END + 1].tolist())

    def read_arns(self, places: Numbers) -> list[str]:
        """ARNs of `rows.arns`."""
        memory = MEMORY
        quoted = [memory[start:end] for start, end in self.rows.arns[places].tolist()]
        return [
            each[1:-1].decode() if b"\\" not in each else str(msgspec.json.decode(each, type=str)) for each in quoted
        ]

    def find_origin(self, row: int) -> Origin:
        return self.origins[bisect_right(self.origins, row, key=itemgetter(0)) - 1][1]


def read_bytes(start: int, end: int) -> bytes:
    """What lies between two addresses of a text that is held."""
    found: bytes = MEMORY[start:end]
    return found


def merge(batches: Sequence[Batch]) -> Batch:
    """Several batches as one: a loop's start costs what some tens of records do."""
    if len(batches) == 1:
        return batches[0]
    places = np.concatenate([batch.rows.places for batch in batches])
    row = arn = 0
    origins: list[tuple[int, Origin]] = []
    for batch in batches:
        size = len(batch.rows.places)
        places[row : row + size, ARNS_FROM : ARNS_TO + 1] += arn
        origins += ((row + first, origin) for first, origin in batch.origins)
        row += size
        arn += len(batch.rows.arns)
    rows = Rows(
        places,
        np.concatenate([batch.rows.hashes for batch in batches]),
        np.concatenate([batch.rows.arns for batch in batches]),
        np.concatenate([batch.rows.arn_hashes for batch in batches]),
        batches[0].rows.odd[:0],
    )
    return Batch(tuple(text for batch in batches for text in batch.texts), rows, tuple(origins))


class Decoded(Struct, gc=False):
    """All that a slice held: batches of records, records known to be no IAM call, and rejects."""

    batches: list[Batch]
    not_iam: list[dict[str, Any]]
    rejected: list[Rejected]

    def name_origin(self, origin: Origin) -> None:
        """Say which source all of it is of."""
        self.batches = [batch._replace(origins=((0, origin),)) for batch in self.batches]
        for reject in self.rejected:
            reject.origin = origin

    @property
    def read(self) -> int:
        return sum(len(batch.rows.places) for batch in self.batches) + len(self.not_iam) + len(self.rejected)

    @property
    def records(self) -> list[Record]:
        """All records as objects, for who wants to look at each."""
        found = (batch.read_record(row) for batch in self.batches for row in range(len(batch.rows.places)))
        return [record for record in found if record is not None]


def decode_text(text: bytes | bytearray, at: int, end: int) -> tuple[Decoded, int, int]:
    """The elements of an array from `at` on; the place behind the last whole one, and how the scan ended."""
    rows, stop, ending = scan_elements(text, at, end, listed=True)
    return gather(text, rows), stop, ending


def decode_lines(text: bytes | bytearray, at: int, end: int) -> tuple[Decoded | None, int]:
    """One value a line, and the place behind them; None where it is not so, and each line must be looked at."""
    rows, stop, ending = scan_elements(text, at, end)
    if ending in (RAN_OUT, FULL) and _is_one_a_line(text, at, stop, rows):
        return gather(text, rows, judge_payload), stop
    return None, at


def _is_one_a_line(text: bytes | bytearray, at: int, stop: int, rows: Rows) -> bool:
    """Whether each line from `at` to `stop` holds one element, and all of it. Their number alone does not say so: where one goes
    on in the next line, two others may share one."""
    count = len(rows.places) + len(rows.odd)
    if not count or count != text.count(b"\n", at, stop) + (text[stop - 1] != _NEWLINE):
        return False
    octets = np.frombuffer(text, np.uint8)
    starts = _find_starts(octets, rows)
    if np.all(octets[starts[1:] - 1] == _NEWLINE):
        return True
    ends = at + np.flatnonzero(octets[at:stop] == _NEWLINE)
    return bool(np.all(np.searchsorted(ends, starts) == np.arange(len(starts))))


def _find_starts(octets: Octets, rows: Rows) -> Numbers:
    """Where each element starts, the odd ones too, in order."""
    plain = rows.places[:, START] - address_of(octets)
    return np.sort(np.concatenate((plain, rows.odd[:, 0]))) if len(rows.odd) else plain


def decode_apart(values: Sequence[bytes]) -> Decoded:
    """Values without newlines, some of which are broken or none: each has the rows that it has in `decode_lines`, whichever others
    it comes with, as a place in a source that is read again must be the same."""
    found = Decoded([], [], [])
    if not values:
        return found
    text = b"\n".join(values)
    whole, _ = decode_lines(text, 0, len(text))
    if whole is not None:
        return whole
    if len(values) == 1:
        return take_in(judge_payload(values[0]))
    half = len(values) // 2
    add_decoded(found, decode_apart(values[:half]))
    add_decoded(found, decode_apart(values[half:]))
    return found


def gather(text: bytes | bytearray, rows: Rows, judge: Callable[[bytes], Judged] = judge_value) -> Decoded:
    """The rows of a scan, and between them what `judge` makes of its odd elements."""
    found = Decoded([], [], [])
    first = 0
    for start, stop, before in rows.odd.tolist():
        odd = bytes(memoryview(text)[start:stop])
        more = decode_log_batch(odd) if _LOG_EVENTS in odd[:_ENVELOPE_BYTES] else take_in(judge(odd))
        if more.batches and before > first:
            found.batches.append(Batch((text,), cut_rows(rows, first, before)))
            first = before
        add_decoded(found, more)
    if first < len(rows.places):
        found.batches.append(Batch((text,), cut_rows(rows, first, len(rows.places))))
    return found


def cut_rows(rows: Rows, first: int, last: int) -> Rows:
    """Some rows, with the ARNs that are theirs."""
    if first == 0 and last == len(rows.places):
        return rows
    places = rows.places[first:last].copy()
    begin, end = int(places[0, ARNS_FROM]), int(places[-1, ARNS_TO])
    places[:, ARNS_FROM : ARNS_TO + 1] -= begin
    return Rows(places, rows.hashes[first:last], rows.arns[begin:end], rows.arn_hashes[begin:end], rows.odd[:0])


def take_in(judged: Judged) -> Decoded:
    """What was judged one by one, its records in a batch of their own."""
    found = Decoded([], judged.not_iam, judged.rejected)
    if judged.records:
        text = b"\n".join(map(write_plainly, judged.records))
        rows, _, _ = scan_elements(text, repaired=True, most=len(judged.records))
        found.batches.append(Batch((text,), rows))
    return found


def write_plainly(record: Record) -> bytes:
    """A record's JSON with nothing in it that a scan stops at. Parameters that nest deeper than a scan goes are left out."""
    who = decode_user_identity(bytes(record.userIdentity))
    record.userIdentity = _NULL if who is None else Raw(msgspec.json.encode(who))
    if not bytes(record.requestParameters):
        record.requestParameters = _NULL
    written = msgspec.json.encode(record)
    if len(scan_elements(written, repaired=True, most=1)[0].places) == 1:
        return written
    record.requestParameters = _NULL
    return msgspec.json.encode(record)


def add_decoded(found: Decoded, more: Decoded) -> None:
    """Append all of `more` to `found`."""
    found.batches += more.batches
    found.not_iam += more.not_iam
    found.rejected += more.rejected


def decode_payloads(payloads: Sequence[bytes]) -> Decoded:
    """Payloads of any form, unzipped; fast where each is an EventBridge event or a record."""
    text = payloads[0] if len(payloads) == 1 else b"\n".join(payloads)
    rows, _, ending = scan_elements(text, most=len(payloads))
    if ending == RAN_OUT and len(rows.places) + len(rows.odd) == len(payloads):
        ends = np.cumsum(np.fromiter(map(len, payloads), np.int64, len(payloads)) + 1)
        owners = np.searchsorted(ends, _find_starts(np.frombuffer(text, np.uint8), rows), "right")
        if np.all(owners == np.arange(len(payloads))):
            return gather(text, rows, judge_payload)
    return take_in(judge_payloads(payloads))


def decode_log_batch(batch: bytes | bytearray) -> Decoded:
    """A CloudWatch Logs batch, unzipped: fast where every message is a record."""
    messages = read_messages(batch)
    if messages is not None:
        try:
            text = "\n".join(messages).encode()
        except UnicodeEncodeError:  # A lone surrogate: such a message is looked at by itself.
            return take_in(judge_value(bytes(batch)))
        rows, _, ending = scan_elements(text, most=len(messages))
        whole = ending == RAN_OUT and not len(rows.odd) and len(rows.places) == len(messages)
        if whole and _is_one_a_line(text, 0, len(text), rows):
            return gather(text, rows)
    return take_in(judge_value(bytes(batch)))
