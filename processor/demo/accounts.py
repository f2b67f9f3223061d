"""The made-up company's organisation: accounts, people and service control policies.

Account ids are of the kind that AWS' own documentation makes up (111122223333), mail addresses lie under `.example`
(RFC 2606) and no name belongs to anybody.
"""

from dataclasses import dataclass
from typing import Any

COMPANY = "harbourlight"
HOME_REGION = "eu-west-1"
REGIONS = ("eu-west-1", "eu-central-1", "us-east-1")
VENDOR_ACCOUNT = "888899990000"
"""The account of the monitoring vendor, outside the organisation."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Account:
    """`env` is DEV, QA or PROD; `purpose` says which rows of the tables of roles and jobs an account gets."""

    id: str
    name: str
    env: str
    purpose: str

    @property
    def data_events(self) -> tuple[str, ...]:
        """The services whose data events this account's trail logs."""
        return ("s3", "dynamodb", "lambda") if self.env == "PROD" and self.purpose in ("workload", "lake") else ("s3",)


ACCOUNTS = (
    Account("111122223333", f"{COMPANY}-management", "PROD", "management"),
    Account("222233334444", f"{COMPANY}-security", "PROD", "security"),
    Account("333344445555", f"{COMPANY}-tooling", "PROD", "tooling"),
    Account("444455556666", f"{COMPANY}-dev", "DEV", "workload"),
    Account("555566667777", f"{COMPANY}-qa", "QA", "workload"),
    Account("666677778888", f"{COMPANY}-prod", "PROD", "workload"),
    Account("777788889999", f"{COMPANY}-lake", "PROD", "lake"),
)
MANAGEMENT, SECURITY, TOOLING, DEV, QA, PROD, LAKE = ACCOUNTS

TEAMS: dict[str, tuple[str, ...]] = {
    "checkout": ("ada.okoro", "jonas.weil", "mei.tanaka", "rafael.duarte"),
    "payments": ("noor.haddad", "petra.novak", "sam.oyelaran"),
    "tracking": ("elif.kaya", "tomas.lind", "grace.mbeki", "yusuf.demir"),
    "platform": ("hana.sato", "viktor.olsen", "lucia.ferri", "dev.menon"),
    "data": ("anouk.visser", "omar.said", "julia.kern", "kofi.asante"),
    "security": ("bea.moreau", "ivan.petrov"),
    "finance": ("clara.engel",),
    "leads": ("hana.sato", "viktor.olsen"),
}
"""Engineers by team: the session names of the roles that they share."""


def list_operators(*teams: str) -> tuple[str, ...]:
    """Session names, as an identity provider gives them: mail addresses."""
    return tuple(f"{person}@{COMPANY}.example" for team in teams for person in TEAMS[team])


_ROOT, _CORE, _WORK, _PRODUCTION = "r-hl01", "ou-hl01-core0001", "ou-hl01-work0001", "ou-hl01-prod0001"
_UNIT_OF = {"security": _CORE, "tooling": _CORE, "workload": _WORK, "lake": _PRODUCTION}


def build_organization() -> Json:
    """The organisation as its file says it: management_account, tree and policies. `content` is an object, as the
    policy would be written; FullAWSAccess stands at every level, as Organizations puts it there."""
    tree: list[Json] = [
        {"id": _ROOT, "parent": None, "type": "root"},
        {"id": _CORE, "parent": _ROOT, "type": "ou"},
        {"id": _WORK, "parent": _ROOT, "type": "ou"},
        {"id": _PRODUCTION, "parent": _WORK, "type": "ou"},
        *({"id": account.id, "parent": _find_parent(account), "type": "account"} for account in ACCOUNTS),
    ]
    everywhere = [node["id"] for node in tree]
    return {
        "management_account": MANAGEMENT.id,
        "tree": tree,
        "policies": [
            _build_policy("p-FullAWSAccess", [_allow_all()], everywhere),
            _build_policy("p-hl01guard1", _guard_trail(), [_ROOT]),
            _build_policy("p-hl01region", [_deny_regions()], [_WORK]),
            _build_policy("p-hl01prod01", _guard_production(), [_PRODUCTION]),
            _build_policy("p-RCPFullAWSAccess", [{**_allow_all(), "Principal": "*"}], everywhere, "RESOURCE"),
            _build_policy("p-hl01rcp001", [_deny_plain_text()], [_ROOT], "RESOURCE"),
        ],
    }


def _find_parent(account: Account) -> str:
    return _PRODUCTION if account is PROD else _UNIT_OF.get(account.purpose, _ROOT)


def _build_policy(policy_id: str, statements: list[Json], targets: list[str], of: str = "SERVICE") -> Json:
    content = {"Version": "2012-10-17", "Statement": statements}
    return {"id": policy_id, "type": f"{of}_CONTROL_POLICY", "content": content, "targets": targets}


def _allow_all() -> Json:
    return {"Effect": "Allow", "Action": "*", "Resource": "*"}


def _guard_trail() -> list[Json]:
    """Nobody in a member account turns the log off, or leaves."""
    trail = [
        "cloudtrail:StopLogging",
        "cloudtrail:DeleteTrail",
        "cloudtrail:UpdateTrail",
        "cloudtrail:PutEventSelectors",
    ]
    detectors = ["guardduty:DeleteDetector", "config:StopConfigurationRecorder", "config:DeleteConfigurationRecorder"]
    return [
        {"Sid": "KeepTheLog", "Effect": "Deny", "Action": trail, "Resource": "*"},
        {"Sid": "KeepTheDetectors", "Effect": "Deny", "Action": detectors, "Resource": "*"},
        {"Sid": "Stay", "Effect": "Deny", "Action": "organizations:LeaveOrganization", "Resource": "*"},
    ]


def _deny_regions() -> Json:
    away = {"StringNotEquals": {"aws:RequestedRegion": list(REGIONS)}}
    free = ["iam:*", "organizations:*", "sts:*", "support:*", "cloudfront:*", "route53:*", "budgets:*", "ce:*"]
    return {"Sid": "StayInRegion", "Effect": "Deny", "NotAction": free, "Resource": "*", "Condition": away}


def _guard_production() -> list[Json]:
    users = ["iam:CreateUser", "iam:CreateLoginProfile"]
    keys = ["kms:ScheduleKeyDeletion", "kms:DisableKey"]
    but = {"ArnNotLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/break-glass"}}
    return [
        {"Sid": "NoNewUsers", "Effect": "Deny", "Action": users, "Resource": "*"},
        {"Sid": "KeepKeys", "Effect": "Deny", "Action": keys, "Resource": "*", "Condition": but},
    ]


def _deny_plain_text() -> Json:
    plain = {"BoolIfExists": {"aws:SecureTransport": "false"}}
    return {
        "Sid": "OnlyTls", "Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "*", "Condition": plain,
    }  # fmt: skip
