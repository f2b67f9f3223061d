"""The class of a record, by golden cases in the order of the contract, and what an intake remembers.

A case: `input` is laid over a plain call by a role, `without` taken away; `settings` are `only`, `skip`, `service_linked`,
`known` (unique ids that an inventory has), `future` (the latest time) and `twice` (the class of the second of two).
"""

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from building import ACCOUNT, ROLE, build_record
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.core import first_sight
from processor.core import memory as memory_module
from processor.core.actions import ActionMap
from processor.core.horizon import Horizon
from processor.core.principals import Principal
from processor.core.records import TIME_MAX, parse_time
from processor.core.sessions import Scope
from processor.core.stream import decode_stream
from processor.core.tally import CLASSES, OTHERS, UNMAPPED_MAX
from processor.pipeline import Pipeline
from processor.shell.tables import load_action_rules, load_catalogue

START = 1_772_323_200
CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "cases" / "classes.json").read_bytes())
ACTIONS = ActionMap(load_catalogue(), load_action_rules())
PLANTED = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def build_pipeline(asked: Mapping[str, Any] | None = None, until: int = TIME_MAX) -> Pipeline:
    asked = asked or {}
    scope = Scope(tuple(asked.get("only", ())), tuple(asked.get("skip", ())), asked.get("service_linked", False))
    known = {unique_id: Principal(ROLE, unique_id, ACCOUNT, "role") for unique_id in asked.get("known", ())}
    pipeline = Pipeline(ACTIONS, scope, known, Horizon(), until=until)
    if "future" in asked:
        pipeline.intake.future = parse_time(asked["future"]) or 0
    return pipeline


def build_input(case: Mapping[str, Any], number: int = 1) -> dict[str, Any]:
    record = {**build_record(number, START), **case["input"]}
    return {key: value for key, value in record.items() if key not in case.get("without", ())}


def feed(pipeline: Pipeline, *streams: bytes) -> dict[str, int]:
    """Feed streams; returns the classes that count anything."""
    for stream in streams:
        for decoded in decode_stream([stream]):
            pipeline.feed(decoded)
    return {name: count for name, count in pipeline.tally.classes.items() if count}


def dump_lines(records: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


# --- classes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_record_ends_in_its_class(case: dict[str, Any]) -> None:
    asked = case.get("settings", {})
    record = build_input(case)
    text = json.dumps(record).encode()
    event = {"version": "0", "detail-type": "AWS API Call via CloudTrail", "detail": record}
    for stream in (text, b'{"Records":[' + text + b"]}", json.dumps(event).encode()):
        pipeline = build_pipeline(asked)
        if asked.get("twice"):
            feed(pipeline, stream)
            before = dict(pipeline.tally.classes)
            feed(pipeline, stream)
            assert pipeline.tally.classes[case["expected"]] - before[case["expected"]] == 1
            assert pipeline.tally.read == 2
        else:
            assert feed(pipeline, stream) == {case["expected"]: 1}
        assert sum(pipeline.tally.rejected.values()) == pipeline.tally.classes["rejected"]
        assert len(pipeline.intake.rejects) == pipeline.tally.classes["rejected"]


def test_every_class_has_cases_and_names_are_unique() -> None:
    assert {case["expected"] for case in CASES} == set(CLASSES)
    names = [case["name"] for case in CASES]
    assert len(set(names)) == len(names)


def test_neighbours_change_no_class() -> None:
    """All cases without settings in one stream, in several orders: each counts as it does alone."""
    plain = [case for case in CASES if "settings" not in case]
    expected = {name: sum(case["expected"] == name for case in plain) for name in CLASSES}
    records = [build_input(case, number) for number, case in enumerate(plain, 1)]
    rng = random.Random(5)
    for _ in range(5):
        rng.shuffle(records)
        for stream in (dump_lines(records), json.dumps({"Records": records}).encode(), json.dumps(records).encode()):
            assert feed(build_pipeline(), stream) == {name: count for name, count in expected.items() if count}


@pytest.mark.parametrize(
    ("stream", "reasons"),
    [
        (b"no json\n", {"undecodable": 1}),
        (b"7\n", {"not_an_object": 1}),
        (b'["x", null, 5]', {"not_an_object": 3}),
        (b'{"Records":[{"s3":{}}]}', {"notification": 1}),
        (b'{"version":"0","detail-type":"x","detail":{"bucket":{}}}', {"notification": 1}),
        (b'{"Service":"Amazon S3","Event":"s3:TestEvent"}', {"notification": 1}),
        (b'{"eventVersion":"1.08"}', {"no_eventID": 1}),
        (
            b'{"messageType":"DATA_MESSAGE","logEvents":[{"id":"1"},{"message":"{"}]}',
            {"no_message": 1, "undecodable": 1},
        ),
    ],
)
def test_what_is_no_record_is_rejected_with_a_reason(stream: bytes, reasons: dict[str, int]) -> None:
    pipeline = build_pipeline()
    assert feed(pipeline, stream) == {"rejected": sum(reasons.values())}
    assert pipeline.tally.rejected == reasons


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(range(len(CASES))), max_size=30))
def test_classes_add_up_to_what_was_read(picked: list[int]) -> None:
    records = [build_input(CASES[at], number) for number, at in enumerate(picked)]
    pipeline = build_pipeline()
    feed(pipeline, dump_lines(records))
    assert pipeline.tally.read == len(records)
    assert sum(pipeline.tally.rejected.values()) == pipeline.tally.classes["rejected"]
    assert sum(pipeline.tally.unmapped.values()) == pipeline.tally.classes["unmapped"]


