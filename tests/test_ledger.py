"""Uses -> usage, from records on: duplicates, refusals, days, late uses and facets."""

import json
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from building import ACCOUNT, DAY, ROLE, ROLE_ID, build_record
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.core.actions import ActionMap, ActionRules
from processor.core.catalogue import build_catalogue
from processor.core.count_loop import REGION_BITS
from processor.core.facets import FACET_CHARS_MAX, FACETS_MAX, OPERATOR, RESOURCE, VIA
from processor.core.horizon import Horizon
from processor.core.ledger import Ledger
from processor.core.records import TIME_MAX
from processor.core.sessions import Scope, key_of, shard_of
from processor.core.stream import decode_stream
from processor.core.usage import NEVER, NOT_YET, Cell, PrincipalUsage
from processor.pipeline import Pipeline

NAMES = ("ec2:DescribeInstances", "ec2:RunInstances", "s3:GetObject")
CATALOGUE = build_catalogue("three", [(name, "Write") for name in NAMES], {}, {}, [])
ACTIONS = ActionMap(CATALOGUE, ActionRules({}, (), ()))
NOON = 20_500 * DAY + DAY // 2
HOUR = 3_600


def build_pipeline(horizon: Horizon | None = None, until: int = TIME_MAX) -> Pipeline:
    return Pipeline(ACTIONS, Scope(), {}, Horizon() if horizon is None else horizon, until=until)


def feed(pipeline: Pipeline, records: Iterable[Any]) -> Pipeline:
    for decoded in decode_stream([b"".join(json.dumps(record).encode() + b"\n" for record in records)]):
        pipeline.feed(decoded)
    return pipeline


def apply(*records: Any, **options: Any) -> Pipeline:
    """A pipeline that has read some records."""
    return feed(build_pipeline(**options), records)


def classes_of(pipeline: Pipeline) -> dict[str, int]:
    return {name: count for name, count in pipeline.tally.classes.items() if count}


def usage_of(pipeline: Pipeline, arn: str = ROLE) -> PrincipalUsage:
    """The usage of the one principal with an ARN."""
    (found,) = (usage for usage in pipeline.ledger.principals.values() if usage.principal.arn == arn)
    return found


def cell_of(pipeline: Pipeline, name: str = NAMES[0], arn: str = ROLE) -> Cell:
    return usage_of(pipeline, arn).cells[CATALOGUE.ids[name]]


def days_of(ledger: Ledger, usage: PrincipalUsage) -> dict[tuple[int, str], int]:
    """Uses by (day, action): the cells' newest days, the days that are over, and what is added late."""
    days: Counter[tuple[int, str]] = Counter()
    names = {cell.index: NAMES[cell.action] for cell in usage.cells.values()}
    for index, day, count, whole in ledger.days.read(names):
        assert not (whole and (day, names[index]) in days), "a day that is over is over once"
        days[day, names[index]] += count
    for cell in usage.cells.values():
        if cell.day_count:
            days[cell.day, NAMES[cell.action]] += cell.day_count
    return dict(days)


def days_of_builder(pipeline: Pipeline) -> dict[tuple[int, str], int]:
    return days_of(pipeline.ledger, usage_of(pipeline))


def call_as(role: str, number: int, time: int, **changes: Any) -> dict[str, Any]:
    """A call by another role than the builder."""
    record = build_record(number, time, **changes)
    record["userIdentity"] = {
        "type": "AssumedRole",
        "principalId": f"AROA{role}:ann",
        "accountId": ACCOUNT,
        "sessionContext": {
            "sessionIssuer": {
                "principalId": f"AROA{role}",
                "arn": f"arn:aws:iam::{ACCOUNT}:role/{role}",
                "type": "Role",
            }
        },
    }
    return record


def call_by(operator: str, number: int, time: int, **changes: Any) -> dict[str, Any]:
    """A call by the builder in another session."""
    record = build_record(number, time, **changes)
    record["userIdentity"]["principalId"] = f"{ROLE_ID}:{operator}"
    return record


# --- duplicates --------------------------------------------------------------------------------------------------------


def test_one_event_in_two_trails_is_one_use() -> None:
    record = build_record(1, NOON)
    pipeline = apply(record, record, build_record(2, NOON), record)
    assert classes_of(pipeline) == {"use": 2, "duplicate": 2}
    assert cell_of(pipeline).count == 2


def test_one_call_logged_in_two_accounts_is_one_use() -> None:
    """The copies bear one sharedEventID and eventIDs of their own."""
    own = build_record(1, NOON, sharedEventID="shared-1")
    other = build_record(2, NOON, sharedEventID="shared-1", recipientAccountId="444455556666")
    pipeline = apply(own, other)
    assert classes_of(pipeline) == {"use": 1, "duplicate": 1}


