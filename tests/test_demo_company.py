"""The made-up company of `gapwatch demo`: always the same, in order, of CloudTrail's form, and true to its own inventory.

What it makes goes through the real decoder, catalogue and inventory, so that a record that gapwatch would not credit,
or a grant that it could not read, is found here.
"""

import json
import re
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise, takewhile
from typing import Any

import pytest

from processor.core.actions import ActionMap
from processor.core.batches import decode_payloads
from processor.core.inventory import InventoryPrincipal, read_inventory
from processor.core.organizations import read_organization
from processor.core.policies import expand
from processor.core.principals import NOBODY, Caller, decode_user_identity, resolve_caller
from processor.core.records import is_denied, is_not_iam, parse_time
from processor.demo.accounts import LAKE, MANAGEMENT, PROD, TEAMS, Json
from processor.demo.activity import Timed
from processor.demo.calls import build_calls
from processor.demo.company import RECORDS_PER_WEEK, Company, build_company
from processor.demo.ids import KEY_MARK, TOKEN_MARK
from processor.demo.jobs import JOBS
from processor.demo.policies import AWS_POLICIES, INLINE, OWN_POLICIES
from processor.demo.staff import ROLES, USERS
from processor.demo.stories import LAPSE_DAYS, Story
from processor.shell.tables import load_action_rules, load_catalogue

SEED = 7
BEGIN = parse_time("2026-11-24T11:02:03Z") or 0
DAY = 86_400
WEEKS = 6
LIVE_SECONDS = 240

CATALOGUE = load_catalogue()
ACTION_MAP = ActionMap(CATALOGUE, load_action_rules())

KEYS = (
    "eventVersion", "userIdentity", "eventTime", "eventSource", "eventName", "awsRegion", "sourceIPAddress", "userAgent",
    "errorCode", "errorMessage", "requestParameters", "responseElements", "additionalEventData", "requestID", "eventID",
    "readOnly", "resources", "eventType", "apiVersion", "managementEvent", "recipientAccountId", "sharedEventID",
    "vpcEndpointId", "vpcEndpointAccountId", "serviceEventDetails", "eventCategory", "tlsDetails",
    "sessionCredentialFromConsole",
)  # fmt: skip
"""The keys of a record in the order in which CloudTrail delivers them (as in real log files)."""

MANDATORY = {
    "eventVersion", "userIdentity", "eventTime", "eventSource", "eventName", "awsRegion", "sourceIPAddress", "userAgent",
    "eventID", "readOnly", "eventType", "managementEvent", "recipientAccountId", "eventCategory",
}  # fmt: skip


@cache
def company() -> Company:
    return build_company(SEED, BEGIN)


@cache
def history() -> tuple[Timed, ...]:
    return tuple(company().history(BEGIN - WEEKS * 7 * DAY, BEGIN))


@cache
def live() -> tuple[Timed, ...]:
    return tuple(takewhile(lambda timed: timed[0] < BEGIN + LIVE_SECONDS, company().live()))


@cache
def principals() -> dict[str, InventoryPrincipal]:
    found = read_inventory(company().inventory(), CATALOGUE, [read_organization(company().organization())])
    return {principal.arn: principal for principal in found}


@dataclass(frozen=True, slots=True)
class Use:
    """One action of one call that is credited to a principal."""

    at: int
    arn: str
    operator: str
    action: str
    denied: bool


def classify(record: Json) -> tuple[str, Caller]:
    """The class of a record, of those that need no state, and who made it."""
    if is_not_iam(record["eventType"], record["eventCategory"], record["eventSource"]):
        return "not_iam", NOBODY
    found = decode_user_identity(json.dumps(record["userIdentity"]).encode())
    assert found is not None
    caller = resolve_caller(found, {})
    if caller.principal is None:
        return "no_principal", caller
    if caller.principal.service_linked:
        return "out_of_scope", caller
    return "denied" if is_denied(record.get("errorCode", ""), record["eventSource"]) else "use", caller


@cache
def uses() -> tuple[Use, ...]:
    """What history and live come to."""
    return tuple(use for at, record in (*history(), *live()) for use in walk_uses(at, record))


def walk_uses(at: int, record: Json) -> Iterator[Use]:
    known, caller = classify(record)
    if known not in ("use", "denied") or caller.principal is None:
        return
    rule = ACTION_MAP.lookup(record["eventSource"], record["eventName"])
    assert rule is not None
    for action in ACTION_MAP.resolve(rule, json.dumps(record["requestParameters"]).encode()):
        yield Use(at, caller.principal.arn, caller.operator, CATALOGUE.names[action], known == "denied")


