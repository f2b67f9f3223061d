"""Topic `grants`: the inventory, one message a principal.

Written by whoever reads an inventory, read by ledgers (their own partitions) and by intakes (all of it: they resolve unique ids).
A tombstone says that the principal is gone. msgpack: it carries bytes.

`packed` is what the store keeps of the principal, byte for byte (processor/shell/grants.py, `pack_grants`): its sets of actions are
masks over the catalogue of the version in `catalogue`. So that another version reads them by name, the names of each catalogue in
use lie here too, in every partition, under the key `catalogue:VERSION`: `encode_catalogue`. It may come after a principal that
needs it (compaction drops the older copy), so a reader keeps such a principal until then.
"""

import zlib
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from topics.contract import SHARDS, AccountId, Arn, Codec, ContractError, Example, Time, Topic, UniqueId, principal_key

CATALOGUE_KEY = b"catalogue:"
"""Longer than a principal's key, which has 8 bytes: the two cannot be confused."""

CATALOGUE_BYTES_MAX = 16_000_000
"""Unpacked: twenty times what the 22,000 actions of today take."""


class PrincipalGrants(Struct, frozen=True, kw_only=True):
    """What one role or user may do, as of the time of the inventory."""

    SCHEMA: ClassVar[int] = 1

    schema: int = SCHEMA
    as_of: Time
    arn: Arn
    unique_id: UniqueId | None
    account_id: AccountId
    kind: Literal["role", "user"]
    catalogue: Annotated[str, Meta(min_length=1, max_length=64)]
    packed: Annotated[bytes, Meta(min_length=1)]

    @property
    def key(self) -> bytes:
        return principal_key(self.arn, self.unique_id)


def catalogue_key(version: str) -> bytes:
    return CATALOGUE_KEY + version.encode()


def catalogue_of(key: bytes) -> str | None:
    """The catalogue version that a message of this key holds the names of; None for a principal's."""
    return key[len(CATALOGUE_KEY) :].decode(errors="replace") if key.startswith(CATALOGUE_KEY) else None


def encode_catalogue(names: Iterable[str]) -> bytes:
    """The value under `catalogue_key`: the names by id, newline-separated, zlib; about 120 kB. Written to every partition."""
    return zlib.compress("\n".join(names).encode(), 6)


def decode_catalogue(raw: bytes) -> list[str]:
    """The names of a catalogue by id. Raises ContractError for broken or boundless bytes."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(raw, CATALOGUE_BYTES_MAX)
        if not unpacker.eof:
            raise ContractError("a catalogue in topic grants is cut off, or larger than any catalogue")
        return text.decode().split("\n")
    except (zlib.error, UnicodeDecodeError) as error:
        raise ContractError(f"a catalogue in topic grants cannot be read: {error}") from error


EXAMPLE = Example(
    key=bytes.fromhex("086c4bf2bf641a05"),
    partition=2,
    value=bytes.fromhex(
        "88a6736368656d6101a561735f6f66ce6955b900a361726ed92b61726e3a6177733a69616d3a3a313131313232323233"
        "3333333a726f6c652f7465616d2f6275696c646572a9756e697175655f6964b541524f414558414d504c454255494c44"
        "4552303031aa6163636f756e745f6964ac313131313232323233333333a46b696e64a4726f6c65a9636174616c6f6775"
        "65a7736d616c6c2d31a67061636b6564c48a78019bbfbc3837312747d7f0a67662519e556279b1556662ae9595211018"
        "018131105815e5e7a4ea97a426e6ea279566e6a4a4166d750cf277748d70f40df071750af5f471710d3230305c83ac69"
        "0948d372a8fa034798d8588e304c98387d556a596a51654946665efa81034bdd328b8a4b407287262ed49ad0b80464c7"
        "92a49cd2d403870004d23941"
    ),
)

TOPIC = Topic(
    name="grants",
    key="the principal's 8 bytes: XXH3-64, big-endian, of `ARN NUL unique id`; or catalogue:VERSION",
    partitions=SHARDS,
    retention_seconds=0,
    compacted=True,
    schema=PrincipalGrants.SCHEMA,
    doc="Principal -> what it may do, as of the last inventory; a tombstone: it is gone.",
    example=EXAMPLE,
)

CODEC = Codec(TOPIC, PrincipalGrants, "msgpack")
