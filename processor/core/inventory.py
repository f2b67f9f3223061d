"""Authorization details of accounts -> the inventory: every role and user with its grants.

The input is what `aws iam get-account-authorization-details` prints, in one or more files: pages, filtered outputs,
several accounts. AirIAM's collections of the same details under its own names are read too. What a principal refers to
(groups, managed policies) is looked for in all files; what none of them has is flagged and not guessed:

    policy_missing:ARN     an attached policy, or its version in force, is in no file: its grants are missing
    policy_invalid:NAME    a document that cannot be read: its grants are missing
    group_missing:NAME     a user's group is in no file: its grants are missing
    boundary_missing       the boundary is in no file, or cannot be read: nothing is taken away for it
    no_scp_at:ID and others of organizations.build_ceiling
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from processor.core.catalogue import Catalogue
from processor.core.organizations import Json, Organization, build_ceiling, decode_object, objects_of, text_of
from processor.core.policies import (
    Granting,
    Grants,
    Guard,
    Policy,
    PolicyError,
    PolicyParser,
    Statement,
    build_guard,
    build_policy,
    grants_for,
    say_kind,
)
from processor.core.principals import account_of
from processor.core.records import TIME_MAX

__all__ = ["Granting", "Grants", "InventoryError", "InventoryPrincipal", "explain_grant", "read_inventory"]

Document = bytes | Json

USERS, GROUPS, ROLES, POLICIES = "UserDetailList", "GroupDetailList", "RoleDetailList", "Policies"
SECTIONS = {
    **{name: name for name in (USERS, GROUPS, ROLES, POLICIES)},
    "AccountUsers": USERS,
    "AccountGroups": GROUPS,
    "AccountRoles": ROLES,
    "AccountPolicies": POLICIES,
}
"""A section's name in a file -> which section that is. The last four are AirIAM's."""


class InventoryError(ValueError):
    """A file that is no authorization details, or an entry that cannot be credited to anybody; the text says where."""


@dataclass(frozen=True, slots=True)
class InventoryPrincipal:
    """A role or user. `created` is in seconds since 1970, `boundary` the ARN of its permissions boundary. An entry without
    `unique_id` is refused: the log's uses could never be matched to it, and all of it would look unused."""

    arn: str
    unique_id: str
    account_id: str
    kind: str
    name: str
    created: int | None
    grants: Grants
    tags: dict[str, str]
    boundary: str | None
    service_linked: bool


def explain_grant(principal: InventoryPrincipal, action: int) -> list[Granting]:
    """The statements that allow an action to a principal; none where it is not granted."""
    if not principal.grants.granted >> action & 1:
        return []
    return [each for each in principal.grants.provenance if each.mask >> action & 1]


