"""The made-up company's inventory: what `aws iam get-account-authorization-details` would print for each account.

Keys, their order and their forms are the command's own: dates with an offset, trust policies decoded, tags as
Key and Value, boundaries by ARN, all versions of each attached policy, the AWS managed ones too.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from processor.demo.accounts import COMPANY, HOME_REGION, TOOLING, Account, Json
from processor.demo.ids import make_hex, make_unique_id
from processor.demo.policies import AWS_POLICIES, INLINE, OWN_POLICIES, Statements
from processor.demo.principals import DemoPrincipal, stands_in
from processor.demo.staff import GROUPS, TRUSTS, RolePlan, UserPlan
from processor.demo.times import DAY_SECONDS

VERSION_AGES = (600, 240, 90)
"""Days since each version of a customer managed policy was made, from the first on, in every account alike."""

FRESH_POLICY = "checkout-task"
FRESH_AGES = {"PROD": 2, "QA": 4, "DEV": 6}
"""Days since the version in force of the policy that was just widened."""

_AWS_POLICY_MADE = 1_423_180_800  # 2015-02-06, the date that AWS' first managed policies bear


def build_document(account: Account, principals: Sequence[DemoPrincipal], seed: int, until: int) -> Json:
    """One account's document. `principals` may hold other accounts' too; roots are left out, as IAM does."""
    here = [found for found in principals if found.account is account]
    groups = [
        _build_group(account, name, seed, until) for name, (where, _) in GROUPS.items() if stands_in(where, account)
    ]
    users = [_build_user(found) for found in here if found.kind == "user"]
    roles = [_build_role(found, seed, until) for found in here if found.kind == "role"]
    attached = [each["PolicyArn"] for each in _walk_attached([*groups, *users, *roles])]
    bounds = [
        each["PermissionsBoundary"]["PermissionsBoundaryArn"]
        for each in (*users, *roles)
        if "PermissionsBoundary" in each
    ]
    return {
        "UserDetailList": users,
        "GroupDetailList": groups,
        "RoleDetailList": roles,
        "Policies": [
            _build_policy(arn, account, seed, until, attached.count(arn), bounds.count(arn))
            for arn in dict.fromkeys((*attached, *bounds))
        ],
    }  # fmt: skip


def _walk_attached(details: Sequence[Json]) -> Iterator[Mapping[str, str]]:
    for detail in details:
        yield from detail["AttachedManagedPolicies"]


def format_date(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def _build_role(role: DemoPrincipal, seed: int, until: int) -> Json:
    plan = role.plan
    assert isinstance(plan, RolePlan)  # noqa: S101 - roles are made from role plans only
    return {
        "Path": role.path,
        "RoleName": role.name,
        "RoleId": role.unique_id,
        "Arn": role.arn,
        "CreateDate": format_date(role.created),
        "AssumeRolePolicyDocument": build_trust(plan, role.account),
        "InstanceProfileList": [_build_profile(role, seed)] if plan.trust == "node" else [],
        "RolePolicyList": _build_inline(plan.inline, role.account),
        "AttachedManagedPolicies": _list_attached(plan.attached, role.account),
        **_build_boundary(plan.boundary, role.account),
        "Tags": _build_tags(plan.team, role.account) if not plan.linked else [],
        "RoleLastUsed": _build_last_used(role, plan, until),
    }


def build_trust(plan: RolePlan, account: Account) -> Json:
    """Who may assume a role: its trust policy."""
    action, kind, party = TRUSTS[plan.trust]
    trusted = party.format(account=account.id, linked=plan.linked)
    statement: Json = {"Effect": "Allow", "Principal": {kind: trusted}, "Action": action}
    if plan.trust == "vendor":
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": f"skylark-{make_hex(12, account.id)}"}}
    elif plan.trust == "github":
        statement["Condition"] = {
            "StringLike": {"token.actions.githubusercontent.com:sub": f"repo:{COMPANY}/*:ref:refs/heads/main"}
        }
    elif kind == "Federated":
        statement["Condition"] = {"StringEquals": {"SAML:aud": "https://signin.aws.amazon.com/saml"}}
    runner = {"AWS": f"arn:aws:iam::{TOOLING.id}:role/gha-runner-node"}
    more = [{"Effect": "Allow", "Principal": runner, "Action": "sts:AssumeRole"}] if plan.name == "ci-deployer" else []
    return {"Version": "2012-10-17", "Statement": [statement, *more]}


def _build_profile(role: DemoPrincipal, seed: int) -> Json:
    return {
        "Path": "/",
        "InstanceProfileName": role.name,
        "InstanceProfileId": make_unique_id("AIPA", seed, role.arn),
        "Arn": f"arn:aws:iam::{role.account.id}:instance-profile/{role.name}",
        "CreateDate": format_date(role.created),
        "Roles": [],
    }


def _build_last_used(role: DemoPrincipal, plan: RolePlan, until: int) -> Json:
    """IAM's own word of a role's last use: empty where it was not used in 400 days, or never."""
    if plan.idle_days == -1:
        return {}
    ago = (plan.idle_days or 0) * DAY_SECONDS + int(make_hex(3, role.arn), 16)
    return {"LastUsedDate": format_date(until - ago), "Region": HOME_REGION}


def _build_user(user: DemoPrincipal) -> Json:
    plan = user.plan
    assert isinstance(plan, UserPlan)  # noqa: S101 - users are made from user plans only
    return {
        "Path": "/",
        "UserName": user.name,
        "UserId": user.unique_id,
        "Arn": user.arn,
        "CreateDate": format_date(user.created),
        "UserPolicyList": _build_inline(plan.inline, user.account),
        "GroupList": [plan.group] if plan.group else [],
        "AttachedManagedPolicies": _list_attached(plan.attached, user.account),
        **_build_boundary(plan.boundary, user.account),
        "Tags": _build_tags(plan.team, user.account),
    }


def _build_group(account: Account, name: str, seed: int, until: int) -> Json:
    return {
        "Path": "/",
        "GroupName": name,
        "GroupId": make_unique_id("AGPA", seed, account.id, name),
        "Arn": f"arn:aws:iam::{account.id}:group/{name}",
        "CreateDate": format_date(until - 2200 * DAY_SECONDS),
        "GroupPolicyList": [],
        "AttachedManagedPolicies": _list_attached(GROUPS[name][1], account),
    }


def _build_tags(team: str, account: Account) -> list[dict[str, str]]:
    tags = {"owner": f"{team}@{COMPANY}.example", "team": team, "env": account.env}
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _build_inline(names: str, account: Account) -> list[Json]:
    return [{"PolicyName": name, "PolicyDocument": _write_document(INLINE[name], account)} for name in names.split()]


def find_policy_arn(name: str, account: Account) -> str:
    """The ARN of a policy as the tables name it: `aws:` before the names of AWS' own."""
    return (
        f"arn:aws:iam::aws:policy/{name[4:]}" if name.startswith("aws:") else f"arn:aws:iam::{account.id}:policy/{name}"
    )