# --- what is remembered ------------------------------------------------------------------------------------------------


def build_mix(count: int, seed: int) -> list[dict[str, Any]]:
    """Calls of several roles, sessions, regions, outcomes and parameters, some of them twice."""
    rng = random.Random(seed)
    records = []
    for number in range(count):
        role, name = rng.randrange(6), rng.choice(["DescribeInstances", "RunInstances", "GetObject", "NoSuchCall"])
        arn, unique_id = f"arn:aws:iam::{ACCOUNT}:role/r{role}", f"AROA{role}"
        passed = {"iamInstanceProfile": {"arn": f"arn:aws:iam::{ACCOUNT}:instance-profile/x"}}
        record = build_record(
            number if rng.random() < 0.9 else rng.randrange(count),
            START + rng.randrange(3 * 86_400),
            eventName=name,
            eventSource="s3.amazonaws.com" if name == "GetObject" else "ec2.amazonaws.com",
            awsRegion=rng.choice(["eu-central-1", "us-east-1", None]),
            errorCode=rng.choice([None, None, "AccessDenied", "NoSuchKey"]),
            requestParameters=rng.choice([None, {}, passed]),
            recipientAccountId=rng.choice([ACCOUNT, "444455556666", None]),
        )
        record["userIdentity"]["principalId"] = f"{unique_id}:s{rng.randrange(4)}"
        record["userIdentity"]["sessionContext"]["sessionIssuer"] = {
            "type": "Role",
            "principalId": unique_id,
            "arn": arn,
        }
        records.append(record)
    return records


def sum_up(pipeline: Pipeline) -> Any:
    """All that a pipeline knows, in a form that can be compared."""
    cells = {
        (usage.principal, cell.action): (
            cell.count, cell.denied, cell.first, cell.last, cell.first_success, cell.last_success,
            *map(sorted, cell.read_facets()[:4]),
        )
        for usage in pipeline.ledger.principals.values()
        for cell in usage.cells.values()
    }  # fmt: skip
    tally = pipeline.tally
    return cells, tally.classes, tally.rejected, tally.unmapped, tally.newest, tally.second_newest, tally.accounts


