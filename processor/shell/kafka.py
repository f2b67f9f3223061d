"""A ledger's and an intake's own Kafka clients: what they write, and the topic that each of them reads whole.

Topic `uses` is read by Faust (app.py). Topic `grants` is compacted and small: a ledger reads the partitions of its shards, an
intake all of them, without a consumer group, from where each wants.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from processor.core.gap_changes import Written
from processor.core.records import Rejected
from processor.core.redact import describe_bytes, redact
from processor.shell.brokers import BrokerError, BrokerSettings, StalledError, connection_options
from processor.shell.ending import try_for, within
from processor.shell.published_grants import PublishedGrants
from topics import alerts, coverage, gap_changes, grants, rejected, uses
from topics.contract import MESSAGE_BYTES_MAX, SHARDS

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

REQUEST_MS = 10_000
LINGER_MS = 2
CLOSE_SECONDS_MAX = 5.0

ANSWER_SECONDS_MAX = 150.0
"""A producer gives up on a message long before; one that does neither will not, and only another process can know what arrived."""

ANY_REGION = "*"
"""An account's log is known in all its regions from its first record on, in whichever."""

SOURCE_MAX = 1_024
REJECTS_MAX = 1_000
"""Of one group of records: a source that is no CloudTrail at all must not fill the topic."""


@contextmanager
def name_failures(settings: BrokerSettings) -> Iterator[None]:
    """Raise BrokerError for what aiokafka raises."""
    from aiokafka.errors import KafkaError

    try:
        yield
    except KafkaError as error:
        raise BrokerError(f"Kafka at {settings.where}: {error}") from error


def make_producer(settings: BrokerSettings) -> "AIOKafkaProducer":
    """A producer whose acknowledged messages are on all replicas in sync, in order and once."""
    from aiokafka import AIOKafkaProducer

    return AIOKafkaProducer(
        **connection_options(settings),
        acks="all",
        enable_idempotence=True,
        compression_type=None,
        linger_ms=LINGER_MS,
        request_timeout_ms=REQUEST_MS,
        max_request_size=MESSAGE_BYTES_MAX,
    )


async def wait_acknowledged(sent: Iterable[Awaitable[object]], settings: BrokerSettings) -> None:
    """Wait for messages that were sent. Raises BrokerError for one that was refused, StalledError where none is either."""
    with name_failures(settings):
        try:
            await within(ANSWER_SECONDS_MAX, asyncio.gather(*sent))
        except TimeoutError as error:
            raise StalledError(f"Kafka has not acknowledged what was sent {ANSWER_SECONDS_MAX:.0f} s ago") from error


async def stop_all(*clients: "AIOKafkaProducer | AIOKafkaConsumer | None") -> None:
    """Disconnect. A client that does not come to its end is left as it is: the process ends, or starts again."""
    await try_for(CLOSE_SECONDS_MAX, *(client.stop() for client in clients if client is not None))


