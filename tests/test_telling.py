"""A fleet tells people: a real Kafka, Redis and Alertmanager, an intake, two ledgers, one page and one that notifies."""

import asyncio
import json
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from building import ACCOUNT, ROLE, build_details, build_record, write_json, write_lines
from conftest import start_gapwatch
from fleet import Fleet, Member
from prometheus_client.parser import text_string_to_metric_families
from test_notify import Receiver, risky
from test_push import run_alertmanager

from topics.alerts import CODEC, Alert

DAY = 86_400
GLASS, GLASS_ID = f"arn:aws:iam::{ACCOUNT}:role/break-glass", "AROAEXAMPLEBREAKGLASS"
EXEMPTIONS = '[break_glass]\nprincipals = ["arn:aws:iam::*:role/break-glass"]\n'
TOKEN = "a-token-of-twenty-two-x"
PUSH_SECONDS_MAX = 3.0
NOTIFY_SECONDS_MAX = 6.0


class Command:
    """A gapwatch that runs, and what it says."""

    def __init__(self, *args: object) -> None:
        self.process = start_gapwatch(*args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.lines: list[str] = []
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())

    def close(self) -> None:
        """End it at once, if it has not ended."""
        self.process.kill()
        self.process.wait(10)
        self._listening.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return -9

    def find_url(self) -> str:
        wait_for(lambda: any("http" in line for line in self.lines), 30, self.lines)
        return next(line for line in self.lines if "http" in line).rpartition(" ")[2].rstrip("/")


def wait_for(found: Callable[[], Any], seconds: float, said: object = "") -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if value := found():
                return value
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"it did not come: {said}")


def get(url: str, token: str = "") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:  # noqa: S310 - loopback
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def glass_call(number: int, at: float) -> dict[str, Any]:
    record = build_record(number, int(at))
    issuer = {"type": "Role", "principalId": GLASS_ID, "arn": GLASS}
    record["userIdentity"] |= {"principalId": f"{GLASS_ID}:eve", "sessionContext": {"sessionIssuer": issuer}}
    return record


def read_series(members: list[Member], name: str) -> dict[tuple[str, ...], float]:
    """A metric's series over all members, by their labels' values; each member must serve each of them once."""
    found: dict[tuple[str, ...], float] = {}
    for member in members:
        for family in text_string_to_metric_families(member._scrape()):
            for sample in family.samples:
                if sample.name == name:
                    assert tuple(sample.labels.values()) not in found or name.startswith("gapwatch_account"), sample
                    found[tuple(sample.labels.values())] = sample.value
    return found


