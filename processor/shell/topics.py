"""Topics on a broker: make those that are missing, and tell in words where one is not as its contract says.

What exists is never changed: a topic with other partitions than its contract's holds its messages in other shards, and
settings may be somebody's decision. `check` says what is different, a person decides.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from processor.shell.brokers import BrokerError, BrokerSettings, connect_admin
from topics.contract import DAY_SECONDS, Topic

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

REPLICATION = 3
"""Unless told otherwise, and unless there are fewer brokers."""

VISIBLE_SECONDS_MAX = 10.0
"""How long a topic that was made may take to be seen by all."""

TOPIC_ALREADY_EXISTS = 36
"""Kafka's error code."""


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as a broker has it. `replicas` maps a number of replicas to how many partitions have so many."""

    partitions: int
    replicas: Mapping[int, int]
    settings: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many replicas a partition should have. `most` None: more are fine. Asked for no number, `check` takes the live
    brokers for the measure, and one that is down just now must not make a difference."""

    least: int
    most: int | None

    def takes(self, count: int) -> bool:
        return self.least <= count and (self.most is None or count <= self.most)


@dataclass(frozen=True, slots=True)
class Making:
    """What `create` did: names of topics that it made, and that were there."""

    made: tuple[str, ...]
    kept: tuple[str, ...]
    replication: int


async def create_topics(
    settings: BrokerSettings, topics: Sequence[Topic], prefix: str, replication: int | None
) -> Making:
    """Make the topics that are missing, and wait until they are seen. Raises BrokerError."""
    from aiokafka.admin import NewTopic

    async with connect_admin(settings) as admin:
        there = await _list_topics(admin)
        copies = replication or await _choose_replication(admin)
        missing = [topic for topic in topics if topic.full_name(prefix) not in there]
        kept = [topic.full_name(prefix) for topic in topics if topic not in missing]
        made = []
        if missing:
            wanted = [
                NewTopic(topic.full_name(prefix), topic.partitions, copies, topic_configs=dict(topic.settings(copies)))
                for topic in missing
            ]
            for name, code, *said in (await admin.create_topics(wanted)).topic_errors:
                if code == TOPIC_ALREADY_EXISTS:  # Another one made it just now.
                    kept.append(name)
                elif code:
                    raise BrokerError(_say_refused(settings, f"make {name}", code, said))
                else:
                    made.append(name)
            await _wait_until_seen(admin, made)
        return Making(tuple(made), tuple(kept), copies)


async def check_topics(
    settings: BrokerSettings, topics: Sequence[Topic], prefix: str, replication: int | None
) -> list[str]:
    """A sentence for each way in which a topic is not as its contract says. Raises BrokerError."""
    async with connect_admin(settings) as admin:
        there = await _list_topics(admin)
        wanted = Replicas(replication, replication) if replication else Replicas(await _choose_replication(admin), None)
        names = [topic.full_name(prefix) for topic in topics if topic.full_name(prefix) in there]
        entries = await _read_settings(settings, admin, names)
        differences = []
        for topic in topics:
            name = topic.full_name(prefix)
            if name in there:
                differences += compare_topic(topic, name, read_topic(there[name], entries[name]), wanted)
            else:
                differences.append(f"{name} is missing: `gapwatch topics create` makes it")
        return differences


def read_topic(described: Mapping[str, Any], settings: Mapping[str, str | None]) -> Found:
    """A topic from a broker's answers."""
    replicas: dict[int, int] = {}
    for partition in described["partitions"]:
        copies = len(partition["replicas"])
        replicas[copies] = replicas.get(copies, 0) + 1
    return Found(len(described["partitions"]), replicas, settings)


def compare_topic(topic: Topic, name: str, found: Found, wanted: Replicas) -> list[str]:
    """A sentence for each difference between a topic on a broker and its contract."""
    differences = []
    if found.partitions != topic.partitions:
        why = "partition N is shard N" if topic.partitions > 1 else "its order is that of one partition"
        differences.append(
            f"{name} has {_count(found.partitions, 'partition')}, the contract says {topic.partitions} ({why}): "
            "delete it and make it anew, or use another --prefix"
        )
    for copies, count in sorted(found.replicas.items()):
        if not wanted.takes(copies):
            differences.append(
                f"{name} has {_count(count, 'partition')} with {_count(copies, 'replica')}, wanted are "
                f"{wanted.least}{'' if wanted.most else ' or more'}"
            )
    for entry, value in topic.settings(max([wanted.least, *found.replicas])).items():
        differing = found.settings.get(entry)
        if differing is None or not _is_same(differing, value):
            shown = "not set" if differing is None else say_value(entry, differing)
            differences.append(f"{name}: {entry} is {shown}, the contract says {say_value(entry, value)}")
    return differences


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"


def _is_same(value: str, wanted: str) -> bool:
    """Brokers write numbers (0.1, 0.10) and lists (`a,b`) in their own ways."""
    try:
        return float(value) == float(wanted)
    except ValueError:
        return sorted(value.replace(" ", "").split(",")) == sorted(wanted.split(","))


def say_value(entry: str, value: str) -> str:
    """A setting's value for a person: times with their days or hours."""
    if not entry.endswith(".ms") or value == "0" or not value.removeprefix("-").isdigit():
        return value
    seconds = int(value) / 1_000
    if seconds < 0:
        return f"{value} (for ever)"
    if seconds < DAY_SECONDS:
        return f"{value} ({_count(round(seconds / 3_600, 2), 'hour')})"
    return f"{value} ({_count(round(seconds / DAY_SECONDS, 2), 'day')})"


async def _list_topics(admin: "AIOKafkaAdminClient") -> dict[str, Mapping[str, Any]]:
    """All topics by name. Asking for one that is missing would make it, on brokers that are set so."""
    return {found["topic"]: found for found in await admin.describe_topics(None)}


async def _choose_replication(admin: "AIOKafkaAdminClient") -> int:
    return min(REPLICATION, len((await admin.describe_cluster())["brokers"]))


async def _wait_until_seen(admin: "AIOKafkaAdminClient", names: Sequence[str]) -> None:
    """Wait until each partition of some topics has a leader; give up silently, since they are made."""
    deadline = asyncio.get_running_loop().time() + VISIBLE_SECONDS_MAX
    while asyncio.get_running_loop().time() < deadline:
        there = await _list_topics(admin)
        partitions = [part for name in names if name in there for part in there[name]["partitions"]]
        if all(name in there for name in names) and all(part["leader"] >= 0 for part in partitions):
            return
        await asyncio.sleep(0.1)


async def _read_settings(
    settings: BrokerSettings, admin: "AIOKafkaAdminClient", names: Sequence[str]
) -> dict[str, dict[str, str | None]]:
    """The configuration entries of topics. Raises BrokerError where they may not be read."""
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    entries: dict[str, dict[str, str | None]] = {}
    if not names:
        return entries
    for answer in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names]):
        for code, said, _, name, found in answer.resources:
            if code:
                raise BrokerError(_say_refused(settings, f"show the settings of {name}", code, [said]))
            entries[name] = {entry[0]: entry[1] for entry in found}
    return entries


def _say_refused(settings: BrokerSettings, what: str, code: int, said: Sequence[str | None]) -> str:
    from aiokafka.errors import for_code

    reason = for_code(code).__name__.removesuffix("Error")
    return f"Kafka at {settings.where} refuses to {what}: {': '.join([reason, *filter(None, said)])}"
