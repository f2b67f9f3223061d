"""What a request asks for -> its answer, from whatever holds the store at the time."""

import asyncio
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from processor.core.answers import (
    ActionsAnswer,
    FleetAnswer,
    PolicyAnswer,
    PrincipalAnswer,
    StatusAnswer,
    TimelineAnswer,
)
from processor.core.board import Board, FleetQuery
from processor.core.profile import ActionsQuery, PolicyQuery, Profile, build_days, cut_page
from processor.core.recommend import recommend
from processor.core.records import format_time
from processor.core.tracker import Tracker
from processor.opening import Opened
from processor.shell.evidence import read_cells, read_days
from processor.shell.metrics import Health, find_version

Query = TypeVar("Query")
Result = TypeVar("Result")

POLICIES_AT_ONCE_MAX = 2
"""A policy is written in a thread: an administrator's takes some 40 ms of reckoning."""


class BadQueryError(ValueError):
    """What was asked for cannot be; the text says what and what may be."""


class NotKnownError(LookupError):
    """No such principal."""


class NotReadyError(RuntimeError):
    """Nothing is loaded yet; the text says why."""


@dataclass(frozen=True, slots=True)
class Look:
    """One hold of a store, as far as those who look on need it."""

    tracker: Tracker
    opened: Opened
    board: Board


class Reader:
    """Answers for page and /api. `look` gives None while nothing is loaded."""

    def __init__(self, look: Callable[[], Look | None], health: Health, clock: Callable[[], float]) -> None:
        self._look = look
        self._health = health
        self._clock = clock
        self._writing = asyncio.Semaphore(POLICIES_AT_ONCE_MAX)

    def look(self) -> Look:
        """What is loaded. Raises NotReadyError."""
        found = self._look()
        if found is None:
            raise NotReadyError(f"not ready: {self._health.why_not}; try again in a moment")
        return found

    async def list_fleet(self, query: FleetQuery) -> FleetAnswer:
        """Raises BadQueryError for a window that is none."""
        look = self.look()
        try:
            return await take_steps(look.board.find(query, look.tracker.as_of))
        except KeyError as error:
            raise _no_window(look, str(error.args[0])) from error

    def find_keys(self, arn: str) -> list[int]:
        return self.look().board.keys_of(arn)

    def open_profile(self, key_text: str) -> Profile:
        """The principal of a key, 16 hex digits. Raises NotKnownError."""
        look = self.look()
        if len(key_text) != 16 or not set(key_text) <= set("0123456789abcdef"):
            raise NotKnownError("no principal has such a key: it has 16 hex digits; search for its name")
        key = int(key_text, 16)
        # One that is gone from the inventory is for a moment still followed.
        if key not in look.tracker or not look.tracker.fleet.has(key):
            raise NotKnownError(
                f"no principal has the key {key_text}: it is gone, or was never seen; search for its name"
            )
        names = look.opened.state.names.names
        return Profile(look.tracker.fleet, look.tracker.fleet.member(key), names, look.tracker.as_of)

    async def summarise(self, key_text: str) -> PrincipalAnswer:
        return self.open_profile(key_text).build_summary()

    async def list_actions(self, key_text: str, query: ActionsQuery) -> ActionsAnswer:
        """Raises BadQueryError for a window that is none."""
        look, profile = self.look(), self.open_profile(key_text)
        try:
            chosen = profile.choose_actions(query)
        except KeyError as error:
            raise _no_window(look, str(error.args[0])) from error
        await asyncio.sleep(0)
        whole = True
        usage = profile.member.usage
        if usage is not None:
            shown, _, _ = cut_page(chosen, query.page, query.size)
            usage, whole = await read_cells(
                look.opened.store, look.opened.state, usage, shown, away=self._health.waiting
            )
            profile.member = replace(profile.member, usage=usage)
        return await take_steps(profile.build_actions(query, chosen, whole=whole))

    async def draw_timeline(self, key_text: str) -> TimelineAnswer:
        """The days of the longest window."""
        look, profile = self.look(), self.open_profile(key_text)
        days = profile.fleet.windows[-1].days
        usage = profile.member.usage
        if usage is None:
            return TimelineAnswer(whole=True, days=build_days({}, profile.as_of, days))
        counts, whole = await read_days(
            look.opened.store, look.opened.state, usage, profile.as_of, days, away=self._health.waiting
        )
        return TimelineAnswer(whole=whole, days=build_days(counts, profile.as_of, days))

    async def write_policy(self, key_text: str, query: PolicyQuery) -> PolicyAnswer:
        """Raises NotKnownError for a principal without an inventory, as nothing tells what it may do, and BadQueryError for a
        window that is none."""
        profile = self.open_profile(key_text)
        label = query.window or profile.labels[-1]
        if label not in profile.labels:
            raise _no_window(self.look(), label)
        fleet, inventory = profile.fleet, profile.member.inventory
        if inventory is None:
            raise NotKnownError(
                "no inventory has this principal: what it may do is not known, so neither what it needs"
            )
        logging = fleet.logging_of(inventory.account_id)
        verdicts = profile.verdicts[profile.labels.index(label)]
        async with self._writing:
            found = await asyncio.to_thread(recommend, fleet.catalogue, inventory.grants, verdicts, logging, label)
        return PolicyAnswer(
            window=label,
            documents=found.documents,
            counts=found.counts,
            dropped=found.dropped,
            patterns=found.patterns,
            notes=found.notes,
        )

    async def tell_status(self) -> StatusAnswer:
        """How the pipeline is, also while nothing is loaded."""
        health, look = self._health, self._look()
        as_of = look.tracker.as_of if look is not None else 0
        return StatusAnswer(
            version=find_version(),
            ready=health.ready,
            why_not=None if health.ready else health.why_not,
            store_waiting=health.waiting,
            as_of=format_time(as_of) if as_of else None,
            lag_seconds=round(max(0.0, self._clock() - as_of), 1) if as_of else None,
            principals=0 if look is None else len(look.tracker),
            windows=() if look is None else look.board.windows,
            records={} if look is None else dict(look.opened.pipeline.tally.classes),
        )


def _no_window(look: Look, window: str) -> BadQueryError:
    return BadQueryError(f"window={window!r} is none: give one of {', '.join(look.board.windows)}")


def read_query(kind: type[Query], given: Mapping[str, str]) -> Query:
    """A request's parameters; unknown ones are left out. Raises BadQueryError."""
    try:
        return msgspec.convert(dict(given), kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadQueryError(f"a parameter cannot be used: {error}") from error


async def take_steps(steps: Generator[None, None, Result]) -> Result:
    """Run work that is cut into steps, others in between."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: Result = done.value
            return result
        await asyncio.sleep(0)
