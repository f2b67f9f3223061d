"""What a shard tells on topic alerts: once each, with the labels of the rules, over restarts, and again when it begins anew."""

from collections.abc import Iterable

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
from queries import load_rules

from processor.alerting import AGAIN_SECONDS, MESSAGES_MAX, Message, ShardAlerts
from processor.core import alert_notices
from processor.core.exemptions import read_exemptions
from processor.core.first_uses import NEWS_SECONDS
from processor.core.inventory import InventoryPrincipal
from processor.core.principals import Principal
from processor.core.sessions import key_of
from processor.core.tracker import Tracker
from processor.core.watch import Watch, Watching
from processor.settings import AlertsSettings
from processor.shell.gap_text import GapText
from topics.alerts import CODEC, TEXT_MAX, Alert
from topics.contract import principal_key

SMALL = build_small_catalogue()
NOW = 20_000 * DAY
BUILDER, GLASS = build_principal("builder"), build_principal("break-glass")
SETTINGS = AlertsSettings(
    page_url="https://gapwatch.example", dashboards_url="https://grafana.example", runbooks_url="https://books.example",
    labels={"cluster": "eu"},
)  # fmt: skip
EXEMPTIONS = '[break_glass]\nprincipals = ["arn:aws:iam::*:role/break-glass"]\n'
PRIVILEGED = "iam:CreateAccessKey"
RULES = {rule["alert"]: rule for rule in load_rules() if "alert" in rule}


class Scene:
    """A shard's tracker and watch, with a log that is known for a year, and what is told of it."""

    def __init__(self, holdings: Iterable[InventoryPrincipal] = (), exemptions: str = EXEMPTIONS) -> None:
        self.ledger = build_ledger()
        self.watching = Watching(read_exemptions(exemptions, "the test's"))
        self.holdings = list(holdings)
        self.events = 0
        self.stored: dict[bytes, bytes] = {}
        self.load(NOW)

    def load(self, now: int) -> None:
        """As another owner does who takes the shard over."""
        fleet = build_fleet(SMALL, self.ledger, self.holdings, covered={ACCOUNT: NOW - 400 * DAY})
        usages = list(self.ledger.principals.values())
        self.tracker = Tracker(fleet, usages, now, self.watching)
        self.watch = Watch(fleet, usages, self.watching, now)
        self.alerts = ShardAlerts(self.tracker, self.watch, SETTINGS, self.stored)
        self.text = GapText(self.tracker, note=self.alerts.note_counts, forget=self.alerts.forget)
        self.render()

    def render(self) -> None:
        for _ in self.text.refresh():
            pass

    def use(self, who: Principal, action: str, at: int, now: int | None = None) -> None:
        self.events += 1
        session = build_session(who)
        self.ledger.apply_uses([build_use(self.ledger, session, [SMALL.ids[action]], at, self.events)])
        for usage in self.ledger.take_dirty():
            actions = list(usage.dirty)
            usage.dirty.clear()
            for action in actions:
                usage.cells[action].dirty = False
            self.tracker.apply_uses(usage, actions, at if now is None else now)
            self.watch.apply_uses(usage, actions, (at, at), at if now is None else now)
        self.render()

    def collect(self, now: int) -> list[Alert]:
        """What is told and acknowledged."""
        messages = self.alerts.collect(now)
        self.alerts.note_told(messages)
        return [decode(each) for each in messages]

    def flush(self, now: int) -> None:
        """Store what was told."""
        for name, _, *parts in self.alerts.describe(b"a", now):
            if name == "HDEL":
                for each in parts:
                    self.stored.pop(each, None)
            else:
                self.stored.update(zip(parts[::2], parts[1::2], strict=True))


def decode(message: Message) -> Alert:
    key, value = message.written
    assert value is not None
    alert = CODEC.decode(value)
    assert alert.key == key == message.id
    return alert


def old_holding(who: Principal, *actions: str) -> InventoryPrincipal:
    return build_holding(who, mask_of(SMALL, *actions), created=NOW - 900 * DAY)


def check_labels(alert: Alert, *more: str) -> None:
    """Those of the rule of the same name: what it sets, and what its series have."""
    rule = RULES[alert.labels["alertname"]]
    assert rule["labels"].items() <= alert.labels.items()
    assert alert.labels.keys() == {"alertname", "cluster", *rule["labels"], "account", "principal", *more}
    assert {"summary", "description", "runbook_url", "dashboard_url", "page_url"} == alert.annotations.keys()
    assert alert.annotations["runbook_url"] == f"https://books.example/{alert.labels['alertname']}.md"
    assert alert.annotations["page_url"].rpartition("/")[2] == principal_key(alert.arn, alert.unique_id).hex()


