"""First uses pushed to a real Alertmanager: with the rule's labels, at once, again after a restart, and never in the way."""

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from queries import DEPLOY, find_program, load_rules
from stack import Receiver, ask, find_port

from processor.core.first_uses import NEWS_SECONDS, FirstUse
from processor.core.privileged import is_told
from processor.settings import AlertsSettings
from processor.shell import push
from processor.shell.push import LABELS, Pusher, build_alert, build_pusher

LINKS = AlertsSettings(
    alertmanager="http://127.0.0.1:1",
    page_url="https://gapwatch.example/",
    dashboards_url="https://grafana.example",
    runbooks_url="https://runbooks.example",
    labels={"cluster": "eu"},
)


def build_first_use(number: int = 0, **changes: Any) -> FirstUse:
    found = {
        "key": 0xC0FFEE + number,
        "time": int(time.time()),
        "account_id": "111122223333",
        "arn": f'arn:aws:iam::111122223333:role/a"b\\c/{number}',
        "action": "iam:PassRole",
        "risk": "privilege_escalation",
        "quiet": "no",
        "seen": int(time.time()),
    }
    return FirstUse(**{**found, **changes})


class Alertmanager:
    """A real one with the shipped routes, that can be stopped and started anew with nothing remembered."""

    def __init__(self, folder: Path, receiver: Receiver) -> None:
        self._program = find_program("prometheus-alertmanager", "prometheus-alertmanager")
        self._folder = folder
        self._port = find_port()
        self.url = f"http://127.0.0.1:{self._port}"
        text = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text()
        (folder / "alertmanager.yml").write_text(text.replace("http://localhost:5001", receiver.url))
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def start(self) -> None:
        self._starts += 1
        with (self._folder / "alertmanager.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program, f"--config.file={self._folder / 'alertmanager.yml'}",
                    f"--storage.path={self._folder / str(self._starts)}", f"--web.listen-address=127.0.0.1:{self._port}",
                    "--cluster.listen-address=",
                ],
                stdout=log, stderr=log, cwd=self._folder,
            )  # fmt: skip

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def alerts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask(f"{self.url}/api/v2/alerts")
        return found


@contextmanager
def run_alertmanager(folder: Path) -> Iterator[tuple[Alertmanager, Receiver]]:
    receiver = Receiver()
    alertmanager = Alertmanager(folder, receiver)
    try:
        yield alertmanager, receiver
    finally:
        alertmanager.stop()
        receiver.stop()


async def wait_for(found: Callable[[], Any], seconds: float = 20) -> Any:
    until = time.time() + seconds
    while time.time() < until:
        try:
            if value := await asyncio.to_thread(found):
                return value
        except OSError:
            pass
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come")


async def with_pusher(pusher: Pusher, doing: Awaitable[None]) -> None:
    pusher.start()
    try:
        await doing
    finally:
        await pusher.stop()


def test_an_alert_carries_the_labels_of_the_rule() -> None:
    (rule,) = [rule for rule in load_rules() if rule.get("alert") == LABELS["alertname"]]
    alert = build_alert(build_first_use(), AlertsSettings())
    assert alert["labels"].keys() - rule["labels"].keys() == {"alertname", "account", "principal", "action"}
    assert rule["labels"].items() <= alert["labels"].items()
    assert "max by (account, principal, action)" in rule["expr"]
    assert rule["expr"].endswith(f"< {NEWS_SECONDS}")


def test_an_alert_has_links_where_their_beginnings_are_known() -> None:
    said = build_alert(build_first_use(), LINKS)
    assert said["labels"]["cluster"] == "eu"
    assert said["annotations"]["page_url"] == "https://gapwatch.example/principals/0000000000c0ffee"
    assert said["annotations"]["runbook_url"] == "https://runbooks.example/GapwatchPrivilegedFirstUse.md"
    assert "%22b%5Cc" in said["annotations"]["dashboard_url"]
    assert set(build_alert(build_first_use(), AlertsSettings())["annotations"]) == {"summary", "description"}


