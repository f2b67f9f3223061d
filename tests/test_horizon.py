"""The duplicates' horizon against a plain set, and what a store gives back of it.

Spans of 100 s, three of them kept; the newest is 7. An event time is known, new, or forgotten:

    span       4      5      6      7      8
         forgotten | kept | kept | kept | moves the horizon
"""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.core import horizon as horizon_module
from processor.core.horizon import SPANS_FOREVER, Horizon
from processor.core.key_tables import FULL, KeySet, put_keys
from processor.shell.shelf import BLOCK_BYTES, FileShelf, size_place

SPAN = 100
KEPT = 3

Adding = tuple[int, int]
"""event time, hash"""

ADDINGS = st.lists(st.tuples(st.integers(0, 30 * SPAN), st.integers(1, 40)), max_size=200)


class SlowHorizon:
    """The same by definition: all hashes, by span, and what the newest span leaves of them."""

    def __init__(self, spans_max: int) -> None:
        self.spans_max = spans_max
        self.newest = -1
        self.seen: set[tuple[int, int]] = set()

    def add(self, time: int, event: int) -> bool:
        number = time // SPAN
        if number <= self.newest - self.spans_max:
            return False
        self.newest = max(self.newest, number)
        self.seen = {(span, known) for span, known in self.seen if span > self.newest - self.spans_max}
        if (number, event) in self.seen:
            return False
        self.seen.add((number, event))
        return True


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """The compiled loops are loaded before Hypothesis looks at the clock."""
    horizon = Horizon(SPAN)
    horizon.load(1, [1])
    horizon.add(SPAN, 2)


