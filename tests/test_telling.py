"""A fleet tells people: a real Kafka, Redis and Alertmanager, an intake, two ledgers, one page and one that notifies."""

import asyncio
import json
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


@pytest.mark.slow
def test_a_fleet_tells_people(
    tmp_path: Path, receiver: Receiver, apache_kafka: object, capsys: pytest.CaptureFixture[str]
) -> None:
    details = build_details(["iam:*", "ec2:*"])
    glass = json.loads(json.dumps(details["RoleDetailList"][0]))
    glass |= {"Path": "/", "RoleName": "break-glass", "RoleId": GLASS_ID, "Arn": GLASS}
    details["RoleDetailList"].append(glass)
    inventory = write_json(tmp_path / "iam.json", details)
    (tmp_path / "exemptions.toml").write_text(EXEMPTIONS)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "hook").write_text(receiver.url)
    config = tmp_path / "gapwatch.toml"
    config.write_text(
        "windows = [7]\n[run]\nflush_seconds = 0.1\npoll_seconds = 0.1\n"
        f'[notify]\nwebhook_url_file = "{tmp_path / "hook"}"\nevery_seconds = 1\npage_url = "https://gapwatch.example"\n'
    )
    now = time.time()
    with ExitStack() as stack:
        fleet = stack.enter_context(Fleet(tmp_path / "fleet", [inventory], intakes=1, ledgers=2))
        alertmanager, _ = stack.enter_context(run_alertmanager(tmp_path))
        alertmanager.start()
        write_lines(fleet.source / "a.ndjson", [build_record(day, int(now - day * DAY)) for day in range(20, 0, -1)])
        watching = (
            "--config",
            config,
            "--exemptions",
            tmp_path / "exemptions.toml",
            "--alertmanager",
            alertmanager.url,
        )
        fleet.add("intake", "--config", config)
        for _ in range(2):
            fleet.add("ledger", *watching)
        fleet.wait_until_drained()
        reach = ("--brokers", fleet.kafka.address, "--redis", fleet.redis.url)
        notify = Command("notify", *reach, "--config", config)
        standby = Command("notify", *reach, "--config", config)
        page = Command(
            "page", "--redis", fleet.redis.url, "--port", 0, "--every", 1, "--token-file", tmp_path / "token"
        )
        for command in (notify, standby, page):
            stack.callback(command.close)
        url = page.find_url()
        wait_for(lambda: get(f"{url}/readyz")[0] == 200, 60, page.lines)
        assert get(f"{url}/api/principals")[0] == 401
        assert receiver.posts == []

        begun = time.time()
        denied = [{**risky(200 + n, begun, "PutRolePolicy"), "errorCode": "AccessDenied"} for n in range(25)]
        write_lines(fleet.source / "b.ndjson", [risky(100, begun), glass_call(101, begun), *denied])
        pushed = wait_for(lambda: [a for a in alertmanager.alerts() if a["labels"]["principal"] == ROLE], 20)
        push_seconds = time.time() - begun
        assert [a["labels"]["action"] for a in pushed] == ["iam:CreateAccessKey"]
        wait_for(lambda: "iam:CreateAccessKey" in receiver.text and GLASS in receiver.text, 30, notify.lines)
        notify_seconds = time.time() - begun

        # Metrics: what the rules ask for, each from the ledger that owns it.
        ledgers = fleet.ledgers
        series = wait_for(lambda: read_series(ledgers, "gapwatch_denied_privileged_recent"), 10)
        assert series == {(ACCOUNT, ROLE): 25}
        assert list(read_series(ledgers, "gapwatch_break_glass_seen_timestamp_seconds")) == [(ACCOUNT, GLASS)]
        assert set(read_series(ledgers, "gapwatch_account_newest_use_timestamp_seconds")) == {(ACCOUNT,)}
        since = read_series(ledgers, "gapwatch_account_covered_since_timestamp_seconds")
        assert since == {(ACCOUNT,): int(now - 20 * DAY)}
        for member in ledgers:
            taken = read_series([member], "gapwatch_inventory_timestamp_seconds")
            assert taken == {(ACCOUNT,): int(inventory.stat().st_mtime)}

        # The page has the whole fleet, and follows it.
        def has_used() -> bool:
            status, text = get(f"{url}/api/principals", TOKEN)
            assert status == 200
            rows = {row["arn"]: row for row in json.loads(text)["principals"]}
            assert rows.keys() == {ROLE, GLASS}
            return bool(rows[ROLE]["windows"][0]["used"] == 2)

        wait_for(has_used, 30, page.lines)
        (row,) = (
            each for each in json.loads(get(f"{url}/api/principals", TOKEN)[1])["principals"] if each["arn"] == ROLE
        )
        status, text = get(f"{url}{row['path']}?action=iam:CreateAccessKey", TOKEN)
        assert status == 200
        assert "builder" in text
        assert "ann" in text, "who did it stands in the store"
        assert json.loads(get(f"{url}/api/status", TOKEN)[1])["lag_seconds"] < 60

        # Killed and taken over: nothing is told again.
        for member in ledgers:
            member.kill()
        notify.process.kill()
        time.sleep(1)
        fleet.wait_until_drained()
        later = time.time()
        more = [risky(300, later), glass_call(301, later), risky(302, later, "CreateLoginProfile")]
        write_lines(fleet.source / "c.ndjson", more)
        wait_for(lambda: "iam:CreateLoginProfile" in receiver.text, 60, standby.lines)
        time.sleep(3)
        for said in ("iam:CreateAccessKey for the first", f"principal {GLASS} is in use", "iam:CreateLoginProfile for"):
            assert sum(post["text"].count(said) for post in receiver.posts) == 1, receiver.posts
        assert page.stop() == 0, page.lines
        assert standby.stop() == 0, standby.lines
        found = asyncio.run(read_alerts(fleet.kafka.address))
        check_alerts(found)
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
