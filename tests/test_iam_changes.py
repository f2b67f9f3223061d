"""Records that change what somebody may do: whom they concern, and that an intake tells of them without counting otherwise."""

import json
from typing import Any

import pytest
from building import ACCOUNT, ROLE, build_record

from processor.core.actions import ActionMap
from processor.core.batches import decode_payloads
from processor.core.iam_changes import CONCERNS, Concern, read_change
from processor.core.intake import Intake
from processor.core.sessions import Scope
from processor.core.tally import Tally
from processor.shell.tables import load_action_rules, load_catalogue, load_changes

NOW = 1_790_000_000
OTHER = "444455556666"
EVERYTHING = Scope()
CALLER_OUT_OF_SCOPE = {
    "type": "Root",
    "arn": f"arn:aws:iam::{ACCOUNT}:root",
    "accountId": ACCOUNT,
    "principalId": ACCOUNT,
}


def make_change(name: str, parameters: Any, source: str = "iam.amazonaws.com", **changes: Any) -> bytes:
    record = build_record(1, NOW, eventName=name, eventSource=source, requestParameters=parameters, **changes)
    return json.dumps(record).encode()


def concerns_of(raw: bytes) -> list[tuple[str, str]]:
    change = read_change(raw, load_changes())
    return [] if change is None else [(each.kind, each.name) for each in change.concerns]


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("PutRolePolicy", {"roleName": "r", "policyName": "p", "policyDocument": "{}"}, [("role", "r")]),
        ("AttachUserPolicy", {"userName": "u", "policyArn": "arn:p"}, [("user", "u")]),
        ("DetachGroupPolicy", {"groupName": "g", "policyArn": "arn:p"}, [("group", "g")]),
        ("SetDefaultPolicyVersion", {"policyArn": "arn:p", "versionId": "v2"}, [("policy", "arn:p")]),
        ("AddUserToGroup", {"userName": "u", "groupName": "g"}, [("user", "u")]),
        ("PutRolePermissionsBoundary", {"roleName": "r", "permissionsBoundary": "arn:p"}, [("role", "r")]),
        ("UpdateUser", {"userName": "u", "newUserName": "w"}, [("user", "u"), ("user", "w")]),
        ("UpdateUser", {"userName": "u", "newPath": "/x/"}, [("user", "u")]),
        ("UpdateGroup", {"groupName": "g", "newGroupName": "h"}, [("group", "h")]),
        ("CreateRole", {"roleName": "r"}, [("role", "r")]),
        ("TagRole", {"roleName": "r"}, []),
        ("GetRole", {"roleName": "r"}, []),
        ("PutRolePolicy", {"roleName": 7}, []),
        ("PutRolePolicy", None, []),
        ("PutRolePolicy", "null", []),
    ],
)
def test_whom_a_change_concerns(name: str, parameters: Any, expected: list[tuple[str, str]]) -> None:
    assert concerns_of(make_change(name, parameters)) == expected


def test_a_service_linked_role_is_named_by_the_answer() -> None:
    raw = make_change(
        "CreateServiceLinkedRole", {"aWSServiceName": "x.amazonaws.com"}, responseElements={"role": {"roleName": "ForX"}}
    )  # fmt: skip
    assert concerns_of(raw) == [("role", "ForX")]


def test_policies_of_the_organization_and_trails_concern_no_principal() -> None:
    assert concerns_of(make_change("AttachPolicy", {"policyId": "p-1"}, "organizations.amazonaws.com")) == [
        ("organization", "")
    ]
    assert concerns_of(make_change("PutEventSelectors", {"trailName": "t"}, "cloudtrail.amazonaws.com")) == [
        ("logging", "")
    ]
    # The same name of another service is another event.
    assert concerns_of(make_change("AttachPolicy", {"policyName": "p"}, "iot.amazonaws.com")) == []


def test_a_change_says_when_through_what_and_in_which_account() -> None:
    change = read_change(
        make_change("AttachRolePolicy", {"roleName": "r", "policyArn": "arn:p"}, recipientAccountId=OTHER),
        load_changes(),
    )
    assert change is not None
    assert (change.time, change.through) == (NOW, "arn:p")
    assert change.concerns == (Concern(OTHER, "role", "r"),)
    own = make_change("DeleteRolePermissionsBoundary", {"roleName": "r"}, recipientAccountId=None)
    change = read_change(own, load_changes())
    assert change is not None
    assert (change.concerns[0].account_id, change.through) == (ACCOUNT, "")


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b'{"eventSource":"iam.amazonaws.com"}', make_change("PutRolePolicy", {}, eventTime="soon")],
)
def test_what_cannot_be_read_concerns_nobody(raw: bytes) -> None:
    assert read_change(raw, load_changes()) is None