def walk_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from walk_texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from walk_texts(each)


def test_same_seed_makes_the_same_company() -> None:
    again = build_company(SEED, BEGIN)
    assert again.inventory() == company().inventory()
    assert list(again.history(BEGIN - 3 * DAY, BEGIN)) == list(company().history(BEGIN - 3 * DAY, BEGIN))
    assert list(islice(again.live(), 300)) == list(live()[:300])
    assert again.stories() == company().stories()


def test_another_seed_makes_another() -> None:
    other = build_company(SEED + 1, BEGIN)
    ids = {role["RoleId"] for document in company().inventory() for role in document["RoleDetailList"]}
    assert ids.isdisjoint(role["RoleId"] for document in other.inventory() for role in document["RoleDetailList"])
    assert {record["eventID"] for _, record in other.history(BEGIN - DAY, BEGIN)}.isdisjoint(
        record["eventID"] for _, record in history()
    )


def test_span_does_not_change_what_happens_in_it() -> None:
    since, until = BEGIN - 9 * DAY - 1234, BEGIN - 7 * DAY
    times = [at for at, _ in history()]
    assert list(company().history(since, until)) == list(
        history()[bisect_left(times, since) : bisect_left(times, until)]
    )


@pytest.mark.parametrize("timed", [history, live])
def test_records_come_in_the_order_of_time(timed: Any) -> None:
    assert all(earlier[0] <= later[0] for earlier, later in pairwise(timed()))
    assert all(parse_time(record["eventTime"]) == at for at, record in timed())


def test_history_keeps_to_its_span_and_rate() -> None:
    assert BEGIN - WEEKS * 7 * DAY <= history()[0][0] <= history()[-1][0] < BEGIN
    assert len(history()) == pytest.approx(WEEKS * RECORDS_PER_WEEK, rel=0.15)
    twice = sum(1 for _ in company().history(BEGIN - 7 * DAY, BEGIN, rate=2))
    assert twice == pytest.approx(2 * RECORDS_PER_WEEK, rel=0.15)


def test_live_keeps_to_its_rate() -> None:
    quick = sum(1 for _ in takewhile(lambda timed: timed[0] < BEGIN + 1000, company().live(rate=20)))
    assert quick == pytest.approx(20_000, rel=0.2)
    at_night = [timed[0] for timed in islice(company().live(BEGIN + 14 * 3600), 2000)]
    assert 2000 / (at_night[-1] - at_night[0]) == pytest.approx(3, rel=0.4)


@pytest.mark.parametrize("rate", [0, -1, 1e9])
def test_rate_out_of_bounds_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="out of bounds"):
        next(company().history(BEGIN - DAY, BEGIN, rate))
    with pytest.raises(ValueError, match="out of bounds"):
        next(company().live(rate=rate))


def test_history_is_made_fast_enough() -> None:
    """20,000 records a second are asked for, and 25,000 to 40,000 were measured; the bound leaves room for a busy machine."""
    began = time.process_time()
    made = sum(1 for _ in company().history(BEGIN - 7 * DAY, BEGIN, rate=3))
    assert made / (time.process_time() - began) > 8_000


def test_records_have_the_form_of_cloudtrail() -> None:
    order = {key: place for place, key in enumerate(KEYS)}
    for _, record in (*history(), *live()):
        assert record.keys() >= MANDATORY
        places = [order[key] for key in record]
        assert places == sorted(places)
        assert ("errorCode" in record) == ("errorMessage" in record)
        assert record["managementEvent"] == (record["eventCategory"] == "Management")
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", record["eventID"])
        assert record["eventSource"].endswith(".amazonaws.com")


def test_records_are_decoded_without_a_reject() -> None:
    decoded = decode_payloads([json.dumps([record for _, record in (*history(), *live())]).encode()])
    assert decoded.rejected == []
    assert decoded.read == len(history()) + len(live())


def test_nothing_is_left_unfilled() -> None:
    for _, record in (*history(), *live()):
        for text in walk_texts(record):
            assert not re.search(r"\{[a-z_]+\}", text), text


def test_classes_are_mixed() -> None:
    records = [record for _, record in history()]
    classes = Counter(classify(record)[0] for record in records)
    assert classes["use"] > 0.8 * len(records)
    for name in ("denied", "not_iam", "no_principal", "out_of_scope"):
        assert 0.005 * len(records) < classes[name] < 0.15 * len(records), name
    kinds = Counter(record["userIdentity"].get("type") for record in records)
    assert kinds.keys() == {
        "AssumedRole", "IAMUser", "Root", "AWSService", "AWSAccount", "SAMLUser", "WebIdentityUser", None,
    }  # fmt: skip
    assert {record["eventType"] for record in records} == {
        "AwsApiCall", "AwsServiceEvent", "AwsConsoleSignIn", "AwsVpceEvent",
    }  # fmt: skip
    assert {record["eventCategory"] for record in records} == {"Management", "Data", "NetworkActivity"}