@pytest.mark.parametrize(
    ("risk", "quiet", "told"),
    [
        ("privilege_escalation", "no", True),
        ("credentials_exposure", "no", True),
        ("escalation_part", "no", False),
        ("privilege_escalation", "learning", True),
        ("defense_evasion", "learning", True),
        ("credentials_exposure", "learning", False),
        ("privilege_escalation", "new_log", False),
        ("privilege_escalation", "exempt", False),
    ],
)
def test_what_is_told_is_what_the_rule_selects(risk: str, quiet: str, told: bool) -> None:
    assert is_told(risk, quiet) is told


def test_no_pusher_unless_it_is_asked_for() -> None:
    assert build_pusher(AlertsSettings(), print) is None
    assert build_pusher(LINKS, print) is not None


async def test_first_uses_arrive_at_once_and_once(tmp_path: Path) -> None:
    with run_alertmanager(tmp_path) as (alertmanager, receiver):
        alertmanager.start()
        await wait_for(lambda: alertmanager.alerts() == [])
        pusher = Pusher(AlertsSettings(alertmanager=alertmanager.url), print, time.time)

        async def push_some() -> None:
            noted = time.time()
            old = build_first_use(2, seen=int(noted) - NEWS_SECONDS - 1)
            quiet = build_first_use(3, quiet="learning", risk="resource_exposure")
            pusher.note([build_first_use(1), old, quiet])
            (told,) = await wait_for(lambda: list(receiver.told))
            assert told.at - noted < 2
            assert [each["labels"]["principal"] for each in told.alerts] == [build_first_use(1).arn]
            for _ in range(5):
                pusher.note([build_first_use(1)])
            await asyncio.sleep(7)  # The route's group_interval is 5 s.
            assert len(receiver.told) == 1
            assert pusher.counts == {"sent": 1, "failed": 0}
            (alert,) = alertmanager.alerts()
            assert alert["endsAt"] > alert["startsAt"]

        await with_pusher(pusher, push_some())


async def test_an_alertmanager_that_is_away_is_told_later_and_one_that_forgot_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "AGAIN_SECONDS", 2.0)
    warned: list[str] = []
    with run_alertmanager(tmp_path) as (alertmanager, receiver):
        pusher = Pusher(AlertsSettings(alertmanager=alertmanager.url), warned.append, time.time)

        async def push_through() -> None:
            began = time.time()
            pusher.note([build_first_use(1)])
            assert time.time() - began < 0.05
            await wait_for(lambda: pusher.counts["failed"] >= 2)
            assert len(warned) == 1, "an outage is said once"
            alertmanager.start()
            await wait_for(lambda: receiver.told)
            alertmanager.stop()
            alertmanager.start()
            await wait_for(lambda: len(receiver.told) == 2)
            assert receiver.told[0].alerts[0]["fingerprint"] == receiver.told[1].alerts[0]["fingerprint"]

        await with_pusher(pusher, push_through())


async def test_a_password_in_the_address_is_not_said() -> None:
    for address in ("http://user:hunter2@127.0.0.1:1", "http://user:hunter2@:port"):
        warned: list[str] = []
        pusher = Pusher(AlertsSettings(alertmanager=address), warned.append, time.time)
        pusher.note([build_first_use()])
        pusher.start()
        await wait_for(lambda found=warned: found)
        await pusher.stop()
        assert "hunter2" not in "".join(warned)


async def test_one_that_refuses_is_said_once() -> None:
    warned: list[str] = []
    receiver = Receiver()  # Answers, but is no Alertmanager.
    try:
        pusher = Pusher(AlertsSettings(alertmanager=f"{receiver.url}/nowhere"), warned.append, time.time)
        pusher.note([build_first_use()])
        pusher.start()
        await wait_for(lambda: pusher.counts["failed"] >= 1)
        await pusher.stop()
        assert len(warned) == 1
    finally:
        receiver.stop()
