"""The templates of the AWS side: clean, deployed into moto, and granting exactly what gapwatch does, each with its reason."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from aws_server import OWN, MotoServer
from botocore import xform_name

from processor.core.catalogue import ids_in
from processor.core.inventory import read_inventory
from processor.core.trails import ALL_STATES, Rule, Trail, build_logging
from processor.shell.tables import load_catalogue, load_logged_types, read_table

ROOT = Path(__file__).parent.parent
TEMPLATES = ROOT / "deploy" / "cloudformation"
CENTRAL, MEMBER = TEMPLATES / "central.yaml", TEMPLATES / "member.yaml"
OWN_ACTIONS = {action: (where, reason) for action, where, reason in read_table("own_actions", 3)}
BUS = f"arn:aws:events:us-east-1:{OWN}:event-bus/gapwatch"
SERVICES = (
    "cloudtrail", "dynamodb", "ec2", "events", "iam", "kinesis", "kms", "organizations", "s3", "sns", "sqs", "sts",
)  # fmt: skip
ASKING = {"call", "gather", "pages", "_gather", "persist"}
"""Methods whose first argument names an operation; `{kind}` in it stands for each kind of principal."""

OTHER_NAMES = {
    "s3:ListObjectsV2": "s3:ListBucket",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
}
"""Operations that another action decides (Service Authorization Reference)."""

ASKED_BY_ANYBODY = {"sts:GetCallerIdentity"}
CALLED_BY_AWS = {"kms:Decrypt"}
"""What a service does for us with our own rights."""

ACTION_LINE = re.compile(r"^ {18}- (?P<action>[a-z0-9-]+:\w+)  # (?P<reason>.+)$", re.MULTILINE)


@pytest.mark.parametrize("path", [CENTRAL, MEMBER], ids=lambda path: path.name)
def test_a_template_is_clean(path: Path) -> None:
    lint = Path(sys.executable).with_name("cfn-lint")
    ran = subprocess.run([lint, path], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_action_is_listed_with_its_reason() -> None:
    listed = {}
    for path in (CENTRAL, MEMBER):
        listed[path] = {found["action"]: found["reason"] for found in ACTION_LINE.finditer(path.read_text())}
    reasons = {action: reason for action, (_, reason) in OWN_ACTIONS.items()}
    assert listed[CENTRAL] == reasons
    assert listed[MEMBER] == {
        action: reasons[action] for action, (where, _) in OWN_ACTIONS.items() if where == "member"
    }


@cache
def find_operations() -> dict[str, dict[str, str]]:
    """The operations of each service that we call, by the name of a client's method."""
    session = botocore.session.Session()
    return {
        service: {xform_name(name): name for name in session.get_service_model(service).operation_names}
        for service in SERVICES
    }


def find_asked(node: ast.AST, methods: set[str], operations: set[str]) -> Iterator[str]:
    """The operations that one node of a module's tree asks for."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in ASKING and node.args:
            named = ast.unparse(node.args[0]).strip("f'\"")
            kinds = ("Role", "User", "Group") if "{kind}" in named else ("",)
            yield from {named.replace("{kind}", kind) for kind in kinds} & operations
        # A method of one word may be anybody's; botocore's take arguments by their names in AWS.
        if node.func.attr in methods and any(word.arg and word.arg[0].isupper() for word in node.keywords):
            yield node.func.attr
    if isinstance(node, ast.Attribute) and node.attr in methods and "_" in node.attr:
        yield node.attr


def find_calls(source: str, module: str = "") -> set[str]:
    """All `service:Operation` that a module asks for. Where several services have an operation, it is that of the one that the
    module names, or is named after; else of all."""
    found = find_operations()
    names = {name for operations in found.values() for name in operations.values()}
    methods = {method for operations in found.values() for method in operations}
    calls = set()
    tree = ast.parse(source)
    said = {module} | {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in SERVICES
    }
    for asked in {asked for node in ast.walk(tree) for asked in find_asked(node, methods, names)}:
        having = {
            f"{service}:{operations.get(asked, asked)}"
            for service, operations in found.items()
            if asked in operations or asked in operations.values()
        }
        calls |= {call for call in having if call.partition(":")[0] in said} or having
    return {OTHER_NAMES.get(call, call) for call in calls}


def test_calls_are_found_however_they_are_made() -> None:
    assert find_calls("await client.gather(f'ListAttached{kind}Policies', 'x')") == {
        "iam:ListAttachedRolePolicies", "iam:ListAttachedUserPolicies", "iam:ListAttachedGroupPolicies"
    }  # fmt: skip
    assert find_calls("calls.persist('ListShards', self._client.list_shards)") == {"kinesis:ListShards"}
    assert find_calls("await client.publish(TopicArn=arn); broker.publish(text); key.verify(b'')") == {"sns:Publish"}
    assert find_calls("client.list_objects_v2(**where)") == {"s3:ListBucket"}
    assert find_calls("open('organizations'); client.gather('ListPolicies', 'Policies')") == {
        "organizations:ListPolicies"
    }


def test_what_is_granted_is_what_is_called() -> None:
    """gapwatch's own gap is nothing: no call without its action, no action without its call."""
    called: set[str] = set()
    for path in (ROOT / "processor").rglob("*.py"):
        called |= find_calls(path.read_text(), path.stem)
    assert called - ASKED_BY_ANYBODY == OWN_ACTIONS.keys() - CALLED_BY_AWS