class LedgerLog:
    """What a ledger has of Kafka beside its Faust app. `seek` is the app's."""

    def __init__(self, settings: BrokerSettings, prefix: str) -> None:
        self._settings = settings
        self._uses = uses.TOPIC.full_name(prefix)
        self._grants = grants.TOPIC.full_name(prefix)
        self._gap_changes = gap_changes.TOPIC.full_name(prefix)
        self._alerts = alerts.TOPIC.full_name(prefix)
        self._producer: AIOKafkaProducer | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._asker: AIOKafkaConsumer | None = None
        self._assigned: dict[int, int] = {}
        self.seek_uses: Callable[[int, int], Awaitable[None]] | None = None

    async def start(self) -> None:
        """Connect. Raises BrokerError."""
        from aiokafka import AIOKafkaConsumer

        with name_failures(self._settings):
            self._producer = make_producer(self._settings)
            await self._producer.start()
            self._consumer = AIOKafkaConsumer(
                **connection_options(self._settings), enable_auto_commit=False, auto_offset_reset="earliest"
            )
            await self._consumer.start()
            # Kafka answers a connection's requests one after the other: behind a fetch that waits, a question waits, too.
            self._asker = AIOKafkaConsumer(**connection_options(self._settings), enable_auto_commit=False)
            await self._asker.start()

    async def stop(self) -> None:
        await stop_all(self._producer, self._consumer, self._asker)

    async def seek(self, shard: int, offset: int) -> None:
        """As Broker.seek."""
        if self.seek_uses is not None:
            await self.seek_uses(shard, offset)

    async def find_bounds(self, shards: Iterable[int]) -> dict[int, tuple[int, int]]:
        """As Broker.find_bounds."""
        from aiokafka import TopicPartition

        assert self._asker is not None  # noqa: S101 - start came before
        partitions = [TopicPartition(self._uses, shard) for shard in shards]
        with name_failures(self._settings):
            begins = await self._asker.beginning_offsets(partitions)
            ends = await self._asker.end_offsets(partitions)
        return {each.partition: (begins[each], ends[each]) for each in partitions}

    async def find_told_ends(self, shards: Iterable[int]) -> dict[int, int]:
        """As Broker.find_told_ends."""
        from aiokafka import TopicPartition

        assert self._asker is not None  # noqa: S101 - start came before
        with name_failures(self._settings):
            ends = await self._asker.end_offsets([TopicPartition(self._gap_changes, shard) for shard in shards])
        return {each.partition: end for each, end in ends.items()}

    async def publish(self, shard: int, messages: Iterable[Written]) -> tuple[int, int]:
        """As Broker.publish."""
        return await self._write(self._gap_changes, shard, messages)

    async def alert(self, messages: Iterable[Written]) -> None:
        """As Broker.alert."""
        await self._write(self._alerts, 0, messages)

    async def _write(self, topic: str, partition: int, messages: Iterable[Written]) -> tuple[int, int]:
        """The offsets of the first message and behind the last, 0 where there are none."""
        assert self._producer is not None  # noqa: S101 - start came before
        with name_failures(self._settings):
            sent = [
                await self._producer.send(topic, value=value, key=key, partition=partition) for key, value in messages
            ]
        await wait_acknowledged(sent, self._settings)
        offsets = [each.result().offset for each in sent]
        return min(offsets, default=0), max(offsets, default=-1) + 1

    async def follow_grants(self, offsets: Mapping[int, int]) -> None:
        """As Broker.follow_grants."""
        from aiokafka import TopicPartition

        assert self._consumer is not None  # noqa: S101 - start came before
        if dict(offsets) == self._assigned:
            return
        self._assigned = dict(offsets)
        if not offsets:
            self._consumer.unsubscribe()
            return
        self._consumer.assign([TopicPartition(self._grants, shard) for shard in offsets])
        for shard, offset in offsets.items():
            self._consumer.seek(TopicPartition(self._grants, shard), offset + 1)

    async def read_grants(self, take: Callable[[int, int, bytes, bytes | None], Awaitable[None]]) -> None:
        """Hand on messages of `grants` for ever. Raises BrokerError."""
        assert self._consumer is not None  # noqa: S101 - start came before
        while True:
            if not self._assigned:
                await asyncio.sleep(0.1)
                continue
            with name_failures(self._settings):
                found = await self._consumer.getmany(timeout_ms=200, max_records=500)
            for partition, messages in found.items():
                for message in messages:
                    await take(partition.partition, message.offset, message.key or b"", message.value)