def test_a_first_use_is_told_once_and_not_by_the_next_owner() -> None:
    scene = Scene([old_holding(BUILDER, PRIVILEGED)])
    scene.collect(NOW)
    scene.use(BUILDER, PRIVILEGED, NOW - 30, NOW)
    (alert,) = scene.collect(NOW)[:1]
    assert (alert.kind, alert.action, alert.arn) == ("first_use", PRIVILEGED, BUILDER.arn)
    assert (alert.starts_at, alert.ends_at) == (NOW, NOW + NEWS_SECONDS)
    assert alert.evidence is not None
    assert (alert.evidence.event_time, alert.evidence.operator, alert.evidence.region) == (
        NOW - 30,
        "ann",
        "eu-central-1",
    )
    check_labels(alert, "action")
    scene.use(BUILDER, PRIVILEGED, NOW + 5)
    assert [each for each in scene.collect(NOW + 5) if each.kind == "first_use"] == []
    scene.flush(NOW + 5)
    scene.load(NOW + 6)
    assert scene.collect(NOW + 6) == []


def test_an_operator_is_named_only_where_it_can_have_been_no_other() -> None:
    scene = Scene([old_holding(BUILDER, PRIVILEGED)])
    scene.collect(NOW)
    scene.use(BUILDER, PRIVILEGED, NOW - 30, NOW)
    for usage in scene.ledger.principals.values():
        usage.cells[SMALL.ids[PRIVILEGED]].facets = None  # The store may have more of them than memory has.
    (alert,) = scene.collect(NOW)[:1]
    assert alert.evidence is not None
    assert (alert.evidence.operator, alert.evidence.region) == (None, None)


def test_what_was_acknowledged_and_not_stored_is_told_again_under_its_id() -> None:
    scene = Scene()
    scene.use(BUILDER, PRIVILEGED, NOW)
    (first,) = scene.collect(NOW)
    scene.load(NOW + 60)
    (again,) = scene.collect(NOW + 60)
    assert (again.id, again.evidence, again.ends_at) == (first.id, first.evidence, first.ends_at)


def test_what_was_not_acknowledged_is_given_again() -> None:
    scene = Scene([old_holding(BUILDER, "s3:CreateBucket", "iam:PassRole")])
    scene.use(BUILDER, PRIVILEGED, NOW)
    first, again = scene.alerts.collect(NOW), scene.alerts.collect(NOW)
    assert [each.id for each in first] == [each.id for each in again]
    assert len(first) >= 1
    scene.alerts.note_told(again)
    assert scene.alerts.collect(NOW) == []


@pytest.mark.parametrize("ago", [2 * DAY, NEWS_SECONDS + 1])
def test_history_is_no_news(ago: int) -> None:
    scene = Scene()
    scene.use(BUILDER, PRIVILEGED, NOW - ago, NOW if ago > DAY else None)
    assert scene.collect(NOW) == []


def test_a_principal_that_is_learning_is_quiet_but_for_the_gravest() -> None:
    young = build_principal("young")
    scene = Scene([build_holding(young, mask_of(SMALL, PRIVILEGED, "iam:PassRole"), created=NOW - DAY)])
    for action in SMALL.names:
        scene.use(young, action, NOW)
    told = {each.action for each in scene.collect(NOW) if each.kind == "first_use"}
    expected = {
        use.action
        for use in scene.tracker.first_uses.by_place.values()
        if use.risk in ("privilege_escalation", "defense_evasion")
    }
    assert told == expected
    assert {use.quiet for use in scene.tracker.first_uses.by_place.values()} == {"learning"}


def test_a_break_glass_use_is_told_each_time_and_lasts_while_it_goes_on() -> None:
    scene = Scene()
    scene.use(GLASS, "ec2:DescribeInstances", NOW)
    (first,) = scene.collect(NOW)
    assert (first.kind, first.action, first.ends_at) == ("break_glass_use", "ec2:DescribeInstances", NOW + NEWS_SECONDS)
    check_labels(first)
    scene.use(GLASS, "s3:CreateBucket", NOW + 10)
    assert [each for each in scene.collect(NOW + 10) if each.kind == "break_glass_use"] == []
    later = NOW + AGAIN_SECONDS + 10
    scene.use(GLASS, "s3:CreateBucket", later)
    (longer,) = scene.collect(later)
    assert (longer.id, longer.starts_at, longer.ends_at) == (first.id, NOW, later + NEWS_SECONDS)
    scene.flush(later)
    scene.load(later + 20)
    assert scene.collect(later + 20) == []
    anew = NOW + 3 * DAY
    scene.use(GLASS, "ec2:DescribeInstances", anew)
    (second,) = [each for each in scene.collect(anew) if each.kind == "break_glass_use"]
    assert (second.id, second.starts_at) == (first.id, anew)
    first_notice, longer_notice, second_notice = (
        alert_notices.find_notice(e, e.starts_at) for e in (first, longer, second)
    )
    assert first_notice is not None
    assert second_notice is not None
    assert longer_notice is not None
    assert first_notice.id == longer_notice.id
    assert first_notice.id != second_notice.id


