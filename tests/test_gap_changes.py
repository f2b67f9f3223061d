"""Topic `gap-changes`: what is told of a gap is what a recomputation says, and what moved is named."""

import asyncio
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from building import DAY, build_holding, build_ledger, build_principal, build_session, build_small_catalogue, build_use

from processor.core.catalogue import stable_hash
from processor.core.fleet import Coverage, Fleet
from processor.core.gap import Window
from processor.core.gap_changes import write_all, write_changes
from processor.core.inventory import InventoryPrincipal
from processor.core.sessions import Scope, key_of
from processor.core.tracker import Before, Tracker
from processor.shards import Shards
from topics.gap_changes import CODEC, Moved, unpack_hashes

CATALOGUE = build_small_catalogue()
ROLE = build_principal("builder")
KEY = key_of(ROLE)
HELD: dict[int, InventoryPrincipal] = {}
NOW = 20_000 * DAY
RUN, CREATE_KEY = CATALOGUE.ids["ec2:RunInstances"], CATALOGUE.ids["iam:CreateAccessKey"]


def build_tracker(granted: int) -> Tracker:
    ledger = build_ledger()
    ledger.apply_uses([build_use(ledger, build_session(ROLE), [CREATE_KEY], NOW - 10 * DAY, 1)])
    HELD[KEY] = build_holding(ROLE, granted, created=1)
    coverage = Coverage({ROLE.account_id: 1})
    fleet = Fleet(CATALOGUE, (Window(7), Window(30)), ledger.principals, HELD, coverage, {}, Scope())
    tracker = Tracker(fleet, ledger.principals.values(), NOW, keep_before=True)
    tracker.before.clear()
    return tracker


def test_a_use_and_a_lapse_are_told_with_what_moved() -> None:
    tracker = build_tracker(1 << RUN | 1 << CREATE_KEY)
    usage = tracker.fleet.member(KEY).usage
    assert usage is not None
    ledger = build_ledger()
    ledger.apply_uses([build_use(ledger, build_session(ROLE), [RUN], NOW, 2)])
    usage.cells[RUN] = ledger.principals[KEY].cells[RUN]
    tracker.apply_uses(usage, [RUN])
    told = {message.window: message for message in (CODEC.decode(value) for _, value in take(tracker) if value)}
    assert told["7d"].moved == told["30d"].moved == (Moved("ec2:RunInstances", "unused", "used"),)
    assert {told["7d"].why, told["30d"].why} == {"use"}
    assert unpack_hashes(told["7d"].unused) == {stable_hash("iam:CreateAccessKey")}
    assert (told["30d"].unused, told["30d"].gap_index) == (b"", 0)
    tracker.advance(NOW + 20 * DAY)
    (lapsed,) = [CODEC.decode(value) for _, value in take(tracker) if value and b"30d" in value]
    assert lapsed.why == "lapse"
    assert lapsed.moved == (Moved("iam:CreateAccessKey", "used", "unused"),)
    assert lapsed.as_of == NOW + 20 * DAY


def test_grants_that_come_and_go_are_told() -> None:
    tracker = build_tracker(1 << RUN)
    wider = build_holding(ROLE, 1 << RUN | 1 << CREATE_KEY, created=1)
    tracker.apply_grants([KEY], partial(HELD.__setitem__, KEY, wider))
    told = {message.window: message for message in (CODEC.decode(value) for _, value in take(tracker) if value)}
    assert told["7d"].moved == (Moved("iam:CreateAccessKey", None, "unused"),)
    assert told["30d"].moved == (Moved("iam:CreateAccessKey", None, "used"),)
    assert {message.why for message in told.values()} == {"grant"}
    tracker.apply_grants([KEY], HELD.clear)
    assert [value for _, value in take(tracker)] == [None, None], "tombstones: it is used, but nothing is granted"


def test_all_is_told_again_where_it_is_not_known_what_was() -> None:
    tracker = build_tracker(1 << RUN)
    messages = [CODEC.decode(value) for _, value in write_all(tracker, [KEY], "use") if value]
    assert [message.window for message in messages] == ["7d", "30d"]
    assert all(message.moved == () for message in messages)
    assert [*write_changes(tracker, KEY, Before("use", tracker.verdicts_of(KEY)))] == [], "nothing moved"


def take(tracker: Tracker) -> list[tuple[bytes, bytes | None]]:
    before, tracker.before = tracker.before, {}
    return [message for key, each in before.items() for message in write_changes(tracker, key, each)]


class LateBroker:
    """Acknowledges what it is given when it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()

    async def publish(self, shard: int, messages: list[Any]) -> tuple[int, int]:
        await self.let.wait()
        return 0, len(messages)


async def test_a_shard_is_told_only_when_nothing_is_on_its_way() -> None:
    """A flush that moved nothing is no sign that what the one before it gave has arrived: its owner may die before."""
    broker, parts = LateBroker(), SimpleNamespace(warn=pytest.fail)
    shards: Any = Shards.__new__(Shards)
    shards._broker, shards.parts = broker, parts
    shard: Any = SimpleNamespace(
        telling=0, told=13, untold=False, hold=SimpleNamespace(number=0), note_published=lambda *_: None
    )
    waiting = asyncio.create_task(shards._tell(shard, [object()], 14))
    await asyncio.sleep(0.01)
    await shards._tell(shard, [], 15)
    assert shard.told == 13
    broker.let.set()
    await waiting
    assert shard.told == 14
    await shards._tell(shard, [], 16)
    assert shard.told == 16
