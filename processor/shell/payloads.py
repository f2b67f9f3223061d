"""Payloads of streams and queues -> decoded records. What a payload is, is read off its bytes.

A payload is an EventBridge event (rule target), a CloudWatch Logs batch (subscription: gzip of JSON), a record by itself, or
several of them packed together by the Kinesis Producer Library.
"""

import io
from collections.abc import Iterable

from processor.core.aggregates import MAGIC, split_aggregate
from processor.core.batches import Decoded, add_decoded, decode_log_batch, decode_payloads
from processor.core.envelopes import GZIP_MAGIC
from processor.core.records import Rejected
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
