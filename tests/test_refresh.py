"""The refresher's thread against a moto server behind a proxy: schedule, retries, and looks that cross a whole read."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from aws_server import OWN, FaultyAws, MotoServer, allow, make_role

from processor import refresh as refreshing
from processor.core.fresh import Change, Fresh
from processor.core.iam_changes import Concern
from processor.refresh import ORGANIZATION, Found, FreshLogging, Refresher, Tried, spread_changes
from processor.shell.scans import InventoryPlan, Scanner
from processor.shell.tables import load_catalogue
from processor.shell.trails import LoggingPlan

SECONDS_MAX = 20.0
ROLE = Concern(OWN, "role", "builder")


class Watched:
    """A refresher, and all that it has found so far."""

    def __init__(self, plan: InventoryPlan) -> None:
        self.refresher = Refresher(plan, load_catalogue())
        self.found: list[Found] = []
        self.refresher.start()

    def wait(self, wanted: Callable[[Found], bool], seconds: float = SECONDS_MAX) -> Any:
        """The first finding of a kind; it and those before it are done with."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.found += self.refresher.take()
            for at, each in enumerate(self.found):
                if wanted(each):
                    del self.found[: at + 1]
                    return each
            time.sleep(0.02)
        raise AssertionError(f"not found within {seconds} s, but {self.found}")


Watch = Callable[..., Watched]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Starts refreshers that retry at once, and ends them."""
    monkeypatch.setattr(refreshing, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(refreshing, "WHOLE_SECONDS_MIN", 0.5)
    started: list[Watched] = []

    def start(**options: Any) -> Watched:
        started.append(Watched(InventoryPlan(**options)))
        return started[-1]

    yield start
    for each in started:
        began = time.monotonic()
        each.refresher.stop()
        assert time.monotonic() - began < 3, "it waits for nothing that is under way"


def is_whole(found: Found) -> bool:
    return isinstance(found, Fresh) and found.whole


def is_part(found: Found) -> bool:
    return isinstance(found, Fresh) and not found.whole


def is_failure(found: Found) -> bool:
    return isinstance(found, Tried) and bool(found.why)


def names_of(found: Fresh) -> dict[str, int]:
    return {each.name: each.grants.granted.bit_count() for each in found.principals.values()}


def test_an_account_is_read_again_and_again(aws: MotoServer, watch: Watch) -> None:
    iam = aws.open("iam")
    make_role(iam, "builder", work=allow("s3:CreateBucket"))
    watched = watch(refresh_seconds=1)
    assert names_of(watched.wait(is_whole)) == {"builder": 1}
    iam.put_role_policy(RoleName="builder", PolicyName="more", PolicyDocument=allow("s3:DeleteBucket"))
    while names_of(watched.wait(is_whole)) != {"builder": 2}:
        pass


def test_a_failure_is_said_and_tried_again_ever_more_seldom(
    faulty_aws: FaultyAws, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    back_off = Refresher._back_off

    def note(self: Refresher, tries: int) -> float:
        waits.append(back_off(self, tries))
        return waits[-1]

    monkeypatch.setattr(Refresher, "_back_off", note)
    faulty_aws.faults["GetAccountAuthorizationDetails"] = "AccessDenied"
    watched = watch(refresh_seconds=3_600)
    first = watched.wait(is_failure)
    assert first.account_id == OWN
    assert "iam:GetAccountAuthorizationDetails" in first.why
    watched.wait(is_failure)
    watched.wait(is_failure)
    assert all(later > 1.2 * earlier for earlier, later in pairwise(waits)), waits
    del faulty_aws.faults["GetAccountAuthorizationDetails"]
    assert watched.wait(is_whole).account_id == OWN


def test_the_accounts_are_looked_for_until_aws_can_be_reached(faulty_aws: FaultyAws, watch: Watch) -> None:
    faulty_aws.faults["GetCallerIdentity"] = "ExpiredToken"
    watched = watch(refresh_seconds=3_600)
    # What is noted before that is not lost: it dates what the first inventory shows.
    watched.refresher.note([(ROLE, Change(1_790_000_000, "work"))])
    assert watched.wait(is_failure).account_id == ORGANIZATION
    del faulty_aws.faults["GetCallerIdentity"]
    assert watched.wait(lambda found: found == Tried(ORGANIZATION, "")) is not None
    part = watched.wait(is_part)
    assert part.changes == {ROLE: (Change(1_790_000_000, "work"),)}
    assert part.gone == {ROLE}


def test_a_defect_of_ours_ends_nothing(aws: MotoServer, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = Scanner.fetch
    calls = []

    async def fail_first(self: Scanner, account_id: str) -> Any:
        calls.append(account_id)
        if len(calls) == 1:
            raise RuntimeError("a defect")
        return await fetch(self, account_id)

    monkeypatch.setattr(Scanner, "fetch", fail_first)
    watched = watch(refresh_seconds=3_600)
    assert "a defect" in watched.wait(is_failure).why
    assert watched.wait(is_whole).account_id == OWN


def test_a_look_during_a_whole_read_counts_more(aws: MotoServer, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read before a change, and arrives after it, takes nothing back."""
    iam = aws.open("iam")
    make_role(iam, "builder", work=allow("s3:CreateBucket"))
    make_role(iam, "leaver", work=allow("s3:CreateBucket"))
    fetch = Scanner.fetch

    async def fetch_slowly(self: Scanner, account_id: str) -> Any:
        details = await fetch(self, account_id)
        read.append(account_id)
        while not done:
            await refreshing.asyncio.sleep(0.02)
        return details

    read: list[str] = []
    done: list[bool] = []
    monkeypatch.setattr(Scanner, "fetch", fetch_slowly)
    watched = watch(refresh_seconds=3_600)
    end = time.monotonic() + SECONDS_MAX
    while not read:
        assert time.monotonic() < end
        time.sleep(0.02)
    iam.put_role_policy(RoleName="builder", PolicyName="more", PolicyDocument=allow("s3:DeleteBucket"))
    iam.delete_role_policy(RoleName="leaver", PolicyName="work")
    iam.delete_role(RoleName="leaver")
    noted = [(ROLE, Change(1_790_000_000, "more")), (Concern(OWN, "role", "leaver"), Change(1_790_000_001))]
    watched.refresher.note(noted)
    part = watched.wait(is_part)
    assert names_of(part) == {"builder": 2}
    assert part.gone == {Concern(OWN, "role", "leaver")}
    done.append(True)
    whole = watched.wait(is_whole)
    assert names_of(whole) == {"builder": 2}
    assert whole.changes is not None
    assert whole.changes[ROLE] == (Change(1_790_000_000, "more"),)