async def read_alerts(address: str) -> list[Alert]:
    """All of topic alerts."""
    from aiokafka import AIOKafkaConsumer, TopicPartition

    place = TopicPartition("gapwatch.alerts", 0)
    consumer = AIOKafkaConsumer(bootstrap_servers=address, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([place])
        end = (await consumer.end_offsets([place]))[place]
        found = []
        while await consumer.position(place) < end:
            for messages in (await consumer.getmany(timeout_ms=500)).values():
                for message in messages:
                    alert = CODEC.decode(message.value)
                    assert alert.key == message.key
                    found.append(alert)
        return found
    finally:
        await consumer.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


class Scene:
    """A fleet with everything that tells of it; its log so far has nothing that is news."""

    def __init__(self, folder: Path, receiver: Receiver, stack: ExitStack) -> None:
        self.receiver = receiver
        details = build_details(["iam:*", "ec2:*"])
        glass = json.loads(json.dumps(details["RoleDetailList"][0]))
        glass |= {"Path": "/", "RoleName": "break-glass", "RoleId": GLASS_ID, "Arn": GLASS}
        details["RoleDetailList"].append(glass)
        self.inventory = write_json(folder / "iam.json", details)
        self.config = folder / "gapwatch.toml"
        for name, text in (("exemptions.toml", EXEMPTIONS), ("token", TOKEN), ("hook", receiver.url)):
            (folder / name).write_text(text)
        self.config.write_text(
            "windows = [7]\n[run]\nflush_seconds = 0.1\npoll_seconds = 0.1\n"
            f'[notify]\nwebhook_url_file = "{folder / "hook"}"\nevery_seconds = 1\npage_url = "https://gapwatch.example"\n'
        )
        self.begin = time.time()
        self.fleet = stack.enter_context(Fleet(folder / "fleet", [self.inventory], intakes=1, ledgers=2))
        self.alertmanager, _ = stack.enter_context(run_alertmanager(folder))
        self.alertmanager.start()
        self.write("a", [build_record(day, int(self.begin - day * DAY)) for day in range(20, 0, -1)])
        self.fleet.add("intake", "--config", self.config)
        watching = ("--exemptions", folder / "exemptions.toml", "--alertmanager", self.alertmanager.url)
        for _ in range(2):
            self.fleet.add("ledger", "--config", self.config, *watching)
        self.fleet.wait_until_drained()
        reach = ("--brokers", self.fleet.kafka.address, "--redis", self.fleet.redis.url)
        self.notify, self.standby = (Command("notify", *reach, "--config", self.config, "--port", 0) for _ in range(2))
        self.page = Command(
            "page", "--redis", self.fleet.redis.url, "--port", 0, "--every", 1, "--token-file", folder / "token"
        )
        for command in (self.notify, self.standby, self.page):
            stack.callback(command.close)
        self.url = self.page.find_url()
        wait_for(lambda: get(f"{self.url}/readyz")[0] == 200, 60, self.page.lines)

    def write(self, name: str, records: list[dict[str, Any]]) -> None:
        write_lines(self.fleet.source / f"{name}.ndjson", records)

    def read_rows(self) -> dict[str, Any]:
        status, text = get(f"{self.url}/api/principals", TOKEN)
        assert status == 200
        return {row["arn"]: row for row in json.loads(text)["principals"]}

    def tell_uses(self) -> tuple[float, float]:
        """A first use, refusals and a break-glass use: seconds until the first is pushed, and all are in the webhook."""
        begun = time.time()
        denied = [{**risky(200 + n, begun, "PutRolePolicy"), "errorCode": "AccessDenied"} for n in range(25)]
        self.write("b", [risky(100, begun), glass_call(101, begun), *denied])
        pushed = wait_for(lambda: [a for a in self.alertmanager.alerts() if a["labels"]["principal"] == ROLE], 20)
        push_seconds = time.time() - begun
        assert [a["labels"]["action"] for a in pushed] == ["iam:CreateAccessKey"]
        named = (f"principal {GLASS} is in use", "iam:CreateAccessKey for the first")
        wait_for(lambda: all(each in self.receiver.text for each in named), 30, self.notify.lines)
        return push_seconds, time.time() - begun

    def check_metrics(self) -> None:
        """What the rules ask for, each from the ledger that owns it."""
        ledgers = self.fleet.ledgers
        series = wait_for(lambda: read_series(ledgers, "gapwatch_denied_privileged_recent"), 10)
        assert series == {(ACCOUNT, ROLE): 25}
        assert list(read_series(ledgers, "gapwatch_break_glass_seen_timestamp_seconds")) == [(ACCOUNT, GLASS)]
        assert set(read_series(ledgers, "gapwatch_account_newest_use_timestamp_seconds")) == {(ACCOUNT,)}
        since = read_series(ledgers, "gapwatch_account_covered_since_timestamp_seconds")
        assert since == {(ACCOUNT,): int(self.begin - 20 * DAY)}
        for member in ledgers:
            taken = read_series([member], "gapwatch_inventory_timestamp_seconds")
            assert taken == {(ACCOUNT,): int(self.inventory.stat().st_mtime)}

    def check_page(self) -> None:
        """It has the whole fleet, and follows it; who did what is read from the store."""
        assert get(f"{self.url}/api/principals")[0] == 401
        wait_for(lambda: self.read_rows()[ROLE]["windows"][0]["used"] == 2, 30, self.page.lines)
        rows = self.read_rows()
        assert rows.keys() == {ROLE, GLASS}
        status, text = get(f"{self.url}{rows[ROLE]['path']}?action=iam:CreateAccessKey", TOKEN)
        assert status == 200
        assert "builder" in text
        status, text = get(f"{self.url}/api{rows[ROLE]['path']}/actions?action=iam:CreateAccessKey", TOKEN)
        assert (status, '"ann"' in text) == (200, True), text
        assert json.loads(get(f"{self.url}/api/status", TOKEN)[1])["lag_seconds"] < 60

    def crash(self) -> None:
        """Killed and taken over: nothing is told again, and what is new is told."""
        for member in self.fleet.ledgers:
            member.kill()
        self.notify.process.kill()
        time.sleep(1)
        self.fleet.wait_until_drained()
        later = time.time()
        more = [risky(300, later), glass_call(301, later), risky(302, later, "CreateLoginProfile")]
        self.write("c", more)
        wait_for(lambda: "iam:CreateLoginProfile" in self.receiver.text, 60, self.standby.lines)
        time.sleep(3)
        for said in ("iam:CreateAccessKey for the first", f"principal {GLASS} is in use", "iam:CreateLoginProfile for"):
            assert sum(post["text"].count(said) for post in self.receiver.posts) == 1, self.receiver.posts


@pytest.mark.slow
def test_a_fleet_tells_people(
    tmp_path: Path, receiver: Receiver, apache_kafka: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        scene = Scene(tmp_path, receiver, stack)
        assert receiver.posts == [], "history is not news"
        push_seconds, notify_seconds = scene.tell_uses()
        scene.check_metrics()
        scene.check_page()
        scene.crash()
        served_at = scene.standby.find_url()
        assert get(served_at.replace("/metrics", "/readyz"))[0] == 200
        served = get(served_at)[1]
        assert re.search(r'^gapwatch_notified_total{channel="webhook",outcome="sent"} [1-9]', served, re.MULTILINE), (
            served
        )
        assert scene.page.stop() == 0, scene.page.lines
        assert scene.standby.stop() == 0, scene.standby.lines
        check_alerts(asyncio.run(read_alerts(scene.fleet.kafka.address)))
    with capsys.disabled():
        print(f"\nevent to push {push_seconds:.1f} s, to webhook over topic alerts {notify_seconds:.1f} s")
    assert push_seconds <= PUSH_SECONDS_MAX
    assert notify_seconds <= NOTIFY_SECONDS_MAX


def check_alerts(found: list[Alert]) -> None:
    """Each first use stands there under one id, once but for what a kill came between; what is unused by risk, until it ends."""
    firsts = {each.action for each in found if each.kind == "first_use"}
    assert firsts == {"iam:CreateAccessKey", "iam:CreateLoginProfile"}
    assert len({each.id for each in found if each.kind == "first_use"}) == 2
    assert {each.arn for each in found if each.kind == "break_glass_use"} == {GLASS}
    unused = {each.id: each for each in found if each.kind == "unused_high_risk"}
    assert {each.arn for each in unused.values()} == {ROLE}, "break-glass is exempt"
    assert "privilege_escalation" in {each.risks[0] for each in unused.values()}
    assert all(each.labels["window"] == "7d" for each in unused.values())
