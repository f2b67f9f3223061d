"""The recommended policy: what was used is still allowed, within the same bounds; nothing unused is; what is kept says why."""

import gzip
import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from building import build_holding, build_principal, build_small_catalogue, mask_of
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_policies import Namer, listed

from processor.core import packing
from processor.core import recommend as recommending
from processor.core.catalogue import Catalogue, build_catalogue, ids_in, mask_of_ids
from processor.core.gap import Logging, Verdicts, why_unobservable
from processor.core.policies import Granting, Grants, PolicyParser, build_policy, expand, grants_for
from processor.core.recommend import DOCUMENT_CHARS_MAX, Recommendation, recommend, split_unobservable
from processor.core.wildcards import write_patterns
from processor.shell.grants import pack_grants, unpack_grants
from processor.shell.tables import load_catalogue

MANAGED = Path(__file__).parent.parent.parent / "shared" / "data" / "iam-accounts" / "aws-managed-policies.ndjson.gz"
NAMES = json.loads((Path(__file__).parent / "cases" / "policies_catalogue.json").read_text("utf-8"))
CASES = build_catalogue("cases", [(name, "Write") for name in NAMES], {}, {}, [])
PARSER = PolicyParser(CASES)
NAMER = Namer(NAMES)
SMALL = build_small_catalogue()
MFA = {"Bool": {"aws:MultiFactorAuthPresent": "true"}}
Reach = set[tuple[str, Any, str]]


def find_reach(namer: Namer, documents: list[Any]) -> dict[str, Reach]:
    """Where and when the Allow statements of some documents allow each action: (kind, resource, condition)."""
    reached: dict[str, Reach] = {}
    for document in documents:
        for statement in listed(document["Statement"]):
            if statement["Effect"] != "Allow":
                continue
            named: set[str] = set()
            for pattern in listed(statement.get("Action", statement.get("NotAction"))):
                named |= namer.expand(pattern)
            if "NotAction" in statement:
                named = set(namer.names) - named
            condition = json.dumps(statement.get("Condition") or None, sort_keys=True)
            if "NotResource" in statement:
                found: Reach = {("not", tuple(listed(statement["NotResource"])), condition)}
            else:
                found = {("on", resource, condition) for resource in listed(statement["Resource"])}
            for name in named:
                reached.setdefault(name, set()).update(found)
    return reached


def covers(wide: Reach, narrow: Reach) -> bool:
    """Whether everything in `narrow` is allowed by `wide`, which holds it, or more of the same kind."""
    return all(
        one in wide or not wide.isdisjoint({("on", "*", "null"), ("on", "*", one[2]), (one[0], one[1], "null")})
        for one in narrow
    )


def check(catalogue: Catalogue, namer: Namer, before: list[Any], verdicts: Verdicts, found: Recommendation) -> None:
    """The properties that hold for every recommendation."""
    old, new = find_reach(namer, before), find_reach(namer, list(found.documents))
    kept = verdicts.used | verdicts.too_new | verdicts.unproven | verdicts.unobservable
    assert set(new) == set(catalogue.names_in(kept))
    for name, reach in new.items():
        assert covers(old[name], reach), f"{name} is allowed where it was not"
        assert covers(reach, old[name]), f"{name} is allowed in fewer places"
    sids = [each["Sid"] for document in found.documents for each in document["Statement"]]
    assert len(sids) == len(set(sids))
    assert all(sid.isalnum() and sid.isascii() for sid in sids)
    if not any("together" in note for note in found.notes):
        for statement in (each for document in found.documents for each in document["Statement"]):
            check_sid(catalogue, statement, verdicts)
    for document in found.documents:
        assert len(json.dumps(document, separators=(",", ":"), ensure_ascii=False)) <= DOCUMENT_CHARS_MAX


def check_sid(catalogue: Catalogue, statement: Any, verdicts: Verdicts) -> None:
    """A statement that is kept for a reason, and removed by who knows better, takes what it says and nothing else."""
    sids = {"Used": 0, "KeptTooNew": verdicts.too_new, "KeptUnproven": verdicts.unproven}
    sids["KeptUnobservable"] = verdicts.unobservable
    (own,) = (mask for sid, mask in sids.items() if statement["Sid"].startswith(sid))
    for pattern in statement["Action"]:
        assert not expand(pattern, catalogue) & ~(own | verdicts.used), pattern


def judge_at_random(grants: Grants, choices: list[int]) -> Verdicts:
    """A verdict for each granted action, by turns of some choices."""
    masks = [0] * 5
    for place, action in enumerate(ids_in(grants.granted)):
        masks[choices[place % len(choices)]] |= 1 << action
    return Verdicts(*masks)


