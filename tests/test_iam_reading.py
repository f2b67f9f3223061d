"""IAM read from a server: whole accounts and single principals come to the same grants, those of real accounts' dumps."""

import gzip
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aws_server import OWN, TRUST, FaultyAws, MotoServer, allow, make_role
from botocore.exceptions import ParamValidationError

from processor.core.iam_changes import Concern
from processor.core.inventory import InventoryPrincipal, read_inventory
from processor.shell.aws_errors import AwsError
from processor.shell.iam import ALONE_MAX
from processor.shell.scans import InventoryPlan, Scanner
from processor.shell.tables import load_catalogue

CATALOGUE = load_catalogue()
DUMPS = (
    "cloudmapper--iam-get-account-authorization-details",
    "iamspy--allow-testing-s3",
    "iamspy--allow-with-conditions",
    "iamspy--basic-deny",
    "iamspy--batch-allow",
    "iamspy--role-boundary-allow",
    "iamspy--role-boundary-deny",
    "iamspy--role-boundary-no-policies",
    "iamspy--user-allow-check",
)
"""Those that moto can hold: it knows no boundary of a user."""

Said = dict[str, tuple[int, int, str | None]]


def say(found: list[InventoryPrincipal]) -> Said:
    """What principals may do, by kind and name: their ids and the account differ from server to server."""
    return {
        f"{each.kind} {each.name}": (
            each.grants.granted,
            each.grants.conditional,
            (each.boundary or "").rpartition("/")[2],
        )
        for each in found
    }


def find_document(policy: dict[str, Any]) -> str:
    (version,) = [each for each in policy["PolicyVersionList"] if each.get("IsDefaultVersion")]
    return json.dumps(version["Document"])


def make_account(iam: Any, dump: dict[str, Any]) -> None:
    """Everything of a dump, by the calls that make it; AWS' own policies as policies of the account, with the text of the dump."""
    arns = {}
    for policy in dump.get("Policies", []):
        made = iam.create_policy(PolicyName=policy["PolicyName"], PolicyDocument=find_document(policy))
        arns[policy["Arn"]] = made["Policy"]["Arn"]
    for kind in ("Group", "Role", "User"):
        for each in dump.get(f"{kind}DetailList", []):
            who = {f"{kind}Name": each[f"{kind}Name"]}
            more = {"AssumeRolePolicyDocument": TRUST} if kind == "Role" else {}
            getattr(iam, f"create_{kind.lower()}")(**who, Path=each.get("Path") or "/", **more)
            for inline in each.get(f"{kind}PolicyList") or ():
                put = getattr(iam, f"put_{kind.lower()}_policy")
                with suppress(ParamValidationError):  # a name that IAM itself does not take
                    put(**who, PolicyName=inline["PolicyName"], PolicyDocument=json.dumps(inline["PolicyDocument"]))
            for attached in each.get("AttachedManagedPolicies") or ():
                if attached["PolicyArn"] in arns:
                    getattr(iam, f"attach_{kind.lower()}_policy")(**who, PolicyArn=arns[attached["PolicyArn"]])
            boundary = (each.get("PermissionsBoundary") or {}).get("PermissionsBoundaryArn")
            if boundary in arns:
                getattr(iam, f"put_{kind.lower()}_permissions_boundary")(**who, PermissionsBoundary=arns[boundary])
            for group in each.get("GroupList") or ():
                iam.add_user_to_group(UserName=each["UserName"], GroupName=group)


