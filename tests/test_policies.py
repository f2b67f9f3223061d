"""Policy documents -> grants: golden cases, all of AWS' managed policies and random documents against the naive reading."""

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_policies import Attached, Namer, judge_all, judge_document, matches

from processor.core.catalogue import build_catalogue, ids_in
from processor.core.policies import (
    DOCUMENT_BYTES_MAX,
    PATTERN_CHARS_MAX,
    Grants,
    PolicyError,
    PolicyParser,
    build_guard,
    build_policy,
    expand,
    grants_for,
)
from processor.shell.tables import load_catalogue

CASES = Path(__file__).parent / "cases"
MANAGED = Path(__file__).parent.parent.parent / "shared" / "data" / "iam-accounts" / "aws-managed-policies.ndjson.gz"

NAMES = json.loads((CASES / "policies_catalogue.json").read_text("utf-8"))
CATALOGUE = build_catalogue("cases", [(name, "Write") for name in NAMES], {}, {}, [])
PARSER = PolicyParser(CATALOGUE)
NAMER = Namer(NAMES)


def read_cases(name: str) -> list[Any]:
    return [
        pytest.param(case["input"], case["expected"], id=case["name"])
        for case in json.loads((CASES / name).read_text("utf-8"))
    ]


@pytest.mark.parametrize(("pattern", "expected"), read_cases("policies_patterns.json"))
def test_golden_pattern(pattern: str, expected: list[str]) -> None:
    assert CATALOGUE.names_in(expand(pattern, CATALOGUE)) == expected