def test_shared_id_that_is_empty_or_null_is_none() -> None:
    records = [build_record(number, NOON, sharedEventID=shared) for number, shared in enumerate(["", "", None, None])]
    assert classes_of(apply(*records)) == {"use": 4}


def test_one_event_of_two_principals_is_two_uses() -> None:
    pipeline = apply(build_record(1, NOON), call_as("other", 1, NOON), call_as("other", 1, NOON))
    assert classes_of(pipeline) == {"use": 2, "duplicate": 1}
    assert cell_of(pipeline, arn=f"arn:aws:iam::{ACCOUNT}:role/other").count == 1


def test_role_created_anew_is_another_principal() -> None:
    anew = build_record(1, NOON)
    anew["userIdentity"]["principalId"] = "AROANEW:ann"
    anew["userIdentity"]["sessionContext"]["sessionIssuer"]["principalId"] = "AROANEW"
    pipeline = apply(build_record(1, NOON), anew)
    assert classes_of(pipeline) == {"use": 2}
    assert {usage.principal.unique_id for usage in pipeline.ledger.principals.values()} == {ROLE_ID, "AROANEW"}


def test_duplicate_of_a_refusal_is_no_refusal() -> None:
    record = build_record(1, NOON, errorCode="AccessDenied")
    pipeline = apply(record, record)
    assert classes_of(pipeline) == {"denied": 1, "duplicate": 1}
    assert cell_of(pipeline).denied == 1


def test_sessions_of_one_role_share_its_usage() -> None:
    pipeline = apply(call_by("ann", 1, NOON), call_by("bob", 2, NOON), call_by("bob", 1, NOON))
    assert classes_of(pipeline) == {"use": 2, "duplicate": 1}
    assert sorted(cell_of(pipeline).read_facets().operators) == ["ann", "bob"]


# --- outcomes ----------------------------------------------------------------------------------------------------------


def test_refused_call_is_never_use() -> None:
    cell = cell_of(apply(build_record(1, NOON, errorCode="Client.UnauthorizedOperation")))
    assert (cell.count, cell.denied, cell.first, cell.last) == (0, 1, NOT_YET, NEVER)
    assert (cell.first_success, cell.last_success, cell.day_count) == (NOT_YET, NEVER, 0)


