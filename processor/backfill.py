"""`gapwatch backfill`: read the log files of some days from S3 into a store, and say what the gap is.

Files are fetched side by side, a few ahead, and applied in the order of the events. What is applied is stored with the files'
positions, so that a run that was killed goes on where it was, and a run over days that are read adds nothing.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, BinaryIO, TypeVar

from processor.batch import ReplayOrder, Style, choose_as_of, collect_seldom, finish, print_out, read_inventories
from processor.core.held import Held
from processor.core.horizon import Horizon
from processor.core.notifications import LogObject
from processor.opening import Opened, Place, load_loops, load_opened, open_store
from processor.replay import FLUSH_SECONDS, FLUSH_USES
from processor.settings import Settings
from processor.shell.aws import CALL_ERRORS, Aws, Target, explain, find_code, is_passing
from processor.shell.digests import FINDINGS_SAID_MAX, Verifier
from processor.shell.ending import end_tasks
from processor.shell.files import SourceError
from processor.shell.log_bucket import LogBucket, read_url
from processor.shell.objects import NEVER, fetch_object, is_applied, read_object
from processor.shell.redis import StoreError
from processor.shell.shelf import FileShelf
from processor.shell.sqs import GONE

FETCHES_MAX = 16
ATTEMPTS = 8
"""Of one call, with waits that double: some two minutes."""

SAY_SECONDS = 10.0

Listed = TypeVar("Listed")
Warn = Callable[[str], None]


class BackfillError(StoreError):
    """S3 could not be read on; what was applied is stored."""


@dataclass(frozen=True, slots=True)
class BackfillOrder:
    """What `backfill` was asked for: the days `first` to `last`, both read."""

    url: str
    first: date
    last: date
    inventories: tuple[str, ...]
    organizations: tuple[str, ...]
    settings: Settings
    covered_since: int | None = None
    endpoint_url: str | None = None
    verify: bool = False


@dataclass(slots=True)
class Progress:
    """How far a backfill is, for a person. Days that are not listed yet are taken to be as large as those that are."""

    days: int
    days_listed: int = 0
    files: int = 0
    files_known: int = 0
    size: int = 0
    files_read: int = 0
    size_read: int = 0
    keys: set[str] = field(default_factory=set)
    begun: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)

    def describe(self) -> str:
        """One line: how many of how many, how fast, how long still."""
        scale = self.days / max(1, self.days_listed)
        seconds = max(0.001, time.monotonic() - self.begun)
        rate = self.size_read / seconds
        left = max(0.0, self.size * scale - self.size_read)
        files = int((self.files - self.files_known) * scale)
        about = "about " if self.days_listed < self.days else ""
        ending = f", {about}{format_seconds(left / rate)} left" if rate and left else ""
        done = f"{self.files_read:,} of {about}{files:,} files, {self.size_read / 1e6:,.0f} MB"
        return f"{done}, {rate / 1e6:,.1f} MB/s{ending}"


def format_seconds(seconds: float) -> str:
    """Hours, minutes or seconds, whichever says enough."""
    if seconds >= 5_400:
        return f"{seconds / 3_600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


class Filler:
    """Applies slices to a claimed store, many small files together."""

    def __init__(self, opened: Opened, warn: Warn) -> None:
        self._opened = opened
        self._warn = warn
        self._held = Held()
        self._moves: dict[bytes, bytes] = {}
        self._flushed_at = time.monotonic()
        self._uses_at_flush = 0

    async def add(self, log: LogObject, file: BinaryIO) -> None:
        """Take in a file, from where the store has it."""
        for found in read_object(log, file, self._opened.state.positions, NEVER):
            found.decoded.name_origin((found.origin, 0))
            self._held.add(found.decoded)
            self._moves[found.name] = found.position
            if found.damage is not None:
                self._warn(f"{found.origin} {found.damage}: what could be read of it was")
            if self._held.is_full or time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
                await self._apply()

    async def _apply(self) -> None:
        held, self._held = self._held.decoded, Held()
        pipeline, state = self._opened.pipeline, self._opened.state
        pipeline.feed(held)
        self._opened.rejects.note(pipeline.intake.rejects)
        pipeline.intake.rejects.clear()
        for name, position in self._moves.items():
            state.move(name, position)
        self._moves.clear()
        uses = pipeline.tally.classes["use"]
        if time.monotonic() - self._flushed_at >= FLUSH_SECONDS or uses - self._uses_at_flush >= FLUSH_USES:
            await state.flush()
            self._flushed_at, self._uses_at_flush = time.monotonic(), uses
        await asyncio.sleep(0)

    async def finish(self) -> None:
        """Apply and store the rest."""
        await self._apply()
        await self._opened.state.flush()


async def run_backfill(order: BackfillOrder, place: Place, style: Style, warn: Warn) -> int:
    """Read the days, store, report. Returns the exit code."""
    bucket, prefix = read_url(order.url)
    async with AsyncExitStack() as held:
        held.enter_context(collect_seldom())
        fresh = read_inventories(order.inventories, order.organizations, warn)
        client = await held.enter_async_context(open_client(order))
        store = await held.enter_async_context(open_store(place, warn))
        source = LogBucket(client, bucket, prefix)
        regions = await list_logs(order, source.find_regions())
        verifier = await load_digests(order, client, source, regions) if order.verify else None
        load_loops(warn)
        await store.claim(exclusive=place.url is None)
        await held.enter_async_context(store.beating())
        opened = await load_opened(store, order.settings, Horizon(shelf=FileShelf()), fresh=fresh)
        progress = Progress((order.last - order.first).days + 1)
        filler = Filler(opened, warn)
        async for log, file in fetch_all(order, client, source, regions, opened, progress, warn):
            if verifier is None or verifier.check_file(log, file):
                await filler.add(log, file)
            progress.files_read += 1
            progress.size_read += log.size
            if time.monotonic() - progress.said >= SAY_SECONDS:
                progress.said = time.monotonic()
                warn(progress.describe())
        await filler.finish()
        if not progress.files:
            raise SourceError(
                f"{order.url}: no log files from {order.first} to {order.last} below it: is this where AWSLogs/ lies?"
            )
        warn(f"{progress.files_read:,} files read, {progress.files_known:,} known from before")
        replayed = ReplayOrder((), order.inventories, (), order.settings, None, order.covered_since)
        as_of = choose_as_of(opened, replayed, warn)
        await finish(opened, replayed, fresh, as_of)
        for line in opened.rejects.lines():
            warn(line)
        code = print_out(opened, opened.build_fleet(order.settings, order.covered_since), as_of, style)
        return code if verifier is None else say_verified(verifier, progress, order, warn) or code


async def load_digests(order: BackfillOrder, client: Any, source: LogBucket, regions: list[str]) -> Verifier:
    """The digests of the days, checked. Raises as `fail` says."""

    async def find_keys(region: str, first: datetime, last: datetime) -> dict[str, bytes]:
        keys: dict[str, bytes] = {}
        async with Aws(order.endpoint_url).open_client("cloudtrail", region=region) as cloudtrail:
            page: dict[str, Any] = {"StartTime": first, "EndTime": last}
            while page:
                try:
                    answer = await cloudtrail.list_public_keys(**page)
                except CALL_ERRORS as error:
                    raise fail(error, "cloudtrail:ListPublicKeys", f"the keys of {region}") from error
                keys |= {found["Fingerprint"]: found["Value"] for found in answer["PublicKeyList"]}
                page = {**page, "NextToken": answer["NextToken"]} if answer.get("NextToken") else {}
        return keys

    verifier = Verifier()
    try:
        await verifier.load(client, source, regions, (order.first, order.last), find_keys)
    except CALL_ERRORS as error:
        raise fail(error, "s3:GetObject", f"the digests below {order.url}") from error
    return verifier


def say_verified(verifier: Verifier, progress: Progress, order: BackfillOrder, warn: Warn) -> int:
    """What the digests said of the files; 1 where something is not as CloudTrail wrote it, else 0."""
    verifier.finish(progress.keys, (order.first, order.last))
    for finding in verifier.findings[:FINDINGS_SAID_MAX]:
        warn(finding)
    if len(verifier.findings) > FINDINGS_SAID_MAX:
        warn(f"… and {len(verifier.findings) - FINDINGS_SAID_MAX:,} more findings")
    warn(verifier.describe())
    return 1 if verifier.findings else 0


def open_client(order: BackfillOrder) -> Any:
    """An S3 client. Raises SourceError where none can be made of what was given."""
    try:
        return Aws(order.endpoint_url).open_client("s3", attempts=ATTEMPTS, connections=2 * FETCHES_MAX)
    except CALL_ERRORS as error:
        raise fail(error, "s3:ListObjectsV2", order.url) from error


def fail(error: BaseException, call: str, what: str) -> Exception:
    """What a call's failure means: a BackfillError where S3 is away, a SourceError where it refuses."""
    said = explain(error, call, Target(what))
    return BackfillError(f"{said}. What was read is stored: start again") if is_passing(error) else SourceError(said)


