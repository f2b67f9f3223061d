"""What must hold with 10,000 principals in three windows: scrapes, the fleet's list, and for how long the loop stands still.

By tests/bench/turns.py, which says what is measured. A machine that does other things besides makes all of it slower, never
faster: so each bound is one that the best of some tries must keep.
"""

import asyncio

import pytest

from tests.bench.turns import PRINCIPALS, Turns, measure_turns

SECONDS = 15.0
TRIES = 3
SCRAPE_SECONDS_MAX = 0.1
LIST_SECONDS_MAX = 0.3
TURN_SECONDS_MAX = 0.05
TURN_SECONDS_MAX_REFRESH = 0.1
"""While the grants of 5,000 principals are read anew, stored and judged; 0.05 is wanted."""


@pytest.mark.slow
def test_scrapes_lists_and_turns_with_ten_thousand_principals(capsys: pytest.CaptureFixture[str]) -> None:
    tries: list[tuple[float, float, float, float]] = []
    for _ in range(TRIES):
        found = asyncio.run(measure_turns(PRINCIPALS, SECONDS))
        steady, fresh = found["records, scrapes and pages"], found["with a new inventory of half of them"]
        assert isinstance(steady, Turns)
        assert isinstance(fresh, Turns)
        assert found["taken"] > 0
        tries.append((found["scrapes"]["least"], found["scrapes"]["list least"], steady.own, fresh.own))
        if fits(tries):
            break
    with capsys.disabled():
        print(f"\nscrape, list, turn, turn with a new inventory, in seconds: {tries}")
    assert fits(tries), tries


def fits(tries: list[tuple[float, float, float, float]]) -> bool:
    best = [min(values) for values in zip(*tries, strict=True)]
    bounds = (SCRAPE_SECONDS_MAX, LIST_SECONDS_MAX, TURN_SECONDS_MAX, TURN_SECONDS_MAX_REFRESH)
    return all(value <= bound for value, bound in zip(best, bounds, strict=True))