def test_refusals_move_no_time_of_a_use() -> None:
    refused = [build_record(number, NOON + at, errorCode="AccessDenied") for number, at in ((1, -DAY), (2, DAY))]
    cell = cell_of(apply(refused[0], build_record(3, NOON), refused[1]))
    assert (cell.count, cell.denied, cell.first, cell.last, cell.day) == (1, 2, NOON, NOON, NOON // DAY)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2), (2, 3, 0, 1)])
def test_failed_call_is_use_but_no_success(order: tuple[int, ...]) -> None:
    """
        failed   succeeded   succeeded   failed
    ------x----------o-----------o---------x------> event time
    """
    records = [
        build_record(1, NOON - 20, errorCode="ValidationException"),
        build_record(2, NOON - 10),
        build_record(3, NOON + 10),
        build_record(4, NOON + 20, errorCode="Client.DryRunOperation"),
    ]
    cell = cell_of(apply(*(records[at] for at in order)))
    assert (cell.count, cell.denied) == (4, 0)
    assert (cell.first, cell.first_success, cell.last_success, cell.last) == (
        NOON - 20,
        NOON - 10,
        NOON + 10,
        NOON + 20,
    )


def test_action_that_only_failed_never_succeeded() -> None:
    cell = cell_of(apply(build_record(1, NOON, errorCode="NoSuchEntity")))
    assert (cell.count, cell.first, cell.last, cell.first_success, cell.last_success) == (1, NOON, NOON, NOT_YET, NEVER)


# --- days --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
def test_days_end_at_midnight_utc(order: int) -> None:
    midnight = 20_500 * DAY
    times = [midnight - DAY, midnight - 1, midnight, midnight + DAY - 1, midnight + DAY]
    pipeline = apply(*(build_record(number, time) for number, time in enumerate(times[::order])))
    assert days_of_builder(pipeline) == {(20_499, NAMES[0]): 2, (20_500, NAMES[0]): 2, (20_501, NAMES[0]): 1}


def test_days_of_actions_are_apart() -> None:
    records = [
        build_record(1, NOON),
        build_record(2, NOON + DAY, eventName="RunInstances"),
        build_record(3, NOON + DAY),
    ]
    assert days_of_builder(apply(*records)) == {
        (20_500, NAMES[0]): 1,
        (20_501, NAMES[0]): 1,
        (20_501, NAMES[1]): 1,
    }


def test_only_changed_days_are_to_be_stored() -> None:
    pipeline = apply(build_record(1, NOON), build_record(2, NOON + DAY))
    days = pipeline.ledger.days
    row = cell_of(pipeline).index
    assert [column.tolist() for column in days.take()] == [[row], [20_500], [1]]
    feed(pipeline, [build_record(3, NOON), build_record(4, NOON + DAY)])
    assert [column.tolist() for column in days.take()] == [[row], [20_500], [2]]
    assert [column.tolist() for column in days.take()] == [[], [], []]


def test_who_is_new_is_written_once() -> None:
    pipeline = apply(build_record(1, NOON), build_record(2, NOON, eventName="RunInstances"), call_as("other", 3, NOON))
    changed = list(pipeline.ledger.take_dirty())
    assert sorted(usage.principal.arn.rpartition("/")[2] for usage in changed) == ["builder", "other"]
    assert sorted(len(usage.dirty) for usage in changed) == [1, 2]


# --- late uses ---------------------------------------------------------------------------------------------------------


def test_use_behind_the_horizon_moves_times_but_no_count() -> None:
    """
      late      oldest kept       newest
    ---x-------------[---------------o---> event time
    """
    pipeline = apply(build_record(1, NOON), horizon=Horizon(HOUR, 2))
    feed(pipeline, [build_record(2, NOON - 10 * HOUR), build_record(2, NOON - 10 * HOUR)])
    cell = cell_of(pipeline)
    assert (cell.count, cell.first, cell.first_success, cell.last) == (1, NOON - 10 * HOUR, NOON - 10 * HOUR, NOON)
    assert pipeline.tally.late == 2
    assert pipeline.tally.read == 3
    assert days_of_builder(pipeline) == {(20_500, NAMES[0]): 1}


def test_late_use_of_a_new_action_is_its_last_use() -> None:
    pipeline = apply(build_record(1, NOON), horizon=Horizon(HOUR, 2))
    feed(pipeline, [build_record(2, NOON - DAY, eventName="RunInstances")])
    cell = cell_of(pipeline, NAMES[1])
    assert (cell.count, cell.first, cell.last, cell.last_success) == (0, NOON - DAY, NOON - DAY, NOON - DAY)
    feed(pipeline, [build_record(3, NOON - 3 * DAY, eventName="RunInstances", errorCode="NoSuchEntity")])
    cell = cell_of(pipeline, NAMES[1])
    assert (cell.count, cell.first, cell.first_success, cell.last) == (0, NOON - 3 * DAY, NOON - DAY, NOON - DAY)
    assert pipeline.tally.late == 2


def test_late_refusal_leaves_no_trace_but_its_class() -> None:
    pipeline = apply(build_record(1, NOON), horizon=Horizon(HOUR, 2))
    feed(pipeline, [build_record(2, NOON - DAY, eventName="RunInstances", errorCode="AccessDenied")])
    assert classes_of(pipeline) == {"use": 1, "denied": 1}
    cell = usage_of(pipeline).cells.get(CATALOGUE.ids[NAMES[1]])
    assert cell is None or (cell.count, cell.first, cell.last) == (0, NOT_YET, NEVER)


def test_late_use_does_not_spoil_the_days_that_follow() -> None:
    pipeline = apply(build_record(1, NOON, eventName="RunInstances"), horizon=Horizon(HOUR, 2))
    feed(
        pipeline,
        [build_record(2, NOON - DAY), build_record(3, NOON), build_record(4, NOON + 1), build_record(5, NOON + DAY)],
    )
    assert cell_of(pipeline).count == 3
    assert days_of_builder(pipeline) == {(20_500, NAMES[1]): 1, (20_500, NAMES[0]): 2, (20_501, NAMES[0]): 1}


def test_batch_is_never_late() -> None:
    pipeline = apply(build_record(1, NOON), build_record(2, NOON - 400 * DAY), build_record(2, NOON - 400 * DAY))
    assert classes_of(pipeline) == {"use": 2, "duplicate": 1}
    assert pipeline.tally.late == 0
    assert cell_of(pipeline).count == 2


# --- until -------------------------------------------------------------------------------------------------------------


def test_uses_after_until_count_in_classes_only() -> None:
    later = [build_record(2, NOON + 1), build_record(2, NOON + 1), build_record(3, NOON + 1, errorCode="AccessDenied")]
    pipeline = apply(build_record(1, NOON), *later, call_as("other", 4, NOON + 1), until=NOON)
    assert classes_of(pipeline) == {"use": 3, "denied": 1, "duplicate": 1}
    cell = cell_of(pipeline)
    assert (cell.count, cell.denied, cell.last) == (1, 0, NOON)
    assert len(pipeline.ledger.principals) == 1
    assert pipeline.ledger.beyond_until == 3


# --- facets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [0, 1, 30])
def test_facets_are_bounded_and_marked(extra: int) -> None:
    count = FACETS_MAX + extra
    records = []
    for number in range(count):
        record = call_by(
            f"op-{number}", number, NOON, resources=[{"ARN": f"arn:aws:s3:::b{number}"}, {"ARNPrefix": "x"}]
        )
        record["userIdentity"]["invokedBy"] = f"s{number}.amazonaws.com"
        records.append(record)
    cell = cell_of(apply(*records, *records))
    found = cell.read_facets()
    for facet, kept, first in (
        (OPERATOR, found.operators, "op-0"),
        (RESOURCE, found.resources, "arn:aws:s3:::b0"),
        (VIA, found.vias, "s0.amazonaws.com"),
    ):
        assert len(kept) == len(set(kept)) == FACETS_MAX
        assert kept[0] == first
        assert bool(found.overflow >> facet & 1) == (extra > 0)
    assert cell.count == count


def test_regions_of_uses_are_kept_and_bounded() -> None:
    assert cell_of(apply(*(build_record(n, NOON, awsRegion=f"r-{n % 3}") for n in range(9)))).read_facets().regions == [
        "r-0",
        "r-1",
        "r-2",
    ]
    cell = cell_of(apply(*(build_record(n, NOON, awsRegion=f"r-{n}") for n in range(FACETS_MAX + 1))))
    assert len(cell.read_facets().regions) == FACETS_MAX
    assert cell.read_facets().overflow


def test_regions_beyond_those_that_have_a_bit_are_kept_and_bounded_as_well() -> None:
    calls = [call_as(f"role-{n}", n, NOON, awsRegion=f"r-{n}") for n in range(REGION_BITS + 9)]
    again = [call_as(f"role-{n}", 1_000 + n, NOON + 1, awsRegion=f"r-{n}") for n in range(REGION_BITS + 9)]
    many = [call_as("role-70", 2_000 + n, NOON + 2, awsRegion=f"r-{n}") for n in range(55, REGION_BITS + 9)]
    pipeline = apply(*calls)
    for each in pipeline.ledger.principals.values():
        for cell in each.cells.values():
            cell.fresh = ()
    feed(pipeline, again)
    feed(pipeline, many)
    for usage in pipeline.ledger.principals.values():
        number = int(usage.principal.arn.rpartition("-")[2])
        found = usage.cells[0].read_facets()
        if number != 70:
            assert found.regions == [], "one that was met is not handed out again"
        else:
            # With r-70, which was met before, that is one more than are kept: the last stands for all that are not.
            assert found.regions == [*(f"r-{n}" for n in range(55, 70)), "r-71"]


def test_refusals_leave_no_facets() -> None:
    cell = cell_of(apply(build_record(1, NOON, errorCode="AccessDenied", resources=[{"ARN": "arn:aws:s3:::b"}])))
    assert cell.read_facets() == ([], [], [], [], 0)


def test_long_facets_are_cut() -> None:
    cell = cell_of(
        apply(
            build_record(1, NOON, resources=[{"ARN": "a" * 10_000}]),
            build_record(2, NOON, resources=[{"ARN": "a" * 9_999}]),
        )
    )
    assert cell.read_facets().resources == ["a" * FACET_CHARS_MAX]
    assert cell.read_facets().overflow == 0


# --- what a flush must write -------------------------------------------------------------------------------------------


def test_changed_principals_and_cells_are_dirty_once() -> None:
    pipeline = apply(build_record(1, NOON), build_record(2, NOON), build_record(3, NOON, eventName="RunInstances"))
    (usage,) = set(pipeline.ledger.take_dirty())
    assert sorted(usage.dirty) == [0, 1]
    assert list(pipeline.ledger.take_dirty()) == []
    for cell in usage.cells.values():
        cell.dirty = False
    usage.dirty.clear()
    feed(pipeline, [build_record(2, NOON)])
    assert list(pipeline.ledger.take_dirty()) == [], "a duplicate changes nothing"
    feed(pipeline, [build_record(4, NOON, errorCode="AccessDenied")])
    (again,) = pipeline.ledger.take_dirty()
    assert again.dirty == [0]


def test_principals_are_spread_over_shards_by_their_key() -> None:
    pipeline = apply(*(call_as(f"role-{number}", number, NOON) for number in range(500)))
    for key, usage in pipeline.ledger.principals.items():
        assert key == key_of(usage.principal)
        assert (usage.key, usage.shard) == (key.to_bytes(8, "big"), shard_of(key))
    assert len({usage.shard for usage in pipeline.ledger.principals.values()}) == 64


# --- any order ---------------------------------------------------------------------------------------------------------

EVENT_NAMES = ("DescribeInstances", "RunInstances")
CALLS = st.tuples(
    st.integers(NOON - 4 * DAY, NOON + 4 * DAY),
    st.sampled_from(EVENT_NAMES),
    st.sampled_from([None, None, "AccessDenied", "NoSuchEntity"]),
    st.sampled_from(["builder", "other"]),
    st.sampled_from(["eu-central-1", "us-east-1"]),
)


def write_calls(calls: list[tuple[int, str, str | None, str, str]]) -> list[dict[str, Any]]:
    return [
        call_as(role, number, time, eventName=name, errorCode=code, awsRegion=region)
        for number, (time, name, code, role, region) in enumerate(calls)
    ]


def sum_up(pipeline: Pipeline) -> Any:
    """All that a ledger says of its principals, in a form that can be compared."""
    return {
        usage.principal: (
            days_of(pipeline.ledger, usage),
            {
                cell.action: (
                    cell.count,
                    cell.denied,
                    cell.first,
                    cell.last,
                    cell.first_success,
                    cell.last_success,
                    set(cell.read_facets().regions),
                )
                for cell in usage.cells.values()
            },
        )
        for usage in pipeline.ledger.principals.values()
    }


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(CALLS, max_size=40), seed=st.integers(0, 10**6), copies=st.integers(1, 3))
def test_any_order_gives_the_same_usage(calls: list[Any], seed: int, copies: int) -> None:
    records = write_calls(calls)
    shuffled = records * copies
    random.Random(seed).shuffle(shuffled)
    one, other = apply(*records), apply(*shuffled)
    assert sum_up(one) == sum_up(other)
    assert other.tally.classes["duplicate"] == len(records) * (copies - 1)
    assert {name: one.tally.classes[name] for name in ("use", "denied")} == {
        name: other.tally.classes[name] for name in ("use", "denied")
    }


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(CALLS, max_size=40))
def test_usage_is_what_plain_counting_says(calls: list[Any]) -> None:
    pipeline = apply(*write_calls(calls))
    used: dict[tuple[str, str], list[int]] = {}
    denied: Counter[tuple[str, str]] = Counter()
    days: Counter[tuple[str, int, str]] = Counter()
    for time, name, code, role, _ in calls:
        if code == "AccessDenied":
            denied[role, f"ec2:{name}"] += 1
        else:
            used.setdefault((role, f"ec2:{name}"), []).append(time)
            days[role, time // DAY, f"ec2:{name}"] += 1
    found_days: Counter[tuple[str, int, str]] = Counter()
    for usage in pipeline.ledger.principals.values():
        role = usage.principal.arn.rpartition("/")[2]
        found_days.update({(role, day, name): count for (day, name), count in days_of(pipeline.ledger, usage).items()})
        for cell in usage.cells.values():
            times = used.pop((role, NAMES[cell.action]), [])
            assert (cell.count, cell.denied) == (len(times), denied.pop((role, NAMES[cell.action]), 0))
            assert (cell.first, cell.last) == ((min(times), max(times)) if times else (NOT_YET, NEVER))
    assert (used, +denied, found_days) == ({}, Counter(), days)


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(CALLS, min_size=1, max_size=40), seed=st.integers(0, 10**6))
def test_a_narrow_horizon_never_counts_more_nor_loses_a_time(calls: list[Any], seed: int) -> None:
    """Late or not, first and last use are those of all uses; counts are at most those of all uses."""
    records = write_calls(calls) * 2
    random.Random(seed).shuffle(records)
    wide, narrow = apply(*records), apply(*records, horizon=Horizon(HOUR, 2))
    for key, usage in wide.ledger.principals.items():
        for action, cell in usage.cells.items():
            if not cell.count:
                continue
            found = narrow.ledger.principals[key].cells[action]
            assert found.count <= cell.count
            assert (found.first, found.last) == (cell.first, cell.last)
            assert (found.first_success, found.last_success) == (cell.first_success, cell.last_success)
    assert narrow.tally.read == len(records)
