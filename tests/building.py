"""What several tests build: small catalogues, principals, grants, fleets, cells, records and inventories."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from processor.core.catalogue import Catalogue, build_catalogue, mask_of_ids
from processor.core.fleet import Coverage, Fleet
from processor.core.gap import Logging, Window
from processor.core.horizon import Horizon
from processor.core.inventory import Granting, Grants, InventoryPrincipal
from processor.core.ledger import Ledger
from processor.core.principals import Principal
from processor.core.sessions import SUCCEEDED, Actor, Calls, Effect, Origin, Place, Scope, Session, Sessions, key_of
from processor.core.tally import Tally
from processor.core.uses import Uses

DAY = 86_400
ACCOUNT = "111122223333"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/team/builder"
ROLE_ID = "AROAEXAMPLEBUILDER001"

ACTIONS = (
    ("ec2:DescribeInstances", "List"),
    ("ec2:RunInstances", "Write"),
    ("iam:CreateAccessKey", "Permissions management, Write"),
    ("iam:ListUsers", "List"),
    ("iam:PassRole", "Permissions management, Write"),
    ("lambda:CreateFunction", "Write"),
    ("lambda:InvokeFunction", "Write"),
    ("new:NobodyKnows", "Write"),
    ("s3:CreateBucket", "Write"),
    ("s3:DeleteObject", "Write"),
    ("s3:GetObject", "Read"),
    ("sts:TagSession", "Tagging"),
    ("support:OpenConsole", "Write"),
)


def build_small_catalogue(version: str = "small-1", actions: Iterable[tuple[str, str]] = ACTIONS) -> Catalogue:
    """A dozen actions with every class of observability, some risks, and one path of two actions."""
    return build_catalogue(
        version,
        actions,
        {
            "iam:CreateAccessKey": ("privilege_escalation", "credentials_exposure"),
            "iam:PassRole": ("permissions_management",),
            "s3:GetObject": ("data_access",),
            "s3:DeleteObject": ("destructive",),
        },
        {
            "ec2:DescribeInstances": "management",
            "ec2:RunInstances": "management",
            "iam:CreateAccessKey": "management",
            "iam:ListUsers": "seen",
            "iam:PassRole": "dependent_only",
            "lambda:CreateFunction": "management",
            "lambda:InvokeFunction": "data",
            "s3:CreateBucket": "management",
            "s3:DeleteObject": "data",
            "s3:GetObject": "data",
            "sts:TagSession": "dependent_only",
            "support:OpenConsole": "no_api",
        },
        [("path-1", "pass a role to a function", ("iam:PassRole", "lambda:CreateFunction"))],
    )


def build_principal(name: str, account_id: str = ACCOUNT, unique_id: str | None = "") -> Principal:
    """A role; its unique id comes from its name where none is given."""
    found = f"AROA{name.upper()}" if unique_id == "" else unique_id
    return Principal(f"arn:aws:iam::{account_id}:role/{name}", found, account_id, "role")


def build_holding(
    principal: Principal,
    granted: int,
    *,
    created: int | None = None,
    births: tuple[tuple[int, int], ...] = (),
    conditional: int = 0,
    flags: tuple[str, ...] = (),
) -> InventoryPrincipal:
    """A principal as an inventory has it, its actions granted by one statement."""
    granting = Granting("everything", None, None, "First", granted, bool(conditional), ("*",))
    return InventoryPrincipal(
        arn=principal.arn,
        unique_id=principal.unique_id or "",
        account_id=principal.account_id,
        kind=principal.kind,
        name=principal.arn.rpartition("/")[2],
        created=created,
        grants=Grants(granted, conditional, births, (granting,), flags),
        tags={"team": "blue"},
        boundary=None,
        service_linked=False,
    )


def build_ledger(span_seconds: int | None = None, spans: int = 4) -> Ledger:
    """An empty ledger; with `span_seconds` its horizon is one of a long-running process."""
    return Ledger(Horizon() if span_seconds is None else Horizon(span_seconds, spans), Tally())


def build_session(principal: Principal, operator: str = "ann") -> Session:
    return Session(Origin(Actor(principal, None), "", principal.account_id), operator)


def build_use(
    ledger: Ledger, session: Session, actions: Iterable[int], time: int, event: int, outcome: int = SUCCEEDED
) -> Uses:
    """A use as an intake hands it to a ledger, its time noted; `event` stands for the event's id."""
    ledger.tally.note_time(ledger.tally.log_of(session.origin.account_id, time), time)
    calls, sessions = Calls(), Sessions()
    sessions.add(session.origin.actor, session.operator, session.origin.via, session.origin.account_id)
    calls.add(session.origin.actor, Effect(None, tuple(actions), outcome))
    hashed = (event * 0x9E3779B97F4A7C15 + 1) % 2**64 ^ session.origin.actor.salt
    first, none = np.zeros(1, np.int64), np.zeros(0, np.uint64)
    return Uses(
        calls, sessions, [Place("eu-central-1", session.origin.account_id)], first, first, first, np.array([time]),
        np.array([hashed or 1], np.uint64), first, first, none, None,
    )  # fmt: skip


def build_fleet(
    catalogue: Catalogue,
    ledger: Ledger,
    inventory: Iterable[InventoryPrincipal],
    *,
    windows: tuple[int, ...] = (7, 30),
    covered: Mapping[str, int] | None = None,
    logging: Mapping[str, Logging] | None = None,
) -> Fleet:
    held = {key_of(Principal(each.arn, each.unique_id, each.account_id, each.kind)): each for each in inventory}
    coverage = Coverage(ledger.tally.accounts if covered is None else covered)
    return Fleet(catalogue, [Window(d) for d in windows], ledger.principals, held, coverage, logging or {}, Scope())


def mask_of(catalogue: Catalogue, *names: str) -> int:
    """The mask of names that must all exist."""
    return mask_of_ids(catalogue.ids[name] for name in names)


def write_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def build_record(number: int, time: int, **changes: Any) -> dict[str, Any]:
    """A call by the role builder; `number` gives it its id."""
    return {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "AssumedRole",
            "principalId": f"{ROLE_ID}:ann",
            "arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/builder/ann",
            "accountId": ACCOUNT,
            "sessionContext": {"sessionIssuer": {"type": "Role", "principalId": ROLE_ID, "arn": ROLE}},
        },
        "eventTime": write_time(time),
        "eventSource": "ec2.amazonaws.com",
        "eventName": "DescribeInstances",
        "awsRegion": "eu-central-1",
        "requestParameters": None,
        "responseElements": None,
        "eventID": f"00000000-0000-4000-8000-{number:012d}",
        "eventType": "AwsApiCall",
        "recipientAccountId": ACCOUNT,
        **changes,
    }


def build_details(actions: Iterable[str], *, created: str = "2020-01-01T00:00:00+00:00", **more: Any) -> dict[str, Any]:
    """Authorization details of an account with the role builder, which one inline statement allows `actions`."""
    statement = {"Sid": "Work", "Effect": "Allow", "Action": list(actions), "Resource": "*"}
    role = {
        "Path": "/team/",
        "RoleName": "builder",
        "RoleId": ROLE_ID,
        "Arn": ROLE,
        "CreateDate": created,
        "RolePolicyList": [
            {"PolicyName": "inline-work", "PolicyDocument": {"Version": "2012-10-17", "Statement": [statement]}}
        ],
        "AttachedManagedPolicies": [],
        "InstanceProfileList": [],
        "Tags": [],
        **more,
    }
    return {"UserDetailList": [], "GroupDetailList": [], "RoleDetailList": [role], "Policies": []}


def write_lines(path: Path, records: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_json(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path
