"""Payloads of streams and queues -> decoded records. What a payload is, is read off its bytes.

A payload is an EventBridge event (rule target), a CloudWatch Logs batch (subscription: gzip of JSON), a record by itself, or
several of them packed together by the Kinesis Producer Library.
"""

import io
from collections.abc import Iterable, Sequence

import numpy as np

from processor.core.aggregates import MAGIC, split_aggregate
from processor.core.batches import Batch, Decoded, add_decoded, cut_rows, decode_log_batch, decode_payloads
from processor.core.compiled import Numbers, address_of
from processor.core.envelopes import GZIP_MAGIC
from processor.core.records import Rejected
from processor.core.scan import END, RAN_OUT, START, Rows, scan_elements
from processor.shell.files import UNZIPPED_BYTES_MAX, Source, SourceReader, unzip_whole

SAMPLE_BYTES = 4_096

_LOG_EVENTS = b'"logEvents"'
_ENVELOPE_BYTES = 1_024


def decode_all(payloads: Iterable[bytes]) -> Decoded:
    """All records of some payloads. Never raises for what the bytes are: what is no record is a reject."""
    found = Decoded([], [], [])
    plain: list[bytes] = []
    for packed in payloads:
        several = split_aggregate(packed) if packed.startswith(MAGIC) else [packed]
        if several is None:
            found.rejected.append(Rejected("damaged_aggregate", packed[:SAMPLE_BYTES]))
            continue
        for payload in several:
            if not payload.startswith(GZIP_MAGIC):
                plain.append(payload)
            elif (unzipped := unzip_payload(payload)) is None:
                found.rejected.append(Rejected("damaged_payload", payload[:SAMPLE_BYTES]))
            elif _LOG_EVENTS in unzipped[:_ENVELOPE_BYTES]:
                add_decoded(found, decode_log_batch(unzipped))
            else:
                plain.append(unzipped)
    if plain:
        add_decoded(found, decode_payloads(plain))
    return found


def decode_in_order(payloads: Sequence[bytes]) -> tuple[Decoded, Numbers]:
    """As `decode_all`, all records in the order of their payloads, and how many rows each payload has: the same for a payload
    whichever others it comes with."""
    found = Decoded([], [], [])
    counts: list[int] = []
    begin = 0
    for at, payload in enumerate(payloads):
        if payload.startswith((MAGIC, GZIP_MAGIC)):
            counts += _decode_run(payloads[begin:at], found)
            counts += _decode_alone(payload, found)
            begin = at + 1
    counts += _decode_run(payloads[begin:], found)
    return found, np.array(counts, np.int64)


def _decode_run(payloads: Sequence[bytes], found: Decoded) -> list[int]:
    """Plain payloads, together where each is one record and nothing else; the rows of each."""
    if len(payloads) < 2:
        return [] if not payloads else _decode_alone(payloads[0], found)
    text = b"\n".join(payloads)
    rows, _, ending = scan_elements(text, most=len(payloads))
    ends = _find_ends(text, payloads)
    alone = _find_odd(rows, text, ends) if ending == RAN_OUT else None
    if alone is None:
        # One of them is broken, or goes on in the next: halves are looked at until it is by itself.
        half = len(payloads) // 2
        return _decode_run(payloads[:half], found) + _decode_run(payloads[half:], found)
    counts: list[int] = []
    first = 0
    for number in [*alone, len(payloads)]:
        plain = number - len(counts)
        if plain:
            found.batches.append(Batch((text,), cut_rows(rows, first, first + plain)))
            counts += [1] * plain
        if number < len(payloads):
            first = int(np.searchsorted(rows.places[:, START], ends[number]))
            counts += _decode_alone(payloads[number], found)
    return counts


def _find_ends(text: bytes, payloads: Sequence[bytes]) -> Numbers:
    """The address behind each payload in the text, its newline included."""
    sizes = np.fromiter(map(len, payloads), np.int64, len(payloads)) + 1
    return address_of(np.frombuffer(text, np.uint8)) + np.cumsum(sizes)


def _find_odd(rows: Rows, text: bytes, ends: Numbers) -> list[int] | None:
    """The numbers of the payloads that are not one record and nothing else; None where an element goes over a payload's end."""
    owners = np.searchsorted(ends, rows.places[:, START], "right")
    odd = rows.odd[:, :2] + address_of(np.frombuffer(text, np.uint8))
    odd_owners = np.searchsorted(ends, odd[:, 0], "right")
    if np.any(rows.places[:, END] > ends[owners]) or np.any(odd[:, 1] > ends[odd_owners]):
        return None
    counts = np.bincount(owners, minlength=len(ends))
    counts[odd_owners] = 0
    return list(np.flatnonzero(counts != 1).tolist())


def _decode_alone(payload: bytes, found: Decoded) -> list[int]:
    decoded = decode_all([payload])
    add_decoded(found, decoded)
    return [sum(len(batch.rows.places) for batch in decoded.batches)]


def unzip_payload(zipped: bytes) -> bytes | None:
    """What a payload unzips to, None where it is damaged or larger than any that AWS makes."""
    unzipped = unzip_whole(zipped)
    if unzipped is not None:
        return unzipped
    reader = SourceReader(Source("payload", 0), io.BytesIO(zipped))
    chunks: list[bytes] = []
    size = 0
    for chunk in reader:
        chunks.append(chunk)
        size += len(chunk)
        if size > UNZIPPED_BYTES_MAX:
            return None
    return None if reader.damage is not None else b"".join(chunks)
