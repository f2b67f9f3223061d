"""The report's arrays against the masks of `judge`, which are their oracle."""

import pytest
from building import ACCOUNT, DAY, build_holding, build_principal, build_small_catalogue
from hypothesis import given
from hypothesis import strategies as st

from processor.core import judging
from processor.core.catalogue import build_catalogue
from processor.core.fleet import Coverage, Fleet, Member
from processor.core.gap import VERDICTS, Logging, Window
from processor.core.inventory import InventoryPrincipal
from processor.core.records import format_time
from processor.core.report import Json, build_report, build_windows, granted_services, service_verdict
from processor.core.sessions import Scope, key_of, shard_of
from processor.core.tally import Tally
from processor.core.usage import NEVER, NOT_YET, Cell, PrincipalUsage
from processor.shell.tables import load_catalogue

SMALL = build_small_catalogue()
NAMES = (*SMALL.names, "old:Gone", "old:Lost")
NOW = 20_000 * DAY
HELD = NOW - 2 * DAY
OTHER = "444455556666"
SECONDS = [NOW - days * DAY + second for days in (0, 2, 7, 9, 30, 32, 400) for second in (-1, 0, 1)]
TIMES = st.sampled_from(SECONDS)
MASKS = st.integers(0, SMALL.all_mask)


@st.composite
def usages(draw: st.DrawFn, number: int) -> PrincipalUsage:
    """Some uses, of actions that the catalogue lacks, too."""
    principal = build_principal(f"role{number}", (ACCOUNT, OTHER)[number % 2])
    cells = {}
    for action in draw(st.sets(st.integers(0, len(NAMES) - 1), max_size=6)):
        cell = cells[action] = Cell(action)
        cell.count, cell.last, cell.last_success = 1, draw(st.one_of(st.just(NEVER), TIMES)), draw(TIMES)
        cell.first = cell.last or NOT_YET
    key = key_of(principal)
    return PrincipalUsage(principal, key.to_bytes(8, "big"), shard_of(key), cells, [], number)


@st.composite
def holdings(draw: st.DrawFn, number: int) -> InventoryPrincipal:
    granted = draw(st.one_of(MASKS, st.sampled_from([0, SMALL.all_mask])))
    return build_holding(
        build_principal(f"role{number}", (ACCOUNT, OTHER)[number % 2]),
        granted,
        created=draw(st.one_of(st.none(), TIMES)),
        births=tuple(draw(st.lists(st.tuples(TIMES, MASKS), max_size=3))),
        conditional=granted & draw(MASKS),
        flags=draw(st.sampled_from([(), ("boundary_missing",)])),
    )


@st.composite
def loggings(draw: st.DrawFn) -> Logging:
    return Logging(
        data_events=draw(st.sampled_from([frozenset(), frozenset({"s3"}), frozenset({"*"})])),
        read_only=draw(st.booleans()),
        writes=draw(st.booleans()),
        since=draw(st.dictionaries(st.sampled_from(["read_only", "writes", "s3", "iam:PassRole"]), TIMES, max_size=2)),
    )


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """Principals of two accounts, used, in the inventory, or both, with all that a verdict can depend on."""
    used = [draw(usages(number)) for number in draw(st.sets(st.integers(0, 6)))]
    known = [draw(holdings(number)) for number in draw(st.sets(st.integers(0, 6)))]
    fleet = Fleet(
        SMALL,
        [Window(days) for days in draw(st.sampled_from([(7, 30), (30,), (1, 9, 7)]))],
        {int.from_bytes(usage.key, "big"): usage for usage in used},
        {key_of(build_principal(each.name, each.account_id)): each for each in known},
        Coverage(draw(st.dictionaries(st.sampled_from([ACCOUNT, OTHER]), TIMES))),
        {"*": draw(loggings()), OTHER: draw(loggings())},
        Scope(),
    )
    fleet.held = draw(st.sampled_from([{}, {OTHER: HELD}]))
    return fleet


def say_time(time: int) -> str | None:
    return format_time(time) if time else None


def tell_by_masks(fleet: Fleet, member: Member, as_of: int) -> Json:
    """What the report says of a principal with grants, verdict by verdict as `judge` has them."""
    assert member.granted is not None
    as_of = fleet.time_of(member.principal.account_id, as_of)
    granted, conditional = member.granted.granted, member.granted.conditional
    verdicts = dict(
        zip(
            [window.label for window in fleet.windows],
            fleet.verdicts_of(member, fleet.gap_of(member, as_of), as_of),
            strict=True,
        )
    )
    pairs = {label: [(verdict, getattr(judged, verdict)) for verdict in VERDICTS] for label, judged in verdicts.items()}
    cells = {} if member.usage is None else member.usage.cells
    escalation = SMALL.escalation_mask(granted)
    return {
        "windows": build_windows(fleet, member, list(verdicts.values()), as_of),
        "services": {
            service: {
                "granted": mask.bit_count(),
                "used": {label: (judged.used & mask).bit_count() for label, judged in verdicts.items()},
                "last_used": say_time(max((cell.last for at, cell in cells.items() if mask >> at & 1), default=0)),
                "verdict": {label: service_verdict(found, mask) for label, found in pairs.items()},
            }
            for service, mask in granted_services(SMALL, granted)
        },
        "grants": {
            name: {
                "conditional": bool(conditional >> action & 1),
                "risk": SMALL.risks_of(action, escalation),
                "verdict": {label: judged.verdict_of(action) for label, judged in verdicts.items()},
            }
            for action, name in enumerate(SMALL.names)
            if granted >> action & 1
        },
    }


def hold_against_masks(fleet: Fleet) -> None:
    found = build_report(fleet, Tally(), NAMES, NOW, with_actions=True)["principals"]
    members = list(fleet.members())
    assert [said["arn"] for said in found] == [member.principal.arn for member in members]
    for said, member in zip(found, members, strict=True):
        told = {name: said[name] for name in ("windows", "services", "grants")}
        if member.granted is None:
            assert told == {"windows": None, "services": {}, "grants": {}}
            continue
        expected = tell_by_masks(fleet, member, NOW)
        assert told == expected
        # What is printed has an order, too.
        for name in told:
            assert [*told[name]] == [*expected[name]]


@given(fleets())
def test_arrays_say_what_masks_say(fleet: Fleet) -> None:
    hold_against_masks(fleet)


@given(fleets(), st.integers(1, 30), st.integers(1, 3))
def test_however_many_are_judged_at_once(fleet: Fleet, actions: int, members: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "ACTIONS_AT_ONCE", actions)
        patch.setattr(judging, "MEMBERS_AT_ONCE", members)
        hold_against_masks(fleet)


def test_services_of_the_catalogue_lie_together() -> None:
    catalogue = load_catalogue()
    told = [catalogue.services[number] for number in catalogue.service_numbers.tolist()]
    assert told == [name.partition(":")[0] for name in catalogue.names]


def test_services_that_lie_apart_are_refused() -> None:
    mixed = build_catalogue("mixed", [("S3:A", "Read"), ("s3:B", "Read"), ("S3:C", "Read")], {}, {}, [])
    with pytest.raises(ValueError, match="service S3 lie apart"):
        _ = mixed.service_numbers
