"""userIdentity -> the principal that a record is credited to, and the operator behind it.

A role is its session issuer's ARN (with path: the session's own ARN drops it) and unique id, so that a role deleted and
created anew is another principal (CloudTrail User Guide, userIdentity element).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import msgspec
from msgspec import Struct


class SessionIssuer(Struct, gc=False):
    type: str | None = None
    principalId: str | None = None
    arn: str | None = None


class SessionContext(Struct, gc=False):
    sessionIssuer: SessionIssuer | None = None


class UserIdentity(Struct, gc=False):
    """What is read of userIdentity, under CloudTrail's names."""

    type: str | None = None
    principalId: str | None = None
    arn: str | None = None
    accountId: str | None = None
    userName: str | None = None
    sessionContext: SessionContext | None = None
    invokedBy: str | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """`kind` is role, user or root. `unique_id` (AROA…, AIDA…) is None where the record has none."""

    arn: str
    unique_id: str | None
    account_id: str
    kind: str

    @property
    def service_linked(self) -> bool:
        return ":role/aws-service-role/" in self.arn


class Caller(NamedTuple):
    """One userIdentity, resolved: `principal` None means that the record is credited to nobody (class no_principal).
    `operator` is the session name, "" where there is no session; `via` the service that acts for the principal."""

    principal: Principal | None
    operator: str
    via: str


NOBODY = Caller(None, "", "")

_PRINCIPAL_ARN = re.compile(r"arn:[a-z][\w-]*:(?:iam|sts)::([^:\s]+):(?:(role|user)/.+|(root)|[^:\s/]+)", re.DOTALL)
"""`arn:PARTITION:iam::ACCOUNT:(role|user)/[PATH/]NAME` or `:root`. Masked accounts (letters) are real enough to keep."""

_decode = msgspec.json.Decoder(UserIdentity).decode

Known = Mapping[str, Principal]
"""Principals of the inventory by unique id."""


def decode_user_identity(raw: bytes) -> UserIdentity | None:
    """Never raises: fields of a wrong type read as absent; None where `raw` is no object."""
    try:
        return _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        whole = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(whole, dict):
        return None
    context = whole.get("sessionContext")
    issuer = context.get("sessionIssuer") if isinstance(context, dict) else None
    return UserIdentity(
        **_pick_text(whole, ("type", "principalId", "arn", "accountId", "userName", "invokedBy")),
        sessionContext=SessionContext(SessionIssuer(**_pick_text(issuer, ("type", "principalId", "arn"))))
        if isinstance(issuer, dict)
        else None,
    )


def _pick_text(whole: Mapping[str, object], names: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name in names if isinstance(value := whole.get(name), str)}


def resolve_caller(found: UserIdentity, known: Known) -> Caller:
    """Who a record is credited to. `known` resolves a role or user that the record gives by unique id only."""
    resolve = _BY_TYPE.get(found.type or "", _resolve_nobody)
    principal = resolve(found, known)
    if principal is None:
        return NOBODY
    operator = (found.principalId or "").partition(":")[2] if principal.kind == "role" or _is_federated(found) else ""
    return Caller(principal, operator, found.invokedBy or "")


def _is_federated(found: UserIdentity) -> bool:
    return found.type == "FederatedUser"


def _issuer_of(found: UserIdentity) -> SessionIssuer:
    context = found.sessionContext
    return (context.sessionIssuer if context is not None else None) or SessionIssuer()


def _resolve_role(found: UserIdentity, known: Known) -> Principal | None:
    issuer = _issuer_of(found)
    unique_id = issuer.principalId or (found.principalId or "").partition(":")[0] or None
    return _make_principal(issuer.arn, unique_id, "role", known)


def _resolve_own(found: UserIdentity, known: Known) -> Principal | None:
    """A user, or a role that calls without a session: its own ARN and id."""
    return _make_principal(found.arn, found.principalId or None, "role" if found.type == "Role" else "user", known)


def _resolve_root(found: UserIdentity, known: Known) -> Principal | None:
    return _make_principal(found.arn, found.principalId or None, "root", known)


def _resolve_federated(found: UserIdentity, known: Known) -> Principal | None:
    """A federated user acts with the rights of the user (or root) that asked for the session."""
    issuer = _issuer_of(found)
    kind = "root" if issuer.type == "Root" else "user"
    return _make_principal(issuer.arn, issuer.principalId or None, kind, known)


def _resolve_untyped(found: UserIdentity, known: Known) -> Principal | None:
    if _issuer_of(found).arn:
        return _resolve_role(found, known)
    return _make_principal(found.arn, found.principalId or None, "user", known) if found.arn else None


def _resolve_nobody(found: UserIdentity, known: Known) -> Principal | None:
    return None


_BY_TYPE: Mapping[str, Callable[[UserIdentity, Known], Principal | None]] = {
    "AssumedRole": _resolve_role,
    "Role": _resolve_own,
    "IAMUser": _resolve_own,
    "Root": _resolve_root,
    "FederatedUser": _resolve_federated,
    "": _resolve_untyped,
    # AWSService, AWSAccount, SAMLUser, WebIdentityUser, IdentityCenterUser, Directory, Unknown: nobody, for now or ever.
}


def differs_by_name(found: UserIdentity) -> bool:
    """Whether those who differ from it by nothing but what follows the colon of `principalId`, and by `arn`, are the same but for
    the operator: roles' sessions, and who is nobody anyway."""
    return found.type == "AssumedRole" or bool(found.type and found.type not in _BY_TYPE)


def _make_principal(arn: str | None, unique_id: str | None, kind: str, known: Known) -> Principal | None:
    return _read_principal(arn, unique_id, kind) if arn else known.get(unique_id or "")


@lru_cache(maxsize=65_536)
def _read_principal(arn: str, unique_id: str | None, kind: str) -> Principal | None:
    """The principal of an ARN, None for a malformed one."""
    found = _PRINCIPAL_ARN.fullmatch(arn)
    if found is None:
        return None
    account_id, by_arn, root = found.groups()
    return Principal(arn, unique_id, account_id, "root" if root else by_arn or kind)


def account_of(arn: str) -> str:
    """The account of an ARN, "" where it has none."""
    parts = arn.split(":", 5)
    return parts[4] if len(parts) == 6 else ""


_RESERVED = re.compile(
    r"arn:[\w-]+:iam::[^:]+:role/aws-reserved/sso\.amazonaws\.com/(?:[^/]+/)?AWSReservedSSO_(.+)_[0-9a-f]{16}"
)
"""IAM Identity Center makes a role for each permission set in each account that it is assigned in, in the region's path where that
is not us-east-1 (IAM Identity Center User Guide, referencing permission sets)."""


def permission_set_of(arn: str) -> str | None:
    """The name of the Identity Center permission set that a role was made for, None for any other principal."""
    found = _RESERVED.fullmatch(arn)
    return found[1] if found is not None else None