def test_unused_risks_are_told_when_they_begin_and_when_they_end() -> None:
    scene = Scene([old_holding(BUILDER, PRIVILEGED)])
    begun = scene.collect(NOW)
    counts = scene.tracker.count(key_of(BUILDER))[1][-1]
    assert {each.risks for each in begun} == {(risk,) for risk in counts.risks}
    assert len(begun) >= 1
    for alert in begun:
        assert (alert.kind, alert.action, alert.ends_at) == ("unused_high_risk", None, None)
        check_labels(alert, "window", "risk")
        assert alert.labels["window"] == "30d"
        assert alert_notices.find_notice(alert, NOW) is None
    scene.flush(NOW)
    scene.load(NOW + 10)
    assert scene.collect(NOW + 10) == []
    scene.use(BUILDER, PRIVILEGED, NOW + 20)
    ended = [each for each in scene.collect(NOW + 21) if each.kind == "unused_high_risk"]
    assert {(each.id, each.starts_at, each.ends_at) for each in ended} == {(each.id, NOW, NOW + 21) for each in begun}
    scene.flush(NOW + 21)
    scene.flush(NOW + 3 * DAY)
    assert scene.stored == {}, "what has ended is not kept"
    scene.tracker.advance(NOW + 31 * DAY)
    scene.render()
    anew = scene.collect(NOW + 31 * DAY)
    assert {(each.id, each.starts_at) for each in anew} == {(each.id, NOW + 31 * DAY) for each in begun}


def test_who_is_gone_has_nothing_unused() -> None:
    scene = Scene([old_holding(BUILDER, PRIVILEGED)])
    begun = scene.collect(NOW)
    scene.tracker.apply_grants([key_of(BUILDER)], scene.tracker.fleet._inventory.clear)
    scene.render()
    ended = scene.collect(NOW + 9)
    assert {each.id for each in ended} == {each.id for each in begun}
    assert {each.ends_at for each in ended} == {NOW + 9}
    assert scene.collect(NOW + 9) == []


def test_what_somebody_has_answered_for_is_not_told() -> None:
    scene = Scene(
        [old_holding(BUILDER, PRIVILEGED), old_holding(GLASS, PRIVILEGED)],
        EXEMPTIONS
        + '[exemptions.x]\nprincipal = "*builder"\naction = "iam:*"\nowner = "a"\nreason = "b"\nexpires = 2099-01-01\n',
    )
    assert scene.collect(NOW) == []


def test_one_collection_is_bounded() -> None:
    holdings = [old_holding(build_principal(f"role-{number}"), PRIVILEGED) for number in range(MESSAGES_MAX + 300)]
    scene = Scene(holdings)
    first = scene.collect(NOW)
    assert len(first) < 2 * MESSAGES_MAX
    told = {each.arn for each in first}
    while more := scene.collect(NOW):
        told |= {each.arn for each in more}
    assert len(told) == len(holdings)


def test_texts_fit_the_contract() -> None:
    long = build_principal("x" * 1_900, unique_id="AROALONG")
    scene = Scene([old_holding(long, PRIVILEGED)])
    scene.use(long, PRIVILEGED, NOW)
    for alert in scene.collect(NOW):
        assert all(len(text) <= TEXT_MAX for text in alert.annotations.values())


def test_notices_of_alerts_name_who_what_and_when() -> None:
    scene = Scene()
    scene.use(BUILDER, PRIVILEGED, NOW)
    (alert,) = scene.collect(NOW)
    notice = alert_notices.find_notice(alert, NOW + 60)
    assert notice is not None
    assert (notice.id, notice.kind) == (alert.id, "first_use")
    assert notice.text.startswith(f"{BUILDER.arn} used {PRIVILEGED} for the first time")
    assert "by ann" in notice.text
    assert notice.path == f"/principals/{key_of(BUILDER):016x}?action=iam%3ACreateAccessKey#actions"
    assert alert_notices.find_notice(alert, NOW + NEWS_SECONDS + 60) is None
