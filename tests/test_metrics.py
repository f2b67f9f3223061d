"""What /metrics serves: one text that Prometheus can read, with every family of the catalogue and none besides."""

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import Any

import aiohttp
import pytest
from building import (
    ACCOUNT,
    DAY,
    build_fleet,
    build_holding,
    build_ledger,
    build_principal,
    build_session,
    build_small_catalogue,
    build_use,
    mask_of,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from processor.core import tracker as tracking
from processor.core.inventory import InventoryPrincipal
from processor.core.ledger import Ledger
from processor.core.principals import Principal
from processor.core.sessions import key_of
from processor.core.tracker import Tracker
from processor.shell.http import Server
from processor.shell.inventory_store import AccountStatus
from processor.shell.metrics import (
    CATALOGUE,
    ROWS,
    GapText,
    Health,
    PipelineCollector,
    make_registry,
    render_pipeline,
)

SMALL = build_small_catalogue()
NOW = 20_000 * DAY
ODD = Principal('arn:aws:iam::111122223333:role/a"b\\c/odd', "AROAODD", ACCOUNT, "role")
BUILDER = build_principal("builder")
FAR = build_principal("far", "444455556666")
VERDICTS = ("used", "unused", "unobservable", "too_new", "unproven")


class Scene:
    """A tracker with its text; `read` serves what a scrape would get."""

    def __init__(self, holdings: Iterable[InventoryPrincipal], covered: int | None = NOW - 400 * DAY) -> None:
        self.ledger: Ledger = build_ledger()
        accounts = {} if covered is None else {ACCOUNT: covered, FAR.account_id: covered}
        fleet = build_fleet(SMALL, self.ledger, holdings, covered=accounts)
        self.tracker = Tracker(fleet, [], NOW)
        self.text = GapText(self.tracker)
        self.health = Health(ready=True, as_of=NOW, flushed_at=NOW + 1.0)
        collector = PipelineCollector(lambda: self.ledger.tally, self.health, lambda: NOW + 5.0, SMALL.version)
        self.registry, self.flush_seconds = make_registry(collector)
        self.events = 0

    def use(self, principal: Principal, *names: str, time: int = NOW) -> None:
        self.events += 1
        actions = [SMALL.ids[name] for name in names]
        session = build_session(principal)
        self.ledger.apply_uses([build_use(self.ledger, session, actions, time, self.events)])
        for usage in self.ledger.take_dirty():
            self.tracker.apply_uses(usage, list(usage.dirty))
            usage.dirty.clear()
            for cell in usage.cells.values():
                cell.dirty = False

    def members(self) -> list[bytes]:
        return [render_pipeline(self.registry), *self.text.members()]

    def read(self) -> str:
        for _ in self.text.refresh():
            pass
        self.health.principals = len(self.tracker)
        self.health.first_uses_evicted = self.tracker.first_uses_evicted
        return gzip.decompress(b"".join(self.members())).decode()

    def samples(self, name: str) -> list[Sample]:
        return [sample for family in parse(self.read()) for sample in family.samples if sample.name == name]

    def values(self, name: str, *labels: str, **wanted: str) -> dict[tuple[str, ...], float]:
        """A family's values by some labels, of the series that have the wanted ones."""
        return {
            tuple(sample.labels[label] for label in labels): sample.value
            for sample in self.samples(name)
            if wanted.items() <= sample.labels.items()
        }


def parse(text: str) -> list[Any]:
    return list(text_string_to_metric_families(text))


def make_full_scene() -> Scene:
    """Every family has a series: used, unused, risky, not granted, refused, rejected."""
    holdings = [build_holding(each, SMALL.all_mask & ~1) for each in (ODD, BUILDER, FAR)]
    scene = Scene(holdings)
    scene.use(BUILDER, "ec2:DescribeInstances", "iam:CreateAccessKey")
    scene.use(ODD, "iam:CreateAccessKey", time=NOW - 3)
    scene.ledger.tally.count_rejected('odd "reason"\\')
    scene.flush_seconds.observe(0.002)
    scene.health.inventory = {
        ACCOUNT: AccountStatus(NOW - 9, NOW),
        "organization": AccountStatus(failed=NOW, why="denied"),
    }
    return scene


# --- the text ---------------------------------------------------------------------------------------------------------


def test_the_text_parses_and_each_family_is_one_piece() -> None:
    text = make_full_scene().read()
    names = [family.name for family in parse(text)]
    assert len(names) == len(set(names))
    heads = re.findall(r"^# TYPE (\S+)", text, re.M)
    assert len(heads) == len(set(heads))
    current = ""
    for line in text.splitlines():
        assert line
        if line.startswith("# TYPE "):
            current = line.split(" ")[2]
        elif not line.startswith("#"):
            assert line.startswith(current), line
    assert text.endswith("\n")


def test_no_series_is_there_twice() -> None:
    series = [line.rpartition(" ")[0] for line in make_full_scene().read().splitlines() if line[0] != "#"]
    assert len(series) == len(set(series))


def test_every_family_served_is_in_the_catalogue_and_the_reverse() -> None:
    text = make_full_scene().read()
    served = dict(re.findall(r"^# TYPE (\S+) (\S+)", text, re.M))
    assert served == {row.name: row.kind for row in CATALOGUE}
    helps = dict(re.findall(r"^# HELP (\S+) (.+)", text, re.M))
    assert helps == {row.name: row.text for row in CATALOGUE}
    for family in parse(text):
        for sample in family.samples:
            name = sample.name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
            row = ROWS.get(sample.name) or ROWS[name]
            assert set(sample.labels) - {"le"} == set(row.labels), sample
    assert len(ROWS) == len(CATALOGUE)


def test_every_family_of_the_catalogue_has_a_series_here() -> None:
    found = {sample.name for family in parse(make_full_scene().read()) for sample in family.samples}
    assert {row.name for row in CATALOGUE} - {"gapwatch_flush_seconds"} <= found
    assert "gapwatch_flush_seconds_count" in found


def test_quotes_and_backslashes_in_paths_are_escaped() -> None:
    scene = make_full_scene()
    principals = {sample.labels["principal"] for sample in scene.samples("gapwatch_gap_grants")}
    assert principals == {ODD.arn, BUILDER.arn, FAR.arn}
    assert 'principal="arn:aws:iam::111122223333:role/a\\"b\\\\c/odd"' in scene.read()


def test_an_empty_store_is_served_too() -> None:
    text = Scene([], covered=None).read()
    assert {family.name for family in parse(text)} >= {"gapwatch_gap_grants", "gapwatch_records"}
    assert "principal=" not in text


def test_promtool_finds_nothing_to_complain_of() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert os.environ.get("CI") != "true", "promtool must be there in CI (apt-get install prometheus)"
        pytest.skip("promtool is not here")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=make_full_scene().read().encode(), capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout.decode() + checked.stderr.decode()


# --- what it says -----------------------------------------------------------------------------------------------------


def test_the_gap_is_told_by_verdict_for_each_window() -> None:
    scene = make_full_scene()
    for window in ("7d", "30d"):
        found = scene.values("gapwatch_gap_grants", "verdict", principal=BUILDER.arn, window=window)
        assert set(found) == {(verdict,) for verdict in VERDICTS}
        assert sum(found.values()) == SMALL.size - 1
        assert found["used",] == 1
        assert scene.values("gapwatch_gap_used_not_granted", "principal", window=window) == {(BUILDER.arn,): 1}
    assert scene.values("gapwatch_gap_index", "principal", window="7d").keys() == {
        (BUILDER.arn,),
        (ODD.arn,),
        (FAR.arn,),
    }


def test_risks_without_an_unused_grant_are_left_out() -> None:
    scene = Scene([build_holding(BUILDER, mask_of(SMALL, "iam:CreateAccessKey", "ec2:RunInstances"))])
    risks = scene.values("gapwatch_gap_risk_grants", "risk", window="7d")
    assert risks == {("privilege_escalation",): 1, ("credentials_exposure",): 1}
    scene.use(BUILDER, "iam:CreateAccessKey")
    assert scene.values("gapwatch_gap_risk_grants", "risk") == {}
    assert scene.values("gapwatch_gap_grants", "verdict", window="7d")["unused",] == 1


def test_services_are_summed_by_account_and_follow_every_change() -> None:
    mask = mask_of(SMALL, "ec2:RunInstances", "ec2:DescribeInstances", "s3:CreateBucket")
    scene = Scene([build_holding(each, mask) for each in (BUILDER, ODD, FAR)])

    def count(account_id: str) -> dict[tuple[str, ...], float]:
        return scene.values("gapwatch_service_unused_grants", "service", account=account_id, window="30d")

    assert count(ACCOUNT) == {("ec2",): 4, ("s3",): 2}
    assert count(FAR.account_id) == {("ec2",): 2, ("s3",): 1}
    scene.use(BUILDER, "ec2:RunInstances")
    scene.use(FAR, "s3:CreateBucket")
    assert count(ACCOUNT) == {("ec2",): 3, ("s3",): 2}
    assert count(FAR.account_id) == {("ec2",): 2}
    scene.tracker.advance(NOW + 30 * DAY)
    assert count(ACCOUNT) == {("ec2",): 4, ("s3",): 2}
    assert count(FAR.account_id) == {("ec2",): 2, ("s3",): 1}


def test_a_principal_without_inventory_has_no_series() -> None:
    scene = Scene([build_holding(BUILDER, 0b1111)])
    scene.use(FAR, "ec2:RunInstances")
    assert {sample.labels["principal"] for sample in scene.samples("gapwatch_gap_grants")} == {BUILDER.arn}
    assert scene.values("gapwatch_principals") == {(): 2}


def test_no_label_holds_an_action_but_for_the_first_uses() -> None:
    text = make_full_scene().read()
    for line in text.splitlines():
        if not line.startswith(("#", "gapwatch_first_use_timestamp_seconds{")):
            assert not any(name in line for name in SMALL.names), line
            assert "action=" not in line


# --- first uses -------------------------------------------------------------------------------------------------------


def test_first_uses_are_told_once_with_their_time() -> None:
    scene = make_full_scene()
    scene.use(BUILDER, "iam:CreateAccessKey", time=NOW + 60)
    assert scene.values("gapwatch_first_use_timestamp_seconds", "principal", "action") == {
        (BUILDER.arn, "iam:CreateAccessKey"): NOW,
        (ODD.arn, "iam:CreateAccessKey"): NOW - 3,
    }


def test_first_uses_are_capped_and_evictions_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "FIRST_USES_MAX", 5)
    scene = Scene([])
    for number in range(8):
        scene.use(build_principal(f"role{number}"), "iam:CreateAccessKey", time=NOW + number)
    found = scene.values("gapwatch_first_use_timestamp_seconds", "principal")
    assert sorted(found.values()) == [NOW + number for number in range(3, 8)]
    assert scene.values("gapwatch_first_use_evicted_total") == {(): 3}


