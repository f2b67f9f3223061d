"""An AWS Organization as a file tells it -> the guards of each of its accounts: SCPs and RCPs, level by level.

    {"management_account": ID,
     "tree": [{"id": ID, "parent": ID or null, "type": "root|ou|account"}],
     "policies": [{"id": ID, "type": "SERVICE_CONTROL_POLICY|RESOURCE_CONTROL_POLICY", "content": JSON, "targets": [ID]}]}

Within a level the Allows of a type add up; from root to account they intersect (Organizations User Guide, SCP and RCP
evaluation).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from processor.core.policies import (
    Clause,
    Guard,
    PolicyError,
    PolicyParser,
    build_guard,
    read_clauses,
    say_kind,
)

Json = dict[str, Any]

POLICY_KINDS = {
    "service_control_policy": "scp",
    "scp": "scp",
    "resource_control_policy": "rcp",
    "rcp": "rcp",
}
NODE_KINDS = {"root": "root", "ou": "ou", "organizational_unit": "ou", "account": "account"}
"""The last three are what Organizations' own ListParents and ListChildren call them, in capitals."""


class OrganizationError(ValueError):
    """An organization file that cannot be used; the text says what is wrong where."""


@dataclass(frozen=True, slots=True)
class ControlPolicy:
    """An SCP or RCP. `targets` are the ids of the roots, OUs and accounts that it is attached to."""

    id: str
    kind: str
    clauses: tuple[Clause, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Level:
    """One step on the way from the root to an account, with what is attached there."""

    id: str
    policies: tuple[ControlPolicy, ...]


@dataclass(frozen=True, slots=True)
class Organization:
    """`parents` maps each id of the tree to its parent's, None for the root; `accounts` are the accounts among them.
    `unknown_targets` are attachments to what the tree does not have: they restrict nobody."""

    management_account: str
    parents: Mapping[str, str | None]
    accounts: frozenset[str]
    policies: tuple[ControlPolicy, ...]
    unknown_targets: tuple[str, ...] = ()
    _attached: dict[str, list[ControlPolicy]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for policy in self.policies:
            for target in policy.targets:
                self._attached.setdefault(target, []).append(policy)

    def knows(self, account_id: str) -> bool:
        return account_id in self.accounts or account_id == self.management_account

    def levels(self, account_id: str) -> tuple[Level, ...]:
        """From the root to the account; none for an account that is not in the tree."""
        found: list[Level] = []
        at: str | None = account_id if account_id in self.accounts else None
        while at is not None:
            found.append(Level(at, tuple(self._attached.get(at, ()))))
            at = self.parents[at]
        return tuple(reversed(found))


def build_ceiling(organization: Organization, account_id: str, parser: PolicyParser) -> tuple[Guard | None, list[str]]:
    """What limits an account's users and roles, but for its service-linked roles; None where nothing does.

    The flags say what the file leaves open: `no_scp_at:ID` and `no_rcp_at:ID` where no policy of that type is attached,
    which limits nothing; `no_scp_allow_at:ID` where nothing is allowed; `no_rcp_allow_at:ID` where RCPFullAWSAccess,
    which Organizations attaches everywhere and nobody can detach (User Guide, RCP evaluation), is taken as attached.
    """
    guards: list[Guard] = []
    flags: list[str] = []
    # An organization without a single RCP has not turned them on, which leaves nothing open.
    kinds = [
        kind for kind in ("scp", "rcp") if kind == "scp" or any(each.kind == kind for each in organization.policies)
    ]
    for level in () if account_id == organization.management_account else organization.levels(account_id):
        for kind in kinds:
            attached = [policy for policy in level.policies if policy.kind == kind]
            if not attached:
                flags.append(f"no_{kind}_at:{level.id}")
                continue
            guard = build_guard([each for policy in attached for each in parser.parse_clauses(policy.clauses)])
            if not guard.allowed:
                flags.append(f"no_{kind}_allow_at:{level.id}")
            if not guard.allowed and kind == "rcp":
                every = parser.catalogue.all_mask
                guard = Guard(every, every, guard.removed, guard.marked)
            guards.append(guard)
    return join_guards(guards), flags


def join_guards(guards: Iterable[Guard]) -> Guard | None:
    """All of them at once: what one does not allow or removes is gone, what one leaves doubtful is."""
    joined: Guard | None = None
    for guard in guards:
        if joined is not None:
            guard = Guard(
                joined.allowed & guard.allowed,
                joined.allowed_plainly & guard.allowed_plainly,
                joined.removed | guard.removed,
                joined.marked | guard.marked,
            )
        joined = guard
    return joined


def read_organization(document: bytes | Json, name: str = "organization") -> Organization:
    """Check a file's contents; `name` stands in errors. Raises OrganizationError."""
    whole = decode_object(document, name, OrganizationError)
    management = text_of(whole, "management_account", name, OrganizationError)
    for key in ("tree", "policies"):
        if not isinstance(whole.get(key), list):
            raise OrganizationError(f"{name}: {key} is {say_kind(whole.get(key))}, not a list")
    kinds: dict[str, str] = {}
    parents: dict[str, str | None] = {}
    for place, node in objects_of(whole, "tree", name, OrganizationError):
        node_id = text_of(node, "id", place, OrganizationError)
        if node_id in kinds:
            raise OrganizationError(f"{place}: {node_id} is in the tree twice")
        kinds[node_id] = _kind_of(node, NODE_KINDS, place)
        has_parent = node.get("parent") is not None
        parents[node_id] = text_of(node, "parent", place, OrganizationError) if has_parent else None
    _check_tree(kinds, parents, name)
    policies = _read_policies(whole, name)
    targets = dict.fromkeys(target for policy in policies for target in policy.targets)
    return Organization(
        management_account=management,
        parents=parents,
        accounts=frozenset(node_id for node_id, kind in kinds.items() if kind == "account"),
        policies=policies,
        unknown_targets=tuple(target for target in targets if target not in kinds),
    )


def _check_tree(kinds: Mapping[str, str], parents: Mapping[str, str | None], name: str) -> None:
    """Every way up ends at the one root."""
    roots = [node_id for node_id, kind in kinds.items() if kind == "root"]
    if len(roots) > 1:
        raise OrganizationError(f"{name}: the tree has more than one root: {', '.join(roots)}")
    for node_id, parent in parents.items():
        if kinds[node_id] == "root" and parent is not None:
            raise OrganizationError(f"{name}: {node_id} is a root and has a parent, {parent}")
        if kinds[node_id] != "root" and parent is None:
            raise OrganizationError(f"{name}: {node_id} has no parent, and it is no root")
        if parent is not None and parent not in kinds:
            raise OrganizationError(f"{name}: the parent of {node_id}, {parent}, is not in the tree")
        if parent is not None and kinds[parent] == "account":
            raise OrganizationError(f"{name}: the parent of {node_id}, {parent}, is an account")
    for node_id in parents:
        passed: set[str] = set()
        at: str | None = node_id
        while at is not None:
            if at in passed:
                raise OrganizationError(f"{name}: {at} is its own ancestor")
            passed.add(at)
            at = parents[at]


def _read_policies(whole: Json, name: str) -> tuple[ControlPolicy, ...]:
    found: dict[str, ControlPolicy] = {}
    for place, policy in objects_of(whole, "policies", name, OrganizationError):
        policy_id = text_of(policy, "id", place, OrganizationError)
        if policy_id in found:
            raise OrganizationError(f"{place}: {policy_id} is there twice")
        kind = _kind_of(policy, POLICY_KINDS, place)
        targets = policy.get("targets")
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise OrganizationError(f'{place} ({policy_id}): "targets" is no list of ids')
        try:
            clauses = read_clauses(policy.get("content"), of_resources=kind == "rcp")
        except PolicyError as error:
            raise OrganizationError(f'{place} ({policy_id}): "content": {error}') from error
        found[policy_id] = ControlPolicy(policy_id, kind, clauses, tuple(dict.fromkeys(targets)))
    return tuple(found.values())


def _kind_of(found: Json, kinds: Mapping[str, str], place: str) -> str:
    named = found.get("type")
    kind = kinds.get(named.lower()) if isinstance(named, str) else None
    if kind is None:
        raise OrganizationError(f'{place}: "type" is {named!r:.80}, not one of {", ".join(kinds)}')
    return kind


def decode_object(document: bytes | Json, name: str, error: type[ValueError]) -> Json:
    """A file's JSON object, decoded already or not. Raises `error`, which names the file."""
    try:
        whole = msgspec.json.decode(document) if isinstance(document, bytes | str) else document
    except (ValueError, RecursionError, msgspec.MsgspecError) as problem:
        raise error(f"{name} is no JSON: {problem}") from problem
    if not isinstance(whole, dict):
        raise error(f"{name} is {say_kind(whole)}, not an object")
    return whole


def objects_of(found: Json, key: str, place: str, error: type[ValueError]) -> Iterator[tuple[str, Json]]:
    """The objects of a list, each with its place; none where the list is absent or null."""
    listed = found.get(key)
    if not isinstance(listed, list | None):
        raise error(f"{place}: {key} is {say_kind(listed)}, not a list")
    for at, each in enumerate(listed or ()):
        if not isinstance(each, dict):
            raise error(f"{place}: {key}[{at}] is {say_kind(each)}, not an object")
        yield f"{place}: {key}[{at}]", each


def text_of(found: Json, key: str, place: str, error: type[ValueError]) -> str:
    """A text that has to be there."""
    text = found.get(key)
    if not isinstance(text, str) or not text:
        raise error(f"{place}: {key} is {'empty' if text == '' else say_kind(text)}, not text")
    return text
