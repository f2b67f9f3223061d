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

from processor.core import first_uses
from processor.core.exemptions import read_exemptions
from processor.core.inventory import InventoryPrincipal
from processor.core.ledger import Ledger
from processor.core.principals import Principal
from processor.core.sessions import DENIED, SUCCEEDED, key_of, shard_of
from processor.core.tracker import Tracker
from processor.core.watch import Watch, Watching
from processor.shell.channel_metrics import ChannelHealth
from processor.shell.feeds import FeedHealth
from processor.shell.gap_text import FirstUsesText, GapText
from processor.shell.http import Server
from processor.shell.inventory_store import AccountStatus
from processor.shell.metrics import (
    CATALOGUE,
    ROWS,
    Health,
    PipelineCollector,
    make_registry,
    render_pipeline,
)
from processor.shell.watch_text import WatchText

SMALL = build_small_catalogue()
NOW = 20_000 * DAY
ODD = Principal('arn:aws:iam::111122223333:role/a"b\\c/odd', "AROAODD", ACCOUNT, "role")
BUILDER = build_principal("builder")
FAR = build_principal("far", "444455556666")
YOUNG = build_principal("young")
GLASS = build_principal("break-glass")
WATCHING = Watching(
    read_exemptions(
        """
        [break_glass]
        principals = ["arn:aws:iam::*:role/break-glass"]
        [exemptions."far keys"]
        principal = "arn:aws:iam::444455556666:role/*"
        action = "iam:createaccess*"
        alerts = ["unused", "first_use"]
        owner = "far@example.com"
        reason = "rehearsed once a quarter"
        expires = 2030-12-31
        """,
        "the tests' exemptions",
    )
)
VERDICTS = ("used", "unused", "unobservable", "too_new", "unproven")


class Scene:
    """A tracker with its text; `read` serves what a scrape would get."""

    def __init__(self, holdings: Iterable[InventoryPrincipal], covered: int | None = NOW - 400 * DAY) -> None:
        self.ledger: Ledger = build_ledger()
        accounts = {} if covered is None else {ACCOUNT: covered, FAR.account_id: covered}
        fleet = build_fleet(SMALL, self.ledger, holdings, covered=accounts)
        self.tracker = Tracker(fleet, [], NOW, WATCHING)
        self.watch = Watch(fleet, [], WATCHING, NOW)
        self.text = GapText(self.tracker)
        self.watch_text = WatchText(WATCHING, fleet.windows, {ACCOUNT: NOW - DAY})
        self.watch_text.add(self.tracker, self.watch)
        self.health = Health(ready=True, as_of=NOW, flushed_at=NOW + 1.0)
        collector = PipelineCollector(lambda: self.ledger.tally, self.health, lambda: NOW + 5.0, SMALL.version)
        self.registry, self.flush_seconds = make_registry(collector)
        self.events = 0

    def use(self, principal: Principal, *names: str, time: int = NOW, outcome: int = SUCCEEDED) -> None:
        self.events += 1
        actions = [SMALL.ids[name] for name in names]
        session = build_session(principal)
        self.ledger.apply_uses([build_use(self.ledger, session, actions, time, self.events, outcome)])
        for usage in self.ledger.take_dirty():
            self.tracker.apply_uses(usage, list(usage.dirty), NOW + 5)
            self.watch.apply_uses(usage, list(usage.dirty), (NOW, NOW), NOW + 5)
            usage.dirty.clear()
            for cell in usage.cells.values():
                cell.dirty = False

    def members(self) -> list[bytes]:
        return [render_pipeline(self.registry), *self.text.members(), *self.watch_text.members(NOW + 5)]

    def read(self) -> str:
        for _ in (*self.text.refresh(), *self.watch_text.refresh(NOW + 5)):
            pass
        self.health.principals = len(self.tracker)
        self.health.first_uses_evicted = self.tracker.first_uses.evicted
        self.health.first_uses_lost = self.tracker.first_uses.lost
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
    scene = Scene([*holdings, build_holding(YOUNG, 2, created=NOW - DAY), build_holding(GLASS, SMALL.all_mask)])
    scene.use(GLASS, "ec2:DescribeInstances")
    scene.use(FAR, "iam:CreateAccessKey", outcome=DENIED)
    scene.use(BUILDER, "ec2:DescribeInstances", "iam:CreateAccessKey")
    scene.use(ODD, "iam:CreateAccessKey", time=NOW - 3)
    scene.ledger.tally.count_rejected('odd "reason"\\')
    scene.flush_seconds.observe(0.002)
    kinesis = FeedHealth("kinesis:trail", {("GetRecords", "SlowDown"): 2}, "throttled")
    scene.health.channels = [ChannelHealth("webhook")]
    scene.health.feeds = [kinesis, FeedHealth("reconcile:logs", compared={"missed": 3}, compared_until=NOW)]
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
    assert principals == {each.arn for each in (ODD, BUILDER, FAR, YOUNG, GLASS)}
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
        (each.arn,) for each in (BUILDER, ODD, FAR, YOUNG, GLASS)
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
        if not line.startswith(("#", "gapwatch_first_use_")):
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
    monkeypatch.setattr(first_uses, "FIRST_USES_MAX", 5)
    scene = Scene([])
    for number in range(8):
        scene.use(build_principal(f"role{number}"), "iam:CreateAccessKey", time=NOW + number)
    found = scene.values("gapwatch_first_use_timestamp_seconds", "principal")
    assert sorted(found.values()) == [NOW + number for number in range(3, 8)]
    assert scene.values("gapwatch_first_use_evicted_total") == {(): 3}


