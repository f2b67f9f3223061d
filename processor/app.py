"""The Faust worker that reads topic `uses`: the only module that imports Faust, and it imports nothing of the core.

Faust brings consumer groups, rebalancing and the loop; what it would do itself with offsets is replaced, as it was found by
trial: partitions are read on from where the store says, never from where the group says; what was read twice is read again; and
no exception leaves the loop, as Faust would acknowledge the message and go on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import faust
from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP, StreamT

from processor.shell.brokers import BrokerSettings, build_ssl_context


class Owner(Protocol):
    """Who owns shards: processor.shards.Shards."""

    async def claim(self, numbers: Iterable[int], generation: int) -> dict[int, int]: ...

    async def revoke(self, numbers: Iterable[int]) -> None: ...

    async def take(self, number: int, offset: int, value: bytes) -> None: ...


class _NothingRead(dict[TP, int | None]):
    """Faust drops what it has read already; after going back, that is what we want."""

    def __missing__(self, key: TP) -> None:
        return None

    def __getitem__(self, key: TP) -> None:
        return None

    def get(self, key: TP, default: Any = None) -> Any:
        return default


def build_app(
    settings: BrokerSettings, group: str, topic: str, owner: Owner, fail: Callable[[BaseException], None]
) -> faust.App:
    """A worker of a group that hands the messages of a topic to `owner`. `fail` is told what it cannot go on after."""

    class SeekingConsumer(Consumer):
        """Reads on from where the store says."""

        async def seek_to_committed(self) -> dict[TP, int]:
            assigned = [found.partition for found in self.assignment() if found.topic == topic]
            offsets = await owner.claim(assigned, self.app.consumer_generation_id)
            placed = {TP(topic, number): offset for number, offset in offsets.items()}
            if placed:
                await self.seek_wait(placed)
            return placed

    app = faust.App(
        group,
        broker=[f"kafka://{host}" for host in settings.hosts],
        broker_credentials=build_credentials(settings),
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        processing_guarantee="at_least_once",
        broker_session_timeout=6,
        broker_heartbeat_interval=1,
        broker_rebalance_timeout=20,
        broker_request_timeout=30.0,
        broker_max_poll_records=100,
        broker_max_poll_interval=60.0,
        broker_commit_interval=1.0,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=256,
        stream_wait_empty=False,
        stream_publish_on_commit=False,
    )
    app.transport.Consumer = SeekingConsumer  # type: ignore[misc]  # as FACTS has it: there is no other way in
    uses = app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", acks=True)

    async def read(stream: StreamT[bytes]) -> None:
        async for event in stream.events():
            message = event.message
            try:
                await owner.take(message.partition, message.offset, event.value)
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                fail(error)

    app.agent(uses, concurrency=1, name="ledger")(read)

    @app.on_partitions_assigned.connect  # type: ignore[arg-type]  # its stub wants a name that is never given
    async def read_again(sender: Any, assigned: Any, /, **_: Any) -> None:
        sender.consumer._read_offset = _NothingRead()

    @app.on_partitions_revoked.connect  # type: ignore[arg-type]  # as above
    async def give_up(sender: Any, revoked: Any, /, **_: Any) -> None:
        await owner.revoke([found.partition for found in revoked if found.topic == topic])

    app.conf  # noqa: B018 - settles the settings, while an error of them can still be told
    return app


def seeker(app: faust.App, topic: str) -> Callable[[int, int], Awaitable[None]]:
    """How to read a partition on from another offset while the app runs."""

    async def seek(number: int, offset: int) -> None:
        place = TP(topic, number)
        if place in app.consumer.assignment():
            await app.consumer.seek(place, offset)

    return seek


def build_credentials(settings: BrokerSettings) -> Any:
    """What Faust wants for SASL and TLS; None for plaintext."""
    context = build_ssl_context(settings) if settings.security.endswith("ssl") else None
    if settings.security.startswith("sasl"):
        return faust.SASLCredentials(
            username=settings.user, password=settings.password, mechanism=settings.mechanism, ssl_context=context
        )
    return None if context is None else faust.SSLCredentials(context)
