"""A Kinesis stream for the simulation: shards that split and merge, answers cut anywhere, throttling, iterators that expire.

`SimulatedAws` stands in the place of aiobotocore's session; all else is KinesisFeed's own code.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

from botocore.exceptions import ClientError
from simulated import EPOCH, Process

from processor.shell.feeds import ALONE, Feed, Positions, Sharing
from processor.shell.get_records import ANSWER, RecordsAnswer, StreamRecord
from processor.shell.kinesis import KinesisFeed

STREAM = "simulated"
FIRST = 49_590_338_271_490_256_608_559_692_538_361_571_095_921_575_989_136_588_898
KEYS = 2**16


@dataclass(slots=True)
class SimulatedShard:
    """Its range of keys, its parents, and (sequence number, time of arrival, payload) of what lies in it."""

    shard_id: str
    keys: tuple[int, int]
    parents: tuple[str, ...] = ()
    records: list[tuple[int, float, bytes]] = field(default_factory=list)
    is_open: bool = True


class SimulatedStream:
    """A stream in memory, in virtual time."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._number = 0
        self.shards: list[SimulatedShard] = []
        for low, high in ((0, KEYS // 2), (KEYS // 2, KEYS)):
            self._open(low, high)

    def _open(self, low: int, high: int, *parents: str) -> None:
        self.shards.append(SimulatedShard(f"shardId-{len(self.shards):012}", (low, high), parents))

    def find(self, shard_id: str) -> SimulatedShard:
        return next(shard for shard in self.shards if shard.shard_id == shard_id)

    def put(self, payload: bytes) -> None:
        """Put a record, by a key of its own."""
        key = self._chance.randrange(KEYS)
        shard = next(each for each in self.shards if each.is_open and each.keys[0] <= key < each.keys[1])
        self._number += self._chance.randint(1, 10**12)
        shard.records.append((FIRST + self._number, asyncio.get_running_loop().time(), payload))

    def reshard(self) -> None:
        """Split a shard, or merge two that lie side by side."""
        opened = sorted((shard for shard in self.shards if shard.is_open), key=lambda shard: shard.keys)
        if len(opened) > 1 and self._chance.random() < 0.5:
            at = self._chance.randrange(len(opened) - 1)
            one, other = opened[at : at + 2]
            one.is_open = other.is_open = False
            self._open(one.keys[0], other.keys[1], one.shard_id, other.shard_id)
            return
        shard = self._chance.choice(opened)
        low, high = shard.keys
        if high - low > 1:
            shard.is_open = False
            self._open(low, (low + high) // 2, shard.shard_id)
            self._open((low + high) // 2, high, shard.shard_id)


class SimulatedKinesis:
    """The client of one process. An iterator is a shard's id and how many of its records were read."""

    def __init__(self, stream: SimulatedStream, process: Process) -> None:
        self._stream = stream
        self._process = process
        self.meta = self
        self.events = self

    def register(self, event: str, do: Callable[..., None]) -> None:
        """Answers are given as they are looked at."""

    async def _ask(self, call: str, **codes: float) -> None:
        await self._process.pause(0.1)
        for code, share in codes.items():
            if self._process.chance.random() < share:
                raise ClientError({"Error": {"Code": code, "Message": "not now"}}, call)

    async def describe_stream_summary(self, **_: Any) -> Any:
        await self._ask("DescribeStreamSummary")
        created = datetime.fromtimestamp(EPOCH, UTC)
        return {"StreamDescriptionSummary": {"StreamCreationTimestamp": created, "StreamARN": f"arn:{STREAM}"}}

    async def list_shards(self, **_: Any) -> Any:
        await self._ask("ListShards", LimitExceededException=0.1)
        names = ("ParentShardId", "AdjacentParentShardId")
        listed = [
            {"ShardId": shard.shard_id, **dict(zip(names, shard.parents, strict=False))}
            for shard in self._stream.shards
        ]
        await self._process.pause(0.1)
        return {"Shards": listed}

    async def get_shard_iterator(self, ShardId: str, StartingSequenceNumber: str = "0", **_: Any) -> Any:  # noqa: N803 - botocore's
        await self._ask("GetShardIterator", ProvisionedThroughputExceededException=0.1)
        after = int(StartingSequenceNumber)
        records = self._stream.find(ShardId).records
        read = sum(number <= after for number, _, _ in records)
        return {"ShardIterator": f"{ShardId} {read}"}

    async def get_records(self, ShardIterator: str, **_: Any) -> Any:  # noqa: N803 - botocore's
        await self._ask("GetRecords", ProvisionedThroughputExceededException=0.3, ExpiredIteratorException=0.1)
        shard_id, _, read = ShardIterator.partition(" ")
        shard, begin = self._stream.find(shard_id), int(read)
        end = min(len(shard.records), begin + self._process.chance.randint(1, 6))
        found = [StreamRecord(str(number), payload) for number, _, payload in shard.records[begin:end]]
        behind = asyncio.get_running_loop().time() - shard.records[end][1] if end < len(shard.records) else 0.0
        over = end == len(shard.records) and not shard.is_open
        answer = RecordsAnswer(found, None if over else f"{shard_id} {end}", int(behind * 1_000 + 0.999))
        await self._process.pause(0.1)
        return {ANSWER: answer}


class SimulatedAws:
    """What opens the client of one process."""

    def __init__(self, stream: SimulatedStream, process: Process) -> None:
        self._client = SimulatedKinesis(stream, process)

    @asynccontextmanager
    async def open_client(self, service: str, **_: Any) -> AsyncIterator[SimulatedKinesis]:
        yield self._client


def make_opener(stream: SimulatedStream, process: Process, warn: Callable[[str], None]) -> Any:
    """What opens the feed of one process."""

    def open_feed(positions: Positions, sharing: Sharing = ALONE) -> Feed:
        aws: Any = SimulatedAws(stream, process)
        return KinesisFeed(STREAM, aws, positions, warn, 0.2, sharing)

    return open_feed


class VirtualTime:
    """The module `time` to who reads a stream; its clock may be wrong by `off` seconds."""

    def __init__(self) -> None:
        self.off = 0.0

    def time(self) -> float:
        return EPOCH + asyncio.get_running_loop().time() + self.off

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


@contextmanager
def virtual_time() -> Iterator[VirtualTime]:
    with patch("processor.shell.kinesis.time", VirtualTime()) as found:
        yield found
