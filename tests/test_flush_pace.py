"""When a flush is due: soon, by what the last one took, and seldom where a backlog waits."""

from processor.flush_pace import IDLE_SHARE, QUIET_SECONDS, FlushPace


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def flush(pace: FlushPace, clock: Clock, seconds: float) -> None:
    begun = clock.now
    clock.now += seconds
    pace.note_flush(begun)


def tell(pace: FlushPace, clock: Clock, seconds: float) -> None:
    begun = clock.now
    clock.now += seconds
    pace.note_text(begun)


def test_a_quick_flush_is_followed_by_another_at_once() -> None:
    clock = Clock()
    pace = FlushPace(0.25, clock)
    assert pace.due_at(applied=True, crowded=False, tick_at=999) <= clock.now
    flush(pace, clock, 0.001)
    tell(pace, clock, 0.001)
    assert pace.due_at(applied=True, crowded=False, tick_at=999) == clock.now - 0.001 + QUIET_SECONDS


def test_a_slow_flush_leaves_time_for_reading_but_never_more_than_was_set() -> None:
    clock = Clock()
    pace = FlushPace(0.25, clock)
    flush(pace, clock, 0.05)
    stored_at = clock.now
    tell(pace, clock, 0.0)
    assert abs(pace.due_at(applied=True, crowded=False, tick_at=999) - stored_at - IDLE_SHARE * 0.05) < 1e-9
    flush(pace, clock, 5.0)
    tell(pace, clock, 0.0)
    assert pace.due_at(applied=True, crowded=False, tick_at=999) == clock.now + 0.25


def test_a_backlog_is_flushed_as_seldom_as_was_set() -> None:
    clock = Clock()
    pace = FlushPace(0.25, clock)
    flush(pace, clock, 0.001)
    tell(pace, clock, 0.0)
    assert pace.due_at(applied=True, crowded=True, tick_at=0) == clock.now + 0.25


def test_a_text_that_takes_long_is_made_seldom_and_holds_up_no_flush() -> None:
    clock = Clock()
    pace = FlushPace(0.25, clock)
    flush(pace, clock, 0.001)
    assert pace.text_is_due
    tell(pace, clock, 0.4)
    told_at = clock.now
    flush(pace, clock, 0.001)
    assert not pace.text_is_due
    assert pace.due_at(applied=True, crowded=False, tick_at=999) < told_at + IDLE_SHARE * 0.4
    # Nothing more comes: what was flushed is told when its turn has come, and not only with the next record.
    waits = pace.due_at(applied=False, crowded=False, tick_at=999)
    assert abs(waits - told_at - IDLE_SHARE * 0.4) < 1e-9
    clock.now = waits
    assert pace.text_is_due


def test_where_nothing_waits_there_is_only_the_tick() -> None:
    clock = Clock()
    pace = FlushPace(0.25, clock)
    flush(pace, clock, 0.001)
    tell(pace, clock, 0.001)
    assert pace.due_at(applied=False, crowded=False, tick_at=123.5) == 123.5
