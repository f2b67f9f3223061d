"""What trails, selectors and rules let be seen, and why not the rest."""

import json
from typing import Any

import pytest
from building import DAY, build_fleet, build_holding, build_ledger, build_principal, mask_of

from processor.core.catalogue import ids_in
from processor.core.explain import say_unobservable
from processor.core.fleet import Coverage
from processor.core.gap import Logging, observable_mask, why_unobservable
from processor.core.trails import ALL_STATES, API_CALLS, Rule, Trail, build_logging, date_logging
from processor.shell.tables import load_catalogue, load_logged_types

CATALOGUE = load_catalogue()
TYPES = load_logged_types()
NOW = 1_790_000_000
REGIONS = ("eu-central-1", "us-east-1")
READS, WRITES = "ec2:DescribeInstances", "ec2:RunInstances"
S3_ALL = {"Type": "AWS::S3::Object", "Values": ["arn:aws:s3"]}
EVERY_CALL = json.dumps({"detail-type": [API_CALLS]})


def make_trail(**changes: Any) -> Trail:
    return Trail(
        **{
            "name": "main",
            "home_region": "eu-central-1",
            "multi_region": True,
            "global_events": True,
            "logging": True,
            **changes,
        }
    )


def basic(
    kind: str = "All", *, management: bool = True, resources: tuple[Any, ...] = (), **more: Any
) -> dict[str, Any]:
    return {"ReadWriteType": kind, "IncludeManagementEvents": management, "DataResources": list(resources), **more}


def advanced(category: str, **fields: Any) -> dict[str, Any]:
    """An advanced selector; a field's value is its Equals, or the whole of it."""
    named = {"eventCategory": [category], **{name.replace("__", "."): value for name, value in fields.items()}}
    selectors = [
        {"Field": name, **(value if isinstance(value, dict) else {"Equals": value})} for name, value in named.items()
    ]
    return {"Name": "", "FieldSelectors": selectors}


def look(*trails: Trail, rules: list[Rule] | None = None, regions: tuple[str, ...] = REGIONS) -> Logging:
    return build_logging(CATALOGUE, trails, regions, TYPES, rules)


def sees(logging: Logging, action: str) -> bool:
    return bool(observable_mask(CATALOGUE, logging, 0) >> CATALOGUE.ids[action] & 1)


def why(logging: Logging, action: str) -> str:
    fleet = build_fleet(CATALOGUE, build_ledger(), [], logging={"1": logging})
    return say_unobservable(fleet, "1", CATALOGUE.ids[action])


def test_a_trail_without_selectors_logs_management_events_only() -> None:
    logging = look(make_trail())
    assert sees(logging, READS)
    assert sees(logging, WRITES)
    assert not sees(logging, "s3:GetObject")
    assert why_unobservable(CATALOGUE, logging, CATALOGUE.ids["s3:GetObject"]) == "data_events_off"
    assert why(logging, "s3:GetObject") == "no trail that is logging selects data events of AWS::S3::Object"


