"""Incremental equals batch: after every use, lapse, inventory and restart the tracker knows what `recompute` finds.

Two things are held against a fleet built from nothing: the masks and verdicts themselves, and what was last told of a
principal whose counts the tracker does not call changed.
"""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from building import (
    ACCOUNT,
    DAY,
    build_fleet,
    build_holding,
    build_ledger,
    build_principal,
    build_session,
    build_small_catalogue,
    build_use,
    mask_of,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from processor.core import first_uses
from processor.core.catalogue import Catalogue
from processor.core.fleet import Fleet
from processor.core.fresh import Fresh, settle_fresh
from processor.core.gap import Logging, PrincipalGap, Verdicts, recompute
from processor.core.gap_counts import GapCounts
from processor.core.inventory import InventoryPrincipal
from processor.core.ledger import Ledger
from processor.core.principals import Principal
from processor.core.sessions import DENIED, FAILED, SUCCEEDED, Session, key_of
from processor.core.tracker import Tracker
from processor.core.trails import date_logging
from processor.core.usage import PrincipalUsage
from processor.shell.embedded import EmbeddedRedis, start_redis
from processor.shell.grants import date_grants, load_grants, write_grants
from processor.shell.layout import pack_cell, unpack_cell
from processor.shell.redis import Store
from processor.shell.state import State

SMALL = build_small_catalogue()
NOW = 20_000 * DAY
OTHER = "444455556666"
PRINCIPALS = (
    build_principal("builder"),
    build_principal("reader"),
    build_principal("elsewhere", OTHER),
    build_principal("unlisted", OTHER, None),
)
LOGGING = {"*": Logging(), OTHER: Logging(frozenset({"s3"}), read_only=False)}
Inventory = dict[int, InventoryPrincipal]


@dataclass(slots=True)
class World:
    """A run without its files: what is flushed is applied, time passes, counts are told."""

    ledger: Ledger
    inventory: Inventory
    as_of: int = NOW
    covered: dict[str, int] | None = None
    events: int = 0
    held: dict[str, int] = field(default_factory=dict)
    logging: dict[str, Logging] = field(default_factory=lambda: dict(LOGGING))
    tracker: Tracker = field(init=False)
    told: dict[int, list[GapCounts]] = field(default_factory=dict)
    sessions: dict[Principal, Session] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start(self.as_of)

    def build_fleet(self) -> Fleet:
        fleet = build_fleet(
            SMALL, self.ledger, self.inventory.values(), windows=(7, 30), covered=self.covered, logging=self.logging
        )
        fleet.held = dict(self.held)
        return fleet

    def start(self, as_of: int) -> None:
        self.tracker = Tracker(self.build_fleet(), self.ledger.principals.values(), as_of)
        self.tracker.advance(self.as_of)
        self.told = {}

    def use(self, principal: Principal, actions: Iterable[int], time: int, outcome: int) -> None:
        self.events += 1
        session = self.sessions.setdefault(principal, build_session(principal))
        self.ledger.apply_uses([build_use(self.ledger, session, actions, time, self.events, outcome)])
        for usage in self.ledger.take_dirty():
            self.tracker.apply_uses(usage, list(usage.dirty))
            usage.dirty.clear()
            for cell in usage.cells.values():
                cell.dirty = False
        self.tracker.note_coverage(self.ledger.tally.accounts)
        self.tracker.advance(self.as_of)

    def lapse(self, seconds: int) -> None:
        self.as_of += seconds
        self.tracker.advance(self.as_of)

    def take_inventory(self, fresh: Iterable[InventoryPrincipal]) -> None:
        held: Inventory = {}
        for each in fresh:
            key = key_of(Principal(each.arn, each.unique_id, each.account_id, each.kind))
            held[key] = date_grants(each, self.inventory.get(key), self.as_of)
        self.inventory = held
        self.start(min(self.ledger.tally.newest, self.as_of))

    def change_grants(self, fresh: Iterable[InventoryPrincipal], whole: bool) -> None:
        """What a refresh brings while it runs: some principals, or (whole) an account with those that it no longer has."""
        listed = {key_of(Principal(each.arn, each.unique_id, each.account_id, each.kind)): each for each in fresh}
        taken = Fresh(ACCOUNT, self.as_of, whole, {k: each for k, each in listed.items() if each.account_id == ACCOUNT})
        settled = settle_fresh(self.inventory, taken, None)
        for held in (self.inventory, self.tracker.fleet._inventory):
            assert isinstance(held, dict)
            held.update(settled.set)
            for key in settled.removed:
                held.pop(key, None)
        self.tracker.apply_grants([*settled.set, *settled.removed])

    def set_logging(self, found: Logging) -> None:
        self.logging[ACCOUNT] = date_logging(found, self.logging.get(ACCOUNT), self.as_of)
        self.tracker.set_logging(ACCOUNT, self.logging[ACCOUNT])

    def hold(self, back: int | None) -> None:
        """An account's inventory cannot be read since then, or (None) it can again."""
        self.held = {} if back is None else {ACCOUNT: self.as_of - back}
        self.tracker.hold(self.held)

    def restart(self) -> None:
        """What a store brings back: cells and counters; nothing of the tracker."""
        before = self.ledger
        after = build_ledger(1_800, 5)
        after.tally.logs = before.tally.logs
        after.tally.newest = before.tally.newest
        for usage in before.principals.values():
            loaded = after.open_usage(usage.principal)
            loaded.cells = {action: unpack_cell(pack_cell(cell), action) for action, cell in usage.cells.items()}
        list(after.take_dirty())
        self.ledger = after
        self.sessions = {}
        self.start(min(after.tally.newest, self.as_of))

    def check(self) -> None:
        """The tracker against nothing but the state."""
        tell(self.tracker, self.told)
        assert_equal_to_recompute(self.tracker, self.build_fleet(), self.told, self.as_of)


def tell(tracker: Tracker, told: dict[int, list[GapCounts]]) -> None:
    """Count what changed, as the metrics do."""
    for key in tracker.changed:
        if key in tracker:
            told[key] = tracker.count(key)[1]
        else:
            told.pop(key, None)
    tracker.changed.clear()


def assert_equal_to_recompute(tracker: Tracker, fleet: Fleet, told: dict[int, list[GapCounts]], as_of: int) -> None:
    batch = Tracker(fleet, [], as_of)
    members = {key_of(member.principal): member for member in fleet.members()}
    assert len(tracker) == len(members)
    assert told.keys() == members.keys()
    for key, member in members.items():
        cells = {} if member.usage is None else member.usage.cells
        covered = fleet.covered_since(member.principal)
        time_of = fleet.time_of(member.principal.account_id, as_of)
        from_nothing = recompute(
            cells, member.granted, covered, time_of, fleet.windows, fleet.begins(member.principal.account_id)
        )
        kept = gap_kept(tracker, key)
        assert mask_known(kept.used, fleet.catalogue) == mask_known(from_nothing.used, fleet.catalogue)
        assert kept.turns_at <= from_nothing.turns_at
        assert kept.turns_at > time_of
        if member.granted is not None:
            assert verdicts_kept(tracker, key) == fleet.verdicts_of(member, from_nothing, as_of)
        assert told[key] == batch.count(key)[1]


def gap_kept(tracker: Tracker, key: int) -> PrincipalGap:
    return tracker._gaps[key]


def verdicts_kept(tracker: Tracker, key: int) -> list[Verdicts]:
    return tracker.fleet.verdicts_of(tracker.fleet.member(key), gap_kept(tracker, key), tracker.as_of)


def mask_known(masks: list[int], catalogue: Catalogue) -> list[int]:
    return [mask & catalogue.all_mask for mask in masks]


# --- random lives -----------------------------------------------------------------------------------------------------

ages = st.sampled_from(
    (0, 1, 3_600, DAY, 7 * DAY - 1, 7 * DAY, 7 * DAY + 1, 8 * DAY, 30 * DAY - 1, 30 * DAY, 31 * DAY, 100 * DAY, -600)
)
who = st.sampled_from(PRINCIPALS)
action_sets = st.lists(st.integers(0, SMALL.size - 1), min_size=1, max_size=3, unique=True)
holdings = st.builds(
    build_holding,
    who,
    st.integers(0, SMALL.all_mask),
    created=st.one_of(st.none(), ages.map(lambda age: NOW - age)),
    births=st.one_of(st.just(()), ages.map(lambda age: ((NOW - age, SMALL.all_mask),))),
)
uses = st.tuples(st.just("use"), who, action_sets, ages, st.sampled_from((SUCCEEDED, SUCCEEDED, FAILED, DENIED)))
lapses = st.tuples(
    st.just("lapse"), st.sampled_from((1, 60, DAY - 1, DAY, 7 * DAY - 1, 7 * DAY, 30 * DAY, "to the turn", "before it"))
)
inventories = st.tuples(st.just("inventory"), st.lists(holdings, max_size=4))
grants = st.tuples(st.just("grants"), st.lists(holdings, max_size=3), st.booleans())
loggings = st.tuples(
    st.just("logging"),
    st.builds(
        Logging,
        st.frozensets(st.sampled_from(("s3:GetObject", "s3:DeleteObject", "lambda:InvokeFunction"))),
        st.booleans(),
        st.booleans(),
        st.sampled_from((frozenset(), frozenset({"ec2"}))),
        st.sampled_from(((), ("eu-west-1",))),
    ),
)
holds = st.tuples(st.just("hold"), st.sampled_from((None, 0, 600, DAY, 8 * DAY)))
steps = st.one_of(uses, uses, uses, lapses, lapses, inventories, grants, grants, holds, loggings, st.just(("restart",)))


def take_step(world: World, step: tuple[object, ...]) -> None:
    match step:
        case ("use", Principal() as principal, list() as actions, int() as age, int() as outcome):
            world.use(principal, actions, world.as_of - age, outcome)
        case ("lapse", int() as seconds):
            world.lapse(seconds)
        case ("lapse", str() as when):
            turn = min((gap_kept(world.tracker, key).turns_at for key in world.told), default=world.as_of)
            if turn < world.as_of + 1_000 * DAY:
                # What is held has its turn behind it.
                world.lapse(max(0, turn - world.as_of - (when == "before it")))
        case ("inventory", list() as held):
            world.take_inventory(held)
        case ("grants", list() as fresh, bool() as whole):
            world.change_grants(fresh, whole)
        case ("logging", Logging() as found):
            world.set_logging(found)
        case ("hold", int() | None as back):
            world.hold(back)
        case ("restart",):
            world.restart()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(first=st.lists(holdings, max_size=4), taken=st.lists(steps, max_size=14))
@example(
    # Coverage begins with the first record of an account, whoever made it: the others' grants turn a window later.
    first=[build_holding(PRINCIPALS[0], SMALL.all_mask), build_holding(PRINCIPALS[1], SMALL.all_mask)],
    taken=[("use", PRINCIPALS[0], [0], 0, SUCCEEDED), ("lapse", 7 * DAY - 1), ("lapse", 1)],
)
@example(
    # An older log file moves the coverage back: what was unproven is unused at once.
    first=[build_holding(PRINCIPALS[1], SMALL.all_mask)],
    taken=[("use", PRINCIPALS[0], [0], 0, SUCCEEDED), ("use", PRINCIPALS[0], [0], 8 * DAY, SUCCEEDED)],
)
@example(
    # What one principal uses is known to be logged in its account for all the others.
    first=[build_holding(PRINCIPALS[1], SMALL.all_mask)],
    taken=[("use", PRINCIPALS[0], [SMALL.ids["new:NobodyKnows"]], 40 * DAY, SUCCEEDED)],
)
@example(
    # A success without a grant counts from then on, though a failed call of that time had closed what there was to close.
    first=[build_holding(PRINCIPALS[0], 0)],
    taken=[("use", PRINCIPALS[0], [0], 0, FAILED), ("use", PRINCIPALS[0], [0], 0, SUCCEEDED)],
)
@example(
    # And it lapses by itself, whatever was called since.
    first=[build_holding(PRINCIPALS[0], 0)],
    taken=[("use", PRINCIPALS[0], [0], 3 * DAY, SUCCEEDED), ("use", PRINCIPALS[0], [0], 0, FAILED), ("lapse", 4 * DAY)],
)
def test_incremental_equals_recompute(first: list[InventoryPrincipal], taken: list[tuple[object, ...]]) -> None:
    world = World(build_ledger(1_800, 5), {})
    world.take_inventory(first)
    world.check()
    for step in taken:
        take_step(world, step)
        world.check()


def test_time_does_not_go_back() -> None:
    world = World(build_ledger(), {})
    world.take_inventory([build_holding(PRINCIPALS[0], SMALL.all_mask)])
    world.use(PRINCIPALS[0], [0], NOW, SUCCEEDED)
    world.check()
    world.tracker.advance(NOW - 100 * DAY)
    assert world.tracker.as_of == NOW
    world.check()


def test_turns_do_not_pile_up() -> None:
    """A principal that is used again and again for years has as many turns to come as one that was used once."""
    world = World(build_ledger(1_800, 5), {})
    world.take_inventory([build_holding(PRINCIPALS[0], SMALL.all_mask)])
    for _ in range(200):
        world.use(PRINCIPALS[0], [0, 1], world.as_of, SUCCEEDED)
        world.lapse(8 * DAY)
    world.check()
    assert len(world.tracker._turns) <= 4


# --- first uses -------------------------------------------------------------------------------------------------------

KEY_ACTION = SMALL.ids["iam:CreateAccessKey"]
PASS_ROLE = SMALL.ids["iam:PassRole"]


def test_first_uses_are_privileged_and_succeeded() -> None:
    world = World(build_ledger(), {})
    for action, outcome in (
        (KEY_ACTION, DENIED),
        (KEY_ACTION, FAILED),
        (SMALL.ids["s3:GetObject"], SUCCEEDED),
        (SMALL.ids["s3:DeleteObject"], SUCCEEDED),
        (SMALL.ids["ec2:RunInstances"], SUCCEEDED),
    ):
        world.use(PRINCIPALS[0], [action], NOW, outcome)
    assert world.tracker.first_uses.by_place == {}
    world.use(PRINCIPALS[0], [KEY_ACTION, PASS_ROLE], NOW + 5, SUCCEEDED)
    world.use(PRINCIPALS[0], [KEY_ACTION], NOW + 9, SUCCEEDED)
    found = {(each.action, each.time, each.arn, each.account_id) for each in world.tracker.first_uses.by_place.values()}
    arn = PRINCIPALS[0].arn
    assert found == {("iam:CreateAccessKey", NOW + 5, arn, ACCOUNT), ("iam:PassRole", NOW + 5, arn, ACCOUNT)}
    world.restart()
    assert {
        (each.action, each.time, each.arn, each.account_id) for each in world.tracker.first_uses.by_place.values()
    } == found


def test_first_uses_are_capped_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_uses, "FIRST_USES_MAX", 3)
    world = World(build_ledger(), {})
    for number in range(5):
        world.use(build_principal(f"role{number}"), [KEY_ACTION], NOW + number, SUCCEEDED)
    assert [each.time for each in world.tracker.first_uses.by_place.values()] == [NOW + 2, NOW + 3, NOW + 4]
    assert world.tracker.first_uses.evicted == 2
    # Used again: it is not the first use, and what was evicted does not come back.
    world.use(build_principal("role0"), [KEY_ACTION], NOW + 9, SUCCEEDED)
    assert [each.time for each in world.tracker.first_uses.by_place.values()] == [NOW + 2, NOW + 3, NOW + 4]
    assert world.tracker.first_uses.evicted == 2
    world.restart()
    assert [each.time for each in world.tracker.first_uses.by_place.values()] == [NOW + 2, NOW + 3, NOW + 4]