@pytest.mark.parametrize("seed", range(5))
def test_a_full_memory_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered only saves time: with hardly any room for it the outcome is the same."""
    stream = dump_lines(build_mix(600, seed))
    roomy, tight = build_pipeline(), build_pipeline()
    feed(roomy, stream)
    for bound in ("SESSIONS_MAX", "CALLS_MAX", "SHAPES_MAX", "PLACES_MAX", "CALLERS"):
        monkeypatch.setattr(memory_module, bound, 2)
    feed(tight, stream)
    assert sum_up(roomy) == sum_up(tight)


@pytest.mark.parametrize("seed", range(5))
def test_slices_change_nothing(seed: int) -> None:
    records = build_mix(300, seed)
    whole, single = build_pipeline(), build_pipeline()
    feed(whole, dump_lines(records))
    feed(single, *(dump_lines([record]) for record in records))
    assert sum_up(whole) == sum_up(single)


ISSUERS = (
    *(
        b'{"type":"Role","principalId":"AROA%d","arn":"arn:aws:iam::%d:role/r%d"}' % (n, int(ACCOUNT), n)
        for n in (1, 2)
    ),
    *(
        b'{"type":"Role","principalId":"AROA1"}',
        b'{"type":"User","arn":"arn:aws:iam::%d:user/u"}' % int(ACCOUNT),
        b"null",
        b"7",
    ),
)
MEMBERS = {
    b"type": (
        b'"AssumedRole"',
        b'"AssumedRole"',
        b'"WebIdentityUser"',
        b'"IAMUser"',
        b'"FederatedUser"',
        b'"Role"',
        b"null",
    ),
    b"principalId": (
        *(
            b'"AROA1:ann"',
            b'"AROA1:bob"',
            b'"AROA1:b:c"',
            b'"AROA1"',
            b'"AROA1:"',
            b'":ann"',
            b'""',
            b'"AROA2:ann"',
            b"5",
            b"null",
        ),
        *(b'"AROA1:\\u0062ob"', '"AROA1:bób"'.encode(), b'"AROA1:b\xff"', b'"AROA1\\u003aann"'),
    ),
    b"principal\\u0049d": (b'"AROA1:eve"',),
    b"arn": (
        *(
            b'"arn:aws:sts::%d:assumed-role/r1/%s"' % (int(ACCOUNT), name)
            for name in (b"ann", b"b\xff", "ó".encode(), b"\\/x")
        ),
        *(b'"arn:aws:iam::%d:user/u"' % int(ACCOUNT), b"null", b"[]"),
    ),
    b"accountId": (b'"%d"' % int(ACCOUNT), b'"444455556666"', b"4"),
    b"accessKeyId": (b'"ASIA1"', b'"ASIA2"'),
    b"invokedBy": (b'"ec2.amazonaws.com"', b'"AWS Internal"', b"null"),
    b"sessionContext": (
        *(
            b'{"attributes":{"creationDate":"%d"},"sessionIssuer":%s}' % (n, issuer)
            for n in (1, 2)
            for issuer in ISSUERS
        ),
        *(b'{"sessionIssuer":%s,"attributes":{}}' % issuer for issuer in ISSUERS),
        *(b'{"sessionIssue\\u0072":%s}' % ISSUERS[0], b"{}", b"null", b'"x"'),
    ),
}
"""What a userIdentity may hold, and where it matters to who calls."""


@st.composite
def user_identities(draw: st.DrawFn) -> bytes:
    """Mostly a role's session; now and then with members that are odd, lack, or are there twice."""
    names = [name for name in MEMBERS if name != b"principal\\u0049d" and draw(st.integers(0, 9))]
    if not draw(st.integers(0, 5)):
        names += draw(st.lists(st.sampled_from(list(MEMBERS)), max_size=2))
    names = draw(st.permutations(names)) if draw(st.booleans()) else names
    plain = draw(st.booleans())
    picked = [
        MEMBERS[name][draw(st.integers(0, 1 if plain else len(MEMBERS[name]) - 1)) % len(MEMBERS[name])]
        for name in names
    ]
    space = draw(st.sampled_from((b"", b" ")))
    members = (b'"%s":%s%s' % (name, space, value) for name, value in zip(names, picked, strict=True))
    return b"{" + b",".join(members) + space + b"}"


