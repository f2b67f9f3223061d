"""An SQS queue -> slices: events themselves, or log files that its messages name.

A queue has no position. A message is deleted once what it said is durable; one that comes again meanwhile is known again, its
events by the duplicates' horizon, its files by their positions. While a message is held its visibility is extended, however long
its files take.
"""

import asyncio
import time
from collections import ChainMap, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from processor.core.batches import Decoded
from processor.core.notifications import LogObject, read_message
from processor.core.records import DAY_SECONDS, Rejected
from processor.shell.aws import CALL_ERRORS, MISSING, Aws, Calls, Target, find_code, is_passing, refuse
from processor.shell.ending import end_tasks
from processor.shell.feeds import ALONE, Backoff, FeedHealth, Positions, Sharing, Slice
from processor.shell.files import why_left_out
from processor.shell.objects import fetch_object, find_forgettable, is_applied, name_object, read_object
from processor.shell.payloads import decode_all

POLLERS = 4
BATCH_MAX = 10
"""Messages of one call, to SQS or from it."""

WAIT_SECONDS = 5
"""How long SQS waits for messages before it answers that there are none. One that comes just when the process ends is given to
nobody, and is back after VISIBILITY_SECONDS."""

VISIBILITY_SECONDS = 120
EXTEND_SECONDS = 40.0

DELETE_TRIES = 5
HELD_MESSAGES_MAX = 2_000
SLICE_MESSAGES_MAX = 500
FETCHES_MAX = 8

GONE = frozenset((*MISSING, "NoSuchKey", "InvalidObjectState"))
"""Codes of files that no second try will find: deleted, or archived."""


@dataclass(slots=True)
class Held:
    """A message that was received and not deleted. Times in seconds since 1970, and of the monotonic clock."""

    message_id: str
    receipt: str
    body: str
    sent_at: float
    extended_at: float