# --- through a real store ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterable[EmbeddedRedis]:
    redis = start_redis(Path(tmp_path_factory.mktemp("tracker")) / "state")
    yield redis
    redis.stop()


@pytest.fixture
async def store(server: EmbeddedRedis) -> AsyncIterator[Store]:
    found = await Store.connect(server.url)
    await found.client.flushall()
    await found.claim()
    yield found
    await found.close()


async def test_a_restart_from_redis_equals_recompute(store: Store) -> None:
    """The world's state goes through the store; a tracker on what comes back equals the one that never stopped."""
    ledger = build_ledger(1_800, 5)
    state = State(store, ledger, SMALL, 31)
    world = World(ledger, {})
    everything = mask_of(SMALL, *SMALL.names)
    held: Inventory = {}
    fresh = {key_of(each): build_holding(each, everything, created=NOW - 9 * DAY) for each in PRINCIPALS[:3]}
    await state.flush(list(write_grants(store, SMALL, held, fresh, NOW)))
    world.take_inventory(held.values())
    number = 0
    for day in range(12):
        for at, principal in enumerate(PRINCIPALS):
            number += 1
            session = world.sessions.setdefault(principal, build_session(principal))
            time = world.as_of - at * 3 * DAY
            ledger.apply_uses([build_use(ledger, session, [number % SMALL.size, day], time, number)])
        changed: list[tuple[PrincipalUsage, list[int]]] = [(usage, list(usage.dirty)) for usage in ledger.dirty]
        await state.flush()
        for usage, actions in changed:
            world.tracker.apply_uses(usage, actions)
        world.tracker.note_coverage(ledger.tally.accounts)
        world.lapse(DAY + 7)
        world.check()

        again = build_ledger(1_800, 5)
        await State(store, again, SMALL, 31).load()
        loaded = build_fleet(SMALL, again, (await load_grants(store, SMALL)).values(), windows=(7, 30), logging=LOGGING)
        restarted = Tracker(loaded, again.principals.values(), again.tally.newest)
        restarted.advance(world.as_of)
        told: dict[int, list[GapCounts]] = {}
        tell(restarted, told)
        assert told == world.told
        assert_equal_to_recompute(restarted, loaded, told, world.as_of)
