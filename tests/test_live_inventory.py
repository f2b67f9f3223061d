"""`gapwatch run --inventory-from aws` against a moto server: what may be done is read from AWS, and again when the log says that it
changed."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from aws_server import OWN, FaultyAws, MotoServer, allow, make_role
from building import DAY, build_record, write_lines, write_time
from conftest import Gapwatch
from test_run import FAST, Running, add_lines, wait_for

CHANGE_SECONDS_MAX = 5.0
"""From a record of a change to the gap that it makes."""

NOW = int(time.time())


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "fast.toml"
    path.write_text(FAST)
    return path


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "trail.ndjson", [make_change("ListRoles", {}, 1)])


def make_change(
    name: str, parameters: dict[str, Any], number: int, source: str = "iam", **changes: Any
) -> dict[str, Any]:
    """A call of now that changes something, by somebody else."""
    return build_record(
        number, int(time.time()), eventName=name, eventSource=f"{source}.amazonaws.com", requestParameters=parameters,
        recipientAccountId=changes.pop("account", OWN), awsRegion="us-east-1", **changes,
    )  # fmt: skip


def count_grants(running: Running, arn: str) -> dict[str, int]:
    """The grants of a principal by verdict, in the shortest window; those that there are."""
    found = running.read("gapwatch_gap_grants", principal=arn, window="7d")
    return {labels.rpartition(",")[2]: int(count) for labels, count in found.items() if count}


def wait_grants(running: Running, arn: str, seconds: float = CHANGE_SECONDS_MAX, **expected: int) -> float:
    """Wait for the grants of a principal; returns how long it took."""
    began = time.monotonic()
    try:
        wait_for(lambda: count_grants(running, arn) == expected, seconds)
    except AssertionError:
        raise AssertionError(f"{count_grants(running, arn)}, not {expected}; {running.said}") from None
    return time.monotonic() - began


def explain(gapwatch: Gapwatch, state: Path, name: str, action: str, *options: object) -> Any:
    ran = gapwatch("explain", name, action, "--state", state, "--format", "json", *options)
    assert ran.code == 0, ran.stderr
    return ran.json["actions"][0]


def test_a_change_alone_moves_grants_and_gap(
    aws: MotoServer, trail: Path, config: Path, tmp_path: Path, gapwatch: Gapwatch
) -> None:
    iam = aws.open("iam")
    role = make_role(iam, "builder", "/team/", work=allow("ec2:RunInstances", "s3:CreateBucket"))["Arn"]
    state = tmp_path / "state"
    with Running(
        "--source", trail, "--config", config, "--inventory-from", "aws", "--state", state, "--refresh-minutes", 10_000
    ) as running:
        running.wait_ready()
        # The role is younger than the window: all it may do is too new.
        wait_grants(running, role, 10, too_new=2)
        assert running.read("gapwatch_inventory_failed", account=OWN) == {"": 0}
        iam.put_role_policy(
            RoleName="builder", PolicyName="more", PolicyDocument=allow("ec2:StopInstances", "iam:PassRole")
        )
        time.sleep(1)
        assert count_grants(running, role) == {"too_new": 2}, "without a record nothing is read before its time"
        add_lines(trail, [make_change("PutRolePolicy", {"roleName": "builder", "policyName": "more"}, 2)])
        took = wait_grants(running, role, too_new=3, unobservable=1)
        print(f"PutRolePolicy to gap: {took:.2f} s")
        managed = iam.create_policy(PolicyName="shared", PolicyDocument=allow("ec2:CreateVpc"))["Policy"]["Arn"]
        iam.attach_role_policy(RoleName="builder", PolicyArn=managed)
        add_lines(trail, [make_change("AttachRolePolicy", {"roleName": "builder", "policyArn": managed}, 3)])
        wait_grants(running, role, too_new=4, unobservable=1)
        iam.create_policy_version(
            PolicyArn=managed, PolicyDocument=allow("ec2:CreateVpc", "ec2:DeleteVpc"), SetAsDefault=True
        )
        add_lines(trail, [make_change("CreatePolicyVersion", {"policyArn": managed, "setAsDefault": True}, 4)])
        wait_grants(running, role, too_new=5, unobservable=1)
        # Another role appears, and goes.
        other = make_role(iam, "other", work=allow("sqs:CreateQueue"))["Arn"]
        add_lines(trail, [make_change("CreateRole", {"roleName": "other"}, 5)])
        wait_grants(running, other, too_new=1)
        iam.delete_role_policy(RoleName="other", PolicyName="work")
        iam.delete_role(RoleName="other")
        add_lines(trail, [make_change("DeleteRole", {"roleName": "other"}, 6)])
        wait_grants(running, other)
        assert running.read("gapwatch_inventory_changes_total") == {"": 5}
        assert running.stop() == 0
        assert "Traceback" not in running.said
    assert explain(gapwatch, state, role, "ec2:DeleteVpc")["granted_by"][0]["policy_arn"] == managed


def test_users_groups_and_boundaries_are_followed(aws: MotoServer, trail: Path, config: Path) -> None:
    iam = aws.open("iam")
    user = iam.create_user(UserName="ann")["User"]["Arn"]
    iam.create_group(GroupName="makers")
    iam.put_group_policy(
        GroupName="makers", PolicyName="make", PolicyDocument=allow("ec2:RunInstances", "ec2:StopInstances")
    )
    role = make_role(iam, "bounded", work=allow("ec2:RunInstances", "ec2:StopInstances", "s3:CreateBucket"))["Arn"]
    limit = iam.create_policy(PolicyName="limit", PolicyDocument=allow("ec2:*"))["Policy"]["Arn"]
    with Running("--source", trail, "--config", config, "--inventory-from", "aws") as running:
        running.wait_ready()
        wait_grants(running, role, 10, too_new=3)
        assert count_grants(running, user) == {}
        iam.add_user_to_group(UserName="ann", GroupName="makers")
        add_lines(trail, [make_change("AddUserToGroup", {"userName": "ann", "groupName": "makers"}, 2)])
        wait_grants(running, user, too_new=2)
        iam.put_group_policy(GroupName="makers", PolicyName="more", PolicyDocument=allow("s3:CreateBucket"))
        add_lines(trail, [make_change("PutGroupPolicy", {"groupName": "makers", "policyName": "more"}, 3)])
        wait_grants(running, user, too_new=3)
        iam.put_role_permissions_boundary(RoleName="bounded", PermissionsBoundary=limit)
        add_lines(trail, [make_change("PutRolePermissionsBoundary", {"roleName": "bounded"}, 4)])
        wait_grants(running, role, too_new=2)
        # A boundary's new version concerns whoever is bounded by it.
        iam.create_policy_version(PolicyArn=limit, PolicyDocument=allow("ec2:RunInstances"), SetAsDefault=True)
        add_lines(trail, [make_change("CreatePolicyVersion", {"policyArn": limit}, 5)])
        wait_grants(running, role, too_new=1)
        iam.remove_user_from_group(UserName="ann", GroupName="makers")
        add_lines(trail, [make_change("RemoveUserFromGroup", {"userName": "ann", "groupName": "makers"}, 6)])
        wait_grants(running, user)
        assert running.stop() == 0


def make_organization(aws: MotoServer) -> tuple[Any, str, str]:
    """An organization with a member: its client, the member's id, and the ARN of a role there."""
    organizations = aws.open("organizations")
    organizations.create_organization(FeatureSet="ALL")
    root = organizations.list_roots()["Roots"][0]["Id"]
    organizations.enable_policy_type(RootId=root, PolicyType="SERVICE_CONTROL_POLICY")
    member = organizations.create_account(AccountName="member", Email="member@example.com")
    member_id = member["CreateAccountStatus"]["AccountId"]
    role = make_role(aws.open("iam", member_id), "worker", work=allow("ec2:RunInstances", "s3:CreateBucket"))["Arn"]
    return organizations, member_id, role