async def list_logs(order: BackfillOrder, listing: Awaitable[Listed]) -> Listed:
    """What a listing answers. Raises as `fail` says."""
    try:
        return await listing
    except (*CALL_ERRORS, ValueError) as error:
        raise fail(error, "s3:ListObjectsV2", order.url) from error


async def fetch_all(
    order: BackfillOrder,
    client: Any,
    source: LogBucket,
    regions: Iterable[str],
    opened: Opened,
    progress: Progress,
    warn: Warn,
) -> AsyncIterator[tuple[LogObject, BinaryIO]]:
    """The files that are not applied yet, in order, some fetched ahead of the one that is taken; the next day is listed
    meanwhile."""
    days = [order.first + timedelta(at) for at in range(progress.days)]
    fetching: deque[asyncio.Task[tuple[LogObject, BinaryIO] | None]] = deque()
    listing = asyncio.ensure_future(list_logs(order, source.list_day(regions, days[0])))
    try:
        for next_day in [*days[1:], None]:
            logs: list[LogObject] = await listing
            if next_day is not None:
                listing = asyncio.ensure_future(list_logs(order, source.list_day(regions, next_day)))
            progress.days_listed += 1
            progress.files += len(logs)
            if order.verify:
                progress.keys.update(log.key for log in logs)
            fresh = [log for log in logs if not is_applied(log, opened.state.positions)]
            progress.files_known += len(logs) - len(fresh)
            progress.size += sum(log.size for log in fresh)
            for log in fresh:
                fetching.append(asyncio.create_task(fetch(client, log, warn)))
                if len(fetching) >= FETCHES_MAX and (found := await fetching.popleft()) is not None:
                    yield found
        while fetching:
            if (found := await fetching.popleft()) is not None:
                yield found
    finally:
        await end_tasks(listing, *fetching)


async def fetch(client: Any, log: LogObject, warn: Warn) -> tuple[LogObject, BinaryIO] | None:
    """One file; None for one that is gone or archived, which is said. Raises as `fail` says."""
    what = f"s3://{log.bucket}/{log.key}"
    try:
        return await fetch_object(client, log)
    except CALL_ERRORS as error:
        if (code := find_code(error)) in GONE:
            warn(f"{what} cannot be had ({code}): left out")
            return None
        raise fail(error, "s3:GetObject", what) from error
