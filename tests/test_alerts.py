"""The rules: each is right by promtool, tested firing and not firing, explained, and asks for series that exist."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from queries import (
    DEPLOY,
    FOREIGN,
    RULE_FILES,
    find_program,
    find_selectors,
    find_series,
    list_known_series,
    load_rules,
)

from processor.shell.metrics import CATALOGUE
from topics import alerts

RULES = load_rules()
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*_test.yml"))
LINKS = {"gapwatch_page", "gapwatch_dashboards", "gapwatch_runbooks"}
DASHBOARDS = Path(__file__).parent.parent / "dashboards"


def name_rule(rule: dict[str, Any]) -> str:
    return str(rule.get("alert") or rule["record"])


def test_promtool_takes_the_rules_and_the_configuration() -> None:
    promtool = find_program("promtool", "prometheus")
    checked = subprocess.run(
        [promtool, "check", "config", "prometheus.yml"], cwd=DEPLOY / "prometheus", capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout.decode() + checked.stderr.decode()
    assert checked.stdout.decode().count("rules found") == len(RULE_FILES)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_rules_fire_when_they_should_and_only_then(path: Path) -> None:
    promtool = find_program("promtool", "prometheus")
    done = subprocess.run(
        [promtool, "test", "rules", path.name], cwd=path.parent, capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


def test_every_alert_is_tested_firing_and_not_firing() -> None:
    fires, rests = set(), set()
    for path in TESTS:
        for group in yaml.safe_load(path.read_text())["tests"]:
            for case in group.get("alert_rule_test", ()):
                (fires if case["exp_alerts"] else rests).add(case["alertname"])
    assert fires == set(ALERTS)
    assert rests == set(ALERTS)


@pytest.mark.parametrize("rule", RULES, ids=name_rule)
def test_rules_ask_for_series_that_exist(rule: dict[str, Any]) -> None:
    known = list_known_series()
    asked = find_series(rule["expr"])
    for annotation in rule.get("annotations", {}).values():
        for printed in re.findall(r'printf\s+"((?:[^"\\]|\\.)*)"', annotation):
            asked |= find_series(printed.replace('\\"', "'").replace("%q", "x"))
    assert asked
    assert asked <= known.keys() | RECORDED | FOREIGN
    for name, labels in find_selectors(rule["expr"]):
        assert labels <= known.get(name, labels), f"{name} has no label {labels - known.get(name, labels)}"


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_alerts_say_what_where_and_what_to_do(name: str) -> None:
    for rule in (rule for rule in RULES if rule.get("alert") == name):
        assert set(rule["labels"]) <= {"severity", "kind", "pipeline", "burn"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        annotations = rule["annotations"]
        assert set(annotations) - {"page_url"} == {"summary", "description", "runbook_url", "dashboard_url"}
        assert annotations["runbook_url"] == f"{{{{ $externalLabels.gapwatch_runbooks }}}}/{name}.md"
        if "principal" in rule["expr"]:
            assert "$labels.principal" in annotations["summary"]
            assert "page_url" in annotations
        (uid,) = re.findall(r"/d/([\w-]+)", annotations["dashboard_url"])
        assert uid in {f"gapwatch-{path.stem}" for path in DASHBOARDS.glob("*.json")}, f"no dashboard {uid}"


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    books = {path.stem: path.read_text() for path in (DEPLOY / "runbooks").glob("*.md")}
    assert books.keys() == ALERTS.keys()
    for name, text in books.items():
        heads = re.findall(r"^##? (.+)", text, re.M)
        assert heads == [
            name, "What it means", "Is it real?", "What to do", "Is the pipeline itself well?", "Afterwards",
        ]  # fmt: skip
        named = set(re.findall(r"\bGapwatch[A-Z]\w+", text))
        assert named <= ALERTS.keys(), named - ALERTS.keys()
        assert find_series(text) <= list_known_series().keys() | RECORDED | FOREIGN | {"ALERTS", "gapwatch"}


def test_the_topic_s_example_has_the_labels_of_the_rule() -> None:
    labels = json.loads(alerts.EXAMPLE.value)["labels"]
    assert labels["alertname"] == "GapwatchPrivilegedFirstUse"
    assert ALERTS[labels["alertname"]]["labels"].items() <= labels.items()
    assert labels.keys() == {"alertname", "severity", "kind", "account", "principal", "action"}


def test_links_are_external_labels_that_no_alert_carries() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert config["global"]["external_labels"].keys() == LINKS
    (dropped,) = config["alerting"]["alert_relabel_configs"]
    assert (dropped["action"], set(dropped["regex"].split("|"))) == ("labeldrop", LINKS)
    used = set(re.findall(r"externalLabels\.(\w+)", "".join(path.read_text() for path in RULE_FILES)))
    assert used == LINKS


def test_first_uses_go_out_within_fifteen_seconds_by_the_shipped_settings() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["global"]
    routes = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())["route"]["routes"]
    assert (config["scrape_interval"], config["evaluation_interval"], routes[0]["group_wait"]) == ("5s", "5s", "0s")
    assert not any(
        rule.get("for") or rule["file"] != "uses.yml"
        for rule in RULES
        if rule.get("labels", {}).get("kind") in ("first_use", "break_glass_use")
    )


def test_alertmanager_routes_each_alert_and_inhibits_the_unused_only(tmp_path: Path) -> None:
    amtool = find_program("amtool", "prometheus-alertmanager")
    config = DEPLOY / "alertmanager" / "alertmanager.yml"
    assert subprocess.run([amtool, "check-config", config], capture_output=True, check=False).returncode == 0
    expected = {"ticket": "tickets", "page": "on-call"}
    for rule in ALERTS.values():
        labels = [f"{label}={value}" for label, value in rule["labels"].items()]
        routed = subprocess.run(
            [amtool, "config", "routes", "test", f"--config.file={config}", *labels], capture_output=True, check=True
        )
        seconds = rule["labels"]["kind"] in ("first_use", "first_use_lost", "break_glass_use", "denied_spike")
        assert routed.stdout.decode().strip() == ("uses" if seconds else expected[rule["labels"]["severity"]])
    (inhibited,) = yaml.safe_load(config.read_text())["inhibit_rules"]
    assert inhibited["source_matchers"] == ['pipeline="stale"']
    assert inhibited["target_matchers"] == ['kind="unused_high_risk"']
    kinds = {name for name, rule in ALERTS.items() if rule["labels"]["kind"] == "unused_high_risk"}
    assert kinds == {"GapwatchHighRiskUnused"}


# --- what is written of the metrics -----------------------------------------------------------------------------------


def test_the_table_of_metrics_is_the_catalogue() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.+) \|$", (DEPLOY / "metrics.md").read_text("utf-8"), re.M)
    assert rows == [
        (row.name, row.kind, ", ".join(f"`{label}`" for label in row.labels), row.text) for row in CATALOGUE
    ]


def test_the_table_of_alerts_is_the_rules() -> None:
    text = (DEPLOY / "metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\(runbooks/(\w+)\.md\) \| (\w+) \|", text, re.M)
    assert {(name, book) for name, book, _ in rows} == {(name, name) for name in ALERTS}
    for name, _, severity in rows:
        assert severity in {rule["labels"]["severity"] for rule in RULES if rule.get("alert") == name}
    recorded = re.findall(r"^\| `([\w:]+)` \| (?!gauge|counter|histogram)", text, re.M)
    assert set(recorded) == RECORDED