def test_policies_of_the_organization_are_followed(aws: MotoServer, trail: Path, config: Path) -> None:
    organizations, member, role = make_organization(aws)
    own = make_role(aws.open("iam"), "own", work=allow("ec2:RunInstances"))["Arn"]
    with Running("--source", trail, "--config", config, "--inventory-from", "aws", "--from-organization") as running:
        running.wait_ready()
        wait_grants(running, role, 10, too_new=2)
        wait_grants(running, own, 10, too_new=1)
        # A change in a member account is read there.
        aws.open("iam", member).put_role_policy(
            RoleName="worker", PolicyName="more", PolicyDocument=allow("sqs:CreateQueue")
        )
        add_lines(
            trail, [make_change("PutRolePolicy", {"roleName": "worker", "policyName": "more"}, 2, account=member)]
        )
        wait_grants(running, role, too_new=3)
        deny = json.dumps(
            {"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": ["ec2:*"], "Resource": "*"}}
        )
        policy = organizations.create_policy(Name="no", Description="", Type="SERVICE_CONTROL_POLICY", Content=deny)
        policy_id = policy["Policy"]["PolicySummary"]["Id"]
        organizations.attach_policy(PolicyId=policy_id, TargetId=member)
        time.sleep(2)  # an account is not read whole more often than every 10 s
        add_lines(trail, [make_change("AttachPolicy", {"policyId": policy_id, "targetId": member}, 3, "organizations")])
        wait_grants(running, role, 2 * CHANGE_SECONDS_MAX, too_new=2)
        assert count_grants(running, own) == {"too_new": 1}
        assert running.stop() == 0


