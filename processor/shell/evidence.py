"""What of a principal only the store holds, for whoever looks on: facets of some actions, counts of earlier days.

Read beside the writer and never waited for long, nor at all where it is known to be `away`: a page must come then, too.
"""

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from redis.exceptions import RedisError

from processor.core.usage import Cell, PrincipalUsage, day_of
from processor.shell.commands import Command
from processor.shell.ending import within
from processor.shell.redis import Store
from processor.shell.state import State

STORE_SECONDS_MAX = 2.0

DayCounts = dict[int, dict[int, int]]


async def read_quickly(store: Store, commands: list[Command]) -> list[Any] | None:
    """The answers of the store, None where it gives none in time."""
    if not commands:
        return []
    try:
        async with store.client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return list(await within(STORE_SECONDS_MAX, pipe.execute()))
    except (RedisError, OSError, TimeoutError):
        return None


async def read_cells(
    store: Store, state: State, usage: PrincipalUsage, actions: Iterable[int], *, away: bool = False
) -> tuple[PrincipalUsage, bool]:
    """The principal's usage with copies of some actions' cells that have all their facets; False where the store did not
    answer and they have only what is in memory. What the ledger holds is not changed."""
    cells: dict[int, Cell] = {a: copy.copy(usage.cells[a]) for a in actions if a in usage.cells}
    wanted = [action for action, cell in cells.items() if cell.facets is None]
    key = store.shard_key(usage.shard, b"f", usage.key)
    hashes = [state.names.hashes[action] for action in wanted]
    answers = None if away else await read_quickly(store, [("HMGET", key, *hashes)] if hashes else [])
    if answers is not None and answers:
        for action, packed in zip(wanted, answers[0], strict=True):
            if packed:
                cells[action].facets = packed
    return replace(usage, cells={**usage.cells, **cells}), answers is not None


async def read_days(
    store: Store, state: State, usage: PrincipalUsage, as_of: int, days: int, *, away: bool = False
) -> tuple[DayCounts, bool]:
    """Uses by day and action, of the last days; False where the store did not answer and earlier ones may be missing.

    Memory is ahead of the store: its counts of a day stand for the store's, late ones come on top of them, and a cell's
    newest day is in the cell only.
    """
    last = day_of(as_of)
    span = range(last - days + 1, last + 1)
    keys = [store.shard_key(usage.shard, b"d", b"%d" % day, usage.key) for day in span]
    answers = None if away else await read_quickly(store, [("HGETALL", key) for key in keys])
    counts: DayCounts = {day: {} for day in span}
    for day, answer in zip(span, answers or (), strict=False):
        for packed, count in dict(answer).items():
            counts[day][state.names.find(packed)] = int(count)
    # No await from here on: the ledger must not move below it.
    actions = {cell.index: action for action, cell in usage.cells.items() if cell.index >= 0}
    for index, day, count, whole in state.ledger.days.read(actions):
        if day in counts:
            action = actions[index]
            counts[day][action] = count + (0 if whole else counts[day].get(action, 0))
    for action, cell in usage.cells.items():
        if cell.last and cell.day in counts:
            counts[cell.day][action] = cell.day_count
    return counts, answers is not None
