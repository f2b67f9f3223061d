"""A slow and obvious reading of policies, from IAM's documentation only: the judge of core/policies.py and its like.

It shares no code with them: names instead of masks, every action asked about by itself, the whole input read anew for
every principal. The rules come from the IAM User Guide (JSON policy elements; policy evaluation logic; permissions
boundaries) and the Organizations User Guide (SCP evaluation, RCP evaluation).
"""

import json
import urllib.parse
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

Json = dict[str, Any]


class Said(NamedTuple):
    """One statement: what it says of the actions that it holds."""

    effect: str
    actions: frozenset[str]
    has_condition: bool
    on_everything: bool


class Attached(NamedTuple):
    """Statements that bear on a principal together; `limits` is one list a boundary and a level's policies of a type."""

    own: list[Said]
    limits: list[list[Said]]


def matches(pattern: str, text: str) -> bool:
    """`*` stands for any text, `?` for any one character; all else for itself. Left to right, all ways at once."""
    reached = {0}
    for sign in pattern:
        if sign == "*":
            reached = set(range(min(reached), len(text) + 1)) if reached else set()
        else:
            reached = {at + 1 for at in reached if at < len(text) and sign in ("?", text[at])}
    return len(text) in reached


class Namer:
    """Which of all actions patterns mean."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._by_service: dict[str, list[str]] = {}
        for name in self.names:
            self._by_service.setdefault(name.split(":")[0].lower(), []).append(name)
        self.expand = lru_cache(None)(self._expand)

    def _expand(self, pattern: str) -> frozenset[str]:
        pattern = pattern.lower()
        service = pattern.split(":")[0]
        somewhere = "*" in service or "?" in service
        candidates = self.names if somewhere else self._by_service.get(service, [])
        if "*" not in pattern and "?" not in pattern:
            return frozenset(name for name in candidates if name.lower() == pattern)
        return frozenset(name for name in candidates if matches(pattern, name.lower()))

    def read(self, document: Any, everyone_only: bool = False) -> list[Said]:
        """The statements of a document. Raises ValueError (and its like) where it is none."""
        if isinstance(document, bytes):
            document = document.decode()
        if isinstance(document, str):
            document = json.loads(urllib.parse.unquote(document) if document[0] == "%" else document)
        statements = document["Statement"]
        return [
            self._say(each, everyone_only) for each in (statements if isinstance(statements, list) else [statements])
        ]

    def _say(self, statement: Json, everyone_only: bool) -> Said:
        named: set[str] = set()
        for pattern in listed(statement.get("Action", statement.get("NotAction"))):
            named |= self.expand(pattern)
        if "NotAction" in statement:
            named = set(self.names) - named
        principal = statement.get("Principal")
        for_everyone = principal in ("*", {"AWS": "*"}, {"AWS": ["*"]})
        return Said(
            statement["Effect"],
            frozenset(named),
            bool(statement.get("Condition")) or (everyone_only and not for_everyone),
            "*" in listed(statement["Resource"]) if "Resource" in statement else "NotResource" not in statement,
        )


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def may(action: str, attached: Attached) -> str:
    """`no`, `yes`, or `perhaps`: for some requests or resources only."""
    everything = [*attached.own, *(said for limit in attached.limits for said in limit)]
    denies = [said for said in everything if said.effect == "Deny" and action in said.actions]
    if any(said.on_everything and not said.has_condition for said in denies):
        return "no"
    perhaps = bool(denies)
    allows = [said for said in attached.own if said.effect == "Allow" and action in said.actions]
    if not allows:
        return "no"
    perhaps |= all(said.has_condition for said in allows)
    for limit in attached.limits:
        allows = [said for said in limit if said.effect == "Allow" and action in said.actions]
        if not allows:
            return "no"
        perhaps |= all(said.has_condition or not said.on_everything for said in allows)
    return "perhaps" if perhaps else "yes"


def judge_all(attached: Attached) -> tuple[set[str], set[str]]:
    """The actions that are granted, and those of them that are granted conditionally."""
    answers = {action: may(action, attached) for said in attached.own for action in said.actions}
    granted = {action for action, answer in answers.items() if answer != "no"}
    return granted, {action for action in granted if answers[action] == "perhaps"}


def judge_document(namer: Namer, document: Any) -> tuple[set[str], set[str]]:
    """What a document alone grants, its own Denies taken off."""
    return judge_all(Attached(namer.read(document), []))


def judge_inventory(
    namer: Namer, documents: Sequence[Json], organization: Json | None = None
) -> dict[str, tuple[set[str], set[str]]]:
    """(granted, conditional) of every role and user of valid documents, by ARN."""
    judged = {}
    for document in documents:
        for kind in ("Role", "User"):
            for principal in document.get(f"{kind}DetailList") or document.get(f"Account{kind}s") or []:
                own = _statements_of(namer, documents, principal, kind)
                account = principal["Arn"].split(":")[4]
                for group in principal.get("GroupList") or []:
                    for other in documents:
                        for found in other.get("GroupDetailList") or other.get("AccountGroups") or []:
                            if found["GroupName"] == group and found["Arn"].split(":")[4] == account:
                                own += _statements_of(namer, documents, found, "Group")
                limits = []
                boundary = principal.get("PermissionsBoundary")
                if boundary:
                    in_force = _document_in_force(documents, boundary["PermissionsBoundaryArn"])
                    if in_force is not None:
                        limits.append(namer.read(in_force))
                if organization is not None and "/aws-service-role/" not in principal["Arn"]:
                    limits += _levels_of(namer, organization, account)
                judged[principal["Arn"]] = judge_all(Attached(own, limits))
    return judged


def _statements_of(namer: Namer, documents: Sequence[Json], holder: Json, kind: str) -> list[Said]:
    own: list[Said] = []
    for inline in holder.get(f"{kind}PolicyList") or []:
        own += namer.read(inline["PolicyDocument"])
    for attached in holder.get("AttachedManagedPolicies") or []:
        in_force = _document_in_force(documents, attached["PolicyArn"])
        own += [] if in_force is None else namer.read(in_force)
    return own


def _document_in_force(documents: Sequence[Json], arn: str) -> Any:
    """The last document that has the policy is believed."""
    found = None
    for document in documents:
        for policy in document.get("Policies") or document.get("AccountPolicies") or []:
            for version in policy["PolicyVersionList"]:
                if policy["Arn"] == arn and version.get("IsDefaultVersion"):
                    found = version["Document"]
    return found


def _levels_of(namer: Namer, organization: Json, account: str) -> list[list[Said]]:
    """The SCPs, and the RCPs, of each step from the account up to its root; steps without any do not limit."""
    nodes = {node["id"]: node for node in organization["tree"]}
    limits = []
    at = account if account in nodes and account != organization["management_account"] else None
    while at:
        for kind in ("SERVICE_CONTROL_POLICY", "RESOURCE_CONTROL_POLICY"):
            attached = [
                policy for policy in organization["policies"] if at in policy["targets"] and policy["type"] == kind
            ]
            resources = kind == "RESOURCE_CONTROL_POLICY"
            said = [each for policy in attached for each in namer.read(policy["content"], resources)]
            if resources and attached and not any(each.effect == "Allow" and each.actions for each in said):
                # Nobody can detach RCPFullAWSAccess, so that a file without it has left it out.
                said.append(Said("Allow", frozenset(namer.names), False, True))
            if attached:
                limits.append(said)
        at = nodes[at].get("parent")
    return limits
