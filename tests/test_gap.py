"""Verdicts, to the second. Times of the cases are days before and after `as_of`; each draws its windows.

A window of 7 days, as the drawings have it: `(` is outside, `]` inside.

          as_of - 7 d                as_of
    ----------(------------------------]----> event time
"""

from typing import Any

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
from hypothesis import given
from hypothesis import strategies as st

from processor.core.catalogue import RISKS, Catalogue, ids_in
from processor.core.gap import (
    FOREVER,
    VERDICTS,
    Granted,
    Logging,
    PrincipalGap,
    Verdicts,
    Window,
    advance,
    apply_use,
    judge,
    observable_mask,
    recompute,
    why_unobservable,
)
from processor.core.report import build_report, service_verdict
from processor.core.sessions import DENIED, FAILED, SUCCEEDED
from processor.core.usage import Cell
from processor.core.weights import count_risks, gap_index
from processor.shell.tables import load_catalogue

SMALL = build_small_catalogue()
WEEK = Window(7)
NOW = 20_000 * DAY
OLD = NOW - 400 * DAY
START = NOW - WEEK.seconds
ONE = 1
FIVE = ("ec2:DescribeInstances", "ec2:RunInstances", "iam:ListUsers", "s3:CreateBucket", "lambda:CreateFunction")


def cell_used(last: int) -> Cell:
    cell = Cell(0)
    cell.first = cell.last = last
    cell.count = 1
    return cell


def verdict_of(
    *,
    last: int = 0,
    as_of: int = NOW,
    observable: bool = True,
    created: int = 0,
    born: int = 0,
    covered: int | None = OLD,
) -> str | None:
    """The verdict of one granted action in a window of 7 days."""
    cells = {0: cell_used(last)} if last else {}
    births = ((born, ONE),) if born else ()
    grants = Granted(ONE, 0, created, births)
    gap = recompute(cells, grants, covered, as_of, [WEEK])
    return judge(grants, gap.used[0], int(observable), covered, as_of, WEEK.seconds).verdict_of(0)


# --- the order --------------------------------------------------------------------------------------------------------


def test_each_verdict_gives_way_to_the_one_before_it() -> None:
    """
    covered               last use
      |    created ... too_new |
    --(------------------------]--->
    """
    everything: dict[str, Any] = {"last": NOW, "observable": False, "created": NOW, "covered": None}
    assert verdict_of(**everything) == "used"
    assert verdict_of(**{**everything, "last": 0}) == "unobservable"
    assert verdict_of(**{**everything, "last": 0, "observable": True}) == "too_new"
    assert verdict_of(covered=None) == "unproven"
    assert verdict_of() == "unused"


def test_used_before_the_window_is_as_if_never_used() -> None:
    assert verdict_of(last=OLD) == "unused"
    assert verdict_of(last=OLD, observable=False) == "unobservable"


# --- to the second ----------------------------------------------------------------------------------------------------


def test_the_verdict_turns_at_last_use_plus_window() -> None:
    """
    last use                 last use + 7 d
       x-------------------------|
       (----------------------]         as_of one second before: used
        (------------------------]      as_of at the second: no more
    """
    last = NOW - 12_345
    assert verdict_of(last=last, as_of=last) == "used"
    assert verdict_of(last=last, as_of=last + WEEK.seconds - 1) == "used"
    assert verdict_of(last=last, as_of=last + WEEK.seconds) == "unused"
    assert verdict_of(last=last, as_of=last + WEEK.seconds + 1) == "unused"


@pytest.mark.parametrize(("created", "expected"), [(START - 1, "unused"), (START, "unused"), (START + 1, "too_new")])
def test_a_principal_is_too_new_when_created_after_the_window_began(created: int, expected: str) -> None:
    """
      created
         |
    -----(------------------------]---> unused: it could be used in the whole window
          |
          too_new
    """
    assert verdict_of(created=created) == expected


@pytest.mark.parametrize(("born", "expected"), [(START - 1, "unused"), (START, "unused"), (START + 1, "too_new")])
def test_a_grant_is_too_new_when_it_came_after_the_window_began(born: int, expected: str) -> None:
    assert verdict_of(born=born) == expected
    assert verdict_of(born=born, created=OLD) == expected


def test_a_birth_makes_only_its_own_actions_too_new() -> None:
    grants = Granted(0b11, 0, OLD, ((NOW - 1, 0b01), (OLD, 0b11)))
    judged = judge(grants, 0, 0b11, OLD, NOW, WEEK.seconds)
    assert (judged.verdict_of(0), judged.verdict_of(1)) == ("too_new", "unused")


