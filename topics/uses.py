"""Topic `uses`: what principals did, from intake to ledger.

Partition N carries shard N and nothing else; its order is the order in which a ledger applies it. A message carries a batch of
uses of that shard, or a mark, or both.

**Batch.** Tables that the uses have in common, and columns, little-endian, one element a use: `call`, `session` and `region` are
indexes of tables (u32), `time` is event time (u32), `event` the 64-bit hash of sharedEventID or else eventID for this principal,
whose top 6 bits are the shard (u64), `arns` how many ARNs of resources it names (u16) and `arn` which ones, one use after the
other (u32). `parts` say which source the uses are of, one after the other: (index of `sources`, sequence, uses); with `index` (u32)
of each use the sequence is its place in the source, which is the same however often and in whichever pieces the source is read.
A ledger skips what is at or below what it has applied of a source. Uses of the source NO_ORDER have no places: nothing of them
is skipped, and what comes again is known by its event, within the duplicates' horizon. An intake sends the next uses of a
source only after the earlier ones are acknowledged.
`ended` are sources (indexes) of which nothing comes any more; `compared` those whose records have come by a stream before: those
that did not are what the stream lost.

**Mark.** How far a source is sent: up to `watermark`, in event time, all of its records are in the partition, before the mark.
`accounts` tell since when accounts' logs are known. Coverage comes this way, in order with the uses that it vouches for.

A ledger that has to go back (a crash, a Redis that came back older) reads again from here: what is older than the retention
is gone, and becomes a hole in the coverage.
"""

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from topics.contract import (
    DAY_SECONDS,
    SHARDS,
    AccountId,
    ActionName,
    Arn,
    Codec,
    Example,
    Time,
    Topic,
    UniqueId,
)

USES_MAX = 65_536
"""Of one message: a column is 512 kB then at most, and a ledger's memory bounded."""

SOURCE_BYTES = 16
NO_ORDER = bytes(SOURCE_BYTES)
"""The source of uses that have no place, as a queue's messages have none."""

SourceId = Annotated[bytes, Meta(min_length=SOURCE_BYTES, max_length=SOURCE_BYTES)]
Sequence = Annotated[bytes, Meta(min_length=1, max_length=32)]
Number = Annotated[int, Meta(ge=0)]
Column = Annotated[bytes, Meta(max_length=8 * USES_MAX)]


class UsingPrincipal(Struct, frozen=True, array_like=True, gc=False):
    """Who did something; its account is the ARN's."""

    arn: Arn
    unique_id: UniqueId | None
    kind: str


class UsingCall(Struct, frozen=True, array_like=True, gc=False):
    """What was called: by whom (index of `principals`), how it ended (0 done, 1 failed, 2 denied), which actions (indexes)."""

    principal: Number
    outcome: Annotated[int, Meta(ge=0, le=2)]
    actions: tuple[Number, ...]


class Part(Struct, frozen=True, array_like=True, gc=False):
    """So many uses of one source (index of `sources`), all with one sequence, whose bytes are in order."""

    source: Number
    sequence: Sequence
    uses: Number


class Batch(Struct, frozen=True, kw_only=True, gc=False):
    """Uses of one shard; see the module's text."""

    principals: tuple[UsingPrincipal, ...]
    actions: tuple[ActionName, ...]
    calls: tuple[UsingCall, ...]
    sessions: tuple[tuple[str, str], ...]
    regions: tuple[str, ...]
    texts: tuple[str, ...]
    sources: tuple[SourceId, ...]
    parts: tuple[Part, ...]
    ended: tuple[Number, ...] = ()
    compared: tuple[Number, ...] = ()
    call: Column
    session: Column
    region: Column
    time: Column
    event: Column
    index: Column
    arns: Column
    arn: bytes


class Mark(Struct, frozen=True, kw_only=True, gc=False):
    """How far a source is sent. `lasting`: it is a source without an end, whose next mark holds back what is said until then."""

    source: SourceId
    watermark: Time
    lasting: bool = True
    accounts: dict[AccountId, Time] = {}


class Message(Struct, frozen=True, kw_only=True, gc=False):
    """The value of a message."""

    SCHEMA: ClassVar[int] = 1

    schema: int = SCHEMA
    batch: Batch | None = None
    mark: Mark | None = None


EXAMPLE = Example(
    key=b"",
    partition=2,
    value=bytes.fromhex(
        "83a6736368656d6101a56261746368de0012aa7072696e636970616c739193d92b61726e3a6177733a69616d3a3a3131"
        "313132323232333333333a726f6c652f7465616d2f6275696c646572b541524f414558414d504c454255494c44455230"
        "3031a4726f6c65a7616374696f6e7391b06563323a52756e496e7374616e636573a563616c6c73919300009100a87365"
        "7373696f6e739192a3616e6ea0a7726567696f6e7391ac65752d63656e7472616c2d31a5746578747391d93561726e3a"
        "6177733a6563323a65752d63656e7472616c2d313a3131313132323232333333333a696e7374616e63652f692d306162"
        "63a7736f757263657391c410000102030405060708090a0b0c0d0e0fa57061727473919300c4040000000001a5656e64"
        "656490a8636f6d706172656490a463616c6cc40400000000a773657373696f6ec40400000000a6726567696f6ec40400"
        "000000a474696d65c40400b95569a56576656e74c408672c6a21bece1809a5696e646578c40410000000a461726e73c4"
        "020100a361726ec40400000000a46d61726b84a6736f75726365c410000102030405060708090a0b0c0d0e0fa9776174"
        "65726d61726bce6955b900a76c617374696e67c3a86163636f756e747381ac313131313232323233333333ce692cda80"
    ),
)

TOPIC = Topic(
    name="uses",
    key="none: the partition is the shard",
    partitions=SHARDS,
    retention_seconds=7 * DAY_SECONDS,
    compacted=False,
    schema=Message.SCHEMA,
    doc="Batches of uses of one shard, and marks: how far a source is sent.",
    example=EXAMPLE,
)

CODEC = Codec(TOPIC, Message, "msgpack")
