"""Log files in S3 beside a stream of the same trail: what the stream never brought is found, and counted after all.

EventBridge and subscriptions deliver at best; S3 gets everything, minutes later. Each file is applied once the streams are past its
time: a record that came before is a duplicate, to the horizon, and one that did not is a hole, and is a use now. What is older than
the horizon moves first and last use only, so that no count is ever doubled (and none of what only the files had is made up for).

Where several intakes read the streams each file is read by one of them, once all of them are past its time, and a ledger tells what
was a hole: it has the duplicates.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from processor.core.batches import Decoded
from processor.core.notifications import LogObject
from processor.core.records import DAY_SECONDS
from processor.shell.aws import CALL_ERRORS, Aws, Calls, Target, find_code, refuse
from processor.shell.feeds import ALONE, Feed, FeedHealth, Positions, Sharing, Slice
from processor.shell.log_bucket import LogBucket, order_of, read_url
from processor.shell.objects import FORGET_DAYS, fetch_object, find_forgettable, is_applied, name_object, read_object
from processor.shell.sqs import GONE

LOOK_SECONDS = 300.0
"""How often the bucket is listed: one list a region of an account, and a page more for each 1,000 files of the day."""

UNKNOWN_SECONDS = 2.0
"""How soon it asks again where the streams do not know yet how far they are."""

REGIONS_SECONDS = 3_600.0

BEHIND_SECONDS = 600
"""How far the streams must be past a file's time: EventBridge takes a minute or two, and may take longer."""

LOOK_BACK_DAYS = FORGET_DAYS - 1
"""A file that is forgotten must not be looked at again."""


class ReconcileFeed:
    """Looks at s3://BUCKET/PREFIX again and again. `beside` answers the feeds that it is compared with."""

    def __init__(
        self,
        url: str,
        aws: Aws,
        positions: Positions,
        warn: Callable[[str], None],
        beside: Callable[[], Iterable[Feed]],
        sharing: Sharing = ALONE,
        look_seconds: float = LOOK_SECONDS,
        behind_seconds: int = BEHIND_SECONDS,
    ) -> None:
        self._aws = aws
        self._url = url
        self._bucket, self._prefix = read_url(url)
        self._positions = positions
        self._warn = warn
        self._beside = beside
        self._sharing = sharing
        self._given: dict[bytes, bytes] = {}
        self._look_seconds = look_seconds
        self._behind_seconds = behind_seconds
        self._target = Target(url)
        self.health = FeedHealth(f"reconcile:{self._bucket}")
        self._calls = Calls("s3", self._target, self.health, warn)
        sharing.add_bucket()

    @property
    def caught_up(self) -> bool:
        return True

    @property
    def watermark(self) -> int:
        """Now: it comes behind the feeds that it is compared with, and holds nobody back."""
        return int(time.time())

    async def check(self) -> None:
        """One ListObjectsV2. Raises SourceError as Feed.check does."""
        try:
            async with self._aws.open_client("s3", attempts=2) as client:
                await client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        except (*CALL_ERRORS, ValueError) as error:
            refuse(error, "s3:ListObjectsV2", self._target, self._warn)

    async def slices(self) -> AsyncGenerator[Slice, None]:
        """The slices of the files that are due, look by look."""
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(self._aws.open_client("s3"))
            bucket = LogBucket(client, self._bucket, self._prefix)
            regions: list[str] = []
            regions_at = forgot_at = -DAY_SECONDS * 1.0
            while True:
                now = time.monotonic()
                if now - regions_at >= REGIONS_SECONDS:
                    regions = await self._calls.persist("ListObjectsV2", bucket.find_regions)
                    regions_at = now
                if now - forgot_at >= DAY_SECONDS:
                    forgotten = find_forgettable(self._positions, int(time.time()) // DAY_SECONDS)
                    yield Slice(self.health.source, Decoded([], [], []), forgotten=forgotten)
                    forgot_at = now
                reached = await self._find_reached() - self._behind_seconds
                if reached <= 0:
                    await asyncio.sleep(UNKNOWN_SECONDS)
                    continue
                async for found in self._compare(client, bucket, regions, reached):
                    yield found
                await asyncio.sleep(self._look_seconds)

    async def _compare(self, client: Any, bucket: LogBucket, regions: list[str], reached: int) -> AsyncIterator[Slice]:
        due = f"{datetime.fromtimestamp(reached, UTC):%Y%m%dT%H%MZ}"
        today = datetime.now(UTC).date()
        for back in range(LOOK_BACK_DAYS, -1, -1):
            listed = await self._calls.persist(
                "ListObjectsV2", bucket.list_day, regions=regions, day=today - timedelta(back)
            )
            for log in await self._choose([log for log in listed if order_of(log)[0] <= due]):
                async for found in self._read(client, log):
                    yield found
        self.health.compared_until = max(self.health.compared_until, reached)

    async def _find_reached(self) -> int:
        """Up to when all that arrived at the streams is on its way to be applied, before what is read from now on."""
        if self._sharing.is_shared:
            return await self._sharing.find_watermark(int(time.time()))
        return min((feed.watermark for feed in self._beside()), default=0)

    async def _choose(self, logs: Sequence[LogObject]) -> list[LogObject]:
        """Those that are still to be read, as far as that is known."""
        self._given = {name: at for name, at in self._given.items() if self._positions.get(name) != at}
        names = [name_object(log) for log in logs]
        unread = await self._sharing.find_unread(names) - self._given.keys()
        return [
            log
            for log, name in zip(logs, names, strict=True)
            if name in unread and not is_applied(log, self._positions)
        ]

    async def _read(self, client: Any, log: LogObject) -> AsyncIterator[Slice]:
        try:
            found, file = await fetch_object(client, log)
        except CALL_ERRORS as error:
            self._calls.note_failure("GetObject", error)
            if find_code(error) in GONE:
                self._calls.note_success()
            return  # It is looked for again with the next look.
        self._calls.note_success()
        if not await self._sharing.take(name_object(found)):
            file.close()
            return  # Another intake reads it; should that end early, it is found unread by the next look.
        day = int(time.time()) // DAY_SECONDS
        for each in read_object(found, file, self._positions, day):
            self._given[each.name] = each.position
            yield replace(each, compared=True)

    async def acknowledge(self, receipts: Sequence[object]) -> None:
        """Nothing: files stay."""

    async def close(self) -> None:
        """Nothing is held."""
