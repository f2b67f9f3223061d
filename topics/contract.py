"""What the contract of every topic is made of. Each topic has a module of its own here; this one says what they share.

**Names.** A topic's name follows a prefix, `gapwatch.` by default: `gapwatch.uses`. One broker may serve several stores, each
under a prefix of its own.

**Partitions.** Clients hash keys differently (Java's murmur2, librdkafka's CRC32), so none is left to hash: every message is
written to an explicit partition, `Topic.partition_of(key)`. A topic of 64 partitions is divided like the store: partition N is
shard N, the top 6 bits of the first byte of a principal's key. The others have one partition. A topic's number of partitions
therefore never changes.

**Values** are JSON where people read them, msgpack where they carry bytes; both are maps with `schema`, the version, in them.
Within a version fields may be added, and a reader ignores what it does not know; any other change makes a new version. A reader
takes no newer version than its own: writers are updated last. Times are whole seconds since 1970.

**Compacted** topics keep the newest message of each key for ever. A message without a value is a tombstone: the key is gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from xxhash import xxh3_64_digest

PREFIX = "gapwatch."
SHARDS = 64
DAY_SECONDS = 86_400

MESSAGE_BYTES_MAX = 1_048_588
"""Kafka's own default, said here so that a broker with a smaller one is noticed before a message is refused."""

VALUE_BYTES_MAX = 1_000_000
"""Leaves room for key, headers and the batch around them."""

REPLICAS_IN_SYNC = 2
"""Of three: an acknowledged message survives the loss of a broker, and one broker away stops nobody."""

Time = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
AccountId = Annotated[str, Meta(min_length=1, max_length=64)]
Arn = Annotated[str, Meta(min_length=1, max_length=2_048)]
UniqueId = Annotated[str, Meta(min_length=1, max_length=128)]
ActionName = Annotated[str, Meta(min_length=3, max_length=256)]


class ContractError(ValueError):
    """A message that does not keep to its topic's contract: broken, of a newer version, or too large. Says which."""


class VersionError(ContractError):
    """A message of another version of its schema: nothing is wrong with it, a newer gapwatch reads it."""


@dataclass(frozen=True, slots=True)
class Example:
    """A whole message. Written out and not built, so that a change of the encoding is noticed."""

    key: bytes
    partition: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `key` and `doc` are for people.

    `retention_seconds` is how long every message stays; a compacted topic keeps the newest of each key beyond that.
    """

    name: str
    key: str
    partitions: int
    retention_seconds: int
    compacted: bool
    schema: int
    doc: str
    example: Example

    def full_name(self, prefix: str) -> str:
        return prefix + self.name

    def partition_of(self, key: bytes) -> int:
        """Where a message of this key is written. A key of a divided topic begins with a principal's 8 bytes."""
        return 0 if self.partitions == 1 else shard_of(key)

    def settings(self, replication: int) -> Mapping[str, str]:
        """The broker's configuration entries of this topic, when each partition has so many replicas."""
        entries = {
            "max.message.bytes": str(MESSAGE_BYTES_MAX),
            "min.insync.replicas": str(REPLICAS_IN_SYNC if replication > REPLICAS_IN_SYNC else 1),
        }
        if not self.compacted:
            # Retention goes by the broker's clock: a producer whose clock jumps can neither keep nor lose messages by it.
            times = {"retention.ms": str(self.retention_seconds * 1_000), "message.timestamp.type": "LogAppendTime"}
            return {"cleanup.policy": "delete", **times, **entries}
        return {
            "cleanup.policy": "compact",
            "min.compaction.lag.ms": str(self.retention_seconds * 1_000),
            # A reader that was away for so long still learns what is gone.
            "delete.retention.ms": str(7 * DAY_SECONDS * 1_000),
            # The newest segment is never compacted; a week of it, Kafka's default, is long to read at every start.
            "segment.ms": str(DAY_SECONDS * 1_000),
            "min.cleanable.dirty.ratio": "0.1",
            **entries,
        }


def principal_key(arn: str, unique_id: str | None) -> bytes:
    """The 8 bytes of a principal, in keys here and in the store: XXH3-64, big-endian, of `ARN NUL unique id`."""
    return xxh3_64_digest(f"{arn}\0{unique_id or ''}".encode())


def shard_of(key: bytes) -> int:
    """The shard of a key that begins with a principal's: its top 6 bits."""
    return key[0] >> 2


Value = TypeVar("Value", bound=Struct)


class Codec(Generic[Value]):
    """Encodes and decodes the values of one topic, of the one schema version that `topic` names."""

    def __init__(self, topic: Topic, kind: type[Value], form: Literal["json", "msgpack"]) -> None:
        self._topic = topic
        wire: Any = msgspec.json if form == "json" else msgspec.msgpack
        self._form = {"json": "JSON", "msgpack": "msgpack"}[form]
        self._encode = wire.Encoder().encode
        self._decode = wire.Decoder(kind).decode
        self._decode_version = wire.Decoder(_Version).decode

    def encode(self, value: Value) -> bytes:
        """The bytes of a message. Raises ContractError where they are more than a message may have."""
        raw: bytes = self._encode(value)
        if len(raw) > VALUE_BYTES_MAX:
            raise ContractError(
                f"a message for topic {self._topic.name} has {len(raw)} bytes, at most {VALUE_BYTES_MAX} are sent"
            )
        return raw

    def decode(self, raw: bytes) -> Value:
        """A message's value; tombstones are the caller's. Raises ContractError, and nothing else, whatever the bytes."""
        try:
            value: Value = self._decode(raw)
        except _UNREADABLE as error:
            self._refuse_other_versions(raw)
            raise ContractError(f"a message of topic {self._topic.name} cannot be read: {error}") from error
        if getattr(value, "schema") != self._topic.schema:  # noqa: B009 - a Struct in general has no such field, ours have
            self._refuse_other_versions(raw)
        return value

    def _refuse_other_versions(self, raw: bytes) -> None:
        try:
            schema = self._decode_version(raw).schema
        except _UNREADABLE as error:
            raise ContractError(
                f"a message of topic {self._topic.name} cannot be read as {self._form}: {error}"
            ) from error
        if schema != self._topic.schema:
            advice = "use a newer gapwatch" if schema > self._topic.schema else "there never was such a version"
            raise VersionError(
                f"a message of topic {self._topic.name} has schema {schema}, this gapwatch reads {self._topic.schema}: {advice}"
            )


class _Version(Struct):
    """What messages of all versions have in common."""

    schema: int


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