@pytest.mark.parametrize(
    ("trail", "seen", "unseen"),
    [
        (make_trail(selectors=[basic(resources=(S3_ALL,))]), "s3:GetObject s3:PutObject", "lambda:InvokeFunction"),
        (make_trail(selectors=[basic("ReadOnly", resources=(S3_ALL,))]), f"s3:GetObject {READS}", f"s3:PutObject {WRITES}"),
        (make_trail(selectors=[basic("WriteOnly", resources=(S3_ALL,))]), f"s3:PutObject {WRITES}", f"s3:GetObject {READS}"),
        (make_trail(selectors=[basic(management=False, resources=(S3_ALL,))]), "s3:GetObject", f"{READS} {WRITES}"),
        (
            make_trail(selectors=[basic(resources=({"Type": "AWS::S3::Object", "Values": ["arn:aws:s3:::one/"]},))]),
            READS,
            "s3:GetObject",
        ),
        (make_trail(selectors=[basic(ExcludeManagementEventSources=["kms.amazonaws.com"])]), READS, "kms:CreateKey kms:ListKeys"),
        (
            make_trail(advanced=[advanced("Management"), advanced("Data", resources__type=["AWS::DynamoDB::Table"])]),
            f"{READS} dynamodb:GetItem dynamodb:PutItem",
            "dynamodb:GetRecords s3:GetObject",
        ),
        (
            make_trail(advanced=[advanced("Data", resources__type=["AWS::Lambda::Function"], readOnly=["false"])]),
            "lambda:InvokeFunction",
            f"{READS} {WRITES}",
        ),
        (
            make_trail(advanced=[advanced("Data", resources__type=["AWS::S3::Object"], eventName=["GetObject"])]),
            "",
            "s3:GetObject s3:PutObject",
        ),
        (
            make_trail(advanced=[advanced("Management", eventSource={"NotEquals": ["kms.amazonaws.com"]})]),
            f"{READS} {WRITES}",
            "kms:CreateKey",
        ),
        (make_trail(advanced=[advanced("Management", readOnly=["true"])]), READS, WRITES),
        (make_trail(logging=False), "", f"{READS} {WRITES} s3:GetObject"),
    ],
)  # fmt: skip
def test_what_selectors_let_be_seen(trail: Trail, seen: str, unseen: str) -> None:
    logging = look(trail)
    assert [name for name in seen.split() if not sees(logging, name)] == []
    assert [name for name in unseen.split() if sees(logging, name)] == []


def test_what_one_trail_leaves_out_another_may_log() -> None:
    halves = (
        make_trail(selectors=[basic("ReadOnly")]),
        make_trail(name="other", selectors=[basic("WriteOnly", resources=(S3_ALL,))]),
    )
    logging = look(*halves)
    assert sees(logging, READS)
    assert sees(logging, WRITES)
    assert sees(logging, "s3:PutObject")
    assert why(logging, "s3:GetObject") == "trails select write data events of AWS::S3::Object only"
    kms = make_trail(selectors=[basic(ExcludeManagementEventSources=["kms.amazonaws.com"])])
    assert not sees(look(kms), "kms:CreateKey")
    assert sees(look(kms, make_trail(name="all")), "kms:CreateKey")


def test_the_reason_is_said_in_words() -> None:
    narrowed = look(
        make_trail(selectors=[basic(resources=({"Type": "AWS::S3::Object", "Values": ["arn:aws:s3:::one/"]},))])
    )
    assert why(narrowed, "s3:GetObject") == "trail main logs data events of AWS::S3::Object of some resources only"
    assert why(look(), WRITES) == "the account has no trail"
    assert why(look(make_trail(logging=False)), READS) == "no trail is logging (main is stopped)"
    assert (
        why(look(make_trail(selectors=[basic("WriteOnly")])), READS) == "no trail selects read-only management events"
    )
    # What no selector can show keeps its own reason.
    assert "inside of another call" in why(look(make_trail()), "iam:PassRole")


def test_regions_without_a_trail_make_all_but_global_services_unobservable() -> None:
    logging = look(make_trail(multi_region=False, home_region="us-east-1"))
    assert logging.blind_regions == ("eu-central-1",)
    assert not sees(logging, WRITES)
    assert sees(logging, "iam:CreateRole")
    assert why(logging, WRITES) == "no trail logs region eu-central-1"
    assert sees(look(make_trail(multi_region=False, home_region="us-east-1"), regions=("us-east-1",)), WRITES)
    both = make_trail(multi_region=False, home_region="us-east-1"), make_trail(multi_region=False, name="second")
    assert look(*both).blind_regions == ()


def make_rules(*states: str, pattern: str = EVERY_CALL) -> list[Rule]:
    return [Rule(f"rule-{region}", region, state, pattern) for region, state in zip(REGIONS, states, strict=False)]