# --- over HTTP --------------------------------------------------------------------------------------------------------


async def test_gzip_and_plain_answers_are_equal() -> None:
    scene = make_full_scene()
    text = scene.read()
    server = Server(scene.members, lambda: None if scene.health.ready else scene.health.why_not)
    await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(server.url, auto_decompress=False) as client:
            async with client.get("/metrics", headers={"Accept-Encoding": "identity"}) as answer:
                plain = await answer.read()
                assert answer.status == 200
                assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                assert "Content-Encoding" not in answer.headers
            async with client.get("/metrics", headers={"Accept-Encoding": "gzip"}) as answer:
                assert answer.headers["Content-Encoding"] == "gzip"
                assert gzip.decompress(await answer.read()) == plain == text.encode()
            for path, expected in (("/healthz", b"ok\n"), ("/readyz", b"ready\n")):
                async with client.get(path, headers={"Accept-Encoding": "identity"}) as answer:
                    assert (answer.status, await answer.read()) == (200, expected)
            scene.health.ready, scene.health.why_not = False, "loading"
            async with client.get("/readyz", headers={"Accept-Encoding": "identity"}) as answer:
                assert (answer.status, await answer.read()) == (503, b"loading\n")
    finally:
        await server.stop()


def test_accounts_that_cannot_be_read_are_told_with_the_age_of_what_is_known() -> None:
    scene = make_full_scene()
    assert scene.values("gapwatch_inventory_timestamp_seconds", "account") == {(ACCOUNT,): NOW}
    assert scene.values("gapwatch_inventory_failed", "account") == {(ACCOUNT,): 0, ("organization",): 1}


def test_a_principal_that_is_gone_has_no_series_any_more() -> None:
    """One that no inventory has and that was never used; one that was used keeps its name, without a gap."""
    scene = Scene([build_holding(each, SMALL.all_mask) for each in (BUILDER, FAR)])
    scene.use(BUILDER, "ec2:RunInstances")
    assert scene.values("gapwatch_gap_index", "principal", window="7d").keys() == {(BUILDER.arn,), (FAR.arn,)}
    assert scene.values("gapwatch_service_unused_grants", "account", service="s3", window="7d")
    inventory = scene.tracker.fleet._inventory
    assert isinstance(inventory, dict)
    inventory.clear()
    scene.tracker.apply_grants([key_of(BUILDER), key_of(FAR)])
    assert scene.values("gapwatch_gap_index", "principal") == {}
    assert scene.values("gapwatch_service_unused_grants", "account") == {}
    assert len(scene.tracker) == 1