def deploy(aws: MotoServer, path: Path, **parameters: str) -> dict[str, str]:
    """Deploy a template; returns its outputs."""
    stacks = aws.open("cloudformation")
    given = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
    stacks.create_stack(
        StackName=path.stem, TemplateBody=path.read_text(), Parameters=given, Capabilities=["CAPABILITY_NAMED_IAM"]
    )  # fmt: skip
    (stack,) = stacks.describe_stacks(StackName=path.stem)["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def read_granted(aws: MotoServer, name: str) -> set[str]:
    """What a role may do, as gapwatch reads it."""
    iam = aws.open("iam")
    role = dict(iam.get_role(RoleName=name)["Role"])
    role["RolePolicyList"] = [
        # moto's CloudFormation keeps an inline policy as Python writes a dict, and not as JSON.
        {"PolicyName": policy, "PolicyDocument": ast.literal_eval(found["PolicyDocument"])}
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]
        if (found := iam.get_role_policy(RoleName=name, PolicyName=policy))
    ]
    (found,) = read_inventory([{"RoleDetailList": [role]}], load_catalogue())
    assert found.grants.flags == ()
    return {load_catalogue().names[action] for action in ids_in(found.grants.granted)}


def names_of(actions: Any) -> set[str]:
    """Those of them that are actions of the catalogue, all of which they have to be."""
    return {load_catalogue().names[load_catalogue().ids[action]] for action in actions}


def test_the_central_template_deploys(aws: MotoServer) -> None:
    outputs = deploy(
        aws, CENTRAL,
        OrganizationId="o-abcdefghij", TrustedPrincipalArn=f"arn:aws:iam::{OWN}:role/pods", TrailBucketName="trail-bucket",
    )  # fmt: skip
    assert read_granted(aws, outputs["ReaderRoleName"]) == names_of(OWN_ACTIONS)
    stream = aws.open("kinesis").describe_stream_summary(StreamName=outputs["StreamName"])["StreamDescriptionSummary"]
    assert stream["StreamStatus"] == "ACTIVE"
    attributes = aws.open("sqs").get_queue_attributes(QueueUrl=outputs["LogFilesUrl"], AttributeNames=["All"])[
        "Attributes"
    ]
    assert json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"].endswith(":gapwatch-undelivered")
    assert "gapwatch" in {bus["Name"] for bus in aws.open("events").list_event_buses()["EventBuses"]}


def test_the_member_template_deploys_and_lets_every_call_through(aws: MotoServer) -> None:
    outputs = deploy(aws, MEMBER, CentralAccountId="444455556666", CentralBusArn=BUS)
    assert outputs["RoleArn"] == f"arn:aws:iam::{OWN}:role/gapwatch"
    member = [action for action, (where, _) in OWN_ACTIONS.items() if where == "member"]
    assert read_granted(aws, "gapwatch") == names_of(member)
    (rule,) = [each for each in aws.open("events").list_rules()["Rules"] if each["Name"] == "gapwatch"]
    assert rule["State"] == ALL_STATES
    found = Rule(rule["Name"], "us-east-1", rule["State"], rule["EventPattern"])
    trail = Trail("main", "us-east-1", True, True, True)
    logging = build_logging(load_catalogue(), [trail], ["us-east-1"], load_logged_types(), [found])
    assert logging.read_only
    assert logging.writes
    assert logging.blind_regions == ()


def test_the_role_is_made_once(aws: MotoServer) -> None:
    """In other regions than the home one only the rule is made."""
    outputs = deploy(aws, MEMBER, CentralAccountId="444455556666", CentralBusArn=BUS, HomeRegion="eu-central-1")
    assert "RoleArn" not in outputs
    assert {role["RoleName"] for role in aws.open("iam").list_roles()["Roles"]} & {"gapwatch"} == set()
