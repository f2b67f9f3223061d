"""The board: the list of the fleet is what sorting all principals gives, however it is cut into steps and pages."""

from typing import Any

import pytest
from building import ACCOUNT, DAY, build_fleet, build_holding, build_ledger, build_principal, build_small_catalogue
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.core import board as boarding
from processor.core.answers import FleetAnswer, Row
from processor.core.board import Board, FleetQuery
from processor.core.fleet import Member
from processor.core.sessions import key_of
from processor.core.tracker import GapCounts, Tracker
from processor.shell.gap_text import GapText

SMALL = build_small_catalogue()
NOW = 20_000 * DAY


def find(board: Board, **asked: Any) -> tuple[FleetAnswer, int]:
    """The answer, and in how many steps it came."""
    steps = board.find(FleetQuery(**asked), NOW)
    count = 0
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as done:
            return done.value, count


def make_counts(unused: int, risky: int, index: float) -> list[GapCounts]:
    verdicts = {"used": 1, "unused": unused, "unobservable": 0, "too_new": 0, "unproven": 0}
    risks = {"destructive": risky} if risky else {}
    return [
        GapCounts("7d", dict.fromkeys(verdicts, 0), {}, {}, 0.0, {}, 0),
        GapCounts("30d", verdicts, risks, {}, index, {}, 0),
    ]


def make_board(rows: list[tuple[int, int, float, bool]]) -> Board:
    board = Board(["7d", "30d"])
    for number, (unused, risky, index, known) in enumerate(rows):
        principal = build_principal(f"role{number:02}", ACCOUNT if number % 2 else "444455556666")
        board.note(
            key_of(principal), Member(principal, None, None, None), make_counts(unused, risky, index) if known else []
        )
    return board


ORDERS: dict[str, Any] = {
    "gap": lambda row: (not row.windows, *((-row.windows[1].gap_index, -row.windows[1].unused) if row.windows else ()), row.arn),
    "unused": lambda row: (not row.windows, *((-row.windows[1].unused, -row.windows[1].gap_index) if row.windows else ()), row.arn),
    "risk": lambda row: (
        not row.windows, *((-sum(row.windows[1].risks.values()), -row.windows[1].gap_index) if row.windows else ()), row.arn
    ),
    "name": lambda row: row.name,
    "account": lambda row: (row.account_id, row.arn),
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from([0.0, 50.0, 99.5]), st.booleans()), max_size=30
    ),
    st.sampled_from(sorted(ORDERS)),
    st.integers(1, 7),
    st.integers(1, 5),
)
def test_pages_together_are_all_rows_in_order(
    rows: list[tuple[int, int, float, bool]], sort: Any, size: int, step: int
) -> None:
    board = make_board(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boarding, "STEP_ROWS", step)
        first, steps = find(board, sort=sort, size=size, window="30d")
        found: list[Row] = list(first.principals)
        for page in range(2, first.pages + 1):
            found += find(board, sort=sort, size=size, page=page, window="30d")[0].principals
    assert len(found) == len(rows) == first.matched == first.total
    assert found == sorted(found, key=ORDERS[sort])
    assert steps >= len(rows) // step


def test_it_narrows_and_goes_to_the_last_page() -> None:
    board = make_board([(3, 1, 10.0, True), (2, 0, 20.0, True), (0, 0, 0.0, False), (1, 2, 30.0, True)])
    assert [row.name for row in find(board, q=" ROLE01 ")[0].principals] == ["role01"]
    assert [row.name for row in find(board, q="aroarole03")[0].principals] == ["role03"], "by unique id, too"
    assert [row.name for row in find(board, risk="any")[0].principals] == ["role03", "role00"]
    assert find(board, risk="data_access")[0].matched == 0
    assert find(board, account=ACCOUNT)[0].matched == 2
    last, _ = find(board, size=3, page=99)
    assert (last.page, last.pages, len(last.principals)) == (2, 2, 1)
    with pytest.raises(KeyError):
        find(board, window="5d")


def test_the_default_window_is_the_longest_in_which_anything_is_unused() -> None:
    board = make_board([(0, 0, 0.0, True)])
    assert board.default_window() == "30d"
    (row,) = find(board)[0].principals
    member = Member(build_principal(row.name, row.account_id), None, None, None)
    week = GapCounts("7d", {"used": 0, "unused": 2, "unobservable": 0, "too_new": 0, "unproven": 0}, {}, {}, 1.0, {}, 0)
    board.note(int(row.key, 16), member, [week, make_counts(0, 0, 0.0)[1]])
    assert board.default_window() == "7d"
    assert len(board) == 1, "a row takes the place of the one before"
    board.note(int(row.key, 16), member, make_counts(0, 0, 0.0))
    assert board.default_window() == "30d"


def test_an_arn_leads_to_all_who_had_it() -> None:
    board = Board(["7d"])
    one, two = build_principal("same", unique_id="AROAONE"), build_principal("same", unique_id="AROATWO")
    for principal in (one, two, two):
        board.note(key_of(principal), Member(principal, None, None, None), [])
    assert board.keys_of(one.arn) == sorted((key_of(one), key_of(two)))
    assert board.keys_of("arn:none") == []


def test_rows_come_with_the_metrics_and_are_the_same_numbers() -> None:
    builder, ledger = build_principal("builder"), build_ledger()
    fleet = build_fleet(SMALL, ledger, [build_holding(builder, SMALL.all_mask)], covered={ACCOUNT: 1})
    tracker = Tracker(fleet, [], NOW)
    board = Board(["7d", "30d"])
    for _ in GapText(tracker, note=board.note).refresh():
        pass
    (row,) = find(board)[0].principals
    _, counts = tracker.count(key_of(builder))
    for told, counted in zip(row.windows, counts, strict=True):
        assert {name: getattr(told, name) for name in counted.verdicts} == counted.verdicts
        assert (told.gap_index, told.risks, told.granted) == (counted.index, counted.risks, SMALL.size)


def test_who_is_gone_leaves_no_row_and_no_count() -> None:
    board = make_board([(0, 0, 3.0, True)])
    (row,) = find(board)[0].principals
    key = int(row.key, 16)
    board.note(key, Member(build_principal(row.name, row.account_id), None, None, None), make_counts(3, 1, 3.0))
    board.forget(key)
    board.forget(key)
    assert (len(board), board.keys_of(row.arn), find(board)[0].principals) == (0, [], ())
    assert board.default_window() == "30d"
