"""The answer of Kinesis' GetRecords, decoded straight from its bytes.

botocore builds a dict a record, by its model, at 36,000 records a second; msgspec reads the same bytes, base64 too, some ten
times as fast. All else of a call (signing, retries, credentials, errors) stays aiobotocore's: its event `before-parse` hands out
the body, and what a handler makes of it becomes part of the call's result.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from botocore.exceptions import HTTPClientError
from msgspec import Struct

from processor.core.envelopes import GZIP_MAGIC

ANSWER = "Answer"
"""Where an answer stands in what the client returns."""

SLICE_WEIGHT = 2 * 1024 * 1024
_ZIPPED_WEIGHT = 20
"""A batch of CloudWatch Logs unzips to ten to twenty times its size."""


class StreamRecord(Struct, gc=False, rename="pascal"):
    """One record of a stream, as far as it is read."""

    sequence_number: str
    payload: bytes = msgspec.field(name="Data")


class RecordsAnswer(Struct, gc=False, rename="pascal"):
    """What GetRecords answers: `next_shard_iterator` is None at the end of a shard that was split or merged."""

    records: list[StreamRecord]
    next_shard_iterator: str | None = None
    millis_behind_latest: int = 0

    @property
    def size(self) -> int:
        """Bytes of the records' payloads, which is what Kinesis counts."""
        return sum(len(record.payload) for record in self.records)


decode_answer = msgspec.json.Decoder(RecordsAnswer).decode


def take_answers(client: Any) -> None:
    """Let a Kinesis client put the answer of each GetRecords under ANSWER."""
    client.meta.events.register("before-parse.kinesis.GetRecords", _take_answer)


def _take_answer(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    if response_dict["status_code"] != 200:
        return
    try:
        customized_response_dict[ANSWER] = decode_answer(response_dict["body"])
    except msgspec.MsgspecError as error:  # A proxy's page, an answer that was cut: as a broken connection.
        raise HTTPClientError(error=f"GetRecords answered no JSON of its own: {error}") from error
    response_dict["body"] = b"{}"


def cut_records(records: Sequence[StreamRecord]) -> list[Sequence[StreamRecord]]:
    """An answer's records in parts that unzip to some 2 MB each."""
    parts: list[Sequence[StreamRecord]] = []
    begin = weight = 0
    for at, record in enumerate(records):
        weight += len(record.payload) * (_ZIPPED_WEIGHT if record.payload.startswith(GZIP_MAGIC) else 1)
        if weight >= SLICE_WEIGHT:
            parts.append(records[begin : at + 1])
            begin, weight = at + 1, 0
    if begin < len(records):
        parts.append(records[begin:])
    return parts
