"""The commands that end by themselves: replay, report, explain."""

import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

import msgspec

from processor.core.explain import build_explanation, find_members, print_explanation
from processor.core.fleet import Fleet, inventory_by_key
from processor.core.horizon import Horizon
from processor.core.inventory import InventoryPrincipal, read_inventory
from processor.core.organizations import read_organization
from processor.core.records import DAY_SECONDS, TIME_MAX, format_time
from processor.core.report import Json, build_report
from processor.opening import Opened, Place, load_loops, load_opened, open_store
from processor.replay import AsOfError, Replay
from processor.settings import Settings, dump_settings, load_settings
from processor.shell.files import Source, SourceError, SourceReader, find_sources
from processor.shell.grants import write_grants, write_inventory_times
from processor.shell.redis import Store, StoreRefused
from processor.shell.shelf import FileShelf
from processor.shell.tables import load_catalogue
from processor.shell.terminal import expect_broken_pipe, print_report, show_progress
from processor.watching import find_inventory_time

Style = tuple[str, bool, str | None]
"""table or json, whether every action is listed, and what is a finding"""


@dataclass(frozen=True, slots=True)
class ReplayOrder:
    """What `replay` was asked for."""

    paths: tuple[str, ...]
    inventories: tuple[str, ...]
    organizations: tuple[str, ...]
    settings: Settings
    as_of: int | None
    covered_since: int | None


async def run_replay(order: ReplayOrder, place: Place, style: Style, warn: Callable[[str], None]) -> int:
    """Read all, store, report. Returns the exit code."""
    sources, left_out = find_sources(order.paths)
    for left in left_out:
        warn(f"left out {left.path}: {left.why}")
    async with AsyncExitStack() as held:
        held.enter_context(collect_seldom())
        fresh = read_inventories(order.inventories, order.organizations, warn)
        store = await held.enter_async_context(open_store(place, warn))
        load_loops(warn)
        await store.claim(exclusive=place.url is None)
        await held.enter_async_context(store.beating())
        horizon = Horizon(shelf=FileShelf())
        until = TIME_MAX if order.as_of is None else order.as_of
        opened = await load_opened(store, order.settings, horizon, until=until, fresh=fresh)
        check_as_of(opened, order.as_of)
        if opened.moved:
            warn(opened.moved)
        with show_progress(sources) as step:
            await Replay(opened, warn, step).read(sources)
        as_of = choose_as_of(opened, order, warn)
        await finish(opened, order, fresh, as_of)
        for line in opened.rejects.lines():
            warn(line)
        fleet = opened.build_fleet(order.settings, order.covered_since)
        return print_out(opened, fleet, as_of, style)


def read_document(path: str) -> bytes:
    """A JSON document, plain or gzip. Raises SourceError for a file that cannot be read."""
    reader = SourceReader(Source(path, 0))
    document = b"".join(reader)
    if reader.damage is not None:
        raise SourceError(f"{path} {reader.damage}")
    return document


def read_inventories(
    inventories: Sequence[str], organizations: Sequence[str], warn: Callable[[str], None]
) -> dict[int, InventoryPrincipal]:
    """The principals of inventory files, by key. Raises InventoryError or OrganizationError, with the file's name."""
    if not inventories:
        return {}
    trees = [read_organization(read_document(path), path) for path in organizations]
    for path, tree in zip(organizations, trees, strict=True):
        for target in tree.unknown_targets:
            warn(f"{path}: a policy's target {target} is not in the tree: it limits nobody")
    documents = [(path, read_document(path)) for path in inventories]
    return inventory_by_key(read_inventory(documents, load_catalogue(), trees))


def check_as_of(opened: Opened, as_of: int | None) -> None:
    """Refuse a time before what the store already holds: its uses cannot be taken out again."""
    newest = opened.newest_use()
    if as_of is not None and as_of < newest:
        raise AsOfError(
            f"--as-of {format_time(as_of)} is before the newest use in the store, {format_time(newest)}: give a later time, "
            "or replay into a fresh store"
        )


def choose_as_of(opened: Opened, order: ReplayOrder, warn: Callable[[str], None]) -> int:
    """The time of the report: as asked, else the newest event, else (nothing was read) now."""
    if order.as_of is not None:
        return order.as_of
    tally = opened.pipeline.tally
    if not tally.newest:
        return int(time.time())
    if tally.second_newest and tally.newest - tally.second_newest > DAY_SECONDS:
        warn(
            f"the newest event ({format_time(tally.newest)}) is more than a day after the second newest "
            f"({format_time(tally.second_newest)}): if its time is wrong, give --as-of"
        )
    return tally.newest