def test_duplicates_and_shared_events_occur() -> None:
    seen = Counter(record["eventID"] for _, record in history())
    assert 0.001 < sum(times > 1 for times in seen.values()) / len(seen) < 0.02
    accounts: dict[str, set[str]] = {}
    for _, record in history():
        if "sharedEventID" in record:
            accounts.setdefault(record["sharedEventID"], set()).add(record["recipientAccountId"])
    assert max(map(len, accounts.values())) == 2


def test_services_act_for_roles() -> None:
    via = {
        (record["userIdentity"]["invokedBy"], record["eventName"])
        for _, record in history()
        if record["userIdentity"].get("type") == "AssumedRole" and "invokedBy" in record["userIdentity"]
    }
    assert {("secretsmanager.amazonaws.com", "Decrypt"), ("s3.amazonaws.com", "GenerateDataKey")} <= via


def test_every_caller_is_in_the_inventory() -> None:
    known = principals().keys() | {principal.arn for principal in company().principals if principal.kind == "root"}
    named = {use.arn for use in uses()}
    assert named - known == company().odd_arns
    assumed = {
        resource["ARN"]
        for _, record in history()
        for resource in record.get("resources", ())
        if resource.get("type") == "AWS::IAM::Role"
    }
    assert assumed - known <= company().odd_arns


def test_a_role_made_anew_has_another_unique_id() -> None:
    role = principals()[f"arn:aws:iam::{PROD.id}:role/app/invoice-render-lambda"]
    ids: dict[str, list[int]] = {}
    for at, record in history():
        issuer = record["userIdentity"].get("sessionContext", {}).get("sessionIssuer", {})
        if issuer.get("arn") == role.arn:
            ids.setdefault(issuer["principalId"], []).append(at)
    assert len(ids) == 2
    assert (
        min(ids[role.unique_id])
        >= (role.created or 0)
        > max(max(times) for key, times in ids.items() if key != role.unique_id)
    )


def test_nobody_does_what_is_not_granted() -> None:
    """Whatever succeeds is granted, and whatever is refused is not, by the inventory as gapwatch itself reads it."""
    for use in uses():
        if use.arn in principals():
            granted = principals()[use.arn].grants.granted >> CATALOGUE.ids[use.action] & 1
            assert bool(granted) != use.denied, use


def test_every_call_has_an_action() -> None:
    for call in build_calls().values():
        rule = ACTION_MAP.lookup(call.event_source, call.event_name)
        assert rule is not None, call
        assert rule.actions or rule.unproved