def recommend_for(statements: list[Any], verdicts: list[int] | None = None) -> tuple[Recommendation, Verdicts]:
    grants = grants_for([build_policy("p", PARSER.parse_document({"Statement": statements}))])
    judged = judge_at_random(grants, verdicts or [0])
    return recommend(CASES, grants, judged, Logging(), "90d"), judged


actions = st.sampled_from([*NAMES, "s3:*", "iam:*", "*", "s3:Get*", "ec2:?escribe*", "*:*", "iam:Pass*"])
statements = st.fixed_dictionaries(
    {
        "Effect": st.sampled_from(["Allow", "Allow", "Allow", "Deny"]),
        "Resource": st.lists(
            st.sampled_from(["*", "arn:aws:s3:::a", "arn:aws:s3:::a/*", "arn:b"]), min_size=1, max_size=2
        ),
        "Condition": st.sampled_from([{}, {}, MFA, {"Null": {"aws:x": "true"}}]),
    }
).flatmap(
    lambda rest: st.tuples(
        st.sampled_from(["Action", "Action", "NotAction"]),
        st.lists(actions, min_size=1, max_size=3),
        st.sampled_from(["Resource", "Resource", "NotResource"]),
    ).map(
        lambda parts: {
            "Effect": rest["Effect"],
            parts[0]: parts[1],
            parts[2]: rest["Resource"],
            "Condition": rest["Condition"],
        }
    )
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(statements, min_size=1, max_size=6),
    st.lists(st.integers(0, 4), min_size=1, max_size=7),
    st.sampled_from([DOCUMENT_CHARS_MAX, 400]),
)
def test_what_was_used_is_allowed_as_before_and_nothing_unused_is(
    written: list[Any], choices: list[int], limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recommending, "DOCUMENT_CHARS_MAX", limit)
        patch.setattr(packing, "DOCUMENT_CHARS_MAX", limit)
        patch.setattr(packing, "ROOM", limit - 39)
        found, verdicts = recommend_for(written, choices)
        again, _ = recommend_for(written, choices)
    check(CASES, NAMER, [{"Statement": written}], verdicts, found)
    assert found == again, "the order is not fixed"
    assert found.dropped == verdicts.unused.bit_count()
    assert sum(found.counts.values()) + found.dropped == sum(
        getattr(verdicts, name).bit_count() for name in ("used", "unused", "too_new", "unproven", "unobservable")
    )


def test_every_managed_policy_of_aws_in_shortened_form() -> None:
    if not MANAGED.exists():
        pytest.skip("../shared/data/iam-accounts/aws-managed-policies.ndjson.gz is not here")
    catalogue = load_catalogue()
    parser, namer = PolicyParser(catalogue), Namer(catalogue.names)
    forms: Counter[int] = Counter()
    with gzip.open(MANAGED, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][::12]
    for row in rows:
        document = next((value for value in row.values() if isinstance(value, dict) and "Statement" in value), None)
        assert document is not None, row.keys()
        grants = grants_for([build_policy("p", parser.parse_document(document))])
        verdicts = judge_at_random(grants, [0, 1, 1, 4, 3, 2])
        found = recommend(catalogue, grants, verdicts, Logging(), "90d")
        check(catalogue, namer, [document], verdicts, found)
        forms[len(found.documents)] += 1
    assert forms[1] > 50


def test_an_administrator_gets_documents_within_the_limits_in_time() -> None:
    catalogue = load_catalogue()
    document = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    grants = grants_for([build_policy("admin", PolicyParser(catalogue).parse_document(document))])
    observable = catalogue.observability_masks["management"] | catalogue.observability_masks["seen"]
    used = mask_of_ids(list(ids_in(observable))[::200])
    verdicts = Verdicts(used, observable & ~used, catalogue.all_mask & ~observable, 0, 0)
    begun = time.process_time()
    found = recommend(catalogue, grants, verdicts, Logging(), "90d")
    assert time.process_time() - begun < 2
    check(catalogue, Namer(catalogue.names), [document], verdicts, found)
    assert found.patterns
    first = found.documents[0]["Statement"][0]
    assert (first["Sid"], first["Action"]) == ("Used", catalogue.names_in(used)), "what was used stands by name"
    assert any("of a managed policy" in note for note in found.notes)


def test_services_stand_apart_where_they_fit_and_bounds_are_kept() -> None:
    found, _ = recommend_for(
        [
            {"Sid": "A", "Effect": "Allow", "Action": "s3:GetObject", "Resource": ["arn:b", "arn:a"], "Condition": MFA},
            {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:a"},
            {"Effect": "Allow", "Action": ["iam:PassRole", "s3:PutObject"], "NotResource": "arn:c"},
        ]
    )
    (document,) = found.documents
    assert document["Statement"] == [
        {"Sid": "UsedIam", "Effect": "Allow", "Action": ["iam:PassRole"], "NotResource": ["arn:c"]},
        {"Sid": "UsedS3", "Effect": "Allow", "Action": ["s3:PutObject"], "NotResource": ["arn:c"]},
        {"Sid": "UsedS3Part2", "Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:a"]},
        {
            "Sid": "UsedS3Part3",
            "Effect": "Allow",
            "Action": ["s3:GetObject"],
            "Resource": ["arn:a", "arn:b"],
            "Condition": MFA,
        },
    ]


