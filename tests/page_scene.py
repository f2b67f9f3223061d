"""A company of few for the tests of the page: a role with everything, hostile names, a user, one that no inventory has."""

import time
from pathlib import Path
from typing import Any

from building import ACCOUNT, DAY, ROLE, ROLE_ID, build_details, build_record, write_json, write_lines, write_time

from processor.core.principals import Principal
from processor.core.sessions import key_of

ADMIN = f"arn:aws:iam::{ACCOUNT}:role/ops/admin"
EVIL = f"arn:aws:iam::{ACCOUNT}:role/x\"><script>alert(1)</script>'&/evil"
STRANGER = f"arn:aws:iam::{ACCOUNT}:role/stranger"
HOSTILE_TEXTS = (
    '"><script>alert(2)</script>',
    "\u202egnp.exe",
    "<img src=x onerror=alert(3)>",
    "{{ 7 * 7 }}{% raw %}",
    "'; DROP TABLE\\n--",
)
IDS = {
    ROLE: ROLE_ID,
    ADMIN: "AROAADMIN0000000000001",
    EVIL: "AROAEVIL00000000000001",
    STRANGER: "AROASTRANGER0000000001",
}
MFA = {"Bool": {"aws:MultiFactorAuthPresent": "true"}}


def key_text(arn: str) -> str:
    return f"{key_of(Principal(arn, IDS[arn], ACCOUNT, 'role')):016x}"


def write_inventory(path: Path) -> Path:
    """Roles builder, admin and evil."""
    names = ["ec2:DescribeInstances", "ec2:RunInstances", "s3:CreateBucket", "s3:GetObject", "iam:CreateAccessKey"]
    details = build_details(names)
    (builder,) = details["RoleDetailList"]
    builder["Tags"] = [{"Key": "team", "Value": "blue"}, {"Key": HOSTILE_TEXTS[0], "Value": HOSTILE_TEXTS[1]}]
    details["RoleDetailList"] += [
        {**builder, "Arn": ADMIN, "RoleId": IDS[ADMIN], "RoleName": "admin", "Path": "/ops/", "Tags": [],
         "RolePolicyList": [write_policy("all", Action="*", Resource="*")]},
        {**builder, "Arn": EVIL, "RoleId": IDS[EVIL], "RoleName": "evil",
         "RolePolicyList": [
             write_policy(HOSTILE_TEXTS[2], Action="s3:*", Resource=f"arn:aws:s3:::{HOSTILE_TEXTS[1]}", Condition=MFA),
             write_policy("iam", Action=["iam:PassRole", "iam:CreateAccessKey"], NotResource="arn:aws:iam::1:role/x"),
         ]},
    ]  # fmt: skip
    return write_json(path, details)


def write_policy(name: str, **statement: Any) -> dict[str, Any]:
    document = {"Version": "2012-10-17", "Statement": [{"Sid": HOSTILE_TEXTS[0], "Effect": "Allow", **statement}]}
    return {"PolicyName": name, "PolicyDocument": document}


def call(number: int, at: int, arn: str, operator: str = "ann", **changes: Any) -> dict[str, Any]:
    """A call by a role, by `number` and time."""
    record = build_record(number, at, **changes)
    issuer = {"type": "Role", "principalId": IDS[arn], "arn": arn}
    record["userIdentity"] = {
        **record["userIdentity"],
        "principalId": f"{IDS[arn]}:{operator}",
        "sessionContext": {"sessionIssuer": issuer},
    }
    return record


def list_records(now: int) -> list[dict[str, Any]]:
    """Forty days: a call of builder each day but the last three, hostile sessions and resources of evil, a stranger."""
    records = [call(day, now - day * DAY, ROLE) for day in range(40, 3, -1)]
    for at, text in enumerate(HOSTILE_TEXTS):
        records.append(
            call(
                100 + at, now - DAY - at, EVIL, text, eventSource="s3.amazonaws.com", eventName="CreateBucket",
                resources=[{"ARN": f"arn:aws:s3:::{text}"}],
            )
        )  # fmt: skip
    refused = {"errorCode": "AccessDenied", "eventName": "RunInstances"}
    records += [call(200 + at, now - 2 * DAY - at, ROLE, **refused) for at in range(7)]
    records.append(call(300, now - 5 * DAY, STRANGER, eventName="StopInstances"))
    records.append(call(301, now - 5 * DAY, ADMIN))
    return records


def write_scene(folder: Path) -> list[object]:
    """The files; returns the arguments of `gapwatch run`."""
    now = int(time.time())
    write_lines(folder / "trail.ndjson", list_records(now))
    settings = folder / "fast.toml"
    settings.write_text("windows = [7, 30]\n[run]\nflush_seconds = 0.05\npoll_seconds = 0.1\nport = 0\n")
    inventory = write_inventory(folder / "iam.json")
    return ["--source", folder / "trail.ndjson", "--inventory", inventory, "--config", settings]


def day_text(days_ago: int) -> str:
    return write_time(int(time.time()) - days_ago * DAY)[:10]
