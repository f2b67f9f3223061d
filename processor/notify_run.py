"""`gapwatch notify`: tells people, by webhook and SNS, what ledgers write to topic `alerts`, and whether the fleet keeps up.

One process tells for all ledgers, so that what comes fast is one message whoever found it. More of them stand by: topic `alerts`
has one partition, which Kafka gives to one member of the group. What was told is in the store (P:told:CHANNEL), and how far
the topic is read in the group's offset, which moves only behind what every channel has told: told at least once, and
twice only where the process dies between the two.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from processor.core.alert_notices import find_notice
from processor.core.notices import Notice, Standing
from processor.core.records import DAY_SECONDS
from processor.ledger_run import BROKER_WAIT_SECONDS, wait_for_brokers
from processor.notify import PENDING_MAX, Teller, make_digest
from processor.opening import Place
from processor.page_run import FleetReading, StoreAway, read_aside
from processor.settings import NotifySettings, Settings
from processor.settings_error import SettingsError
from processor.shell.alerts_reader import AlertsReader
from processor.shell.brokers import BrokerError, BrokerSettings
from processor.shell.channel_metrics import ChannelCollector, ChannelHealth, render_channels
from processor.shell.channels import check_channels, open_channels
from processor.shell.ending import rest_until
from processor.shell.http import Server
from processor.shell.metrics import describe_build
from processor.shell.redis import Store
from processor.shell.tables import load_catalogue
from processor.stopping import Warn, end_in_time
from topics import alerts
from topics.alerts import Alert

LOOK_SECONDS = 1.0
STANDING_SECONDS = 10.0
DIGEST_SECONDS = 600.0


@dataclass(slots=True)
class NotifyOrder:
    """What `notify` was asked for. `clock` gives seconds since 1970; `why_not` says why it is not ready, empty where it is: it
    tells, or stands by."""

    brokers: BrokerSettings
    prefix: str
    group: str
    url: str
    settings: Settings
    clock: Callable[[], float] = time.time
    why_not: str = "waiting for Kafka"


@dataclass(slots=True)
class Waiting:
    """What was read and is not told by all channels yet, by offset, in order."""

    notices: dict[int, Notice] = field(default_factory=dict)
    read_to: int | None = None

    def take(self, offset: int, alert: Alert | None, now: float) -> None:
        notice = None if alert is None else find_notice(alert, now)
        if notice is not None:
            self.notices[offset] = notice
        self.read_to = offset + 1

    def settle(self, tellers: list[Teller]) -> int | None:
        """Leave out what all have told; the offset to read on from after a restart."""
        for offset, notice in list(self.notices.items()):
            if all(teller.has_told(notice) for teller in tellers):
                del self.notices[offset]
        return min(self.notices, default=self.read_to)


async def run_notify(order: NotifyOrder, warn: Warn, started: Callable[[str], None], stopping: asyncio.Event) -> int:
    """Run until `stopping` is set. Raises SettingsError where there is nobody to tell."""
    settings = order.settings.notify
    if not (settings.webhook_url_file or settings.sns_topic_arn):
        raise SettingsError("there is nobody to tell: give [notify] webhook_url_file or sns_topic_arn in --config")
    check_channels(settings)
    health: list[ChannelHealth] = []
    version = load_catalogue().version
    collector = ChannelCollector(lambda: health, lambda: describe_build(version))
    server = Server(lambda: [render_channels(collector)], lambda: order.why_not or None, {})
    await server.start(order.settings.run.host, order.settings.run.port)
    started(server.url)
    try:
        return await _tell_all(order, warn, health, stopping)
    finally:
        await server.stop()


async def _tell_all(order: NotifyOrder, warn: Warn, health: list[ChannelHealth], stopping: asyncio.Event) -> int:
    settings = order.settings.notify
    topic = alerts.TOPIC.full_name(order.prefix)
    if not await wait_for_brokers(order.brokers, topic, stopping, warn, alerts.TOPIC.partitions):
        return 0
    store = await Store.connect(order.url, wait=warn)
    try:
        async with open_channels(settings) as channels:
            tellers = [Teller(channel, store, settings, warn) for channel in channels]
            health[:] = [teller.health for teller in tellers]
            telling = asyncio.ensure_future(_tell_on(order, store, tellers, warn, stopping))
            await end_in_time(telling, stopping, warn)
    finally:
        await store.close()
    return 0


async def _tell_on(
    order: NotifyOrder, store: Store, tellers: list[Teller], warn: Warn, stopping: asyncio.Event
) -> None:
    told = ""
    while not stopping.is_set():
        reader = AlertsReader(order.brokers, alerts.TOPIC.full_name(order.prefix), order.group)
        try:
            await reader.start()
            order.why_not = ""
            await _read_on(order, store, reader, tellers, warn, stopping)
        except BrokerError as error:
            if str(error) != told:
                warn(f"{error}; trying again")
            told = order.why_not = str(error)
            await rest_until(stopping, BROKER_WAIT_SECONDS)
        finally:
            await reader.stop()


async def _read_on(
    order: NotifyOrder, store: Store, reader: AlertsReader, tellers: list[Teller], warn: Warn, stopping: asyncio.Event
) -> None:
    """Read, tell and commit until `stopping` is set. Raises BrokerError."""
    waiting, health = Waiting(), FleetHealth(order.settings.notify, Place(order.url), store, order.clock)
    while not stopping.is_set():
        if reader.take_assigned():  # Another member may have told meanwhile.
            waiting = Waiting()
            for teller in tellers:
                teller.forget()
        if len(waiting.notices) >= PENDING_MAX:
            await asyncio.sleep(LOOK_SECONDS)
        else:
            for offset, alert in await reader.read(LOOK_SECONDS):
                waiting.take(offset, alert, order.clock())
        if not reader.is_assigned:
            continue
        now = order.clock()
        notices = [*await health.look(now), *waiting.notices.values()]
        for teller in tellers:
            await teller.tell(notices, now)
        reached = waiting.settle(tellers)
        if reached is not None:
            await reader.commit(reached)


class FleetHealth:
    """What is to be told of the fleet as a whole, by what its shards have stored."""

    def __init__(self, settings: NotifySettings, place: Place, store: Store, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._place = place
        self._store = store
        self._clock = clock
        self._standing = Standing(settings.behind_seconds, settings.silent_seconds)
        self._looked_at = 0.0
        self._digest_at = 0.0
        self._digest_day = 0

    async def look(self, now: float) -> list[Notice]:
        """What is new; asks the store every STANDING_SECONDS only."""
        if now - self._looked_at < STANDING_SECONDS:
            return []
        self._looked_at = now
        keys = [self._store.shard_key(shard, b"meta") for shard in self._store.shards]
        answers = await self._store.read_many([("HMGET", key, "as_of", "newest") for key in keys])
        reached = [int(as_of) for as_of, _ in answers if as_of]
        newest = max((int(at) for _, at in answers if at), default=0)
        found = self._standing.look(now, min(reached, default=0), newest) if reached else []
        if self._settings.digest and now >= self._digest_at and int(now) // DAY_SECONDS != self._digest_day:
            self._digest_at = now + DIGEST_SECONDS
            with suppress(StoreAway):
                if (
                    digest := await make_digest(await read_aside(FleetReading(), self._place, self._store), now)
                ) is not None:
                    self._digest_day = int(now) // DAY_SECONDS
                    found.append(digest)
        return found
