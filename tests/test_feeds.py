"""The parts that feeds are made of, without a server: aggregates, lineage, pace, budget, merging, AWS' errors in words."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from aws_servers import wrap_aggregate, wrap_event, wrap_logs, write_field
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, NoRegionError
from building import build_record
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.core.aggregates import MAGIC, split_aggregate
from processor.core.batches import Decoded
from processor.core.lineage import Shard, find_ready
from processor.shell.aws import Target, explain, is_passing
from processor.shell.feeds import FeedHealth, Merged, Slice
from processor.shell.get_records import SLICE_WEIGHT, StreamRecord, cut_records, decode_answer
from processor.shell.pace import Budget, Pace
from processor.shell.payloads import decode_all
from processor.shell.progress import END, Progress

# --- aggregates ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=300), max_size=40))
def test_an_aggregate_holds_what_was_put_into_it(payloads: list[bytes]) -> None:
    assert split_aggregate(wrap_aggregate(payloads)) == payloads


@given(st.binary(max_size=200))
def test_a_message_that_is_none_never_raises(message: bytes) -> None:
    found = split_aggregate(MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest())
    assert found is None or isinstance(found, list)


@settings(deadline=None)  # The loops are loaded at the first.
@given(st.binary(max_size=200))
def test_any_bytes_decode_to_something(payload: bytes) -> None:
    found = decode_all([payload, MAGIC + payload, b"\x1f\x8b" + payload])
    assert found.batches or found.rejected or not payload.strip()


def test_an_aggregate_of_another_digest_is_one_payload() -> None:
    packed = wrap_aggregate([b"one"])
    assert split_aggregate(packed[:-1] + b"x") == [packed[:-1] + b"x"]
    assert split_aggregate(b"plain") == [b"plain"]
    assert split_aggregate(wrap_aggregate([])) == []
    assert write_field(3, b"x") == b"\x1a\x01x"


def test_a_broken_batch_costs_its_neighbours_nothing() -> None:
    good = [build_record(number, 1_795_000_000) for number in range(3)]
    zipped = wrap_logs(good[:2])
    found = decode_all([wrap_event(good[2]), zipped[: len(zipped) // 2], zipped, b"{"])
    assert sorted(record.eventID for record in found.records) == [record["eventID"] for record in good]
    assert sorted(reject.reason for reject in found.rejected) == ["damaged_payload", "undecodable"]


# --- shards -------------------------------------------------------------------------------------------------------------


def test_parents_come_before_children() -> None:
    """
    A -> B, C    B, C -> D    E is gone -> F
    """
    shards = [Shard("A"), Shard("B", ("A",)), Shard("C", ("A",)), Shard("D", ("B", "C")), Shard("F", ("E",))]

    def ready(*applied: str) -> str:
        return "".join(shard.shard_id for shard in find_ready(shards, lambda shard_id: shard_id in applied))

    assert ready() == "AF"
    assert ready("A", "F") == "BC"
    assert ready("A", "B") == "CF"
    assert ready("A", "B", "C", "F") == "D"
    assert ready("A", "B", "C", "D", "F") == ""


def test_a_shard_is_as_far_as_what_is_applied() -> None:
    positions: dict[bytes, bytes] = {}
    progress = Progress(b"shard", applied_at=50.0)
    progress.handed, progress.read_at, progress.behind = b"7", 100.0, False
    assert (progress.settle(positions), progress.applied_at) == (False, 50.0)
    positions[b"shard"] = b"7"
    assert (progress.settle(positions), progress.applied_at) == (True, 100.0)
    progress.behind = True
    assert progress.settle(positions) is False
    assert END != b"7"


def test_a_shard_that_is_never_quiet_is_as_far_as_the_answers_that_are_applied() -> None:
    """
    answer    1      2      3      (each with two records)
    applied      ^            ^
    """
    progress = Progress(b"shard", applied_at=50.0)
    packed = []
    for at in (1, 2, 3):
        for number in (10 * at, 10 * at + 5):
            progress.place = progress.place.move([str(number)], 1_000)
            progress.handed = progress.place.pack()
            packed.append(progress.handed)
        progress.note_read(100.0 * at)
    progress.note_read(310.0)  # an answer without records
    for applied, expected in ((0, 50.0), (1, 100.0), (2, 100.0), (4, 200.0), (5, 310.0)):
        assert progress.settle({b"shard": packed[applied]}) is False
        assert progress.applied_at == expected
    progress.behind = False
    assert progress.settle({b"shard": packed[5]}) is True


async def test_a_shard_is_paced_by_calls_and_by_bytes() -> None:
    now = [0.0]
    pace = Pace(0.01, clock=lambda: now[0])
    await pace.wait()
    begun = time.monotonic()
    await pace.wait()
    assert time.monotonic() - begun >= 0.009
    now[0] = 10.0
    await pace.wait()
    pace.pay(400_000)
    now[0] = 10.1
    begun = time.monotonic()
    await pace.wait()
    assert 0.09 <= time.monotonic() - begun < 5


async def test_a_budget_holds_back_who_comes_late() -> None:
    budget = Budget(1024 * 1024)
    held: list[int] = []

    async def read(number: int) -> None:
        async with budget.hold(512 * 1024):
            held.append(number)
            assert len(held) <= 2
            await asyncio.sleep(0.01)
            held.remove(number)

    await asyncio.gather(*(read(number) for number in range(8)))
    async with asyncio.timeout(1), budget.hold(10**9):
        pass  # What is larger than all gets all.


def test_an_answer_is_cut_where_it_gets_heavy() -> None:
    payload = b"x" * (SLICE_WEIGHT // 4)
    records = [StreamRecord(str(at), payload) for at in range(9)]
    assert [len(part) for part in cut_records(records)] == [4, 4, 1]
    assert cut_records([]) == []
    assert [len(part) for part in cut_records([StreamRecord("1", b"\x1f\x8b" + payload), *records[:2]])] == [1, 2]


def test_an_answer_of_getrecords() -> None:
    body = b"""{"MillisBehindLatest":5,"NextShardIterator":null,"ChildShards":[{"ShardId":"x"}],"Records":[
        {"ApproximateArrivalTimestamp":1.5,"Data":"aGk=","PartitionKey":"k","SequenceNumber":"12","EncryptionType":"KMS"}]}"""
    answer = decode_answer(body)
    assert (answer.next_shard_iterator, answer.millis_behind_latest, answer.size) == (None, 5, 2)
    assert (answer.records[0].payload, answer.records[0].sequence_number) == (b"hi", "12")


# --- merging ------------------------------------------------------------------------------------------------------------


class Counting:
    """A feed of numbered slices, and then of a failure or of nothing."""

    def __init__(self, count: int, watermark: int = 0, error: Exception | None = None) -> None:
        self.health = FeedHealth("counting")
        self.caught_up = True
        self.watermark = watermark
        self.handed = 0
        self.closed = False
        self._count = count
        self._error = error

    async def check(self) -> None: ...

    async def slices(self) -> AsyncGenerator[Slice, None]:
        for number in range(1, self._count + 1):
            self.handed = number
            yield Slice(str(number), Decoded([], [], []))
        if self._error is not None:
            raise self._error
        await asyncio.Event().wait()

    async def acknowledge(self, receipts: Sequence[object]) -> None: ...

    async def close(self) -> None:
        self.closed = True


async def test_feeds_are_merged_in_their_order_and_a_few_ahead() -> None:
    one, two = Counting(30), Counting(3)
    taken: dict[Any, list[str]] = {one: [], two: []}
    async with Merged([one, two], asyncio.Event()) as merged:
        await asyncio.sleep(0.05)
        assert one.handed + two.handed <= 4 + 2
        while (found := await merged.take(0.05)) is not None:
            taken[found[0]].append(found[1].origin)
    assert taken == {one: [str(at) for at in range(1, 31)], two: ["1", "2", "3"]}
    assert one.closed
    assert two.closed


async def test_what_a_feed_fails_with_is_raised_behind_its_slices() -> None:
    async with Merged([Counting(2, error=ValueError("broken"))], asyncio.Event()) as merged:
        assert await merged.take(1)
        assert await merged.take(1)
        with pytest.raises(ValueError, match="broken"):
            await merged.take(1)


async def test_stopping_ends_the_wait() -> None:
    stopping = asyncio.Event()
    async with Merged([Counting(0)], stopping) as merged:
        asyncio.get_running_loop().call_later(0.02, stopping.set)
        begun = time.monotonic()
        assert await merged.take(30) is None
        assert time.monotonic() - begun < 5


async def test_as_of_is_held_back_by_the_slowest() -> None:
    feeds = [Counting(0, watermark=100), Counting(0, watermark=80)]
    assert Merged(feeds, asyncio.Event()).find_as_of(newest=50, now=200) == 80
    assert Merged([*feeds, Counting(0)], asyncio.Event()).find_as_of(newest=50, now=200) == 50
    assert Merged(feeds, asyncio.Event()).find_as_of(newest=50, now=70) == 70
    async with Merged([Counting(9, watermark=100)], asyncio.Event()) as merged:
        await asyncio.sleep(0.01)
        assert merged.find_as_of(newest=50, now=200) == 50


# --- errors in words ------------------------------------------------------------------------------------------------------


def fail(code: str, status: int = 400, message: str = "no") -> ClientError:
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "Call")  # type: ignore[arg-type]  # as much of it as is read


@pytest.mark.parametrize(
    ("error", "passing", "said"),
    [
        (fail("ProvisionedThroughputExceededException"), True, "ProvisionedThroughputExceededException: no"),
        (fail("InternalFailure", 500), True, "InternalFailure"),
        (fail("AccessDeniedException", message="kms key"), False, "allow s3:ListBucket and kms:Decrypt on its key to"),
        (fail("AccessDenied", 403), False, "denied (AccessDenied: no): allow s3:ListBucket to"),
        (fail("ExpiredToken"), False, "does not accept the credentials"),
        (fail("NoSuchBucket", 404), False, "there is none"),
        (NoCredentialsError(), False, "no usable AWS credentials"),
        (NoRegionError(), False, "set AWS_REGION"),
        (EndpointConnectionError(endpoint_url="http://x"), True, "cannot reach AWS"),
        (TimeoutError(), True, "cannot reach AWS (TimeoutError)"),
    ],
)
def test_an_error_is_one_line_that_names_the_call(error: Exception, passing: bool, said: str) -> None:
    line = explain(error, "s3:ListObjectsV2", Target("s3://b", "eu-central-1"))
    assert line.startswith("s3:ListObjectsV2 on s3://b in eu-central-1: ")
    assert said in line
    assert "\n" not in line
    assert is_passing(error) is passing