def test_first_uses_tell_their_gravest_class_and_why_they_are_quiet() -> None:
    scene = make_full_scene()
    scene.use(YOUNG, "iam:PassRole")
    scene.use(BUILDER, "iam:PassRole", "lambda:CreateFunction")
    scene.use(FAR, "iam:CreateAccessKey")
    found = scene.values("gapwatch_first_use_timestamp_seconds", "principal", "action", "risk", "quiet")
    assert set(found) == {
        (BUILDER.arn, "iam:CreateAccessKey", "privilege_escalation", "no"),
        (ODD.arn, "iam:CreateAccessKey", "privilege_escalation", "no"),
        (FAR.arn, "iam:CreateAccessKey", "privilege_escalation", "exempt"),
        # Who holds the whole path raises privileges with each part of it; who does not has the action's own class.
        (BUILDER.arn, "iam:PassRole", "privilege_escalation", "no"),
        (BUILDER.arn, "lambda:CreateFunction", "privilege_escalation", "no"),
        (YOUNG.arn, "iam:PassRole", "permissions_management", "learning"),
    }
    assert scene.values("gapwatch_learning_until_timestamp_seconds", "principal") == {(YOUNG.arn,): NOW + 6 * DAY}


def test_part_of_a_path_alone_has_no_class_of_its_own() -> None:
    scene = Scene([build_holding(BUILDER, mask_of(SMALL, "lambda:CreateFunction"))])
    scene.use(BUILDER, "lambda:CreateFunction")
    assert set(scene.values("gapwatch_first_use_timestamp_seconds", "risk")) == {("escalation_part",)}


def test_a_use_that_comes_late_is_news_when_it_is_met_and_history_is_none() -> None:
    scene = Scene([])
    scene.use(BUILDER, "iam:CreateAccessKey", time=NOW - 7_200)
    scene.use(ODD, "iam:CreateAccessKey", time=NOW - 2 * DAY)
    assert scene.values("gapwatch_first_use_seen_timestamp_seconds", "principal") == {
        (BUILDER.arn,): NOW + 5,
        (ODD.arn,): NOW - 2 * DAY,
    }


def test_first_uses_of_a_role_made_anew_are_one_series() -> None:
    scene = Scene([])
    scene.use(BUILDER, "iam:CreateAccessKey", time=NOW - 60)
    scene.use(build_principal("builder", unique_id="AROAANEW"), "iam:CreateAccessKey", time=NOW - 5)
    assert scene.values("gapwatch_first_use_timestamp_seconds", "principal", "action") == {
        (BUILDER.arn, "iam:CreateAccessKey"): NOW - 5
    }


def test_only_first_uses_dropped_while_they_are_news_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_uses, "FIRST_USES_MAX", 2)
    scene = Scene([])
    for age in (40, 30, 20):
        scene.use(build_principal(f"old{age}"), "iam:CreateAccessKey", time=NOW - age * DAY)
    assert scene.values("gapwatch_first_use_lost_total") == {(): 0}
    for number in range(3):
        scene.use(build_principal(f"role{number}"), "iam:CreateAccessKey", time=NOW + number)
    assert scene.values("gapwatch_first_use_lost_total") == {(): 1}


# --- beside the gap ---------------------------------------------------------------------------------------------------


def test_refusals_of_privileged_actions_are_counted_ever_and_lately() -> None:
    scene = Scene([build_holding(BUILDER, 1)])
    for _ in range(3):
        scene.use(BUILDER, "iam:CreateAccessKey", "ec2:RunInstances", outcome=DENIED)
    scene.watch.apply_uses(scene.ledger.principals[key_of(BUILDER)], [], (NOW, NOW), NOW)
    assert scene.values("gapwatch_denied_privileged_total", "principal", "risk") == {
        (BUILDER.arn, "privilege_escalation"): 3
    }
    assert scene.values("gapwatch_denied_privileged_recent", "principal") == {(BUILDER.arn,): 3}
    again = Watch(scene.tracker.fleet, scene.ledger.principals.values(), WATCHING, NOW)
    assert next(iter(again.denied.values())).by_risk == {"privilege_escalation": 3}
    assert next(iter(again.denied.values())).recent.total == 0


