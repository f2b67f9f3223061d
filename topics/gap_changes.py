"""Topic `gap-changes`: the gap of a principal and window as it now stands, and what moved it there.

Written by the ledger that owns the principal's shard, after the flush that the change is stored by. Each message holds the
whole gap, so the newest message of every key is the present state, and reading from the start builds the gaps that the store
holds. A tombstone says that the principal is gone, or the window no longer watched. msgpack: it carries bytes.

`unused` holds the 5-byte stable hashes of the actions (BLAKE2b of the lower-cased name, digest size 5), back to back in any order.
An administrator's 22,000 are 112 kB so, whatever the catalogue of the reader; their names would be 600 kB, near the size that
brokers take, and are in the catalogue anyway. What moved is told by name, for people.

A ledger that was frozen may write what it meant to tell when it goes on, behind what the shard's owner told meanwhile. The owner
sees that by the offsets within seconds, and tells every gap of the shard anew: `as_of` may go back for that long.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct, field

from topics.contract import (
    DAY_SECONDS,
    SHARDS,
    AccountId,
    ActionName,
    Arn,
    Codec,
    ContractError,
    Count,
    Example,
    Time,
    Topic,
    UniqueId,
    principal_key,
)

HASH_BYTES = 5
UNUSED_MAX = 100_000
"""Four catalogues of today: 500 kB, half of what a message may have."""

MOVED_MAX = 256
"""Named moves a message; `moved_count` tells how many there were. The inventory of an administrator moves 22,000 at once."""

Verdict = Literal["used", "unused", "unproven", "too_new", "unobservable"]
WindowLabel = Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,2}d$")]


class Moved(Struct, frozen=True):
    """An action whose verdict changed; None: not granted."""

    action: ActionName
    before: Verdict | None = field(name="from")
    now: Verdict | None = field(name="to")


class VerdictCounts(Struct, frozen=True):
    """Grants by verdict."""

    used: Count = 0
    unused: Count = 0
    unproven: Count = 0
    too_new: Count = 0
    unobservable: Count = 0


class GapChange(Struct, frozen=True, kw_only=True):
    """The gap of one principal and window, as of a time. `gap_index` is 0 exactly when nothing is unused, at most 100."""

    SCHEMA: ClassVar[int] = 1

    schema: int = SCHEMA
    as_of: Time
    arn: Arn
    unique_id: UniqueId | None
    account_id: AccountId
    window: WindowLabel
    why: Literal["use", "grant", "lapse", "coverage", "catalogue"]
    counts: VerdictCounts
    gap_index: Annotated[float, Meta(ge=0, le=100)]
    moved: Annotated[tuple[Moved, ...], Meta(max_length=MOVED_MAX)]
    moved_count: Count
    unused: Annotated[bytes, Meta(max_length=UNUSED_MAX * HASH_BYTES)]

    def __post_init__(self) -> None:
        if len(self.unused) != self.counts.unused * HASH_BYTES:
            raise ValueError(f"{len(self.unused)} bytes of unused actions where {self.counts.unused} are counted")
        if self.moved_count < len(self.moved):
            raise ValueError(f"{len(self.moved)} actions moved where {self.moved_count} are counted")
        if (self.gap_index > 0) != (self.counts.unused > 0):
            raise ValueError(f"gap index {self.gap_index} with {self.counts.unused} unused")

    @property
    def key(self) -> bytes:
        return principal_key(self.arn, self.unique_id) + self.window.encode()


def unpack_hashes(packed: bytes) -> frozenset[bytes]:
    """The stable hashes in `unused`. Raises ContractError where one stands twice: the counts would not be true."""
    hashes = frozenset(packed[at : at + HASH_BYTES] for at in range(0, len(packed), HASH_BYTES))
    if len(hashes) * HASH_BYTES != len(packed):
        raise ContractError("a message of topic gap-changes has unused actions twice, or a part of one")
    return hashes


EXAMPLE = Example(
    key=bytes.fromhex("086c4bf2bf641a05") + b"30d",
    partition=2,
    value=bytes.fromhex(
        "8ca6736368656d6101a561735f6f66ce6955b900a361726ed92b61726e3a6177733a69616d3a3a313131313232323233"
        "3333333a726f6c652f7465616d2f6275696c646572a9756e697175655f6964b541524f414558414d504c454255494c44"
        "4552303031aa6163636f756e745f6964ac313131313232323233333333a677696e646f77a3333064a3776879a56c6170"
        "7365a6636f756e747385a47573656401a6756e7573656402a8756e70726f76656e00a7746f6f5f6e657700ac756e6f62"
        "7365727661626c6500a96761705f696e646578cb4051d9999999999aa56d6f7665649183a6616374696f6eb06563323a"
        "52756e496e7374616e636573a466726f6da475736564a2746fa6756e75736564ab6d6f7665645f636f756e7401a6756e"
        "75736564c40a9bccaacefa11cffb1064"
    ),
)

TOPIC = Topic(
    name="gap-changes",
    key="the principal's 8 bytes as in topic grants, and the window's label: 30d",
    partitions=SHARDS,
    retention_seconds=7 * DAY_SECONDS,
    compacted=True,
    schema=GapChange.SCHEMA,
    doc="Principal and window -> the whole gap as it now stands, what moved and why; a tombstone: it is gone.",
    example=EXAMPLE,
)

CODEC = Codec(TOPIC, GapChange, "msgpack")