@pytest.mark.parametrize(
    ("covered", "expected"),
    [(None, "unproven"), (START + 1, "unproven"), (START, "unused"), (START - 1, "unused"), (NOW, "unproven")],
)
def test_coverage_must_reach_back_to_the_start_of_the_window(covered: int | None, expected: str) -> None:
    """
       covered since
         |
    -----(------------------------]---> unused
          |
          unproven
    """
    assert verdict_of(covered=covered) == expected


def test_windows_are_judged_each_by_itself() -> None:
    """
         last use
             |
    (--------+-------------]   30 d: used
                   (-------]    7 d: unused
    """
    grants = Granted(ONE, 0, 0, ())
    windows = [WEEK, Window(30)]
    gap = recompute({0: cell_used(NOW - 10 * DAY)}, grants, OLD, NOW, windows)
    found = [
        judge(grants, used, ONE, OLD, NOW, window.seconds).verdict_of(0)
        for used, window in zip(gap.used, windows, strict=True)
    ]
    assert found == ["unused", "used"]


# --- the next turn ----------------------------------------------------------------------------------------------------


def test_turns_at_the_first_lapse_age_or_filled_window() -> None:
    """
    covered   created    use
       |---------|--------|------as_of
       |-- 7 d -----------------------------| turns here first
    """
    covered, created, last = NOW - 5 * DAY, NOW - 3 * DAY, NOW - 1 * DAY
    grants = Granted(0b11, 0, created, ())
    gap = recompute({0: cell_used(last)}, grants, covered, NOW, [WEEK])
    for start in (covered, created, last):
        assert gap.turns_at == start + WEEK.seconds
        assert not advance(gap, {0: cell_used(last)}, grants, covered, gap.turns_at - 1, [WEEK])
        assert advance(gap, {0: cell_used(last)}, grants, covered, gap.turns_at, [WEEK])
    assert gap == PrincipalGap([0], FOREVER)


def test_a_use_is_taken_in_whatever_its_age() -> None:
    gap = recompute({}, None, None, NOW, [WEEK])
    assert not apply_use(gap, 3, START, NOW, [WEEK])
    assert gap == PrincipalGap([0], FOREVER)
    assert apply_use(gap, 3, START + 1, NOW, [WEEK])
    assert gap == PrincipalGap([0b1000], NOW + 1)
    assert not apply_use(gap, 3, NOW, NOW, [WEEK])
    assert gap.turns_at == NOW + 1


seconds = st.integers(NOW - 100 * DAY, NOW)
masks = st.integers(0, SMALL.all_mask)


@given(
    uses=st.lists(st.tuples(st.integers(0, SMALL.size - 1), seconds), max_size=8),
    granted=masks,
    births=st.lists(st.tuples(seconds, masks), max_size=3),
    created=st.one_of(st.just(0), seconds),
    covered=st.one_of(st.none(), seconds),
    observable=masks,
)
def test_nothing_turns_between_two_turns(
    uses: list[tuple[int, int]],
    granted: int,
    births: list[tuple[int, int]],
    created: int,
    covered: int | None,
    observable: int,
) -> None:
    """From one `turns_at` to the second before the next, all verdicts are the same; and they part what is granted."""
    cells: dict[int, Cell] = {}
    for action, last in uses:
        cells[action] = cell_used(max(last, cells[action].last if action in cells else 0))
    grants = Granted(granted, 0, created, tuple((born, mask & granted) for born, mask in births))
    windows = [WEEK, Window(30)]

    def judge_at(as_of: int) -> list[Verdicts]:
        gap = recompute(cells, grants, covered, as_of, windows)
        return [
            judge(grants, used, observable, covered, as_of, window.seconds)
            for used, window in zip(gap.used, windows, strict=True)
        ]

    as_of = NOW
    for _ in range(40):
        judged = judge_at(as_of)
        for each in judged:
            parts = [getattr(each, name) for name in VERDICTS]
            assert sum(part.bit_count() for part in parts) == granted.bit_count()
            assert sum(parts) == granted
        turn = recompute(cells, grants, covered, as_of, windows).turns_at
        if turn == FOREVER:
            assert judge_at(as_of + 1_000 * DAY) == judged
            return
        assert turn > as_of
        assert judge_at(turn - 1) == judged
        as_of = turn
    pytest.fail("the turns do not come to an end")


# --- what the log shows ------------------------------------------------------------------------------------------------


def names_observable(logging: Logging, seen: int = 0, catalogue: Catalogue = SMALL) -> set[str]:
    return set(catalogue.names_in(observable_mask(catalogue, logging, seen)))