class SqsFeed:
    """Reads a queue by its URL. `warn` gets a line when a call begins to fail."""

    def __init__(
        self, url: str, aws: Aws, positions: Positions, warn: Callable[[str], None], sharing: Sharing = ALONE
    ) -> None:
        self._aws = aws
        self._url = url
        self._positions = positions
        self._warn = warn
        host = urlsplit(url).hostname or ""
        self._region = host.split(".")[1] if host.startswith("sqs.") and host.count(".") >= 3 else None
        self._name = url.rpartition("/")[2]
        self._target = Target(f"queue {self._name}", self._region or "")
        self._stack = AsyncExitStack()
        self._sqs: Any = None
        self._s3: Any = None
        self._received: asyncio.Queue[Held] = asyncio.Queue()
        self._room = asyncio.Semaphore(HELD_MESSAGES_MAX)
        self._given: dict[bytes, bytes] = {}
        self._forgot_day = 0
        self._held: dict[str, Held] = {}
        self._reached = 0.0
        self._emptied = False
        self.health = FeedHealth(f"sqs:{self._name}")
        self._calls = Calls("sqs", self._target, self.health, warn)
        self._sharing = sharing
        sharing.add_queue(url, lambda: self.watermark)

    @property
    def caught_up(self) -> bool:
        return self._emptied and not self._held

    @property
    def watermark(self) -> int:
        """By the times at which messages were sent: a queue hands them out about in that order."""
        return int(min([self._reached, *(held.sent_at for held in self._held.values())]))

    async def check(self) -> None:
        """One GetQueueAttributes. Raises SourceError as Feed.check does."""
        try:
            async with self._open_client("sqs", attempts=2) as client:
                await client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
        except (*CALL_ERRORS, ValueError) as error:
            refuse(error, "sqs:GetQueueAttributes", self._target, self._warn)

    def _open_client(self, service: str, attempts: int = 3) -> Any:
        return self._aws.open_client(service, region=self._region, attempts=attempts)

    async def slices(self) -> AsyncGenerator[Slice, None]:
        """What messages say, as they come: events of many together, each file by itself."""
        self._sqs = await self._stack.enter_async_context(self._open_client("sqs"))
        self._s3 = await self._stack.enter_async_context(self._open_client("s3"))
        tasks = [asyncio.create_task(self._poll()) for _ in range(POLLERS)]
        tasks.append(asyncio.create_task(self._extend()))
        try:
            while True:
                messages = [await self._received.get()]
                while len(messages) < SLICE_MESSAGES_MAX and not self._received.empty():
                    messages.append(self._received.get_nowait())
                async for found in self._read(messages):
                    yield found
                if (day := int(time.time()) // DAY_SECONDS) > self._forgot_day:
                    self._forgot_day = day
                    forgotten = find_forgettable(self._positions, day)
                    yield Slice(self.health.source, Decoded([], [], []), forgotten=forgotten)
                self._given = {n: at for n, at in self._given.items() if self._positions.get(n) != at}
        finally:
            await end_tasks(*tasks)

    # --- messages -------------------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        """Receive for as long as the feed lives, but no more than may be held."""
        while True:
            asked_at = time.time()
            answer = await self._calls.persist(
                "ReceiveMessage",
                self._sqs.receive_message,
                QueueUrl=self._url,
                MaxNumberOfMessages=BATCH_MAX,
                WaitTimeSeconds=WAIT_SECONDS,
                VisibilityTimeout=VISIBILITY_SECONDS,
                AttributeNames=["SentTimestamp"],
            )
            messages = answer.get("Messages", [])
            self._emptied = not messages
            if not messages:
                self._reached = max(self._reached, asked_at)
            for message in messages:
                await self._room.acquire()
                sent_at = int(message.get("Attributes", {}).get("SentTimestamp", asked_at * 1000)) / 1000
                held = Held(message["MessageId"], message["ReceiptHandle"], message["Body"], sent_at, time.monotonic())
                self._held[held.receipt] = held
                self._reached = max(self._reached, sent_at)
                self._received.put_nowait(held)

    async def _read(self, messages: Iterable[Held]) -> AsyncIterator[Slice]:
        payloads: list[bytes] = []
        receipts: list[object] = []
        naming: list[tuple[Held, list[LogObject]]] = []
        for held in messages:
            said = read_message(held.body)
            logs = [log for log in said.files if why_left_out(log.key) is None]
            if logs:
                naming.append((held, logs))
                continue
            receipts.append(held.receipt)
            if said.payload is not None:
                payloads.append(said.payload)
        if receipts:
            yield Slice(self.health.source, decode_all(payloads), receipts=tuple(receipts))
        async for found in self._read_files(naming):
            yield found

    async def _read_files(self, naming: Sequence[tuple[Held, list[LogObject]]]) -> AsyncIterator[Slice]:
        """The files of some messages in order, a few fetched ahead; behind a message's last one its receipt."""
        wanted = [(held, log, log is logs[-1]) for held, logs in naming for log in logs]
        fetching: deque[asyncio.Task[Iterable[Slice] | None]] = deque()
        refused: set[str] = set()
        try:
            for at, (held, _, is_last) in enumerate(wanted):
                while len(fetching) < FETCHES_MAX and at + len(fetching) < len(wanted):
                    fetching.append(asyncio.create_task(self._fetch(wanted[at + len(fetching)][1])))
                slices = await fetching.popleft()
                if slices is None:
                    refused.add(held.receipt)
                for found in slices or ():
                    if found.name:
                        self._given[found.name] = found.position
                    yield found
                if is_last and held.receipt not in refused:
                    yield Slice(self.health.source, Decoded([], [], []), receipts=(held.receipt,))
                elif is_last:
                    self._drop(
                        held.receipt
                    )  # It comes again when its visibility ends, and some time goes to a dead-letter queue.
        finally:
            await end_tasks(*fetching)

    async def _fetch(self, log: LogObject) -> Iterable[Slice] | None:
        """A file's slices; a reject where the file is gone, None where it is refused. Other failures are tried again."""
        positions = ChainMap(self._given, cast("dict[bytes, bytes]", self._positions))
        if is_applied(log, positions):
            return ()
        origin = f"s3://{log.bucket}/{log.key}"
        calls, backoff = Calls("s3", Target(origin), self.health, self._warn), Backoff()
        while True:
            try:
                found, file = await fetch_object(self._s3, log)
            except CALL_ERRORS as error:
                if (code := find_code(error)) in GONE:
                    missing = Rejected("missing_file", origin.encode())
                    return (Slice(origin, Decoded([], [], [missing]), damage=f"cannot be had ({code})"),)
                calls.note_failure("GetObject", error)
                if not is_passing(error):
                    return None
                await backoff.wait()
                continue
            calls.note_success()
            if not await self._sharing.take(name_object(found)):
                file.close()
                return None  # Another intake reads it; should that end early, the message comes again.
            return read_object(found, file, positions, int(time.time()) // DAY_SECONDS)

    async def _extend(self) -> None:
        """Keep what is held from coming again."""
        while True:
            await asyncio.sleep(EXTEND_SECONDS / 4)
            now = time.monotonic()
            due = [held for held in self._held.values() if now - held.extended_at >= EXTEND_SECONDS]
            for held in due:
                held.extended_at = now
            await self._change_visibility(due, VISIBILITY_SECONDS)

    async def _change_visibility(self, messages: Sequence[Held], seconds: int) -> None:
        entries = [
            {"Id": str(at), "ReceiptHandle": held.receipt, "VisibilityTimeout": seconds}
            for at, held in enumerate(messages)
        ]
        await self._in_batches("ChangeMessageVisibilityBatch", self._sqs.change_message_visibility_batch, entries)

    async def _in_batches(
        self, call: str, make: Callable[..., Awaitable[Any]], entries: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Calls over many entries; answers those that failed."""
        failed: list[dict[str, Any]] = []
        for at in range(0, len(entries), BATCH_MAX):
            part = entries[at : at + BATCH_MAX]
            try:
                answer = await make(QueueUrl=self._url, Entries=part)
            except CALL_ERRORS as error:
                self._calls.note_failure(call, error)
                failed += part
                continue
            self._calls.note_success()
            for each in answer.get("Failed", ()):
                self.health.count_failure(call, str(each.get("Code", "Unknown")))
                failed += [entry for entry in part if entry["Id"] == each["Id"] and not each.get("SenderFault")]
        return failed

    async def acknowledge(self, receipts: Sequence[object]) -> None:
        """Delete messages; those that cannot be deleted come again."""
        entries = [{"Id": str(at), "ReceiptHandle": receipt} for at, receipt in enumerate(receipts)]
        backoff = Backoff()
        for _ in range(DELETE_TRIES):
            entries = await self._in_batches("DeleteMessageBatch", self._sqs.delete_message_batch, entries)
            if not entries:
                break
            await backoff.wait()
        for receipt in receipts:
            self._drop(str(receipt))

    def _drop(self, receipt: str) -> None:
        if self._held.pop(receipt, None) is not None:
            self._room.release()

    async def close(self) -> None:
        """Let what is held be received by others at once."""
        try:
            if self._held and self._sqs is not None:
                with suppress(*CALL_ERRORS):
                    await self._change_visibility(list(self._held.values()), 0)
        finally:
            await self._stack.aclose()