def read_inventory(
    documents: Iterable[Document | tuple[str, Document]],
    catalogue: Catalogue,
    organizations: Iterable[Organization] = (),
) -> list[InventoryPrincipal]:
    """The principals of all documents, by ARN; a later document's entry replaces an earlier one's of the same ARN.

    A document may come with its name, which then stands in errors. Of several organizations the last that knows an
    account limits it. Raises InventoryError.
    """
    entries = _Entries({}, {}, {})
    for at, given in enumerate(documents, 1):
        name, document = given if isinstance(given, tuple) else (f"inventory {at}", given)
        _gather_document(entries, name, decode_object(document, name, InventoryError))
    builder = _Builder(entries, PolicyParser(catalogue), tuple(organizations))
    return [builder.build_principal(entries.principals[arn]) for arn in sorted(entries.principals)]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One element of a section; `place` says where it is, for errors."""

    place: str
    kind: str
    found: Json


@dataclass(frozen=True, slots=True)
class _Entries:
    """What all documents hold: principals and managed policies by ARN, groups by account and name."""

    principals: dict[str, _Entry]
    groups: dict[tuple[str, str], _Entry]
    policies: dict[str, _Entry]


def _gather_document(entries: _Entries, name: str, whole: Json) -> None:
    if not SECTIONS.keys() & whole.keys():
        raise InventoryError(
            f"{name} is no output of `aws iam get-account-authorization-details --output json`: it has none of {USERS}, "
            f"{GROUPS}, {ROLES} and {POLICIES}"
        )
    for key, section in SECTIONS.items():
        for place, found in objects_of(whole, key, name, InventoryError):
            arn = text_of(found, "Arn", place, InventoryError)
            if section == POLICIES:
                entries.policies[arn] = _Entry(place, "policy", found)
            elif section == GROUPS:
                group = account_of(arn), text_of(found, "GroupName", place, InventoryError)
                entries.groups[group] = _Entry(place, "group", found)
            else:
                kind = "role" if section == ROLES else "user"
                if not arn.startswith("arn:") or not account_of(arn) or f":{kind}/" not in arn:
                    raise InventoryError(f"{place}: Arn {arn!r:.200} is not that of a {kind}")
                entries.principals[arn] = _Entry(place, kind, found)


def read_date(found: object) -> int | None:
    """Seconds since 1970 of a date as the CLI and SDKs have it: ISO 8601 with `T` or a space, a number, or read already."""
    try:
        if isinstance(found, str | datetime):
            moment = datetime.fromisoformat(found) if isinstance(found, str) else found
            seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
        elif isinstance(found, int | float) and not isinstance(found, bool):
            seconds = int(found)
        else:
            return None
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds <= TIME_MAX else None


@dataclass(frozen=True, slots=True)
class _Managed:
    """The version in force of a managed policy; no `statements` where `flag` says why there are none."""

    name: str
    born: int
    statements: tuple[Statement, ...] | None
    flag: str


Held = tuple[list[Policy], list[str]]
"""The policies of a principal or a group, and flags for those that could not be read"""

Limit = tuple[Guard | None, list[str]]
NO_LIMIT: Limit = (None, [])


class _Builder:
    """Builds principals; what they share (managed policies, groups, limits, whole grants) is built once."""

    def __init__(self, entries: _Entries, parser: PolicyParser, organizations: tuple[Organization, ...]) -> None:
        self._entries = entries
        self._parser = parser
        self._organizations = organizations
        self._find_managed = cache(self._read_managed)
        self._find_attached = cache(self._build_attached)
        self._find_group = cache(self._read_group)
        self._find_boundary = cache(self._build_boundary)
        self._find_ceiling = cache(self._build_ceiling)
        self._grants: dict[tuple[object, ...], Grants] = {}

    def build_principal(self, entry: _Entry) -> InventoryPrincipal:
        found, place = entry.found, entry.place
        arn = text_of(found, "Arn", place, InventoryError)
        account_id = account_of(arn)
        linked = ":role/aws-service-role/" in arn
        boundary = _read_boundary(found, place)
        inline, inline_flags = self._read_inline(entry, None)
        shared, flags = self._read_attached(entry, None)
        for name in _read_group_names(entry):
            group_policies, group_flags = self._find_group(account_id, name)
            shared += group_policies
            flags += group_flags
        limits = [
            NO_LIMIT if boundary is None else self._find_boundary(boundary),
            NO_LIMIT if linked else self._find_ceiling(account_id),
        ]
        guards = [guard for guard, _ in limits if guard is not None]
        flags = [*inline_flags, *flags, *(flag for _, more_flags in limits for flag in more_flags)]
        return InventoryPrincipal(
            arn=arn,
            unique_id=text_of(found, f"{entry.kind.capitalize()}Id", place, InventoryError),
            account_id=account_id,
            kind=entry.kind,
            name=arn.rpartition("/")[2],
            created=read_date(found.get("CreateDate")),
            grants=self._build_grants(inline, shared, guards, flags),
            tags=_read_tags(found, place),
            boundary=boundary,
            service_linked=linked,
        )

    def _build_grants(
        self, inline: list[Policy], shared: list[Policy], guards: list[Guard], flags: list[str]
    ) -> Grants:
        """Principals without a policy of their own that share all else share their grants, some kilobytes each."""
        if inline:
            return grants_for([*inline, *shared], guards, flags)
        key = (*shared, None, *guards, None, *flags)
        if key not in self._grants:
            self._grants[key] = grants_for(shared, guards, flags)
        return self._grants[key]

    def _read_group(self, account_id: str, name: str) -> Held:
        entry = self._entries.groups.get((account_id, name))
        if entry is None:
            return [], [f"group_missing:{name}"]
        inline, flags = self._read_inline(entry, name)
        attached, more_flags = self._read_attached(entry, name)
        return [*inline, *attached], [*flags, *more_flags]

    def _read_inline(self, entry: _Entry, via_group: str | None) -> Held:
        policies: list[Policy] = []
        flags: list[str] = []
        for place, found in objects_of(
            entry.found, f"{entry.kind.capitalize()}PolicyList", entry.place, InventoryError
        ):
            name = text_of(found, "PolicyName", place, InventoryError)
            try:
                statements = self._parser.parse_document(found.get("PolicyDocument"))
            except PolicyError:
                flags.append(f"policy_invalid:{name}")
            else:
                policies.append(build_policy(name, statements, via_group=via_group))
        return policies, flags

    def _read_attached(self, entry: _Entry, via_group: str | None) -> Held:
        policies: list[Policy] = []
        flags: list[str] = []
        for place, found in objects_of(entry.found, "AttachedManagedPolicies", entry.place, InventoryError):
            attached = self._find_attached(text_of(found, "PolicyArn", place, InventoryError), via_group)
            if isinstance(attached, str):
                flags.append(attached)
            else:
                policies.append(attached)
        return policies, flags

    def _build_attached(self, arn: str, via_group: str | None) -> Policy | str:
        """A managed policy as it is attached, or the flag that says why it is missing."""
        managed = self._find_managed(arn)
        if managed.statements is None:
            return managed.flag
        return build_policy(managed.name, managed.statements, arn, via_group, managed.born)

    def _read_managed(self, arn: str) -> _Managed:
        entry = self._entries.policies.get(arn)
        version = None if entry is None else _find_version(entry)
        if entry is None or version is None:
            return _Managed("", 0, None, f"policy_missing:{arn}")
        named = entry.found.get("PolicyName")
        name = named if isinstance(named, str) and named else arn.rpartition("/")[2]
        try:
            statements = self._parser.parse_document(version.get("Document"))
        except PolicyError:
            return _Managed(name, 0, None, f"policy_invalid:{name}")
        return _Managed(name, read_date(version.get("CreateDate")) or 0, statements, "")

    def _build_boundary(self, arn: str) -> Limit:
        managed = self._find_managed(arn)
        if managed.statements is None:
            # Not the missing policy's own flag: its grants would be missing, a boundary's absence leaves them.
            return None, ["boundary_missing", *([managed.flag] if managed.flag.startswith("policy_invalid:") else [])]
        return build_guard(managed.statements), []

    def _build_ceiling(self, account_id: str) -> Limit:
        known = [each for each in self._organizations if each.knows(account_id)]
        return build_ceiling(known[-1], account_id, self._parser) if known else NO_LIMIT


def _read_boundary(found: Json, place: str) -> str | None:
    boundary = found.get("PermissionsBoundary")
    if not isinstance(boundary, dict | None):
        raise InventoryError(f"{place}: PermissionsBoundary is {say_kind(boundary)}, not an object")
    return text_of(boundary, "PermissionsBoundaryArn", place, InventoryError) if boundary else None


def _read_group_names(entry: _Entry) -> list[str]:
    names = entry.found.get("GroupList") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InventoryError(f"{entry.place}: GroupList is no list of names")
    return list(dict.fromkeys(names))


def _read_tags(found: Json, place: str) -> dict[str, str]:
    return {
        text_of(tag, "Key", where, InventoryError): str(tag.get("Value") or "")
        for where, tag in objects_of(found, "Tags", place, InventoryError)
    }


def _find_version(entry: _Entry) -> Json | None:
    """The version of a managed policy that is in force."""
    default = entry.found.get("DefaultVersionId")
    named = None
    for _, version in objects_of(entry.found, "PolicyVersionList", entry.place, InventoryError):
        if version.get("IsDefaultVersion") is True:
            return version
        if default and version.get("VersionId") == default:
            named = version
    return named