MANAGEMENT = {
    "ec2:DescribeInstances",
    "ec2:RunInstances",
    "iam:CreateAccessKey",
    "iam:ListUsers",
    "lambda:CreateFunction",
    "s3:CreateBucket",
}
S3_DATA = {"s3:GetObject", "s3:DeleteObject"}


def test_management_events_are_observable_and_data_events_where_they_are_logged() -> None:
    assert names_observable(Logging()) == MANAGEMENT
    assert names_observable(Logging(frozenset({"s3"}))) == MANAGEMENT | S3_DATA
    assert names_observable(Logging(frozenset({"*"}))) == MANAGEMENT | S3_DATA | {"lambda:InvokeFunction"}
    assert names_observable(Logging(frozenset({"nosuch"}))) == MANAGEMENT


def test_read_only_calls_that_are_not_routed_are_unobservable() -> None:
    assert names_observable(Logging(read_only=False)) == MANAGEMENT - {"ec2:DescribeInstances", "iam:ListUsers"}


def test_an_action_that_was_seen_in_that_account_is_observable_there_only() -> None:
    nobody, builder = build_principal("nobody", "444455556666"), build_principal("builder")
    ledger = build_ledger()
    used = SMALL.ids["new:NobodyKnows"]
    ledger.apply_uses([build_use(ledger, build_session(builder), [used], NOW - 50 * DAY, 1)])
    fleet = build_fleet(SMALL, ledger, [build_holding(each, 1 << used) for each in (nobody, builder)])
    assert fleet.observable(ACCOUNT) >> used & 1
    assert not fleet.observable("444455556666") >> used & 1


def test_a_call_that_was_only_refused_shows_nothing() -> None:
    """Refused calls are no use, but they are in the log; the verdict stays on the safe side."""
    builder = build_principal("builder")
    ledger = build_ledger()
    used = SMALL.ids["new:NobodyKnows"]
    ledger.apply_uses([build_use(ledger, build_session(builder), [used], NOW, 1, DENIED)])
    fleet = build_fleet(SMALL, ledger, [build_holding(builder, 1 << used)], covered={ACCOUNT: OLD})
    (member,) = fleet.members()
    assert fleet.verdicts_of(member, fleet.gap_of(member, NOW), NOW)[0].verdict_of(used) == "unobservable"


def test_settings_are_by_account_with_one_for_all_others() -> None:
    logging = {"*": Logging(frozenset({"s3"})), ACCOUNT: Logging(read_only=False)}
    fleet = build_fleet(SMALL, build_ledger(), [], logging=logging)
    assert set(SMALL.names_in(fleet.observable(ACCOUNT))) == names_observable(logging[ACCOUNT])
    assert set(SMALL.names_in(fleet.observable("444455556666"))) == names_observable(logging["*"])


@pytest.mark.parametrize(
    ("action", "logging", "reason"),
    [
        ("s3:GetObject", Logging(), "data_events_off"),
        ("iam:ListUsers", Logging(read_only=False), "read_only_off"),
        ("support:OpenConsole", Logging(), "no_api"),
        ("iam:PassRole", Logging(), "dependent_only"),
        ("new:NobodyKnows", Logging(read_only=False), "unknown"),
    ],
)
def test_why_an_action_is_unobservable(action: str, logging: Logging, reason: str) -> None:
    assert action not in names_observable(logging)
    assert why_unobservable(SMALL, logging, SMALL.ids[action]) == reason


# --- services ---------------------------------------------------------------------------------------------------------


def test_a_service_has_the_first_verdict_that_any_of_its_grants_has() -> None:
    for at, expected in enumerate(VERDICTS):
        held = [(verdict, 1 << place if place >= at else 0) for place, verdict in enumerate(VERDICTS)]
        assert service_verdict(held, 0b11111) == expected
    assert VERDICTS == ("used", "unused", "unproven", "too_new", "unobservable")


def test_a_service_looks_at_its_own_grants_only() -> None:
    held = [("used", 0b01), ("unused", 0b10), ("unproven", 0), ("too_new", 0), ("unobservable", 0)]
    assert service_verdict(held, 0b10) == "unused"


# --- used, not granted -------------------------------------------------------------------------------------------------