@pytest.mark.parametrize(("document", "expected"), read_cases("policies_documents.json"))
def test_golden_document(document: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        with pytest.raises(PolicyError) as raised:
            PARSER.parse_document(document)
        assert str(raised.value).startswith(expected["error"])
        return
    got = [
        {
            "id": each.id,
            "effect": each.effect,
            "actions": CATALOGUE.names_in(each.mask),
            "conditional": each.conditional,
            "everywhere": each.everywhere,
            "resources": list(each.resources),
        }
        for each in PARSER.parse_document(document)
    ]
    assert got == expected


@pytest.mark.parametrize(("held", "expected"), read_cases("policies_grants.json"))
def test_golden_grants(held: dict[str, Any], expected: dict[str, Any]) -> None:
    grants = grants_for(
        [
            build_policy(
                each["name"], PARSER.parse_document(each["document"]), each.get("arn"), born=each.get("born", 0)
            )
            for each in held["policies"]
        ],
        [build_guard(PARSER.parse_document(document)) for document in held.get("guards", [])],
    )
    got: dict[str, Any] = {
        "granted": CATALOGUE.names_in(grants.granted),
        "conditional": CATALOGUE.names_in(grants.conditional),
    }
    if "births" in expected:
        got["births"] = [[born, CATALOGUE.names_in(mask)] for born, mask in grants.births]
    assert got == expected
    assert not grants.conditional & ~grants.granted


def test_provenance_holds_the_statements_that_grant() -> None:
    document = {
        "Statement": [
            {"Sid": "Read", "Effect": "Allow", "Action": "s3:Get*", "Resource": "*", "Condition": {"Null": {}}},
            {"Effect": "Allow", "Action": "iam:*", "Resource": ["arn:aws:iam::1:role/a"]},
            {"Effect": "Deny", "Action": "iam:*", "Resource": "*"},
        ]
    }
    (granting,) = grants_for([build_policy("p", PARSER.parse_document(document), "arn:p", "staff")]).provenance
    assert (granting.policy, granting.policy_arn, granting.via_group) == ("p", "arn:p", "staff")
    assert (granting.statement, granting.conditional, granting.resources) == ("Read", True, ("*",))
    assert CATALOGUE.names_in(granting.mask) == ["s3:GetObject", "s3:GetObjectAcl"]


def test_flags_are_told_once() -> None:
    assert grants_for([], flags=["b", "a", "b"]) == Grants(0, 0, (), (), ("b", "a"))


def test_a_document_is_read_once() -> None:
    text = '{"Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}'
    assert PARSER.parse_document(text) is PARSER.parse_document(text)
    assert PARSER.parse_document(json.loads(text)) is PARSER.parse_document(json.loads(text))


def test_no_name_is_as_long_as_the_longest_pattern() -> None:
    assert 2 * max(map(len, load_catalogue().names)) + 1 < PATTERN_CHARS_MAX


def test_patterns_that_would_explode_do_not() -> None:
    catalogue = load_catalogue()
    start = time.process_time()
    for pattern in (
        "*a" * 100 + "!",
        "*?" * 60 + "!",
        "s3:" + "*e*t" * 60,
        "*" * 100_000,
        "?" * 100_000,
        "*a" * 100_000,
    ):
        expand(pattern, catalogue)
    assert time.process_time() - start < 5


def test_a_document_that_is_too_long_is_refused() -> None:
    with pytest.raises(PolicyError, match="longer than"):
        PARSER.parse_document(" " * (DOCUMENT_BYTES_MAX + 1))


@pytest.mark.skipif(not MANAGED.is_file(), reason="shared/data/iam-accounts is not here")
def test_every_managed_policy_expands_as_the_naive_reading_says() -> None:
    catalogue = load_catalogue()
    parser, namer = PolicyParser(catalogue), Namer(catalogue.names)
    with gzip.open(MANAGED) as lines:
        policies = [json.loads(line) for line in lines]
    assert len(policies) == 1641
    for policy in policies:
        grants = grants_for([build_policy(policy["name"], parser.parse_document(policy["document"]))])
        granted, conditional = judge_document(namer, policy["document"])
        assert set(catalogue.names_in(grants.granted)) == granted, policy["name"]
        assert set(catalogue.names_in(grants.conditional)) == conditional, policy["name"]


def test_an_administrator_may_do_everything_and_a_negation_nearly_so() -> None:
    catalogue = load_catalogue()
    parser = PolicyParser(catalogue)
    (administrator,) = parser.parse_document({"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}})
    assert administrator.mask == catalogue.all_mask
    rest = {"Effect": "Allow", "NotAction": ["iam:*", "organizations:*", "account:*"], "Resource": "*"}
    (power_user,) = parser.parse_document({"Statement": rest})
    left_out = sum(catalogue.service_masks[service].bit_count() for service in ("iam", "organizations", "account"))
    assert power_user.mask.bit_count() == catalogue.size - left_out


PATTERNS = st.text("*?:bceGgOosSt3", max_size=12) | st.sampled_from(
    ["*", "*:*", "s3:*", "S3:Get*", "*:*Object*", "iam:?assRole", "sts:assumerole", "s3:???Object", *NAMES]
)
RESOURCES = st.sampled_from(["*", "arn:aws:s3:::a", ["*", "arn:aws:s3:::a"], ["arn:aws:s3:::a"], []])


@st.composite
def draw_statement(draw: st.DrawFn) -> dict[str, Any]:
    statement: dict[str, Any] = {"Effect": draw(st.sampled_from(["Allow", "Allow", "Deny"]))}
    statement[draw(st.sampled_from(["Action", "Action", "NotAction"]))] = draw(
        PATTERNS | st.lists(PATTERNS, max_size=3)
    )
    resource = draw(st.sampled_from(["Resource", "Resource", "NotResource", ""]))
    if resource:
        statement[resource] = draw(RESOURCES)
    if draw(st.booleans()):
        statement["Condition"] = draw(st.sampled_from([{}, {"Bool": {"aws:SecureTransport": "true"}}]))
    if draw(st.booleans()):
        statement["Sid"] = draw(st.sampled_from(["", "One"]))
    return statement


DOCUMENTS = st.fixed_dictionaries({"Statement": draw_statement() | st.lists(draw_statement(), max_size=4)})


@given(PATTERNS)
def test_random_patterns_match_as_the_naive_reading_says(pattern: str) -> None:
    got = CATALOGUE.names_in(expand(pattern, CATALOGUE))
    assert got == [name for name in NAMES if matches(pattern.lower(), name.lower())]


@settings(deadline=None)
@given(st.lists(DOCUMENTS, max_size=3), st.lists(DOCUMENTS, max_size=2))
def test_random_documents_grant_as_the_naive_reading_says(own: list[Any], limits: list[Any]) -> None:
    policies = [build_policy("p", PARSER.parse_document(document)) for document in own]
    guards = [build_guard(PARSER.parse_document(document)) for document in limits]
    grants = grants_for(policies, guards)
    said = [statement for document in own for statement in NAMER.read(document)]
    granted, conditional = judge_all(Attached(said, [NAMER.read(document) for document in limits]))
    assert set(CATALOGUE.names_in(grants.granted)) == granted
    assert set(CATALOGUE.names_in(grants.conditional)) == conditional
    allowed_by = {action for each in grants.provenance for action in ids_in(each.mask & grants.granted)}
    assert allowed_by == set(ids_in(grants.granted))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
KEYS = ["Statement", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition", "Principal", "Sid"]
ODD = st.recursive(
    JSON | st.sampled_from(["Allow", "Deny", "*", "s3:*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=12,
)


@settings(deadline=None)
@given(ODD | st.fixed_dictionaries({"Statement": ODD}), st.booleans())
def test_arbitrary_json_is_read_or_refused(document: Any, of_resources: bool) -> None:
    for form in (document, json.dumps(document), json.dumps(document).encode()):
        try:
            statements = PARSER.parse_document(form, of_resources=of_resources)
        except PolicyError:
            continue
        grants_for([build_policy("p", statements)], [build_guard(statements)])


@given(st.text(max_size=20) | st.binary(max_size=20) | st.sampled_from(["[" * 5000, '{"a":' * 5000, "%ff%", "\ud800"]))
def test_arbitrary_text_is_refused(text: str | bytes) -> None:
    with pytest.raises(PolicyError):
        PARSER.parse_document(text)
