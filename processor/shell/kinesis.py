"""A Kinesis data stream -> slices, all of its shards at once, parents before their children.

The position of a shard is that of the last record applied (stream_places.py), or END. A record of the stream (an EventBridge
event, a CloudWatch Logs batch, what KPL packed) is applied whole or not at all. A stream that was deleted and made again is another
one: its creation time is part of its shards' names. Where several processes read it, `Sharing` says which shards are whose.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from botocore.exceptions import ClientError
from xxhash import xxh3_128

from processor.core.batches import Decoded
from processor.core.lineage import Shard, find_ready
from processor.shell.aws import CALL_ERRORS, Aws, Calls, Target, find_code, refuse
from processor.shell.ending import end_tasks
from processor.shell.feeds import ALONE, Backoff, FeedHealth, Positions, Sharing, Slice
from processor.shell.files import SourceError
from processor.shell.get_records import ANSWER, RecordsAnswer, cut_records, take_answers
from processor.shell.pace import ANSWER_BYTES_MAX, CALLS_SECONDS, Budget, Pace
from processor.shell.payloads import decode_in_order
from processor.shell.progress import END, Progress
from processor.shell.stream_places import SequenceError, unpack_place

LIST_SECONDS = 60.0
"""How often shards are listed anew; also at once when one ends, which is when others begin."""

ENDED_SECONDS = 0.05
"""How often it is looked whether an ended shard is applied, so that its children may begin."""

CHOOSE_SECONDS = 1.0
"""How often it is asked which shards are ours, where others read, too; and shards are listed no more often than that."""

GET_LIMIT = 10_000
CONNECTIONS = 64


class KinesisFeed:
    """Reads a stream, by name or ARN. `warn` gets a line when a call begins to fail."""

    def __init__(
        self,
        stream: str,
        aws: Aws,
        positions: Positions,
        warn: Callable[[str], None],
        poll_seconds: float = CALLS_SECONDS,
        sharing: Sharing = ALONE,
    ) -> None:
        self._aws = aws
        self._positions = positions
        self._warn = warn
        self._poll_seconds = max(CALLS_SECONDS, poll_seconds)
        self._sharing = sharing
        self._stream = stream
        is_arn = stream.startswith("arn:")
        self._where = {"StreamARN" if is_arn else "StreamName": stream}
        self._by_arn = {"StreamARN": stream} if is_arn else {}
        self._region = stream.split(":")[3] if is_arn and stream.count(":") >= 5 else None
        self._target = Target(f"stream {stream.rpartition('/')[2]}", self._region or "")
        self._prefix = b""
        self._client: Any = None
        self._slices: asyncio.Queue[Slice] = asyncio.Queue(1)
        self._budget = Budget()
        self._progress: dict[str, Progress] = {}
        self._listed = False
        self.health = FeedHealth(f"kinesis:{stream.rpartition('/')[2]}")
        self._calls = Calls("kinesis", self._target, self.health, warn)
        sharing.add_stream(stream)

    @property
    def caught_up(self) -> bool:
        settled = [each.settle(self._positions) for each in self._progress.values()]
        return self._listed and all(settled)

    @property
    def watermark(self) -> int:
        for each in self._progress.values():
            each.settle(self._positions)
        return int(min((each.applied_at for each in self._progress.values()), default=0))

    async def check(self) -> None:
        """One DescribeStreamSummary. Raises SourceError as Feed.check does."""
        try:
            async with self._open_client(attempts=2) as client:
                await client.describe_stream_summary(**self._where)
        except (*CALL_ERRORS, ValueError) as error:
            refuse(error, "kinesis:DescribeStreamSummary", self._target, self._warn)

    def _open_client(self, attempts: int) -> Any:
        return self._aws.open_client("kinesis", region=self._region, attempts=attempts, connections=CONNECTIONS)

    async def slices(self) -> AsyncGenerator[Slice, None]:
        """All shards' slices, each shard's in order."""
        async with AsyncExitStack() as stack:
            self._client = await stack.enter_async_context(self._open_client(attempts=1))
            take_answers(self._client)
            supervising = asyncio.create_task(self._supervise())
            stack.push_async_callback(end_tasks, supervising)
            while True:
                taking = asyncio.ensure_future(self._slices.get())
                try:
                    done, _ = await asyncio.wait((taking, supervising), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    taking.cancel()  # nothing where it is done
                if taking not in done:
                    supervising.result()
                    return
                yield taking.result()

    async def acknowledge(self, receipts: Sequence[object]) -> None:
        """Nothing: a stream forgets by age."""

    async def close(self) -> None:
        """Nothing is held."""

    # --- shards -------------------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Begin shards when they may be read, for as long as the feed lives."""
        tasks: dict[str, asyncio.Task[None]] = {}
        listed_at = -LIST_SECONDS
        shards: list[Shard] = []
        try:
            while True:
                ended = {shard_id for shard_id, task in tasks.items() if task.done()}
                age = time.monotonic() - listed_at
                if ended or age >= LIST_SECONDS or (age >= CHOOSE_SECONDS and self._lacks_children(shards)):
                    shards, listed_at = await self._list_shards(), time.monotonic()
                    for shard_id in ended:
                        tasks.pop(shard_id).result()
                await self._begin_shards(shards, tasks)
                waiting = any(not self._is_applied(shard_id) for shard_id in self._progress.keys() - tasks.keys())
                pause = CHOOSE_SECONDS if self._sharing.is_shared else LIST_SECONDS / 10
                pause = ENDED_SECONDS if waiting else pause
                if tasks:
                    await asyncio.wait(tasks.values(), timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(pause)
        finally:
            await end_tasks(*tasks.values())

    def _lacks_children(self, shards: list[Shard]) -> bool:
        """Whether a shard has ended, read by whomever, whose children are not listed yet."""
        parents = {parent for shard in shards for parent in shard.parents}
        return any(shard.shard_id not in parents and self._is_applied(shard.shard_id) for shard in shards)

    async def _begin_shards(self, shards: list[Shard], tasks: dict[str, asyncio.Task[None]]) -> None:
        reached = self.watermark
        for shard_id in [shard_id for shard_id in self._progress.keys() - tasks.keys() if self._is_applied(shard_id)]:
            del self._progress[shard_id]
        ready = {shard.shard_id: shard for shard in find_ready(shards, self._is_applied)}
        chosen = await self._choose(shards, list(ready))
        for shard_id in tasks.keys() - chosen - self._ended():
            await end_tasks(tasks.pop(shard_id))
            left = self._progress.pop(shard_id)
            await self._sharing.leave(left.name, left.handed)
        for shard_id in ready.keys() & chosen - tasks.keys() - self._progress.keys():
            # What a child holds came after all that its parents reached. Of shards that others read others know that.
            applied_at = 0 if self._sharing.is_shared else reached
            progress = self._progress[shard_id] = Progress(self._name_shard(shard_id), applied_at=applied_at)
            progress.handed = self._positions.get(progress.name, b"")
            progress.place = unpack_place(progress.handed).go_on(int(time.time()))
            tasks[shard_id] = asyncio.create_task(self._read_shard(shard_id, progress))
        self._listed = True

    async def _choose(self, shards: list[Shard], ready: list[str]) -> set[str]:
        names = {shard.shard_id: self._name_shard(shard.shard_id) for shard in shards}
        lineage = {
            names[shard.shard_id]: tuple(names[parent] for parent in shard.parents if parent in names)
            for shard in shards
        }
        reached = {each.name: each.applied_at for each in self._progress.values()}
        chosen = await self._sharing.choose(self._stream, lineage, [names[each] for each in ready], reached)
        return {shard_id for shard_id in ready if names[shard_id] in chosen}

    def _ended(self) -> set[str]:
        return {shard_id for shard_id, each in self._progress.items() if each.handed == END}

    def _name_shard(self, shard_id: str) -> bytes:
        return xxh3_128(self._prefix + shard_id.encode()).digest()

    def _is_applied(self, shard_id: str) -> bool:
        return self._positions.get(self._name_shard(shard_id)) == END

    async def _list_shards(self) -> list[Shard]:
        """All shards that the stream still has, page by page; the stream's own name first."""
        if not self._prefix:
            summary = await self._calls.persist(
                "DescribeStreamSummary", self._client.describe_stream_summary, **self._where
            )
            found = summary["StreamDescriptionSummary"]
            created = found["StreamCreationTimestamp"].timestamp()
            self._prefix = f"kinesis\0{found['StreamARN']}\0{created:.3f}\0".encode()
        shards: list[Shard] = []
        page: dict[str, Any] = {**self._where}
        while page:
            answer = await self._calls.persist("ListShards", self._client.list_shards, MaxResults=1_000, **page)
            for each in answer["Shards"]:
                parents = (each.get("ParentShardId"), each.get("AdjacentParentShardId"))
                shards.append(Shard(each["ShardId"], tuple(parent for parent in parents if parent)))
            page = {"NextToken": answer["NextToken"]} if answer.get("NextToken") else {}
        return shards

    # --- calls --------------------------------------------------------------------------------------------------------

    async def _read_shard(self, shard_id: str, progress: Progress) -> None:
        """Read one shard to its end."""
        pace, backoff = Pace(self._poll_seconds), Backoff()
        iterator: str | None = None
        size = ANSWER_BYTES_MAX  # Where a backlog waits the first answers are as large as answers get.
        while progress.handed != END:
            if iterator is None:
                iterator = await self._open_iterator(shard_id, progress)
            await pace.wait()
            asked_at = time.time()
            async with self._budget.hold(size):
                answer = await self._get_records(iterator)
                if answer is not None:
                    size = answer.size
                    pace.pay(size)
                    await self._hand_out(shard_id, progress, answer)
            if answer is None:
                iterator = None
                await backoff.wait()
                continue
            backoff.reset()
            iterator = answer.next_shard_iterator
            progress.behind = answer.millis_behind_latest > 0
            if iterator is None:
                # How long ago it was closed is not told: the time that it reached stays as it was.
                await self._slices.put(Slice(self._origin(shard_id), Decoded([], [], []), progress.name, END))
                progress.handed = END
            else:
                progress.note_read(asked_at - answer.millis_behind_latest / 1000)

    async def _get_records(self, iterator: str) -> RecordsAnswer | None:
        """One answer, None where the call failed."""
        try:
            answered = await self._client.get_records(ShardIterator=iterator, Limit=GET_LIMIT, **self._by_arn)
        except CALL_ERRORS as error:
            self._calls.note_failure("GetRecords", error)
            return None
        self._calls.note_success()
        answer: RecordsAnswer = answered[ANSWER]
        return answer

    async def _hand_out(self, shard_id: str, progress: Progress, answer: RecordsAnswer) -> None:
        for records in cut_records(answer.records):
            decoded, rows = decode_in_order([record.payload for record in records])
            try:
                place = progress.place.move([record.sequence_number for record in records], int(time.time()))
            except SequenceError as error:
                raise SourceError(f"{self._origin(shard_id)}: {error}") from error
            position = place.pack()
            found = Slice(
                self._origin(shard_id), decoded, progress.name, position,
                base=place.base, places=progress.place.number_rows(rows),
            )  # fmt: skip
            await self._slices.put(found)
            progress.handed, progress.place = position, place
            await asyncio.sleep(0)
        answer.records = []  # Who reads the shard keeps the answer until the next one: its bytes would be in nobody's budget.

    def _origin(self, shard_id: str) -> str:
        return f"{self.health.source}/{shard_id}"

    async def _open_iterator(self, shard_id: str, progress: Progress) -> str:
        """Behind what was handed out, or at the oldest record that the stream has."""
        kind: dict[str, str] = {"ShardIteratorType": "TRIM_HORIZON"}
        if sequence := progress.place.sequence:
            kind = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": sequence}
        where = {**self._where, "ShardId": shard_id}
        backoff = Backoff()
        while True:
            try:
                answer = await self._client.get_shard_iterator(**where, **kind)
            except CALL_ERRORS as error:
                if isinstance(error, ClientError) and find_code(error) == "InvalidArgumentException" and len(kind) > 1:
                    self._warn(
                        f"{self._origin(shard_id)}: the stream no longer has record {sequence}: going on with the oldest that it "
                        "has; what lay between is a hole"
                    )
                    kind = {"ShardIteratorType": "TRIM_HORIZON"}
                    progress.place = progress.place.restart()
                    continue
                self._calls.note_failure("GetShardIterator", error)
                await backoff.wait()
                continue
            return str(answer["ShardIterator"])