def feed_callers(identities: Iterable[bytes], bound: int, *, apart: bool) -> Any:
    """What a pipeline knows that was fed a call by each; `bound`: how many sessions it remembers."""
    lines = []
    for number, identity in enumerate(identities):
        record = json.dumps({**build_record(number, START), "userIdentity": 0}).encode()
        lines.append(record.replace(b'"userIdentity": 0', b'"userIdentity":' + identity) + b"\n")
    pipeline = build_pipeline({"known": ["AROA1"]})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(memory_module, "SESSIONS_MAX", bound)
        feed(pipeline, *(lines if apart else [b"".join(lines)]))
    return sum_up(pipeline)


@settings(max_examples=100, deadline=None)
@given(st.lists(user_identities(), min_size=2, max_size=25))
def test_sessions_that_differ_by_name_are_as_if_each_was_read(identities: list[bytes]) -> None:
    """The loop opens a session that is as another but for its name; with no memory each is decoded."""
    expected = feed_callers(identities, -1, apart=True)
    assert feed_callers(identities, 1_000, apart=True) == expected
    assert feed_callers(identities, 1_000, apart=False) == expected


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b'"principalId":"AROA1:ann"', b'"principalId":"AROA1:bob"'),
        (b'"principalId":"AROA1:ann"', b'"principalId":"AROA2:ann"'),
        (b'"principalId":"AROA1:ann"', b'"principalId":"AROA1:\\u0062ob"'),
        (b'"principalId":"AROA1:ann"', b'"principalId":"AROA1"'),
        (b'"principalId":"AROA1:ann"', b'"principalId":"AROA1:"'),
        (b'"principalId":"AROA1:ann"', b'"principalId":"AROA1:x","principalId":"AROA1:bob"'),
        (b'"principalId":"AROA1:ann"', b'"principalId":"AROA1:bob","accountId":"444455556666"'),
        (b'"principalId":"AROA1:ann"', b'"principalId":"AROA1:bob","invokedBy":"x.amazonaws.com"'),
        (b'"principalId":"AROA1:ann"', b'"principalId":"AROA1:bob","arn":"\xff"'),
        (
            b'"principalId":"AROA1:ann","principal\\u0049d":"AROA1:eve"',
            b'"principalId":"AROA1:bob","principal\\u0049d":"AROA1:eve"',
        ),
    ],
)
@pytest.mark.parametrize("kind", [b"AssumedRole", b"IAMUser", b"WebIdentityUser", b"FederatedUser"])
def test_a_session_like_one_before_is_as_if_it_was_read(kind: bytes, first: bytes, second: bytes) -> None:
    both = [b'{"type":"' + kind + b'",' + members + b"}" for members in (first, second)]
    assert feed_callers(both, 1_000, apart=True) == feed_callers(both, -1, apart=True)