def test_a_look_that_is_refused_has_the_account_read_whole(
    faulty_aws: FaultyAws, aws: MotoServer, watch: Watch
) -> None:
    iam = aws.open("iam")
    make_role(iam, "builder", work=allow("s3:CreateBucket"))
    watched = watch(refresh_seconds=3_600)
    watched.wait(is_whole)
    faulty_aws.faults["GetRole"] = "AccessDenied"
    iam.put_role_policy(RoleName="builder", PolicyName="more", PolicyDocument=allow("s3:DeleteBucket"))
    watched.refresher.note([(ROLE, Change(1_790_000_000, "more"))])
    assert names_of(watched.wait(is_whole)) == {"builder": 2}


def test_logging_that_cannot_be_read_holds_nothing_up(faulty_aws: FaultyAws, aws: MotoServer, watch: Watch) -> None:
    faulty_aws.faults["DescribeTrails"] = "AccessDenied"
    watched = watch(refresh_seconds=3_600, logging=LoggingPlan(regions=("us-east-1",)))
    assert watched.wait(is_whole).account_id == OWN
    failure = watched.wait(is_failure)
    assert failure.account_id == f"logging of {OWN}"
    assert "cloudtrail:DescribeTrails" in failure.why
    del faulty_aws.faults["DescribeTrails"]
    watched.refresher.note([(Concern(OWN, "logging", ""), Change(1_790_000_000))])
    found = watched.wait(lambda each: isinstance(each, FreshLogging))
    assert found.logging.words["management"] == "the account has no trail"
    assert watched.wait(lambda each: each == Tried(f"logging of {OWN}", ""))


def test_changes_of_policies_are_those_of_whoever_has_them() -> None:
    policy, own = Change(1, "arn:p"), Change(2, "inline")
    changes = {Concern(OWN, "policy", "arn:p"): (policy,), ROLE: (own,)}
    other = Concern(OWN, "user", "u")
    assert spread_changes(changes, [ROLE, other]) == {ROLE: (own, policy), other: (policy,)}