async def finish(opened: Opened, order: ReplayOrder, fresh: dict[int, InventoryPrincipal], as_of: int) -> None:
    """Store the inventory and what a report of this store needs to know."""
    commands = list(write_grants(opened.store, opened.catalogue, opened.inventory, fresh, as_of))
    taken = find_inventory_time(order.inventories) or as_of
    commands += write_inventory_times(
        opened.store, dict.fromkeys({found.account_id for found in fresh.values()}, taken)
    )
    commands += opened.release_held(fresh)
    known = {
        "as_of": str(as_of),
        "settings": dump_settings(order.settings),
        "catalogue": opened.catalogue.version,
        "covered_since": "" if order.covered_since is None else str(order.covered_since),
    }
    pairs = [part for pair in known.items() for part in pair]
    commands.append(("HSET", opened.store.key(b"meta"), *pairs))
    await opened.state.flush(commands)


@contextmanager
def collect_seldom() -> Iterator[None]:
    """Let the garbage collector look at young objects seldom, and never again at those that are here already.

    Neither reading nor reporting makes cycles; the collector's walks over what they keep cost a tenth of a run.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(1_000_000, 20, 1_000)
    try:
        yield
    finally:
        gc.freeze()  # What is left goes with the process, if not before: a walk over it would give nothing back.
        gc.set_threshold(*before)


def print_out(opened: Opened, fleet: Fleet, as_of: int, style: Style) -> int:
    """Print the report, and say whether it holds what --fail-on asks for."""
    form, with_actions, fail_on = style
    built = build_report(fleet, opened.pipeline.tally, opened.state.names.names, as_of, with_actions=with_actions)
    if form == "json":
        sys.stdout.buffer.write(msgspec.json.encode(built) + b"\n")
        sys.stdout.buffer.flush()
    else:
        with expect_broken_pipe():
            print_report(built, with_actions=with_actions)
    return 1 if fail_on and has_findings(fleet, as_of, fail_on) else 0


def has_findings(fleet: Fleet, as_of: int, fail_on: str) -> bool:
    """Whether a grant is unused in the longest window, any or one with a risk class."""
    for member in fleet.members():
        if member.granted is None:
            continue
        unused = fleet.verdicts_of(member, fleet.gap_of(member, as_of), as_of)[-1].unused
        if fail_on == "high-risk":
            risky = fleet.catalogue.escalation_mask(member.granted.granted)
            for mask in fleet.catalogue.risk_masks.values():
                risky |= mask
            unused &= risky
        if unused:
            return True
    return False


async def run_report(place: Place, as_of: int | None, style: Style, warn: Callable[[str], None]) -> int:
    """The report of what a store holds."""
    async with AsyncExitStack() as held:
        held.enter_context(collect_seldom())
        store = await held.enter_async_context(open_store(place, warn, reading=True))
        opened, fleet, time_of = await open_for_reading(store, as_of, warn)
        return print_out(opened, fleet, time_of, style)


async def run_explain(
    place: Place, principal: str, action: str | None, as_of: int | None, style: str, warn: Callable[[str], None]
) -> int:
    """The evidence for a principal's verdicts."""
    async with AsyncExitStack() as held:
        held.enter_context(collect_seldom())
        store = await held.enter_async_context(open_store(place, warn, reading=True))
        opened, fleet, time_of = await open_for_reading(store, as_of, warn)
        found = find_members(fleet, principal)
        if not found:
            raise SourceError(f"no principal of the store has the ARN, unique id or name {principal!r}")
        explanations: list[Json] = []
        for member in found:
            if member.usage is not None:
                await opened.state.read_facets(member.usage)
            explanations.append(build_explanation(fleet, member, opened.state.names.names, action, time_of))
        if style == "json":
            sys.stdout.buffer.write(msgspec.json.encode(explanations[0] if len(found) == 1 else explanations) + b"\n")
        else:
            for explanation in explanations:
                sys.stdout.write("\n".join(print_explanation(explanation)) + "\n")
        return 0


async def open_for_reading(store: Store, as_of: int | None, warn: Callable[[str], None]) -> tuple[Opened, Fleet, int]:
    """A store's contents without a claim on it: nothing is written. Raises StoreRefused for a store that holds nothing."""
    meta = await store.read_meta()
    if "layout" not in meta:
        raise StoreRefused(f"the store at {store.where} is empty: fill it by replay or run first")
    settings = load_settings(meta["settings"]) if "settings" in meta else Settings()
    opened = await load_opened(store, settings, Horizon(), reading=True)
    if opened.moved:
        warn(opened.moved)
    check_as_of(opened, as_of)
    time_of = as_of or max(int(meta.get("as_of") or 0), opened.pipeline.tally.newest) or int(time.time())
    covered = meta.get("covered_since")
    return opened, opened.build_fleet(settings, int(covered) if covered else None), time_of
