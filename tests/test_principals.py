"""userIdentity -> principal, by golden cases: `{name, input, expected}`, and `known` where an inventory has a say."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.core.principals import NOBODY, Caller, Principal, account_of, decode_user_identity, resolve_caller

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "cases" / "principals.json").read_bytes())


def build_known(listed: Mapping[str, Mapping[str, str]]) -> dict[str, Principal]:
    return {unique_id: Principal(**fields) for unique_id, fields in listed.items()}


def build_caller(expected: Mapping[str, Any] | None) -> Caller:
    if expected is None:
        return NOBODY
    fields = dict(expected)
    operator, via = fields.pop("operator"), fields.pop("via")
    return Caller(Principal(**fields), operator, via)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_caller_is_credited(case: dict[str, Any]) -> None:
    found = decode_user_identity(json.dumps(case["input"]).encode())
    assert found is not None
    assert resolve_caller(found, build_known(case.get("known", {}))) == build_caller(case["expected"])


def test_names_of_cases_are_unique() -> None:
    names = [case["name"] for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b'"me"', b"5", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_no_caller(raw: bytes) -> None:
    assert decode_user_identity(raw) is None


def test_only_roles_below_the_services_path_are_service_linked() -> None:
    def is_linked(arn: str) -> bool:
        return Principal(arn, None, "111122223333", "role").service_linked

    assert is_linked("arn:aws:iam::111122223333:role/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS")
    assert not is_linked("arn:aws:iam::111122223333:role/service-role/made-by-console")
    assert not is_linked("arn:aws:iam::111122223333:role/AWSServiceRoleForECS")


def test_account_of_an_arn() -> None:
    assert account_of("arn:aws:iam::111122223333:role/a:b") == "111122223333"
    assert account_of("arn:aws:s3:::bucket") == ""
    assert account_of("...") == ""


TEXTS = st.one_of(
    st.none(), st.text(max_size=20), st.integers(), st.sampled_from(["AssumedRole", "arn:aws:iam::1:role/x", "A:b"])
)
FIELDS = ("type", "principalId", "arn", "accountId", "invokedBy", "sessionContext", "sessionIssuer")
OBJECTS = st.recursive(TEXTS, lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6), max_leaves=12)


@given(OBJECTS)
def test_no_object_raises_and_who_is_found_is_whole(whole: Any) -> None:
    found = decode_user_identity(json.dumps(whole).encode())
    assert (found is None) == (not isinstance(whole, dict))
    if found is not None:
        caller = resolve_caller(found, {})
        if caller.principal is None:
            assert caller == NOBODY
        else:
            assert caller.principal.kind in ("role", "user", "root")
            assert caller.principal.account_id == account_of(caller.principal.arn)
            assert caller.principal.unique_id != ""
