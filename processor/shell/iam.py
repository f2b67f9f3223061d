"""IAM as AWS has it now -> authorization details, of a whole account or of some principals only.

Both have the form of `aws iam get-account-authorization-details`, which processor/core/inventory.py reads.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from processor.core.iam_changes import Concern
from processor.core.inventory import GROUPS, POLICIES, ROLES, USERS
from processor.shell.aws_accounts import AwsClient, Json
from processor.shell.aws_errors import AwsError

PAGE_ITEMS = 500
"""IAM gives at most 1,000; fewer, so that one answer is not too much at once."""

ALONE_MAX = 25
"""From so many principals on all of an account is read anew: a page of 500 costs as much as one principal."""

Details = dict[str, list[Json]]


def _make_empty() -> Details:
    return {USERS: [], GROUPS: [], ROLES: [], POLICIES: []}


async def fetch_details(client: AwsClient) -> Details:
    """The authorization details of an account, all pages as one, with every policy that they refer to. Raises AwsError."""
    details = _make_empty()
    pages = client.pages("GetAccountAuthorizationDetails", "Marker", MaxItems=PAGE_ITEMS)
    async for page in pages:
        for section, held in details.items():
            held += page.get(section) or ()
    # An AWS managed policy that is a boundary only is not among them.
    looker = Looker(client, details)
    known = {str(policy.get("Arn")) for policy in details[POLICIES]}
    looker.read_policies |= known
    for section in (USERS, GROUPS, ROLES):
        for found in details[section]:
            await looker.read_its_policies(found)
    return details


@dataclass(slots=True)
class Looker:
    """Reads some principals of an account, each with all that its grants come from. `gone` are those that are not there."""

    client: AwsClient
    details: Details = field(default_factory=_make_empty)
    gone: set[Concern] = field(default_factory=set)
    read_policies: set[str] = field(default_factory=set)
    _read: set[tuple[str, str]] = field(default_factory=set)

    async def widen(self, concerns: Iterable[Concern]) -> set[Concern]:
        """The roles and users that some concerns come to: a group's members, and who has a policy. Raises AwsError."""
        found: set[Concern] = set()
        groups: set[Concern] = set()
        for concern in concerns:
            if concern.kind == "policy":
                for kind, name in await self._find_holders(concern.name):
                    (groups if kind == "group" else found).add(Concern(concern.account_id, kind, name))
            elif concern.kind == "group":
                groups.add(concern)
            else:
                found.add(concern)
        for group in groups:
            members = await self._gather("GetGroup", "Users", GroupName=group.name)
            found.update(Concern(group.account_id, "user", str(member["UserName"])) for member in members)
        return found

    async def read(self, concerns: Iterable[Concern]) -> None:
        """Add some roles and users to `details`, or to `gone`. Raises AwsError."""
        for concern in concerns:
            try:
                await (self._read_role if concern.kind == "role" else self._read_user)(concern.name)
            except AwsError as error:
                if error.kind != "missing":
                    raise
                self.gone.add(concern)

    async def _find_holders(self, arn: str) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        try:
            async for page in self.client.pages("ListEntitiesForPolicy", "Marker", PolicyArn=arn):
                for kind in ("Role", "User", "Group"):
                    found += ((kind.lower(), str(each[f"{kind}Name"])) for each in page.get(f"Policy{kind}s") or ())
        except AwsError as error:
            if error.kind != "missing":
                raise
        return found

    async def _gather(self, operation: str, key: str, **parameters: Any) -> list[Any]:
        """All elements, none where what was asked for is gone."""
        try:
            return await self.client.gather(operation, key, "Marker", **parameters)
        except AwsError as error:
            if error.kind != "missing":
                raise
            return []

    async def _read_role(self, name: str) -> None:
        if not self._begin("role", name):
            return
        role = (await self.client.call("GetRole", RoleName=name))["Role"]
        self.details[ROLES].append(await self._complete(dict(role), "Role", name))

    async def _read_user(self, name: str) -> None:
        if not self._begin("user", name):
            return
        user = await self._complete(dict((await self.client.call("GetUser", UserName=name))["User"]), "User", name)
        groups = await self._gather("ListGroupsForUser", "Groups", UserName=name)
        user["GroupList"] = [str(group["GroupName"]) for group in groups]
        for group in groups:
            if self._begin("group", str(group["GroupName"])):
                self.details[GROUPS].append(await self._complete(dict(group), "Group", str(group["GroupName"])))
        self.details[USERS].append(user)

    def _begin(self, kind: str, name: str) -> bool:
        """Whether it is not yet read."""
        fresh = (kind, name) not in self._read
        self._read.add((kind, name))
        return fresh

    async def _complete(self, found: Json, kind: str, name: str) -> Json:
        """A role, user or group with its inline and attached policies."""
        who = {f"{kind}Name": name}
        found[f"{kind}PolicyList"] = [
            {
                "PolicyName": policy,
                "PolicyDocument": (await self.client.call(f"Get{kind}Policy", **who, PolicyName=policy))[
                    "PolicyDocument"
                ],
            }
            for policy in await self._gather(f"List{kind}Policies", "PolicyNames", **who)
        ]
        found["AttachedManagedPolicies"] = await self._gather(f"ListAttached{kind}Policies", "AttachedPolicies", **who)
        await self.read_its_policies(found)
        return found

    async def read_its_policies(self, found: Json) -> None:
        """Read the managed policies that a principal or group has, those that are not read yet."""
        boundary = found.get("PermissionsBoundary") or {}
        arns = [str(each["PolicyArn"]) for each in found.get("AttachedManagedPolicies") or ()]
        arns += [str(boundary["PermissionsBoundaryArn"])] if boundary.get("PermissionsBoundaryArn") else []
        for arn in arns:
            if arn not in self.read_policies:
                self.read_policies.add(arn)
                await self._read_policy(arn)

    async def _read_policy(self, arn: str) -> None:
        try:
            policy = dict((await self.client.call("GetPolicy", PolicyArn=arn))["Policy"])
            version = policy["DefaultVersionId"]
            found = (await self.client.call("GetPolicyVersion", PolicyArn=arn, VersionId=version))["PolicyVersion"]
        except AwsError as error:
            if error.kind != "missing":
                raise
            return  # The inventory flags it as missing.
        policy["PolicyVersionList"] = [{**found, "IsDefaultVersion": True}]
        self.details[POLICIES].append(policy)
