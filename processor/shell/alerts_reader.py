"""Topic `alerts`, read by one member of a consumer group at a time, which says itself how far it is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from processor.shell.brokers import BrokerSettings, connection_options
from processor.shell.kafka import name_failures
from topics.alerts import CODEC, Alert
from topics.contract import ContractError

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

READ_MAX = 500
SESSION_MS = 10_000
DAY_MS = 86_400_000
"""While a channel fails nothing more is read, which is no reason to let another member try."""


class AlertsReader:
    """From `start` to `stop`. A group that is new begins at the beginning: what is old is no news, and told by nobody."""

    def __init__(self, settings: BrokerSettings, topic: str, group: str) -> None:
        self._settings = settings
        self._topic = topic
        self._group = group
        self._consumer: AIOKafkaConsumer | None = None
        self._assigned = False
        self._news = False
        self._committed: int | None = None

    async def start(self) -> None:
        """Connect. Raises BrokerError."""
        from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener

        reader = self

        class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
            async def on_partitions_revoked(self, revoked: Sequence[Any]) -> None:
                reader._assigned = False

            async def on_partitions_assigned(self, assigned: Sequence[Any]) -> None:
                reader._assigned = reader._news = bool(assigned)
                reader._committed = None

        with name_failures(self._settings):
            self._consumer = AIOKafkaConsumer(
                **connection_options(self._settings), group_id=self._group, enable_auto_commit=False,
                auto_offset_reset="earliest", session_timeout_ms=SESSION_MS, max_poll_interval_ms=DAY_MS,
            )  # fmt: skip
            self._consumer.subscribe([self._topic], listener=Listener())
            await self._consumer.start()

    async def stop(self) -> None:
        if self._consumer is not None:
            await self._consumer.stop()

    @property
    def is_assigned(self) -> bool:
        """Whether this member is the one that reads."""
        return self._assigned

    def take_assigned(self) -> bool:
        """Whether it has become so since the last time."""
        found, self._news = self._news, False
        return found

    async def read(self, seconds: float) -> list[tuple[int, Alert | None]]:
        """Offsets and alerts that come within some seconds; None for a message that cannot be read. Raises BrokerError."""
        assert self._consumer is not None  # noqa: S101 - start came before
        with name_failures(self._settings):
            batches = await self._consumer.getmany(timeout_ms=int(seconds * 1_000), max_records=READ_MAX)
        return [(message.offset, _decode(message.value)) for messages in batches.values() for message in messages]

    async def commit(self, offset: int) -> None:
        """Let the group's next reader begin there. Raises BrokerError."""
        from aiokafka import TopicPartition

        assert self._consumer is not None  # noqa: S101 - start came before
        if offset == self._committed:
            return
        with name_failures(self._settings):
            await self._consumer.commit({TopicPartition(self._topic, 0): offset})
        self._committed = offset


def _decode(value: bytes | None) -> Alert | None:
    try:
        return None if value is None else CODEC.decode(value)
    except ContractError:
        return None
