"""What was read anew of an account: which principals it changes, and how old their grants are said to be."""

from typing import Any

from building import ACCOUNT, build_holding, build_principal, build_small_catalogue, mask_of

from processor.core.fresh import Change, Fresh, Settled, find_holders, granted_through, keep_newest, settle_fresh
from processor.core.iam_changes import Concern
from processor.core.inventory import Granting, InventoryPrincipal, read_inventory
from processor.core.sessions import key_of

SMALL = build_small_catalogue()
NOW = 1_790_000_000
EVENT = NOW - 300
FIRST = NOW - 86_400
BUILDER, READER = build_principal("builder"), build_principal("reader")
KEY = key_of(BUILDER)
CONCERN = Concern(ACCOUNT, "role", "builder")
RUN, LIST = mask_of(SMALL, "ec2:RunInstances"), mask_of(SMALL, "iam:ListUsers")


def settle(
    before: InventoryPrincipal | None, after: InventoryPrincipal, first: int | None = FIRST, **more: Any
) -> Settled:
    inventory = {} if before is None else {KEY: before}
    return settle_fresh(inventory, Fresh(ACCOUNT, NOW, more.pop("whole", False), {KEY: after}, **more), first)


def test_what_is_the_same_changes_nothing() -> None:
    same = build_holding(BUILDER, RUN)
    assert settle(same, same) == Settled({}, ())
    assert settle(same, same, whole=True) == Settled({}, ())


def test_a_new_grant_dates_from_the_event_that_made_it() -> None:
    settled = settle(
        build_holding(BUILDER, RUN), build_holding(BUILDER, RUN | LIST), changes={CONCERN: (Change(EVENT, "everything"),)}
    )  # fmt: skip
    assert settled.set[KEY].grants.births == ((EVENT, LIST),)


def test_without_an_event_it_dates_from_the_look_that_found_it() -> None:
    settled = settle(build_holding(BUILDER, RUN), build_holding(BUILDER, RUN | LIST), whole=True)
    assert settled.set[KEY].grants.births == ((NOW, LIST),)


def test_its_age_is_kept_and_goes_with_the_grant() -> None:
    young = build_holding(BUILDER, RUN | LIST, births=((EVENT, LIST),))
    # Read once more: nothing new, the same ages.
    assert settle(young, build_holding(BUILDER, RUN | LIST)) == Settled({}, ())
    gone = settle(young, build_holding(BUILDER, RUN)).set[KEY]
    assert gone.grants.births == ()
    back = settle(gone, build_holding(BUILDER, RUN | LIST)).set[KEY]
    assert back.grants.births == ((NOW, LIST),)


def test_a_change_before_the_first_inventory_dates_what_it_was_about() -> None:
    """There is nothing to compare with: all that its policy alone grants may be new, and nothing else."""
    after = build_holding(BUILDER, RUN | LIST)
    extra = Granting("extra", None, None, "1", LIST, False, ("*",))
    held = after.grants.provenance[0]
    policies = (Granting("work", None, None, "1", RUN, False, ("*",)), extra)
    after = InventoryPrincipal(
        after.arn, after.unique_id, after.account_id, after.kind, after.name, after.created,
        type(after.grants)(after.grants.granted, 0, (), policies, ()), {}, None, False,
    )  # fmt: skip
    changes = {CONCERN: (Change(FIRST - 10, "extra"),)}
    assert settle(None, after, first=None, changes=changes).set[KEY].grants.births == ((FIRST - 10, LIST),)
    assert settle(after, after, first=FIRST, changes=changes).set[KEY].grants.births == ((FIRST - 10, LIST),)
    # Since then every new grant was seen as new: the change says nothing more.
    assert settle(after, after, first=FIRST - 20, changes=changes) == Settled({}, ())
    # What another policy grants too is not new.
    both = type(after.grants)(RUN | LIST, 0, (), (held, extra), ())
    assert (
        granted_through(type(after)(*(getattr(after, name) for name in NAMES[:6]), both, {}, None, False), "extra") == 0
    )
    # A boundary that went may have held back everything.
    assert granted_through(after, "") == RUN | LIST


BOUNDED = {"PermissionsBoundaryArn": f"arn:aws:iam::{ACCOUNT}:policy/p"}
NAMES = ("arn", "unique_id", "account_id", "kind", "name", "created")


def test_a_look_at_one_principal_leaves_the_others() -> None:
    inventory = {KEY: build_holding(BUILDER, RUN), key_of(READER): build_holding(READER, LIST)}
    fresh = {KEY: build_holding(BUILDER, LIST)}
    assert settle_fresh(inventory, Fresh(ACCOUNT, NOW, False, fresh), FIRST).removed == ()
    assert settle_fresh(inventory, Fresh(ACCOUNT, NOW, True, fresh), FIRST).removed == (key_of(READER),)
    gone = settle_fresh(inventory, Fresh(ACCOUNT, NOW, False, {}, frozenset({CONCERN})), FIRST)
    assert gone == Settled({}, (KEY,))


def test_another_account_is_left_alone() -> None:
    elsewhere = build_principal("builder", "444455556666")
    inventory = {key_of(elsewhere): build_holding(elsewhere, RUN)}
    assert settle_fresh(inventory, Fresh(ACCOUNT, NOW, True, {}), FIRST) == Settled({}, ())


def test_a_role_made_anew_takes_the_place_of_the_old_one() -> None:
    old = build_principal("builder", unique_id="AROAOLD")
    settled = settle_fresh(
        {key_of(old): build_holding(old, RUN)}, Fresh(ACCOUNT, NOW, False, {KEY: build_holding(BUILDER, RUN, created=EVENT)}), FIRST
    )  # fmt: skip
    assert settled.removed == (key_of(old),)
    assert set(settled.set) == {KEY}


def test_an_action_keeps_its_newest_birth_only() -> None:
    assert keep_newest({5: 0b011, 9: 0b110, 7: 0b010}) == ((5, 0b001), (9, 0b110))
    assert keep_newest({}) == ()


def test_who_is_known_to_have_a_policy_or_to_be_in_a_group() -> None:
    arn = BOUNDED["PermissionsBoundaryArn"]
    details = {
        "UserDetailList": [{"Arn": f"arn:aws:iam::{ACCOUNT}:user/u", "UserId": "AIDAU", "GroupList": ["g"]}],
        "GroupDetailList": [
            {"Arn": f"arn:aws:iam::{ACCOUNT}:group/g", "GroupName": "g", "AttachedManagedPolicies": [{"PolicyArn": arn}]}
        ],
        "RoleDetailList": [
            {"Arn": f"arn:aws:iam::{ACCOUNT}:role/bounded", "RoleId": "AROAB", "PermissionsBoundary": BOUNDED},
            {"Arn": f"arn:aws:iam::{ACCOUNT}:role/other", "RoleId": "AROAO"},
        ],
        "Policies": [
            {
                "Arn": arn,
                "PolicyName": "p",
                "PolicyVersionList": [
                    {"IsDefaultVersion": True, "Document": {"Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}}
                ],
            }
        ],
    }  # fmt: skip
    inventory = read_inventory([details], SMALL)
    found = set(find_holders(inventory, [Concern(ACCOUNT, "policy", arn), Concern(ACCOUNT, "group", "g"), CONCERN]))
    assert {(about.kind, who.kind, who.name) for about, who in found} == {
        ("policy", "role", "bounded"),
        ("policy", "user", "u"),
        ("group", "user", "u"),
    }
