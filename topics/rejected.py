"""Topic `rejected`: records that could not be used, with the reason and where they came from; never retried by itself.

Written by intakes. Secrets never come here: what can be decoded is redacted first (credentials and tokens in responseElements,
passwords, secret values in parameters); of what cannot, only a hash and the first 256 bytes are kept. `position` leads back to the
record in its source, for whoever may read that. JSON: people read it when `rejected` grows; `head` is base64 there.
"""

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from topics.contract import DAY_SECONDS, Codec, Count, Example, Time, Topic

HEAD_BYTES_MAX = 256
REDACTED_MAX = 65_536
"""Characters. A CloudTrail record has at most 256 kB, nearly all are below 30; `size` tells of what was cut."""


class Undecodable(Struct, frozen=True, kw_only=True):
    """What is kept of bytes that are no JSON object: SHA-256 in hex of all of them, and the first few."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    head: Annotated[bytes, Meta(max_length=HEAD_BYTES_MAX)]


class Reject(Struct, frozen=True, kw_only=True):
    """One rejected record. Either `redacted` or `undecodable` is there; `size` is in bytes, before redaction and cutting."""

    SCHEMA: ClassVar[int] = 1

    schema: int = SCHEMA
    time: Time
    reason: Annotated[str, Meta(min_length=1, max_length=64)]
    source: Annotated[str, Meta(min_length=1, max_length=1_024)]
    position: Annotated[str, Meta(max_length=256)]
    size: Count
    redacted: Annotated[str, Meta(max_length=REDACTED_MAX)] | None = None
    undecodable: Undecodable | None = None

    def __post_init__(self) -> None:
        if (self.redacted is None) == (self.undecodable is None):
            raise ValueError("a reject holds either its redacted record or what is kept of undecodable bytes")

    @property
    def key(self) -> bytes:
        return self.source.encode()


EXAMPLE = Example(
    key=b"s3://trail-bucket/AWSLogs/111122223333/CloudTrail/eu-central-1/2026/01/01/a.json.gz",
    partition=0,
    value=b'{"schema":1,"time":1767225600,"reason":"future",'
    b'"source":"s3://trail-bucket/AWSLogs/111122223333/CloudTrail/eu-central-1/2026/01/01/a.json.gz",'
    b'"position":"17","size":1204,'
    b'"redacted":"{\\"eventID\\":\\"3f1c1f0e\\",\\"eventTime\\":\\"2027-01-01T00:00:00Z\\",'
    b'\\"responseElements\\":\\"(redacted)\\"}","undecodable":null}',
)

UNDECODABLE_EXAMPLE = (
    b'{"schema":1,"time":1767225600,"reason":"undecodable","source":"arn:aws:kinesis:eu-central-1:111122223333:stream/trail",'
    b'"position":"shardId-000000000000 49590338271490256608559692538361571095921575989136588898","size":5,"redacted":null,'
    b'"undecodable":{"sha256":"af1444453122eb1e8f2d3d1edb91327bd067b86811362d58364cd77802c22573","head":"aGkh/wA="}}'
)
"""The other form of a value."""

TOPIC = Topic(
    name="rejected",
    key="the source, in UTF-8",
    partitions=1,
    retention_seconds=14 * DAY_SECONDS,
    compacted=False,
    schema=Reject.SCHEMA,
    doc="A record that could not be used: redacted, why, and where it came from.",
    example=EXAMPLE,
)

CODEC = Codec(TOPIC, Reject, "json")