def test_an_account_that_cannot_be_read_keeps_its_inventory_and_its_verdicts(
    faulty_aws: FaultyAws, aws: MotoServer, trail: Path, config: Path, tmp_path: Path, gapwatch: Gapwatch
) -> None:
    _, member, role = make_organization(aws)
    order = (
        "--source", trail, "--config", config, "--inventory-from", "aws", "--from-organization", "--state", tmp_path / "state"
    )  # fmt: skip
    with Running(*order) as running:
        running.wait_ready()
        wait_grants(running, role, 10, too_new=2)
        assert running.stop() == 0
    read = int(time.time())
    faulty_aws.faults[f"{member}:GetAccountAuthorizationDetails"] = "AccessDenied"
    with Running(*order) as running:
        running.wait_ready()
        wait_for(lambda: running.read("gapwatch_inventory_failed", account=member) == {"": 1}, 10)
        assert running.read("gapwatch_inventory_failed", account=OWN) == {"": 0}
        running_read = int(running.read("gapwatch_inventory_timestamp_seconds", account=member)[""])
        assert read - 30 <= running_read <= read
        assert count_grants(running, role) == {"too_new": 2}
        line = next(line for line in running.lines if member in line)
        assert "iam:GetAccountAuthorizationDetails" in line
        assert "denied" in line
        # A change there is still followed, by the calls that it takes.
        aws.open("iam", member).put_role_policy(
            RoleName="worker", PolicyName="more", PolicyDocument=allow("sqs:CreateQueue")
        )
        add_lines(
            trail, [make_change("PutRolePolicy", {"roleName": "worker", "policyName": "more"}, 2, account=member)]
        )
        wait_grants(running, role, too_new=3)
        assert running.stop() == 0
        assert "Traceback" not in running.said
    report = gapwatch("report", "--state", tmp_path / "state", "--format", "json")
    assert report.code == 0, report.stderr


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("GetCallerIdentity", "InvalidClientTokenId", ("sts:GetCallerIdentity", "refuses the credentials")),
        ("GetAccountAuthorizationDetails", "AccessDenied", ("iam:GetAccountAuthorizationDetails", "allow", OWN)),
        ("GetAccountAuthorizationDetails", "Throttling", ("iam:GetAccountAuthorizationDetails", "throttled")),
    ],
)
def test_a_run_that_can_read_nothing_ends_at_once_with_one_line(
    faulty_aws: FaultyAws, trail: Path, gapwatch: Gapwatch, fault: str, code: str, words: tuple[str, ...]
) -> None:
    faulty_aws.faults[fault] = code
    ran = gapwatch("run", "--source", trail, "--inventory-from", "aws", "--port", 0)
    assert ran.code == 2
    assert ran.stderr.count("\n") == 1, ran.stderr
    for word in words:
        assert word in ran.stderr


def test_selectors_are_read_and_followed(
    aws: MotoServer, trail: Path, config: Path, tmp_path: Path, gapwatch: Gapwatch
) -> None:
    """Acceptance: selectors without data events make s3:GetObject unobservable, and say why; adding one makes it unproven."""
    aws.open("s3").create_bucket(Bucket="trail-bucket")
    cloudtrail = aws.open("cloudtrail")
    cloudtrail.create_trail(Name="main", S3BucketName="trail-bucket", IsMultiRegionTrail=True)
    cloudtrail.start_logging(Name="main")
    role = make_role(aws.open("iam"), "reader", work=allow("s3:GetObject"))["Arn"]
    state = tmp_path / "state"
    order = (
        "--source", trail, "--config", config, "--inventory-from", "aws", "--logging-from", "aws", "--region", "us-east-1",
        "--state", state, "--window", 1, "--window", 7,
    )  # fmt: skip
    with Running(*order) as running:
        running.wait_ready()
        wait_grants(running, role, 10, unobservable=1)
        time.sleep(2)
        added = int(time.time())
        cloudtrail.put_event_selectors(
            TrailName="main",
            EventSelectors=[
                {
                    "ReadWriteType": "All",
                    "IncludeManagementEvents": True,
                    "DataResources": [{"Type": "AWS::S3::Object", "Values": ["arn:aws:s3"]}],
                }
            ],
        )
        add_lines(trail, [make_change("PutEventSelectors", {"trailName": "main"}, 2, "cloudtrail")])
        wait_grants(running, role, too_new=1)
        assert running.stop() == 0
    # A day later the role is older than the window of a day, but its log is not; once that is covered, the grant is unused.
    for later, verdict in ((DAY - 1, "unproven"), (DAY + 60, "unused")):
        found = explain(gapwatch, state, role, "s3:GetObject", "--as-of", write_time(added + later))
        assert found["verdict"]["1d"] == verdict, found["because"]
        assert "only since" in found["because"]["1d"] or verdict == "unused"
    with Running(*order) as running:
        running.wait_ready()
        cloudtrail.put_event_selectors(
            TrailName="main",
            EventSelectors=[{"ReadWriteType": "All", "IncludeManagementEvents": True, "DataResources": []}],
        )
        add_lines(trail, [make_change("PutEventSelectors", {"trailName": "main"}, 3, "cloudtrail")])
        wait_grants(running, role, unobservable=1)
        assert running.stop() == 0
    found = explain(gapwatch, state, role, "s3:GetObject")
    assert found["because"]["7d"].endswith("no trail that is logging selects data events of AWS::S3::Object")