def test_the_table_names_events_of_these_services_once() -> None:
    table = load_changes()
    assert {source for source, _ in table} == {
        f"{name}.amazonaws.com" for name in ("iam", "organizations", "cloudtrail", "events")
    }
    rows = [row for listed in table.values() for row in listed]
    assert {row.concerns for row in rows} == set(CONCERNS)
    assert len(set(rows)) == len(rows)
    # Each is an event of the catalogue: a typing error would be watched for in vain.
    actions = ActionMap(load_catalogue(), load_action_rules())
    assert [place for place in table if actions.lookup(*place) is None] == []


# --- in the stream ----------------------------------------------------------------------------------------------------


def take_in(records: list[dict[str, Any]], *, watch: bool, scope: Scope = EVERYTHING) -> tuple[Intake, list[list[int]]]:
    intake = Intake(ActionMap(load_catalogue(), load_action_rules()), scope, {}, Tally())
    if watch:
        intake.watch(load_changes())
    found = []
    # In several batches: what is known from the first is met again by the compiled loop.
    for at in range(0, len(records), 4):
        payloads = [json.dumps(record).encode() for record in records[at : at + 4]]
        for uses in intake.resolve(decode_payloads(payloads)):
            calls = [uses.calls[call] for call in uses.call.tolist()]
            found.append([*uses.time.tolist(), *(action for call in calls for action in call.effect.actions)])
    return intake, found


def make_records() -> list[dict[str, Any]]:
    put = {"eventSource": "iam.amazonaws.com", "eventName": "PutRolePolicy"}
    records = []
    for at in range(12):
        records += [
            build_record(10 * at, NOW + at),
            build_record(10 * at + 1, NOW + at, **put, requestParameters={"roleName": f"r{at}"}),
            build_record(10 * at + 2, NOW + at, **put, requestParameters={"roleName": "no"}, errorCode="AccessDenied"),
            build_record(
                10 * at + 3, NOW + at, **put, requestParameters={"roleName": "no"}, errorCode="NoSuchEntityException"
            ),
            build_record(
                10 * at + 4, NOW + at, **put, requestParameters={"roleName": f"s{at}"}, userIdentity=CALLER_OUT_OF_SCOPE
            ),
            build_record(
                10 * at + 5, NOW + at, eventName="RunInstances", requestParameters={"iamInstanceProfile": {"name": "x"}}
            ),
        ]
    return records


@pytest.mark.parametrize("scope", [Scope(), Scope(skip=(f"arn:aws:iam::{ACCOUNT}:root",)), Scope(only=("nobody",))])
def test_every_change_that_succeeded_is_told_of_whoever_made_it(scope: Scope) -> None:
    watched, found = take_in(make_records(), watch=True, scope=scope)
    plain, expected = take_in(make_records(), watch=False, scope=scope)
    changes = [change for raw in watched.changes if (change := read_change(raw, load_changes()))]
    named = [concern.name for change in changes for concern in change.concerns]
    assert sorted(named) == sorted(f"{letter}{at}" for letter in "rs" for at in range(12))
    assert plain.changes == []
    # Looking at them changes nothing of what is counted.
    assert found == expected
    assert dict(watched.tally.classes) == dict(plain.tally.classes)
    assert watched.tally.accounts == plain.tally.accounts


def test_a_change_by_an_unknown_caller_is_told_of() -> None:
    """AWS itself, for Identity Center."""
    caller = {"type": "AWSService", "invokedBy": "sso.amazonaws.com"}
    put = build_record(
        1, NOW, eventSource="iam.amazonaws.com", eventName="PutRolePolicy", requestParameters={"roleName": "r"}, userIdentity=caller
    )  # fmt: skip
    watched, _ = take_in([put, {**put, "eventID": "2"}], watch=True)
    assert len(watched.changes) == 2
    assert watched.tally.classes["no_principal"] == 2


def test_the_caller_of_the_examples_is_the_builder() -> None:
    assert build_record(1, NOW)["userIdentity"]["sessionContext"]["sessionIssuer"]["arn"] == ROLE