@pytest.mark.parametrize("name", DUMPS)
async def test_what_is_read_is_what_the_dump_says(name: str, shared: Path, aws: MotoServer) -> None:
    path = shared / "iam-accounts" / f"{name}.json.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    dump = json.loads(gzip.decompress(path.read_bytes()).decode().replace("iam::aws:user", f"iam::{OWN}:user"))
    dump = json.loads(json.dumps(dump).replace("iam::aws:group", f"iam::{OWN}:group"))
    try:
        make_account(aws.open("iam"), dump)
    except aws.open("iam").exceptions.MalformedPolicyDocumentException as error:
        pytest.skip(f"moto takes a policy of it for malformed: {error}")
    expected = say(read_inventory([dump], CATALOGUE))
    scanner = Scanner(InventoryPlan(), CATALOGUE)
    assert await scanner.find_accounts() == [OWN]
    whole = await scanner.fetch(OWN)
    assert say(list(scanner.build(OWN, [whole]).values())) == expected
    # One by one, by other calls.
    concerns = [Concern(OWN, *place.split(" ", 1)) for place in expected]
    looked = await scanner.look(OWN, concerns)
    assert looked.gone == frozenset()
    assert say(list(scanner.build(OWN, looked.documents).values())) == expected


async def test_a_look_reads_who_is_concerned_and_nobody_else(faulty_aws: FaultyAws, aws: MotoServer) -> None:
    iam = aws.open("iam")
    policy = iam.create_policy(PolicyName="p", PolicyDocument=allow("s3:CreateBucket"))["Policy"]["Arn"]
    for name in ("a", "b", "c"):
        make_role(iam, name)
    iam.attach_role_policy(RoleName="a", PolicyArn=policy)
    iam.create_user(UserName="u")
    iam.create_group(GroupName="g")
    iam.add_user_to_group(UserName="u", GroupName="g")
    iam.attach_group_policy(GroupName="g", PolicyArn=policy)
    scanner = Scanner(InventoryPlan(), CATALOGUE)
    await scanner.find_accounts()
    faulty_aws.calls.clear()
    looked = await scanner.look(OWN, [Concern(OWN, "policy", policy), Concern(OWN, "role", "gone")])
    assert {(each.kind, each.name) for each in looked.concerns} == {("role", "a"), ("user", "u"), ("role", "gone")}
    assert looked.gone == {Concern(OWN, "role", "gone")}
    assert set(say(list(scanner.build(OWN, looked.documents).values()))) == {"role a", "user u"}
    assert faulty_aws.calls.count("GetPolicyVersion") == 1, "what they share is read once"
    assert "GetAccountAuthorizationDetails" not in faulty_aws.calls


async def test_many_at_once_are_read_as_a_whole(faulty_aws: FaultyAws, aws: MotoServer) -> None:
    scanner = Scanner(InventoryPlan(), CATALOGUE)
    await scanner.find_accounts()
    looked = await scanner.look(OWN, [Concern(OWN, "role", f"r{at}") for at in range(ALONE_MAX + 1)])
    assert looked.too_many
    assert faulty_aws.calls == ["GetCallerIdentity"]


async def test_a_look_that_is_refused_says_which_call(faulty_aws: FaultyAws, aws: MotoServer) -> None:
    make_role(aws.open("iam"), "a", work=allow("s3:CreateBucket"))
    faulty_aws.faults["GetRolePolicy"] = "AccessDenied"
    scanner = Scanner(InventoryPlan(), CATALOGUE)
    await scanner.find_accounts()
    with pytest.raises(AwsError, match=f"iam:GetRolePolicy in account {OWN} is denied") as caught:
        await scanner.look(OWN, [Concern(OWN, "role", "a")])
    assert (caught.value.kind, caught.value.call) == ("denied", "iam:GetRolePolicy")


async def test_throttled_calls_are_tried_again(faulty_aws: FaultyAws, aws: MotoServer) -> None:
    """A third of the answers: nothing is missing in the end."""
    for at in range(8):
        make_role(aws.open("iam"), f"r{at}", work=allow("s3:CreateBucket"))
    faulty_aws.every["Throttling"] = 3
    scanner = Scanner(InventoryPlan(), CATALOGUE)
    await scanner.find_accounts()
    looked = await scanner.look(OWN, [Concern(OWN, "role", f"r{at}") for at in range(8)])
    assert len(scanner.build(OWN, looked.documents)) == 8