class IntakeLog:
    """What an intake has of Kafka: it writes `uses`, `rejected` and `grants`, and reads all of `grants`."""

    def __init__(self, settings: BrokerSettings, prefix: str, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._prefix = prefix
        self._clock = clock
        self._uses = uses.TOPIC.full_name(prefix)
        self._rejected = rejected.TOPIC.full_name(prefix)
        self._grants = grants.TOPIC.full_name(prefix)
        self._coverage = coverage.TOPIC.full_name(prefix)
        self._producer: AIOKafkaProducer | None = None
        self._consumer: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Connect. Raises BrokerError."""
        from aiokafka import AIOKafkaConsumer, TopicPartition

        with name_failures(self._settings):
            self._producer = make_producer(self._settings)
            await self._producer.start()
            self._consumer = AIOKafkaConsumer(
                **connection_options(self._settings), enable_auto_commit=False, auto_offset_reset="earliest"
            )
            await self._consumer.start()
            self._consumer.assign([TopicPartition(self._grants, shard) for shard in range(SHARDS)])
            await self._consumer.seek_to_beginning()

    async def stop(self) -> None:
        await stop_all(self._producer, self._consumer)

    async def send(self, shard: int, value: bytes) -> Awaitable[object]:
        """As UsesLog.send."""
        return await self._write(self._uses, shard, None, value)

    async def _write(self, topic: str, shard: int, key: bytes | None, value: bytes | None) -> Awaitable[object]:
        assert self._producer is not None  # noqa: S101 - start came before
        with name_failures(self._settings):
            sent = await self._producer.send(topic, value=value, key=key, partition=shard)
        return wait_acknowledged((sent,), self._settings)

    async def _write_all(self, topic: str, messages: Iterable[tuple[int, bytes, bytes | None]]) -> None:
        """Write (partition, key, value) and wait until all is acknowledged."""
        sent = [await self._write(topic, partition, key, value) for partition, key, value in messages]
        for each in sent:
            await each

    async def reject(self, rejects: Sequence[Rejected]) -> None:
        """As UsesLog.reject."""
        if rejects:
            now = int(self._clock())
            await self._write_all(self._rejected, (_write_reject(each, now) for each in rejects[:REJECTS_MAX]))

    async def cover(self, accounts: Mapping[str, int], watermark: int) -> None:
        """Publish since when the logs of accounts are known, in every region."""
        messages = []
        for account_id, first in accounts.items():
            if first < watermark and "|" not in account_id:
                found = coverage.Coverage(
                    account_id=account_id, region=ANY_REGION, spans=((first, watermark),), watermark=watermark
                )
                messages.append((0, found.key, coverage.CODEC.encode(found)))
        await self._write_all(self._coverage, messages)

    async def read_inventory(self) -> PublishedGrants:
        """All grants as they stand. Raises BrokerError."""
        from aiokafka import TopicPartition

        assert self._consumer is not None  # noqa: S101 - start came before
        found = PublishedGrants()
        with name_failures(self._settings):
            partitions = [TopicPartition(self._grants, shard) for shard in range(SHARDS)]
            ends = await self._consumer.end_offsets(partitions)
            while any([await self._consumer.position(each) < ends[each] for each in partitions]):
                for partition, messages in (await self._consumer.getmany(timeout_ms=500)).items():
                    for message in messages:
                        found.take(partition.partition, message.key or b"", message.value)
        return found

    async def follow_inventory(self, found: PublishedGrants) -> None:
        """Take in changes of grants for ever. Raises BrokerError."""
        assert self._consumer is not None  # noqa: S101 - start came before
        while True:
            with name_failures(self._settings):
                batches = await self._consumer.getmany(timeout_ms=1_000)
            for partition, messages in batches.items():
                for message in messages:
                    found.take(partition.partition, message.key or b"", message.value)

    async def publish_grants(self, messages: Iterable[tuple[int, bytes, bytes | None]]) -> None:
        """Write (shard, key, value) to `grants`. Raises BrokerError."""
        await self._write_all(self._grants, messages)


def _write_reject(found: Rejected, now: int) -> tuple[int, bytes, bytes]:
    source, index = found.origin
    redacted = redact(found.raw)
    undecodable = None
    if redacted is None or len(redacted) > rejected.REDACTED_MAX:
        digest, head = describe_bytes(found.raw)
        redacted, undecodable = None, rejected.Undecodable(sha256=digest, head=head)
    value = rejected.Reject(
        time=now,
        reason=found.reason,
        source=source[:SOURCE_MAX] or "-",
        position=str(index),
        size=len(found.raw),
        redacted=redacted,
        undecodable=undecodable,
    )
    return 0, value.key, rejected.CODEC.encode(value)