def test_a_new_name_of_a_known_role_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes the test above one of two ways."""
    decoded = []
    decode = first_sight.decode_user_identity
    monkeypatch.setattr(first_sight, "decode_user_identity", lambda raw: decoded.append(raw) or decode(raw))
    pipeline = build_pipeline()
    for name in ("ann", "bob", "eve", "ann"):
        record = build_record(len(decoded), START)
        record["userIdentity"]["principalId"] = f"AROA1:{name}"
        record["userIdentity"]["arn"] = f"arn:aws:sts::{ACCOUNT}:assumed-role/builder/{name}"
        feed(pipeline, dump_lines([{**record, "eventID": f"id-{name}"}]))
    assert len(decoded) == 1
    (usage,) = pipeline.ledger.principals.values()
    (cell,) = usage.cells.values()
    assert (sorted(cell.read_facets().operators), cell.count) == (["ann", "bob", "eve"], 3)


def test_order_of_records_changes_nothing() -> None:
    records = build_mix(300, 7)
    for number, record in enumerate(records):
        record["eventID"] = f"id-{number}"  # Which of two different calls with one id counts depends on the order.
    expected = build_pipeline()
    feed(expected, dump_lines(records))
    rng = random.Random(8)
    for _ in range(5):
        rng.shuffle(records)
        shuffled = build_pipeline()
        feed(shuffled, dump_lines(records))
        assert sum_up(shuffled) == sum_up(expected)


def test_unmapped_names_are_bounded() -> None:
    records = [build_record(number, START, eventName=f"NoSuchCall{number}") for number in range(UNMAPPED_MAX + 10)]
    pipeline = build_pipeline()
    assert feed(pipeline, dump_lines(records)) == {"unmapped": len(records)}
    assert pipeline.tally.unmapped["ec2.amazonaws.com:NoSuchCall0"] == 1
    assert pipeline.tally.unmapped[OTHERS] == 10
    assert len(pipeline.tally.unmapped) == UNMAPPED_MAX + 1


def test_newest_two_distinct_times_are_known() -> None:
    pipeline = build_pipeline()
    feed(pipeline, dump_lines(build_record(number, START + at) for number, at in enumerate([5, 9, 9, 1, 7])))
    assert (pipeline.tally.newest, pipeline.tally.second_newest) == (START + 9, START + 7)
    assert pipeline.tally.accounts == {ACCOUNT: START + 1}


def test_rejected_records_move_no_time() -> None:
    pipeline = build_pipeline({"future": "2026-03-02T00:00:00Z"})
    feed(
        pipeline,
        dump_lines([build_record(1, START), build_record(2, START + 10 * 86_400), build_record(3, START, eventName=5)]),
    )
    assert pipeline.tally.newest == START
    assert pipeline.tally.rejected == {"future": 1, "bad_eventName": 1}


def test_records_after_until_count_in_classes_only() -> None:
    pipeline = build_pipeline(until=START)
    records = [build_record(1, START), build_record(2, START + 1), build_record(3, START + 1, errorCode="AccessDenied")]
    records += [build_record(2, START + 1), build_record(4, START + 1, eventType="AwsServiceEvent")]
    assert feed(pipeline, dump_lines(records)) == {"use": 2, "denied": 1, "duplicate": 1, "not_iam": 1}
    (usage,) = pipeline.ledger.principals.values()
    (cell,) = usage.cells.values()
    assert (cell.count, cell.denied, cell.last) == (1, 0, START)
    assert pipeline.tally.newest == START


def test_role_passed_is_a_use_of_passing_it() -> None:
    names = load_catalogue().names
    passing = {"roleArn": f"arn:aws:iam::{ACCOUNT}:role/worker", "functionName": "f"}
    call = {"eventSource": "lambda.amazonaws.com", "eventName": "CreateFunction20150331"}
    for parameters, expected in ((None, set()), ({}, set()), ({"role": passing["roleArn"]}, {"iam:PassRole"})):
        pipeline = build_pipeline()
        feed(pipeline, dump_lines([build_record(1, START, requestParameters=parameters, **call)]))
        (usage,) = pipeline.ledger.principals.values()
        used = {names[action] for action in usage.cells}
        assert used & {"iam:PassRole"} == expected
        assert "lambda:CreateFunction" in used


def test_rejects_made_here_hold_no_parameters() -> None:
    secret = {"password": PLANTED}
    records = [
        build_record(1, START, eventTime="yesterday", requestParameters=secret, responseElements=secret),
        build_record(2, START, userIdentity=5, requestParameters=secret),
        build_record(3, START + 10, requestParameters=secret),
    ]
    pipeline = build_pipeline({"future": "2026-03-01T00:00:00Z"})
    assert feed(pipeline, dump_lines(records)) == {"rejected": 3}
    assert all(PLANTED.encode() not in reject.raw for reject in pipeline.intake.rejects)