def test_rules_pass_read_only_calls_on_in_one_state_only() -> None:
    enabled = look(make_trail(), rules=make_rules("ENABLED", "ENABLED"))
    assert sees(enabled, WRITES)
    assert not sees(enabled, READS)
    assert ALL_STATES in why(enabled, READS)
    assert sees(look(make_trail(), rules=make_rules(ALL_STATES, ALL_STATES)), READS)
    # One region that does not is enough.
    assert not sees(look(make_trail(), rules=make_rules(ALL_STATES, "ENABLED")), READS)
    missing = look(make_trail(), rules=make_rules(ALL_STATES))
    assert missing.blind_regions == ("us-east-1",)
    assert not sees(missing, WRITES)
    assert "no EventBridge rule passes on all calls of region us-east-1" in why(missing, WRITES)
    assert look(make_trail(), rules=make_rules("DISABLED", "DISABLED")).blind_regions == REGIONS


@pytest.mark.parametrize(
    ("pattern", "passes"),
    [
        (EVERY_CALL, True),
        (json.dumps({"detail-type": [API_CALLS, "AWS Service Event via CloudTrail"]}), True),
        (json.dumps({"source": ["aws.iam"], "detail-type": [API_CALLS]}), False),
        (json.dumps({"detail-type": [API_CALLS], "detail": {"eventName": ["RunInstances"]}}), False),
        (json.dumps({"detail-type": ["EC2 Instance State-change Notification"]}), False),
        ("{", False),
        ("[]", False),
    ],
)  # fmt: skip
def test_a_rule_counts_where_it_takes_every_call(pattern: str, passes: bool) -> None:
    logging = look(make_trail(), rules=make_rules(ALL_STATES, ALL_STATES, pattern=pattern))
    assert sees(logging, WRITES) is passes


def test_a_selector_that_is_added_makes_unproven_until_covered() -> None:
    """Acceptance: without it unobservable, with it unproven, and only a whole window later unused."""
    role = build_principal("reader")
    held = [build_holding(role, mask_of(CATALOGUE, "s3:GetObject", WRITES), created=NOW - 400 * DAY)]
    first = date_logging(look(make_trail()), None, NOW)
    then = date_logging(look(make_trail(selectors=[basic(resources=(S3_ALL,))])), first, NOW)
    again = date_logging(look(make_trail(selectors=[basic(resources=(S3_ALL,))])), then, NOW + DAY)
    assert again == then

    def judge_at(logging: Logging, as_of: int) -> tuple[str | None, ...]:
        fleet = build_fleet(CATALOGUE, build_ledger(), held, windows=(7,), logging={role.account_id: logging})
        fleet.coverage = Coverage({}, NOW - 300 * DAY)
        (member,) = fleet.members()
        (judged,) = fleet.verdicts_of(member, fleet.gap_of(member, as_of), as_of)
        return judged.verdict_of(CATALOGUE.ids["s3:GetObject"]), judged.verdict_of(CATALOGUE.ids[WRITES])

    assert judge_at(first, NOW) == ("unobservable", "unused")
    assert judge_at(then, NOW) == ("unproven", "unused")
    assert judge_at(then, NOW + 7 * DAY - 1) == ("unproven", "unused")
    assert judge_at(then, NOW + 7 * DAY) == ("unused", "unused")


def test_what_was_off_for_a_while_begins_anew() -> None:
    on = date_logging(look(make_trail()), None, NOW)
    assert on.since == {}
    off = date_logging(look(make_trail(logging=False)), on, NOW + 1)
    back = date_logging(look(make_trail()), off, NOW + 2)
    assert back.since == {"read_only": NOW + 2, "writes": NOW + 2}
    later = date_logging(look(make_trail()), back, NOW + 3)
    assert later.since == back.since
    blind = date_logging(look(make_trail(multi_region=False)), on, NOW + 1)
    assert date_logging(look(make_trail()), blind, NOW + 5).since == {"read_only": NOW + 5, "writes": NOW + 5}


def test_every_type_of_the_table_shows_something() -> None:
    of_data = CATALOGUE.observability_masks["data"]
    shown: dict[int, str] = {}
    for kind in TYPES:
        logging = look(make_trail(advanced=[advanced("Data", resources__type=[kind])]))
        mask = CATALOGUE.mask_of(logging.data_events)
        assert mask, kind
        assert mask & ~of_data == 0, kind
        for action in ids_in(mask):
            assert action not in shown, f"{CATALOGUE.names[action]} is of {kind} and of {shown[action]}"
            shown[action] = kind