@pytest.fixture(params=[2, 48], ids=["two spans unpacked", "all spans unpacked"], autouse=True)
def unpacked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test with hardly any span held as a dict, too: packing is never seen from outside."""
    monkeypatch.setattr(horizon_module, "ACTIVE_MAX", request.param)


@pytest.mark.parametrize("spans_max", [1, KEPT, SPANS_FOREVER])
def test_it_is_a_set(spans_max: int) -> None:
    @given(ADDINGS)
    def check(addings: list[Adding]) -> None:
        horizon, slow = Horizon(SPAN, spans_max), SlowHorizon(spans_max)
        for time, event in addings:
            assert horizon.add(time, event) == slow.add(time, event)
        assert len(horizon) == len(slow.seen)
        assert horizon.newest == slow.newest
        assert set(horizon.numbers) >= {number for number, _ in slow.seen}

    check()


def test_many_hashes_are_kept_exactly() -> None:
    horizon = Horizon(SPAN)
    added = [(number % 5_000, number * 0x9E3779B97F4A7C15 % 2**64) for number in range(50_000)]
    assert all(horizon.add(time, event) for time, event in added)
    assert not any(horizon.add(time, event) for time, event in added)
    assert len(horizon) == len(added)
    assert len(horizon.numbers) == 50


def test_spans_behind_the_newest_are_forgotten() -> None:
    horizon = Horizon(SPAN, KEPT)
    for number in (5, 6, 7):
        assert horizon.add(number * SPAN, number)
    assert horizon.span_at(4 * SPAN + SPAN - 1) is None
    assert not horizon.add(5 * SPAN, 5), "known"
    assert horizon.add(8 * SPAN, 8)
    assert horizon.span_at(5 * SPAN) is None, "forgotten by the newer one"
    assert sorted(horizon.numbers) == [6, 7, 8]
    assert len(horizon) == 3
    assert horizon.add(100 * SPAN, 1)
    assert horizon.numbers == [100]


def test_span_says_what_times_it_holds() -> None:
    span = Horizon(SPAN).span_at(7 * SPAN + 3)
    assert span is not None
    assert (span.start, span.end) == (7 * SPAN, 8 * SPAN)


def test_a_span_is_another_for_each_time() -> None:
    horizon = Horizon(SPAN)
    assert horizon.add(SPAN - 1, 9)
    assert horizon.add(SPAN, 9)
    assert not horizon.add(0, 9)


# --- what a store holds ------------------------------------------------------------------------------------------------


def store_fresh(horizon: Horizon, stored: dict[int, list[int]]) -> None:
    """What a store does with what is fresh: it appends."""
    for number, hashes in horizon.take_fresh():
        stored.setdefault(number, []).extend(hashes)


def load_all(stored: dict[int, list[int]], spans_max: int) -> Horizon:
    horizon = Horizon(SPAN, spans_max)
    for number, hashes in stored.items():
        horizon.load(number, hashes)
    return horizon


def test_only_what_is_new_is_fresh() -> None:
    horizon = Horizon(SPAN)
    horizon.add(1, 10)
    horizon.add(SPAN, 20)
    assert [(number, list(hashes)) for number, hashes in horizon.take_fresh()] == [(0, [10]), (1, [20])]
    assert list(horizon.take_fresh()) == []
    horizon.add(2, 11)
    horizon.add(2, 10)
    assert [(number, list(hashes)) for number, hashes in horizon.take_fresh()] == [(0, [11])]
    horizon.add(2, 10)
    assert list(horizon.take_fresh()) == []


@pytest.mark.parametrize("spans_max", [KEPT, SPANS_FOREVER])
def test_a_restart_changes_nothing(spans_max: int) -> None:
    @given(st.lists(ADDINGS, max_size=6))
    def check(batches: list[list[Adding]]) -> None:
        stored: dict[int, list[int]] = {}
        going, restarted = Horizon(SPAN, spans_max), Horizon(SPAN, spans_max)
        for addings in batches:
            for time, event in addings:
                assert restarted.add(time, event) == going.add(time, event)
            store_fresh(restarted, stored)
            assert_none_twice(stored.values())
            stored = {number: hashes for number, hashes in stored.items() if number in restarted.numbers}
            restarted = load_all(stored, spans_max)
            assert len(restarted) == len(going)

    check()


def assert_none_twice(spans: Iterable[list[int]]) -> None:
    for hashes in spans:
        assert len(set(hashes)) == len(hashes)


def test_loaded_spans_are_not_fresh_and_known() -> None:
    horizon = load_all({3: [1, 2, 2, 2**64 - 1]}, KEPT)
    assert list(horizon.take_fresh()) == []
    assert len(horizon) == 3
    assert not horizon.add(3 * SPAN, 2)
    assert not horizon.add(3 * SPAN, 2**64 - 1)
    assert horizon.add(3 * SPAN, 3)
    assert [(number, list(hashes)) for number, hashes in horizon.take_fresh()] == [(3, [3])]


def test_what_is_too_old_is_not_loaded() -> None:
    horizon = Horizon(SPAN, KEPT)
    horizon.load(9, [1])
    horizon.load(6, [1])
    assert horizon.numbers == [9]
    horizon.load(7, [1])
    assert sorted(horizon.numbers) == [7, 9]


# --- memory and disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spans_max", [KEPT, SPANS_FOREVER])
def test_on_a_shelf_it_is_the_same_set(spans_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(horizon_module, "AT_REST_MAX", 3)

    @given(ADDINGS)
    def check(addings: list[Adding]) -> None:
        horizon, slow = Horizon(SPAN, spans_max, FileShelf()), SlowHorizon(spans_max)
        stored: dict[int, list[int]] = {}
        for at, (time, event) in enumerate(addings):
            assert horizon.add(time, event) == slow.add(time, event), (time, event)
            if at % 7 == 0:
                store_fresh(horizon, stored)
        store_fresh(horizon, stored)
        assert_none_twice(stored.values())
        assert len(horizon) == len(slow.seen)
        for time, event in addings:
            assert not horizon.add(time, event)

    check()


class FullShelf:
    """A disk without room."""

    def put(self, hashes: object) -> None:
        return None

    def take(self, place: int, count: int) -> horizon_module.Words:
        raise AssertionError("nothing was put there")


def test_where_the_disk_is_full_spans_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(horizon_module, "AT_REST_MAX", 0)
    horizon = Horizon(SPAN, shelf=FullShelf())
    assert all(horizon.add(number * SPAN, number + 1) for number in range(100))
    assert not any(horizon.add(number * SPAN, number + 1) for number in range(100))


def test_a_shelf_gives_back_what_was_put_and_uses_places_again() -> None:
    shelf = FileShelf()
    sizes = [1, 511, 512, 513, 5_000, 100_000]
    for _ in range(3):
        given_hashes = [np.arange(1, size + 1, dtype=np.uint64) for size in sizes]
        for place, hashes in [(shelf.put(hashes), hashes) for hashes in given_hashes]:
            assert place is not None
            assert np.array_equal(shelf.take(place, len(hashes)), hashes)
    assert shelf.put(np.arange(1, 3, dtype=np.uint64)) is not None
    # Three rounds take no more than one did.
    assert shelf.size_bytes <= BLOCK_BYTES * sum(map(size_place, sizes))


def test_a_set_is_dense_and_exact() -> None:
    """13 bytes a key at most, but for what is reserved."""
    keys = np.arange(1, 200_001, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    found = KeySet()
    for begin in range(0, len(keys), 1_000):
        found.reserve(1_000)
        found.count += put_keys(keys[begin : begin + 1_000], found.keys)
        assert put_keys(keys[begin : begin + 1_000], found.keys) == 0
        assert found.count <= FULL * len(found.keys)
    assert found.count == len(keys)
    assert found.keys.nbytes <= 13.5 * len(keys)
    assert np.array_equal(np.sort(found.take()), np.sort(keys))


def test_keys_that_fall_on_the_end_of_a_set_go_on_at_its_beginning() -> None:
    found = KeySet()
    inverse = np.uint64(pow(0x9E3779B185EBCA87, -1, 2**64))
    with np.errstate(over="ignore"):
        last = (np.uint64(0xFFFFFFFF00000000) + np.arange(1, 31, dtype=np.uint64)) * inverse
    found.count += put_keys(last, found.keys)
    assert found.count == 30
    assert put_keys(last, found.keys) == 0
