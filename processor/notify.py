"""Tells people what is new, by webhook and SNS, from what the store holds: for those without Alertmanager.

Opt-in by [notify] in the settings. Each channel remembers in the store what it told (P:told:CHANNEL, notice -> time), once
the other side has taken it: a notice is told at least once, and twice only where the process dies between the two. A channel
that fails is tried again, later each time, and holds up nothing else.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from redis.exceptions import RedisError

from processor.core.board import FleetQuery
from processor.core.notices import DIGEST_ROWS, Notice, Pacer, Standing, build_digest, find_notice, pick_new
from processor.page.reading import Look, take_steps
from processor.settings import NotifySettings
from processor.shell.channel_metrics import ChannelHealth
from processor.shell.channels import Channel, ChannelError, open_channels
from processor.shell.ending import end_tasks, within
from processor.shell.redis import Store

LOOK_SECONDS = 1.0
LOOK_AGAIN_SECONDS = 60.0
DIGEST_LOOK_SECONDS, NO_DIGEST_SECONDS = 600.0, 10.0
BEHIND_SECONDS_MAX = 300
"""While history is still read, what looks unused may only be not read yet: no digest then."""

TOLD_SECONDS = 7 * 86_400
"""For how long what was told is remembered; a first use is fresh for an hour, a digest for a day."""

PENDING_MAX = 1_000
"""As many as the tracker keeps; of more, while a channel fails, the oldest are told."""

STORE_SECONDS_MAX = 5.0

Warn = Callable[[str], None]


class Teller:
    """One channel and what it has told."""

    def __init__(self, channel: Channel, store: Store, settings: NotifySettings, warn: Warn) -> None:
        self._channel = channel
        self._store = store
        self._key = store.key(b"told", channel.name.encode())
        self._pacer = Pacer(settings.every_seconds)
        self._page_url = settings.page_url
        self._warn = warn
        self._told: dict[str, int] | None = None
        self._unsaved: set[str] = set()
        self._pending: dict[str, Notice] = {}
        self._wrong = ""
        self.health = ChannelHealth(channel.name)

    def forget(self) -> None:
        """Ask the store again what was told: another process may have."""
        self._told = None
        self._pending.clear()
        self.health.waiting, self.health.failing = 0, False

    def has_told(self, notice: Notice) -> bool:
        """Whether it was sent, and the store knows."""
        return notice.id in (self._told or {}) and notice.id not in self._unsaved

    async def tell(self, notices: Sequence[Notice], now: float) -> None:
        """Send what is new, if it is time; raises nothing but a cancellation."""
        if self._told is None and not await self._load():
            return
        assert self._told is not None  # noqa: S101 - just loaded
        await self._save()
        for notice in pick_new(notices, self._told):
            if len(self._pending) < PENDING_MAX:
                self._pending.setdefault(notice.id, notice)
        self.health.waiting = len(self._pending)
        if not self._pending or not self._pacer.is_due(now):
            return
        new = list(self._pending.values())
        try:
            await self._channel.send(new, self._page_url)
        except ChannelError as error:
            self._pacer.note_failed(now, error.retry_seconds)
            self.health.counts["failed"] += 1
            self.health.failing = True
            if str(error) != self._wrong:
                self._wrong = str(error)
                self._warn(f"cannot notify by {self._channel.name}: {error}; trying again")
            return
        self._wrong = ""
        self.health.counts["sent"] += 1
        self.health.failing, self.health.waiting = False, 0
        self._pacer.note_sent(now)
        self._told.update((notice.id, int(now)) for notice in new)
        self._unsaved.update(notice.id for notice in new)
        self._pending.clear()
        await self._save()
        await self._forget(now)

    async def _load(self) -> bool:
        with suppress(RedisError, OSError, TimeoutError):
            found = await within(STORE_SECONDS_MAX, self._store.client.hgetall(self._key))
            self._told = {name.decode(): int(at) for name, at in found.items()}
            return True
        return False

    async def _save(self) -> None:
        """Put into the store what it does not hold yet; tried again at the next look where it does not answer."""
        if not self._unsaved or self._told is None:
            return
        pairs = {name: self._told[name] for name in self._unsaved}
        with suppress(RedisError, OSError, TimeoutError):
            await within(STORE_SECONDS_MAX, self._store.client.hset(self._key, mapping=pairs))
            self._unsaved.clear()

    async def _forget(self, now: float) -> None:
        old = [name for name, at in (self._told or {}).items() if at < now - TOLD_SECONDS]
        if not old or self._told is None:
            return
        with suppress(RedisError, OSError, TimeoutError):
            await within(STORE_SECONDS_MAX, self._store.client.hdel(self._key, *old))
            for name in old:
                del self._told[name]


def find_first_uses(look: Look, settings: NotifySettings, now: float) -> list[Notice]:
    """The first uses that are worth telling now, told or not, the oldest first."""
    tracker = look.tracker
    uses = sorted(tracker.first_uses.by_place.items(), key=lambda found: found[1].time)
    found = (find_notice(tracker.fleet, place, use, settings.learning_days, now) for place, use in uses)
    return [notice for notice in found if notice is not None]


async def make_digest(look: Look, now: float) -> Notice | None:
    window = look.board.default_window()
    query = FleetQuery(risk="any", sort="risk", window=window, size=DIGEST_ROWS)
    answer = await take_steps(look.board.find(query, look.tracker.as_of))
    return build_digest(answer.principals, window, answer.matched, now)


@asynccontextmanager
async def notify_people(
    settings: NotifySettings, look: Look, store: Store, clock: Callable[[], float], warn: Warn
) -> AsyncIterator[list[ChannelHealth]]:
    """Tell people while the block runs; how each channel does. Does nothing where none is set. Raises SettingsError."""
    async with open_channels(settings) as channels:
        tellers = [Teller(channel, store, settings, warn) for channel in channels]
        tasks = [asyncio.create_task(_keep_telling(teller, settings, look, clock, warn)) for teller in tellers]
        try:
            yield [teller.health for teller in tellers]
        finally:
            await end_tasks(*tasks)


async def _keep_telling(
    teller: Teller, settings: NotifySettings, look: Look, clock: Callable[[], float], warn: Warn
) -> None:
    digest_at = 0.0
    standing = Standing(settings.behind_seconds, settings.silent_seconds)
    while True:
        now = clock()
        try:
            newest = look.opened.pipeline.tally.newest
            notices = standing.look(now, look.tracker.as_of, newest) + find_first_uses(look, settings, now)
            if settings.digest and now >= digest_at and now - look.tracker.as_of < BEHIND_SECONDS_MAX:
                digest = await make_digest(look, now)
                digest_at = now + (NO_DIGEST_SECONDS if digest is None else DIGEST_LOOK_SECONDS)
                notices += [] if digest is None else [digest]
            await teller.tell(notices, now)
        except Exception as error:  # Whatever it is, the next message must still come.
            warn(f"notifying failed ({type(error).__name__}): trying again")
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        await asyncio.sleep(LOOK_SECONDS)