def _list_attached(names: str, account: Account) -> list[dict[str, str]]:
    arns = (find_policy_arn(name, account) for name in names.split())
    return [{"PolicyName": arn.rpartition("/")[2], "PolicyArn": arn} for arn in arns]


def _build_boundary(name: str, account: Account) -> Json:
    if not name:
        return {}
    arn = find_policy_arn(name, account)
    return {"PermissionsBoundary": {"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": arn}}


def _write_document(statements: Statements, account: Account) -> Json:
    """A policy document with the account's own id, region and environment in its resources."""
    known = {"{account}": account.id, "{region}": HOME_REGION, "{env}": account.env.lower()}
    return {"Version": "2012-10-17", "Statement": [_put_in(statement, known) for statement in statements]}


def _put_in(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _put_in(each, known) for key, each in value.items()}
    if isinstance(value, list):
        return [_put_in(each, known) for each in value]
    for mark, text in known.items():
        value = value.replace(mark, text)
    return value


def list_version_dates(name: str, count: int, account: Account, until: int) -> list[int]:
    """When each of a customer managed policy's versions was made, the one in force last."""
    dates = [until - days * DAY_SECONDS for days in VERSION_AGES[:count]]
    if name == FRESH_POLICY:
        dates[-1] = until - FRESH_AGES[account.env] * DAY_SECONDS
    return dates


def _build_policy(arn: str, account: Account, seed: int, until: int, attached: int, bounds: int) -> Json:
    _, _, full_name = arn.partition(":policy/")
    name = full_name.rpartition("/")[2]
    by_aws = ":aws:policy/" in arn
    versions = (AWS_POLICIES[full_name],) if by_aws else OWN_POLICIES[name]
    dates = [_AWS_POLICY_MADE] if by_aws else list_version_dates(name, len(versions), account, until)
    return {
        "PolicyName": name,
        "PolicyId": make_unique_id("ANPA", *(() if by_aws else (seed,)), arn),
        "Arn": arn,
        "Path": f"/{full_name[: -len(name)]}",
        "DefaultVersionId": f"v{len(versions)}",
        "AttachmentCount": attached,
        "PermissionsBoundaryUsageCount": bounds,
        "IsAttachable": True,
        "CreateDate": format_date(dates[0]),
        "UpdateDate": format_date(dates[-1]),
        "PolicyVersionList": [
            {
                "Document": _write_document(statements, account),
                "VersionId": f"v{number}",
                "IsDefaultVersion": number == len(versions),
                "CreateDate": format_date(date),
            }
            for number, (statements, date) in reversed(list(enumerate(zip(versions, dates, strict=True), 1)))
        ],
    }  # fmt: skip
