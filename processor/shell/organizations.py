"""AWS Organizations as it is now -> the document that processor/core/organizations.py reads, and the accounts in it.

Read in the management account, or in one that administration of Organizations is delegated to.
"""

from dataclasses import dataclass

from processor.shell.aws_accounts import AwsClient, Json

POLICY_TYPES = ("SERVICE_CONTROL_POLICY", "RESOURCE_CONTROL_POLICY")


@dataclass(frozen=True, slots=True)
class FoundOrganization:
    """`document` has the form of an organization file; `active` are the accounts that are not suspended, with their names."""

    document: Json
    active: dict[str, str]


async def fetch_organization(client: AwsClient) -> FoundOrganization:
    """The whole tree and its SCPs and RCPs. Raises AwsError, of kind `missing` where the account is in no organization."""
    organization = (await client.call("DescribeOrganization"))["Organization"]
    tree: list[Json] = []
    active: dict[str, str] = {}
    enabled: set[str] = set()
    waiting: list[str] = []
    for root in await client.gather("ListRoots", "Roots"):
        tree.append({"id": root["Id"], "parent": None, "type": "root"})
        enabled |= {str(each["Type"]) for each in root.get("PolicyTypes") or () if each.get("Status") == "ENABLED"}
        waiting.append(root["Id"])
    while waiting:
        parent = waiting.pop()
        for unit in await client.gather("ListOrganizationalUnitsForParent", "OrganizationalUnits", ParentId=parent):
            tree.append({"id": unit["Id"], "parent": parent, "type": "ou"})
            waiting.append(unit["Id"])
        for account in await client.gather("ListAccountsForParent", "Accounts", ParentId=parent):
            tree.append({"id": account["Id"], "parent": parent, "type": "account"})
            if account.get("State", account.get("Status", "ACTIVE")) == "ACTIVE":
                active[str(account["Id"])] = str(account.get("Name") or "")
    # A type that is not turned on limits nobody, whatever is attached.
    policies = [policy for kind in POLICY_TYPES if kind in enabled for policy in await _fetch_policies(client, kind)]
    document = {"management_account": organization["MasterAccountId"], "tree": tree, "policies": policies}
    return FoundOrganization(document, active)


async def _fetch_policies(client: AwsClient, kind: str) -> list[Json]:
    found = []
    for summary in await client.gather("ListPolicies", "Policies", Filter=kind):
        policy = (await client.call("DescribePolicy", PolicyId=summary["Id"]))["Policy"]
        targets = await client.gather("ListTargetsForPolicy", "Targets", PolicyId=summary["Id"])
        found.append(
            {
                "id": summary["Id"],
                "type": kind,
                "content": policy["Content"],
                "targets": [str(target["TargetId"]) for target in targets],
            }
        )
    return found
