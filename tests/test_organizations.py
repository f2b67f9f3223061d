"""Organization files -> guards: golden cases of the file's checks and of SCPs and RCPs, and arbitrary JSON."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.core.catalogue import build_catalogue
from processor.core.inventory import read_inventory
from processor.core.organizations import OrganizationError, build_ceiling, read_organization
from processor.core.policies import PolicyParser

CASES = Path(__file__).parent / "cases"
NAMES = json.loads((CASES / "policies_catalogue.json").read_text("utf-8"))
CATALOGUE = build_catalogue("cases", [(name, "Write") for name in NAMES], {}, {}, [])


def read_cases(name: str) -> list[Any]:
    return [
        pytest.param(case["input"], case["expected"], id=case["name"])
        for case in json.loads((CASES / name).read_text("utf-8"))
    ]


@pytest.mark.parametrize(("document", "expected"), read_cases("organizations.json"))
def test_golden_organization(document: Any, expected: dict[str, Any]) -> None:
    for form in (document, json.dumps(document).encode()):
        if "error" in expected:
            with pytest.raises(OrganizationError) as raised:
                read_organization(form)
            assert str(raised.value).startswith(expected["error"])
            continue
        organization = read_organization(form)
        assert list(organization.unknown_targets) == expected["unknown_targets"]
        for account_id, levels in expected["levels"].items():
            found = organization.levels(account_id)
            assert [[level.id, [policy.id for policy in level.policies]] for level in found] == levels


@pytest.mark.parametrize(("given_", "expected"), read_cases("organizations_guards.json"))
def test_golden_guard(given_: dict[str, Any], expected: dict[str, Any]) -> None:
    role = {
        "Arn": f"arn:aws:iam::{given_['account']}:role/{given_.get('path', '')}a",
        "RoleId": "AROAA",
        "RolePolicyList": [
            {"PolicyName": "all", "PolicyDocument": {"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}}
        ],
    }
    policies = []
    if "boundary" in given_:
        role["PermissionsBoundary"] = {"PermissionsBoundaryArn": "arn:aws:iam::aws:policy/Edge"}
        version = {"IsDefaultVersion": True, "Document": given_["boundary"]}
        policies.append({"Arn": "arn:aws:iam::aws:policy/Edge", "PolicyVersionList": [version]})
    organization = read_organization(given_["organization"])
    (found,) = read_inventory([{"RoleDetailList": [role], "Policies": policies}], CATALOGUE, [organization])
    assert CATALOGUE.names_in(found.grants.granted) == expected["granted"]
    assert CATALOGUE.names_in(found.grants.conditional) == expected["conditional"]
    assert list(found.grants.flags) == expected["flags"]


def test_errors_bear_the_name_that_is_given() -> None:
    with pytest.raises(OrganizationError, match=r"^prod\.json is no JSON"):
        read_organization(b"{", "prod.json")


def test_a_deep_tree_is_walked() -> None:
    ids = ["root", *(f"ou-{at}" for at in range(3_000)), "111111111111"]
    kinds = ["root", *["ou"] * 3_000, "account"]
    tree = [
        {"id": node, "parent": parent, "type": kind}
        for node, parent, kind in zip(ids, [None, *ids], kinds, strict=False)
    ]
    organization = read_organization({"management_account": "9", "tree": tree, "policies": []})
    assert [level.id for level in organization.levels("111111111111")] == ids


VALID = [case.values[0] for case in read_cases("organizations_guards.json")]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@st.composite
def draw_damaged(draw: st.DrawFn, valid: list[Any]) -> Any:
    """A valid document with up to three of its values put out for other ones."""
    document = [copy.deepcopy(draw(st.sampled_from(valid)))]
    for _ in range(draw(st.integers(1, 3))):
        place: Any = document
        key: Any = 0
        while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 5)):
            place = place[key]
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if draw(st.booleans()) and isinstance(place, dict):
            del place[key]
        else:
            place[key] = draw(JSON)
    return document[0]


@settings(deadline=None)
@given(draw_damaged([given_["organization"] for given_ in VALID]))
def test_damaged_files_are_read_or_refused(document: Any) -> None:
    for form in (document, json.dumps(document).encode()):
        try:
            organization = read_organization(form)
        except OrganizationError:
            continue
        for account_id in (*organization.accounts, "222222222222"):
            build_ceiling(organization, account_id, PolicyParser(CATALOGUE))


@given(st.binary(max_size=30) | st.sampled_from([b"[" * 5000, b'{"a":' * 5000, b""]))
def test_arbitrary_bytes_are_refused(document: bytes) -> None:
    with pytest.raises(OrganizationError):
        read_organization(document)
