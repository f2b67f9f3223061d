"""`gapwatch run --inventory-from aws` against a moto server: what may be done is read from AWS, and again when the log says that it
changed."""

import time
from pathlib import Path
from typing import Any

import pytest
from aws_server import OWN, MotoServer, allow, make_role
from building import build_record, write_lines
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


def explain(gapwatch: Gapwatch, state: Path, name: str, action: str) -> Any:
    ran = gapwatch("explain", name, action, "--state", state, "--format", "json")
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
