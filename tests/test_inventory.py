"""Authorization details -> inventory: golden cases, real dumps and random accounts against the naive reading, damage."""

import copy
import gzip
import json
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_policies import Namer, judge_inventory

from processor.core.catalogue import build_catalogue, ids_in
from processor.core.inventory import InventoryError, InventoryPrincipal, explain_grant, read_date, read_inventory
from processor.core.organizations import OrganizationError, read_organization
from processor.shell.tables import load_catalogue

CASES = Path(__file__).parent / "cases"
DUMPS = Path(__file__).parent.parent.parent / "shared" / "data" / "iam-accounts"

NAMES = json.loads((CASES / "policies_catalogue.json").read_text("utf-8"))
CATALOGUE = build_catalogue("cases", [(name, "Write") for name in NAMES], {}, {}, [])
NAMER = Namer(NAMES)
ALLOW_ALL = {"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}


def read_cases() -> list[Any]:
    return [
        pytest.param(case["input"], case["expected"], id=case["name"])
        for case in json.loads((CASES / "policies_inventory.json").read_text("utf-8"))
    ]


def show_principal(found: InventoryPrincipal) -> dict[str, Any]:
    """A principal as the cases write it down."""
    grants = found.grants
    return {
        "granted": CATALOGUE.names_in(grants.granted),
        "conditional": CATALOGUE.names_in(grants.conditional),
        "flags": list(grants.flags),
        "births": [[born, CATALOGUE.names_in(mask)] for born, mask in grants.births],
        "provenance": [[each.policy, each.policy_arn, each.via_group, each.statement] for each in grants.provenance],
        "unique_id": found.unique_id,
        "account_id": found.account_id,
        "kind": found.kind,
        "name": found.name,
        "created": found.created,
        "tags": found.tags,
        "boundary": found.boundary,
        "service_linked": found.service_linked,
    }


@pytest.mark.parametrize(("given_", "expected"), read_cases())
def test_golden_inventory(given_: dict[str, Any], expected: dict[str, Any]) -> None:
    organizations = [read_organization(document) for document in given_.get("organizations", [])]
    raw = [json.dumps(document).encode() for document in given_["documents"]]
    for documents in (given_["documents"], raw):
        if "error" in expected:
            with pytest.raises(InventoryError) as raised:
                read_inventory(documents, CATALOGUE, organizations)
            assert str(raised.value).startswith(expected["error"])
            continue
        found = {each.arn: show_principal(each) for each in read_inventory(documents, CATALOGUE, organizations)}
        assert found.keys() == expected.keys()
        assert {arn: {key: found[arn][key] for key in wanted} for arn, wanted in expected.items()} == expected


def test_errors_bear_the_name_that_is_given() -> None:
    with pytest.raises(InventoryError, match=r"^prod\.json: RoleDetailList\[0\]: Arn is null"):
        read_inventory([("prod.json", {"RoleDetailList": [{}]})], CATALOGUE)
    with pytest.raises(InventoryError, match=r"^prod\.json is no JSON"):
        read_inventory([("prod.json", b"")], CATALOGUE)


def test_nothing_is_an_empty_inventory() -> None:
    assert read_inventory([], CATALOGUE) == []


def make_role(name: str, account: str = "111122223333", **more: Any) -> dict[str, Any]:
    attached = [{"PolicyName": "All", "PolicyArn": "arn:aws:iam::aws:policy/All"}]
    arn = f"arn:aws:iam::{account}:role/{name}"
    return {"Arn": arn, "RoleId": f"AROA{name}", "AttachedManagedPolicies": attached, **more}


ALL_POLICY = {
    "Arn": "arn:aws:iam::aws:policy/All",
    "PolicyVersionList": [{"IsDefaultVersion": True, "Document": ALLOW_ALL}],
}


def test_principals_share_what_is_alike() -> None:
    document = {
        "RoleDetailList": [make_role("a"), make_role("b"), make_role("c", "999988887777")],
        "Policies": [ALL_POLICY],
    }
    first, *others = read_inventory([document], CATALOGUE)
    assert all(other.grants is first.grants for other in others)


def test_the_last_organization_that_knows_an_account_limits_it() -> None:
    def organization(action: str, account: str) -> Any:
        content = {"Statement": {"Effect": "Allow", "Action": action, "Resource": "*"}}
        tree = [{"id": "r", "type": "root"}, {"id": account, "parent": "r", "type": "account"}]
        policies = [{"id": "p", "type": "SCP", "content": content, "targets": ["r", account]}]
        return read_organization({"management_account": "9", "tree": tree, "policies": policies})

    document = {"RoleDetailList": [make_role("a")], "Policies": [ALL_POLICY]}
    mine, newer = organization("s3:GetObject", "111122223333"), organization("s3:PutObject", "111122223333")
    (found,) = read_inventory([document], CATALOGUE, [mine, newer, organization("iam:*", "222222222222")])
    assert CATALOGUE.names_in(found.grants.granted) == ["s3:PutObject"]


def test_explain_grant_names_policy_and_statement() -> None:
    inline = {
        "PolicyName": "own",
        "PolicyDocument": {
            "Statement": [
                {
                    "Sid": "Read",
                    "Effect": "Allow",
                    "Action": "s3:Get*",
                    "Resource": "*",
                    "Condition": {"Null": {"a": 1}},
                },
                {"Effect": "Deny", "Action": "s3:GetObjectAcl", "Resource": "*"},
            ]
        },
    }
    document = {"RoleDetailList": [make_role("a", RolePolicyList=[inline])], "Policies": [ALL_POLICY]}
    (found,) = read_inventory([document], CATALOGUE)
    told = [
        (each.policy, each.statement, each.conditional) for each in explain_grant(found, NAMES.index("s3:GetObject"))
    ]
    assert told == [("own", "Read", True), ("All", "1", False)]
    assert explain_grant(found, NAMES.index("s3:GetObjectAcl")) == []
    assert [each.policy for each in explain_grant(found, NAMES.index("iam:GetRole"))] == ["All"]


@pytest.mark.skipif(not DUMPS.is_dir(), reason="shared/data/iam-accounts is not here")
@pytest.mark.parametrize("path", sorted(DUMPS.glob("*.json.gz")), ids=lambda path: path.name)
def test_dumps_read_as_the_naive_reading_says(path: Path) -> None:
    catalogue = load_catalogue()
    raw = gzip.decompress(path.read_bytes())
    judged = judge_inventory(Namer(catalogue.names), [json.loads(raw)])
    found = {each.arn: each for each in read_inventory([raw], catalogue)}
    assert found.keys() == judged.keys()
    assert found
    for arn, (granted, conditional) in judged.items():
        assert set(catalogue.names_in(found[arn].grants.granted)) == granted, arn
        assert set(catalogue.names_in(found[arn].grants.conditional)) == conditional, arn


@pytest.mark.skipif(not DUMPS.is_dir(), reason="shared/data/iam-accounts is not here")
def test_dumps_read_together() -> None:
    paths = sorted(DUMPS.glob("*.json.gz"))
    found = read_inventory([(path.name, gzip.decompress(path.read_bytes())) for path in paths], load_catalogue())
    assert len({each.arn for each in found}) == len(found) >= 25
    assert all(each.created and not each.grants.flags for each in found)


PATTERNS = st.sampled_from(["*", "*:*", "s3:*", "S3:Get*", "*:*Object*", "iam:?assRole", "sts:assumerole", *NAMES])


@st.composite
def draw_document(draw: st.DrawFn) -> dict[str, Any]:
    statements = []
    for _ in range(draw(st.integers(1, 3))):
        statement = {
            "Effect": draw(st.sampled_from(["Allow", "Allow", "Deny"])),
            draw(st.sampled_from(["Action", "Action", "NotAction"])): draw(st.lists(PATTERNS, min_size=1, max_size=3)),
            draw(st.sampled_from(["Resource", "Resource", "NotResource"])): draw(
                st.sampled_from(["*", "arn:aws:s3:::a"])
            ),
        }
        if draw(st.integers(0, 3)) == 0:
            statement["Condition"] = {"Bool": {"aws:SecureTransport": "true"}}
        if draw(st.booleans()):
            statement["Principal"] = draw(st.sampled_from(["*", {"AWS": "*"}, {"AWS": "222222222222"}]))
        statements.append(statement)
    return {"Statement": statements}


ACCOUNTS = ["111111111111", "222222222222", "999999999999", "333333333333"]
MANAGED = [f"arn:aws:iam::aws:policy/{name}" for name in "ABC"]


def write_document(draw: st.DrawFn) -> Any:
    document = draw(draw_document())
    text = json.dumps(document)
    return draw(st.sampled_from([document, text, urllib.parse.quote(text)]))


@st.composite
def draw_details(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Some accounts' details, cut into files at random. The last of MANAGED is in none of them."""
    details: list[tuple[str, dict[str, Any]]] = []
    for arn in MANAGED[: draw(st.integers(0, 2))]:
        versions = [
            {"VersionId": f"v{at}", "IsDefaultVersion": at == 1, "Document": write_document(draw)} for at in range(3)
        ]
        details.append(("Policies", {"Arn": arn, "PolicyVersionList": versions}))
    for kind in ("Group", "Role", "User"):
        for at in range(draw(st.integers(0, 2))):
            path = draw(st.sampled_from(["", "", "aws-service-role/x.amazonaws.com/"])) if kind == "Role" else ""
            entry: dict[str, Any] = {
                "Arn": f"arn:aws:iam::{draw(st.sampled_from(ACCOUNTS))}:{kind.lower()}/{path}{kind}{at}",
                f"{kind}Id": f"ID{at}",
                f"{kind}Name": f"{kind}{at}",
                f"{kind}PolicyList": [
                    {"PolicyName": f"p{nth}", "PolicyDocument": write_document(draw)}
                    for nth in range(draw(st.integers(0, 2)))
                ],
                "AttachedManagedPolicies": [
                    {"PolicyArn": arn} for arn in draw(st.lists(st.sampled_from(MANAGED), max_size=2, unique=True))
                ],
            }
            if kind == "User":
                entry["GroupList"] = draw(st.lists(st.sampled_from(["Group0", "Group1"]), max_size=2, unique=True))
            if kind != "Group" and draw(st.booleans()):
                entry["PermissionsBoundary"] = {"PermissionsBoundaryArn": draw(st.sampled_from(MANAGED))}
            details.append((f"{kind}DetailList", entry))
    files: list[dict[str, Any]] = [{"RoleDetailList": []}, {"Policies": []}]
    for section, entry in details:
        files[draw(st.integers(0, 1))].setdefault(section, []).append(entry)
    return files


@st.composite
def draw_organization(draw: st.DrawFn) -> dict[str, Any]:
    tree = [
        {"id": "r-1", "parent": None, "type": "root"},
        {"id": "ou-1", "parent": "r-1", "type": "ou"},
        *(
            {"id": account, "parent": draw(st.sampled_from(["r-1", "ou-1"])), "type": "account"}
            for account in ACCOUNTS[:3]
        ),
    ]
    targets = st.lists(st.sampled_from(["r-1", "ou-1", *ACCOUNTS]), max_size=4, unique=True)
    everywhere = ["r-1", "ou-1", *ACCOUNTS]
    allow_all = {"Statement": [{**ALLOW_ALL["Statement"], "Principal": "*"}]}
    policies = [
        {
            "id": f"p-{at}",
            "type": draw(st.sampled_from(["SERVICE_CONTROL_POLICY", "RESOURCE_CONTROL_POLICY"])),
            "content": draw(st.just(allow_all) | draw_document()),
            "targets": draw(st.just(everywhere) | targets),
        }
        for at in range(draw(st.integers(0, 4)))
    ]
    return {"management_account": "999999999999", "tree": tree, "policies": policies}


@settings(max_examples=200, deadline=None)
@given(draw_details(), st.none() | draw_organization())
def test_random_accounts_read_as_the_naive_reading_says(documents: list[Any], organization: Any) -> None:
    judged = judge_inventory(NAMER, documents, organization)
    organizations = [] if organization is None else [read_organization(organization)]
    found = {each.arn: each.grants for each in read_inventory(documents, CATALOGUE, organizations)}
    assert found.keys() == judged.keys()
    for arn, (granted, conditional) in judged.items():
        assert set(CATALOGUE.names_in(found[arn].granted)) == granted, arn
        assert set(CATALOGUE.names_in(found[arn].conditional)) == conditional, arn
        born = [action for _, mask in found[arn].births for action in ids_in(mask)]
        assert len(born) == len(set(born))


VALID = [case.values[0]["documents"] for case in read_cases()]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@st.composite
def draw_damaged(draw: st.DrawFn) -> Any:
    """Valid documents with up to four of their values put out for other ones."""
    documents = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 4))):
        place: Any = documents
        key: Any = draw(st.integers(0, len(documents) - 1))
        while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 6)):
            place = place[key]
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if draw(st.booleans()) and isinstance(place, dict):
            del place[key]
        else:
            place[key] = draw(JSON)
    return documents


@settings(max_examples=300, deadline=None)
@given(draw_damaged())
def test_damaged_documents_are_read_or_refused(documents: list[Any]) -> None:
    for form in (documents, [json.dumps(document).encode() for document in documents]):
        try:
            found = read_inventory(form, CATALOGUE)
        except InventoryError:
            continue
        for each in found:
            assert each.unique_id
            assert all(isinstance(value, str) for pair in each.tags.items() for value in pair)
            assert not each.grants.conditional & ~each.grants.granted


@given(st.binary(max_size=30) | JSON.map(lambda found: json.dumps(found).encode()))
def test_arbitrary_bytes_are_refused(document: bytes) -> None:
    with pytest.raises(InventoryError):
        read_inventory([document], CATALOGUE)
    with pytest.raises(OrganizationError):
        read_organization(document)


@given(JSON)
def test_dates_never_raise(found: Any) -> None:
    seconds = read_date(found)
    assert seconds is None or 0 < seconds < 2**32