def test_break_glass_is_exempt_from_unused_and_told_when_used() -> None:
    scene = make_full_scene()
    risks = scene.values("gapwatch_gap_risk_grants", "window", "risk", principal=GLASS.arn)
    assert risks
    assert scene.values("gapwatch_gap_exempt_grants", "window", "risk", principal=GLASS.arn) == risks
    assert scene.values("gapwatch_break_glass_use_timestamp_seconds", "principal") == {(GLASS.arn,): NOW}
    assert scene.values("gapwatch_break_glass_seen_timestamp_seconds", "principal") == {(GLASS.arn,): NOW + 5}


def test_an_exemption_quiets_what_it_names_until_it_ends() -> None:
    scene = make_full_scene()
    assert scene.values("gapwatch_gap_exempt_grants", "risk", principal=FAR.arn, window="7d") == {
        ("privilege_escalation",): 1,
        ("credentials_exposure",): 1,
    }
    assert scene.values("gapwatch_gap_exempt_grants", "risk", principal=BUILDER.arn) == {}
    (end,) = scene.values("gapwatch_exemption_expiry_timestamp_seconds", "exemption").values()
    scene.tracker.advance(int(end))
    assert scene.values("gapwatch_gap_exempt_grants", "risk", principal=FAR.arn) == {}


def test_a_principal_has_its_key_in_the_series_that_links_are_made_of() -> None:
    scene = make_full_scene()
    scene.use(build_principal("unlisted"), "ec2:RunInstances")
    found = scene.values("gapwatch_principal_info", "principal", "key", "kind", "inventory")
    assert (BUILDER.arn, f"{key_of(BUILDER):016x}", "role", "yes") in found
    assert found.keys() >= {
        (build_principal("unlisted").arn, f"{key_of(build_principal('unlisted')):016x}", "role", "no")
    }


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
    assert scene.values("gapwatch_inventory_timestamp_seconds", "account") == {(ACCOUNT,): NOW - DAY}
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


def test_several_trackers_are_one_text_and_one_that_is_removed_leaves_nothing() -> None:
    scenes = [Scene([build_holding(each, SMALL.all_mask)]) for each in (BUILDER, FAR)]
    first_uses, text = FirstUsesText(), GapText()
    for scene, principal in zip(scenes, (BUILDER, FAR), strict=True):
        scene.use(principal, "iam:CreateAccessKey")
        text.add(scene.tracker)
        first_uses.add(scene.tracker)

    def read() -> str:
        for _ in (*text.refresh(), *first_uses.refresh()):
            pass
        return gzip.decompress(b"".join([*text.members(), *first_uses.members()])).decode()

    whole = read()
    assert whole.count("# TYPE gapwatch_first_use_timestamp_seconds") == 1
    for principal in (BUILDER, FAR):
        assert f'gapwatch_gap_index{{account="{principal.account_id}"' in whole
        assert f'gapwatch_service_unused_grants{{account="{principal.account_id}"' in whole
        assert f'gapwatch_first_use_timestamp_seconds{{account="{principal.account_id}"' in whole
    text.remove(scenes[1].tracker, shard_of(key_of(FAR)))
    first_uses.remove(scenes[1].tracker)
    rest = read()
    assert FAR.account_id not in rest
    assert f'gapwatch_first_use_timestamp_seconds{{account="{ACCOUNT}"' in rest


def test_who_is_gone_from_the_inventory_learns_no_more_and_who_is_new_there_does() -> None:
    scene = Scene([build_holding(YOUNG, 2, created=NOW - DAY)])
    assert scene.values("gapwatch_learning_until_timestamp_seconds", "principal") == {(YOUNG.arn,): NOW + 6 * DAY}
    inventory = scene.tracker.fleet._inventory
    assert isinstance(inventory, dict)
    inventory.clear()
    inventory[key_of(BUILDER)] = build_holding(BUILDER, 2, created=NOW)
    moved = [key_of(YOUNG), key_of(BUILDER)]
    scene.tracker.apply_grants(moved)
    scene.watch.note_grants(moved, NOW)
    assert scene.values("gapwatch_learning_until_timestamp_seconds", "principal") == {(BUILDER.arn,): NOW + 7 * DAY}


def test_grants_that_go_are_known_as_they_were_where_that_is_asked_for() -> None:
    fleet = build_fleet(SMALL, build_ledger(), [build_holding(BUILDER, 6)], covered={ACCOUNT: NOW - 400 * DAY})
    tracker = Tracker(fleet, [], NOW, keep_before=True)
    key, inventory = key_of(BUILDER), fleet._inventory
    assert isinstance(inventory, dict)
    before = tracker.verdicts_of(key)
    tracker.apply_grants([key], inventory.clear)
    assert key not in tracker
    assert (tracker.before[key].why, tracker.before[key].verdicts) == ("grant", before)
    tracker.note_seen(ACCOUNT, SMALL.all_mask)
    tracker.advance(NOW + 800 * DAY)