def test_each_reason_to_keep_has_a_statement_that_names_it() -> None:
    grants = Grants(SMALL.all_mask, 0, (), (Granting("p", None, None, "1", SMALL.all_mask, False, ("*",)),), ())
    unobservable = mask_of(
        SMALL, "s3:GetObject", "iam:PassRole", "support:OpenConsole", "new:NobodyKnows", "iam:ListUsers"
    )
    rest = [1 << SMALL.ids[name] for name in ("ec2:RunInstances", "lambda:CreateFunction", "s3:CreateBucket")]
    verdicts = Verdicts(rest[0], SMALL.all_mask & ~unobservable & ~sum(rest), unobservable, rest[1], rest[2])
    found = recommend(SMALL, grants, verdicts, Logging(read_only=False), "90d")
    assert {each["Sid"]: each["Action"] for each in found.documents[0]["Statement"]} == {
        "UsedEc2": ["ec2:RunInstances"],
        "KeptTooNewLambda": ["lambda:CreateFunction"],
        "KeptUnprovenS3": ["s3:CreateBucket"],
        "KeptUnobservableDataEventsOffS3": ["s3:GetObject"],
        "KeptUnobservableReadOnlyOffIam": ["iam:ListUsers"],
        "KeptUnobservableDependentOnlyIam": ["iam:PassRole"],
        "KeptUnobservableNoApiSupport": ["support:OpenConsole"],
        "KeptUnobservableUnknownNew": ["new:NobodyKnows"],
    }
    assert "1 too_new, 1 unproven, 5 unobservable" in found.notes[1]


@pytest.mark.parametrize("read_only", [True, False])
def test_reasons_are_those_of_the_verdict(read_only: bool) -> None:
    logging = Logging(read_only=read_only)
    found = {action: why for why, mask in split_unobservable(SMALL, logging, SMALL.all_mask) for action in ids_in(mask)}
    assert found == {action: why_unobservable(SMALL, logging, action) for action in range(SMALL.size)}


def test_what_is_granted_under_an_unknown_condition_is_left_out_and_said() -> None:
    mask = mask_of(SMALL, "ec2:RunInstances")
    grants = Grants(mask, mask, (), (Granting("p", None, None, "1", mask, True, ("*",)),), ("policy_missing:x",))
    found = recommend(SMALL, grants, Verdicts(mask, 0, 0, 0, 0), Logging(), "90d")
    assert found.documents == ()
    assert found.counts["used"] == 0
    assert any("does not hold the Condition" in note and "ec2:RunInstances" in note for note in found.notes)
    assert any("policy_missing:x" in note for note in found.notes)


def test_a_list_that_cannot_be_divided_is_said_to_be_too_long() -> None:
    long = [f"arn:aws:s3:::{number:0100}" for number in range(80)]
    found, _ = recommend_for([{"Effect": "Allow", "Action": "s3:GetObject", "NotResource": long}])
    assert len(found.documents) == 1
    assert any("longer than IAM takes" in note for note in found.notes)
    divided, verdicts = recommend_for([{"Effect": "Allow", "Action": "s3:*", "Resource": long}])
    assert len(divided.documents) == 2
    check(CASES, NAMER, [{"Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": long}]}], verdicts, divided)


@settings(max_examples=200, deadline=None)
@given(st.sets(st.integers(0, len(NAMES) - 1)), st.sets(st.integers(0, len(NAMES) - 1)))
def test_patterns_match_what_is_wanted_and_nothing_forbidden(wanted: set[int], more: set[int]) -> None:
    allowed = mask_of_ids(wanted | more)
    patterns = write_patterns(CASES, mask_of_ids(wanted), allowed)
    matched = 0
    for pattern in patterns:
        matched |= expand(pattern, CASES)
    assert mask_of_ids(wanted) & ~matched == 0
    assert matched & ~allowed == 0
    assert len(patterns) <= len(wanted)


def test_conditions_are_read_with_sorted_keys_and_survive_the_store() -> None:
    condition = {"StringLike": {"b": ["2", "1"], "a": "x"}, "Bool": {"c": True}}
    document = {"Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*", "Condition": condition}]}
    grants = grants_for([build_policy("p", PARSER.parse_document(document))])
    assert grants.provenance[0].condition == '{"Bool":{"c":true},"StringLike":{"a":"x","b":["2","1"]}}'
    holding = replace(build_holding(build_principal("ann"), 0), grants=grants)
    assert unpack_grants(pack_grants(holding, CASES.version), {}) == holding