def test_engineers_keep_office_hours() -> None:
    engineers = {person for team in TEAMS.values() for person in team}
    people = [use.at for use in uses() if use.operator.partition("@")[0] in engineers and use.at < BEGIN]
    in_week = sum((at // DAY + 3) % 7 < 5 for at in people)
    by_day = sum(6 <= at // 3600 % 24 < 20 for at in people)
    assert in_week > 0.95 * len(people) < by_day / 0.95
    machines = [use.at for use in uses() if use.arn.endswith("warehouse-sync-node") and use.at < BEGIN]
    assert 0.2 < sum((at // DAY + 3) % 7 >= 5 for at in machines) / len(machines) < 0.4


def test_roles_are_shared_by_operators() -> None:
    shared: dict[str, set[str]] = {}
    for use in uses():
        shared.setdefault(use.arn, set()).add(use.operator)
    assert len(shared[f"arn:aws:iam::{PROD.id}:role/app-engineer"]) == 11
    assert all("@" in operator for operator in shared[f"arn:aws:iam::{PROD.id}:role/app-engineer"])


def test_inventory_has_the_form_of_the_command() -> None:
    documents = company().inventory()
    assert [document["RoleDetailList"][0]["Arn"].split(":")[4] for document in documents] == [
        account.id for account in company().accounts
    ]
    assert 120 <= len(principals()) <= 200
    for document in documents:
        assert list(document) == ["UserDetailList", "GroupDetailList", "RoleDetailList", "Policies"]
        for policy in document["Policies"]:
            in_force = [each for each in policy["PolicyVersionList"] if each["IsDefaultVersion"]]
            assert [each["VersionId"] for each in in_force] == [policy["DefaultVersionId"]]
            assert policy["AttachmentCount"] + policy["PermissionsBoundaryUsageCount"] > 0


def test_inventory_is_read_without_a_flag() -> None:
    assert [principal.arn for principal in principals().values() if principal.grants.flags] == []
    assert {principal.tags.get("env") for principal in principals().values() if not principal.service_linked} == {
        "DEV", "QA", "PROD",
    }  # fmt: skip


def test_every_pattern_of_a_policy_matches_an_action() -> None:
    tables = [
        *AWS_POLICIES.values(),
        *INLINE.values(),
        *(version for found in OWN_POLICIES.values() for version in found),
    ]
    for statements in tables:
        for statement in statements:
            patterns = statement.get("Action") or statement["NotAction"]
            for pattern in [patterns] if isinstance(patterns, str) else patterns:
                assert expand(pattern, CATALOGUE), pattern


def test_every_row_of_the_tables_counts() -> None:
    """A policy that nothing refers to, or a job that nobody has, is a slip of the pen."""
    referred = {name for row in (*ROLES, *USERS) for name in f"{row.attached} {row.inline} {row.boundary}".split()}
    assert OWN_POLICIES.keys() | INLINE.keys() <= referred
    assert {f"aws:{name}" for name in AWS_POLICIES} <= referred | {"aws:AdministratorAccess"}
    names = [principal.name for principal in company().principals]
    assert all(any(name.startswith(job.who) for name in names) for job in JOBS)


def test_organization_limits_member_accounts() -> None:
    organization = company().organization()
    assert organization["management_account"] == MANAGEMENT.id
    assert {node["id"] for node in organization["tree"] if node["type"] == "account"} == {
        account.id for account in company().accounts
    }
    stop = CATALOGUE.ids["cloudtrail:StopLogging"]
    admins = [principal for principal in principals().values() if "Administrator" in principal.name]
    assert {principal.account_id for principal in admins if principal.grants.granted >> stop & 1} == {MANAGEMENT.id}


def test_no_key_or_token_could_be_real() -> None:
    keys, tokens = set(), set()
    for _, record in (*history(), *live()):
        keys.add(record["userIdentity"].get("accessKeyId", f"ASIA{KEY_MARK}"))
        credentials = (record.get("responseElements") or {}).get("credentials")
        if credentials:
            keys.add(credentials["accessKeyId"])
            tokens.add(credentials["sessionToken"])
    assert len(keys) > 100 < len(tokens)
    assert all(re.fullmatch(rf"A[SK]IA[A-Z2-7]*{KEY_MARK}", key) for key in keys)
    assert all(TOKEN_MARK in token and len(token) > 200 for token in tokens)


@pytest.mark.parametrize("story", build_company(SEED, BEGIN).stories(), ids=lambda story: story.name)
def test_story_falls_where_it_says(story: Story) -> None:
    principal = principals()[story.principal_arn]
    done = [use for use in uses() if (use.arn, use.action) == (story.principal_arn, story.action)]
    granted = principal.grants.granted >> CATALOGUE.ids[story.action] & 1
    assert bool(granted) == (story.kind != "denied")
    match story.kind:
        case "use":
            assert done[0].at == story.at
            assert not done[0].denied
        case "denied":
            assert done[0].at == story.at
            assert len(done) > 20
            assert all(use.denied for use in done)
        case "lapse":
            assert done[-1].at == story.at - LAPSE_DAYS * DAY
            assert len(done) == WEEKS
        case _:
            assert story.kind == "grant"
            assert done == []
            assert story.at == BEGIN


def test_stories_follow_the_beginning_of_the_demo() -> None:
    moved = {story.name: story.at for story in company().stories(BEGIN + 100)}
    for story in company().stories():
        assert moved[story.name] == story.at + (100 if story.kind in ("use", "denied") else 0)
    assert [story.at for story in company().stories()] == sorted(story.at for story in company().stories())


def test_a_widened_policy_is_two_days_old() -> None:
    births = principals()[f"arn:aws:iam::{PROD.id}:role/app/checkout-api-task"].grants.births
    delete = CATALOGUE.ids["dynamodb:DeleteTable"]
    assert [at for at, mask in births if mask >> delete & 1] == [BEGIN - 2 * DAY]


def test_data_events_are_those_that_are_logged() -> None:
    found = {
        (record["recipientAccountId"], record["eventSource"].partition(".")[0])
        for _, record in history()
        if record["eventCategory"] == "Data"
    }
    logged = {(account, service) for account, services in company().data_events.items() for service in services}
    assert found <= logged
    assert {(PROD.id, "dynamodb"), (LAKE.id, "s3")} <= found
