"""`gapwatch inventory fetch`: the files that it writes are read by replay, and what it cannot read it says in one line each."""

import json
import os
import socket
import stat
from pathlib import Path

import pytest
from aws_server import OWN, FaultyAws, MotoServer, allow, make_role
from building import build_record, write_lines
from conftest import Gapwatch
from test_live_inventory import make_organization

from processor.core.inventory import read_inventory
from processor.core.principals import permission_set_of
from processor.shell.tables import load_catalogue

RESERVED = "/aws-reserved/sso.amazonaws.com/eu-central-1/"


def test_what_is_fetched_is_what_replay_reads(aws: MotoServer, tmp_path: Path, gapwatch: Gapwatch) -> None:
    iam = aws.open("iam")
    make_role(iam, "builder", "/team/", work=allow("ec2:RunInstances", "s3:CreateBucket"))
    make_role(iam, "AWSReservedSSO_Power_0123456789abcdef", RESERVED, work=allow("ec2:StopInstances"))
    iam.attach_role_policy(RoleName="builder", PolicyArn="arn:aws:iam::aws:policy/ReadOnlyAccess")
    # More than a page of IAM's.
    for at in range(505):
        iam.create_user(UserName=f"user-{at:03}")
    out = tmp_path / "inventory"
    ran = gapwatch("inventory", "fetch", "--out", out)
    assert ran.code == 0, ran.stderr
    path = out / f"iam-{OWN}.json"
    assert ran.stdout == f"{path}\n"
    assert "1 accounts read: 2 roles, 505 users, 1 Identity Center" in ran.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    details = json.loads(path.read_text())
    found = {each.name: each for each in read_inventory([details], load_catalogue())}
    assert len(found) == 507
    assert found["builder"].created is not None
    assert found["builder"].grants.granted.bit_count() > 1_000
    assert permission_set_of(found["AWSReservedSSO_Power_0123456789abcdef"].arn) == "Power"
    logs = write_lines(tmp_path / "log.ndjson", [build_record(1, 1_790_000_000)])
    replayed = gapwatch("replay", "--inventory", path, logs, "--format", "json")
    assert replayed.code == 0, replayed.stderr
    names = {principal["arn"].rpartition("/")[2] for principal in replayed.json["principals"]}
    assert {"builder", "user-504"} <= names


def test_an_organization_is_fetched_with_its_accounts_and_policies(
    aws: MotoServer, tmp_path: Path, gapwatch: Gapwatch
) -> None:
    organizations, member, role = make_organization(aws)
    root = organizations.list_roots()["Roots"][0]["Id"]
    unit = organizations.create_organizational_unit(ParentId=root, Name="team")["OrganizationalUnit"]["Id"]
    organizations.move_account(AccountId=member, SourceParentId=root, DestinationParentId=unit)
    deny = json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "ec2:*", "Resource": "*"}})
    policy = organizations.create_policy(Name="no", Description="", Type="SERVICE_CONTROL_POLICY", Content=deny)
    organizations.attach_policy(PolicyId=policy["Policy"]["PolicySummary"]["Id"], TargetId=unit)
    out = tmp_path / "inventory"
    ran = gapwatch("inventory", "fetch", "--from-organization", "--out", out)
    assert ran.code == 0, ran.stderr
    tree = json.loads((out / "organization.json").read_text())
    assert {"id": member, "parent": unit, "type": "account"} in tree["tree"]
    logs = write_lines(tmp_path / "log.ndjson", [build_record(1, 1_790_000_000)])
    replayed = gapwatch(
        "replay", "--inventory", out / f"iam-{OWN}.json", "--inventory", out / f"iam-{member}.json",
        "--organization", out / "organization.json", logs, "--format", "json",
    )  # fmt: skip
    assert replayed.code == 0, replayed.stderr
    (found,) = [each for each in replayed.json["principals"] if each["arn"] == role]
    assert found["windows"]["7d"]["granted"] == 1, "the policy of its unit leaves the bucket only"


def test_accounts_that_cannot_be_read_are_said_and_the_others_written(
    faulty_aws: FaultyAws, aws: MotoServer, tmp_path: Path, gapwatch: Gapwatch
) -> None:
    _, member, _ = make_organization(aws)
    out = tmp_path / "inventory"
    out.mkdir()
    kept = out / f"iam-{member}.json"
    kept.write_text("{}")
    faulty_aws.faults[f"{member}:AssumeRole"] = "AccessDenied"
    ran = gapwatch("inventory", "fetch", "--from-organization", "--out", out)
    assert ran.code == 3
    assert (out / f"iam-{OWN}.json").exists()
    assert kept.read_text() == "{}"
    (line,) = [line for line in ran.stderr.splitlines() if "not read" in line]
    for word in (f"arn:aws:iam::{member}:role/gapwatch", "sts:AssumeRole", "AccessDenied", "trust policy"):
        assert word in line
    assert {path.name for path in out.iterdir()} == {f"iam-{OWN}.json", f"iam-{member}.json", "organization.json"}


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("GetCallerIdentity", "ExpiredToken", ("sts:GetCallerIdentity", "refuses the credentials", "ExpiredToken")),
        ("DescribeOrganization", "AccessDeniedException", ("organizations:DescribeOrganization", "is denied: allow")),
        (
            "DescribeOrganization",
            "AWSOrganizationsNotInUseException",
            ("organizations:DescribeOrganization", "NotInUse"),
        ),
    ],
)
def test_where_nothing_can_be_read_one_line_says_so(
    faulty_aws: FaultyAws, tmp_path: Path, gapwatch: Gapwatch, fault: str, code: str, words: tuple[str, ...]
) -> None:
    faulty_aws.faults[fault] = code
    ran = gapwatch("inventory", "fetch", "--from-organization", "--out", tmp_path / "out")
    assert ran.code == 2
    assert ran.stderr.count("\n") == 1, ran.stderr
    for word in words:
        assert word in ran.stderr
    assert not (tmp_path / "out").exists()


def test_without_credentials(
    aws: MotoServer, tmp_path: Path, gapwatch: Gapwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    ran = gapwatch("inventory", "fetch", "--out", tmp_path)
    assert ran.code == 2
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert "no usable AWS credentials" in ran.stderr


def test_an_endpoint_that_nobody_serves(
    tmp_path: Path, gapwatch: Gapwatch, aws: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        ran = gapwatch("inventory", "fetch", "--out", tmp_path)
    assert ran.code == 2
    assert ran.stderr.count("\n") == 1, ran.stderr
    for word in ("sts:GetCallerIdentity", "cannot be reached", os.environ["AWS_ENDPOINT_URL"]):
        assert word in ran.stderr


@pytest.mark.parametrize("options", [("--account", "12"), ("--account", "1234567890ab"), ()])
def test_usage_is_said_before_anything_is_asked(gapwatch: Gapwatch, tmp_path: Path, options: tuple[str, ...]) -> None:
    ran = gapwatch("inventory", "fetch", *options, *(() if not options else ("--out", tmp_path)))
    assert ran.code == 2
    assert "Usage" in ran.stderr
    ran = gapwatch("run", "--source", tmp_path, "--from-organization")
    assert ran.code == 2
    assert "--inventory-from aws" in ran.stderr


def test_an_endpoint_that_is_not_aws(
    tmp_path: Path, gapwatch: Gapwatch, faulty_aws: FaultyAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty_aws.faults["GetCallerIdentity"] = "<html>"
    ran = gapwatch("inventory", "fetch", "--out", tmp_path)
    assert ran.code == 2
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert "does not answer as AWS does" in ran.stderr