def test_used_not_granted_takes_only_calls_that_succeeded() -> None:
    """
       one second outside   inside
             |                |
    ---------(----------------+------]--->
    """
    builder = build_principal("builder")
    session = build_session(builder)
    ledger = build_ledger()
    succeeded, failed, denied, outside, granted = (SMALL.ids[name] for name in FIVE)
    ledger.apply_uses(
        [
            build_use(ledger, session, [succeeded], START + 1, 1, SUCCEEDED),
            build_use(ledger, session, [failed], NOW, 2, FAILED),
            build_use(ledger, session, [denied], NOW, 3, DENIED),
            build_use(ledger, session, [outside], START, 4, SUCCEEDED),
            build_use(ledger, session, [granted], NOW, 5, FAILED),
        ]
    )
    fleet = build_fleet(SMALL, ledger, [build_holding(builder, 1 << granted)], covered={ACCOUNT: OLD})
    (said,) = build_report(fleet, ledger.tally, SMALL.names, NOW, with_actions=True)["principals"]
    assert said["windows"]["7d"]["used_not_granted"] == 1
    assert said["windows"]["30d"]["used_not_granted"] == 2
    # A call that failed after it was authorised is a use for the gap.
    assert said["grants"][SMALL.names[granted]]["verdict"] == {"7d": "used", "30d": "used"}


# --- risk -------------------------------------------------------------------------------------------------------------


def test_a_path_is_an_escalation_only_where_it_is_held_whole() -> None:
    whole = mask_of(SMALL, "iam:PassRole", "lambda:CreateFunction", "s3:CreateBucket")
    half = mask_of(SMALL, "lambda:CreateFunction", "s3:CreateBucket")
    function = SMALL.ids["lambda:CreateFunction"]
    assert SMALL.risks_of(function, SMALL.escalation_mask(whole)) == ["privilege_escalation"]
    assert SMALL.risks_of(function, SMALL.escalation_mask(half)) == []
    assert count_risks(SMALL, half, SMALL.escalation_mask(half)) == {}
    assert count_risks(SMALL, whole, SMALL.escalation_mask(whole)) == {
        "privilege_escalation": 2,
        "permissions_management": 1,
    }


def test_every_path_of_the_catalogue_is_a_combination() -> None:
    catalogue = load_catalogue()
    assert catalogue.paths
    for path in catalogue.paths:
        assert path.mask.bit_count() > 1
        for left_out in ids_in(path.mask):
            held = path.mask & ~(1 << left_out)
            others = [each for each in catalogue.paths if held & each.mask == each.mask]
            new = catalogue.escalation_mask(held) & ~catalogue.risk_masks["privilege_escalation"]
            assert new == 0 or others
        assert catalogue.escalation_mask(path.mask) & path.mask == path.mask


def test_risk_classes_without_an_action_are_left_out() -> None:
    assert count_risks(SMALL, mask_of(SMALL, "s3:GetObject"), 0) == {"data_access": 1}
    assert count_risks(SMALL, 0, SMALL.all_mask) == {}


# --- the gap's index --------------------------------------------------------------------------------------------------


@given(granted=masks, used=masks, observable=masks, covered=st.sampled_from((None, OLD)))
def test_gap_index_is_0_exactly_when_nothing_is_unused(
    granted: int, used: int, observable: int, covered: int | None
) -> None:
    judged = judge(Granted(granted, 0, 0, ()), used, observable, covered, NOW, WEEK.seconds)
    index = gap_index(SMALL, judged, granted, SMALL.escalation_mask(granted))
    assert 0 <= index <= 100
    assert (index == 0) == (judged.unused == 0)
    if judged.unused and judged.unused == granted & ~judged.unobservable:
        assert index == 100


def test_gap_index_of_one_unused_action_of_an_administrator_is_not_0() -> None:
    catalogue = load_catalogue()
    granted = catalogue.all_mask
    unused = mask_of(catalogue, "ec2:DescribeInstances")
    judged = Verdicts(granted & ~unused, unused, 0, 0, 0)
    assert gap_index(catalogue, judged, granted, catalogue.escalation_mask(granted)) > 0


def test_gap_index_weighs_by_risk() -> None:
    granted = mask_of(SMALL, "iam:CreateAccessKey", "iam:ListUsers")
    escalation = SMALL.escalation_mask(granted)
    dangerous, harmless = mask_of(SMALL, "iam:CreateAccessKey"), mask_of(SMALL, "iam:ListUsers")
    high = gap_index(SMALL, Verdicts(harmless, dangerous, 0, 0, 0), granted, escalation)
    low = gap_index(SMALL, Verdicts(dangerous, harmless, 0, 0, 0), granted, escalation)
    assert high > 95
    assert low < 5
    assert set(RISKS) >= set(count_risks(SMALL, granted, escalation))
