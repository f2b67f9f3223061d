"""Notifications: what is worth one, and the real thing: `gapwatch run`, a real HTTP receiver, SNS of a moto server."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import boto3
import pytest
import redis
from building import (
    ACCOUNT,
    DAY,
    ROLE,
    build_details,
    build_fleet,
    build_holding,
    build_ledger,
    build_principal,
    build_record,
    build_session,
    build_small_catalogue,
    build_use,
    write_json,
    write_lines,
)
from conftest import Gapwatch
from test_run import Running, add_lines, wait_for

from processor.core.notices import (
    NAMED_MAX,
    Notice,
    Pacer,
    Standing,
    build_digest,
    find_notice,
    pick_new,
    write_slack,
    write_subject,
)
from processor.core.notices import (
    write_lines as write_message,
)
from processor.core.tracker import Tracker
from processor.settings import NotifySettings
from processor.settings_error import SettingsError
from processor.shell.channels import check_channels
from processor.shell.embedded import EmbeddedRedis, start_redis

SMALL = build_small_catalogue()
NOW = 20_000 * DAY
SECRET = "wJalrXUtnFEMIverysecret"


# --- what is told -----------------------------------------------------------------------------------------------------


def find(
    action: str, *, at: float = NOW, created: int = 1, covered: int | None = NOW - 400 * DAY, days: int = 7
) -> Notice | None:
    """The notice of one use of builder at NOW, looked at then or later."""
    ledger, builder = build_ledger(), build_principal("builder")
    holding = build_holding(builder, SMALL.all_mask, created=created)
    fleet = build_fleet(SMALL, ledger, [holding], covered={} if covered is None else {ACCOUNT: covered})
    tracker = Tracker(fleet, [], NOW)
    ledger.apply_uses([build_use(ledger, build_session(builder), [SMALL.ids[action]], NOW, 1)])
    for usage in ledger.take_dirty():
        tracker.apply_uses(usage, list(usage.dirty))
    ((place, use),) = tracker.first_uses.by_place.items()
    return find_notice(fleet, place, use, days, at)


def test_a_fresh_first_use_is_told_with_its_link() -> None:
    found = find("iam:PassRole")
    assert found is not None
    assert found.text.startswith(
        "arn:aws:iam::111122223333:role/builder used iam:PassRole for the first time, at 2024-10-04"
    )
    assert "permissions management" in found.text
    assert found.path.endswith("?action=iam%3APassRole#actions")
    assert find("iam:PassRole") == found
    assert find("iam:PassRole", at=NOW + 3599) is not None
    assert find("iam:PassRole", at=NOW + 3600) is None


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"created": NOW - 3 * DAY}, False),
        ({"created": NOW - 8 * DAY}, True),
        ({"covered": NOW - 3 * DAY}, False),
        ({"covered": None}, False),
        ({"covered": NOW - 3 * DAY, "days": 2}, True),
    ],
)
def test_who_is_new_is_learned_first(more: dict[str, Any], told: bool) -> None:
    # With all granted iam:PassRole is a part of an escalation path; alone it manages permissions.
    escalating = find("iam:CreateAccessKey", **more)
    assert escalating is not None, "a way to escalate is told even of who is new"
    ledger, builder = build_ledger(), build_principal("builder")
    mask = 1 << SMALL.ids["iam:PassRole"]
    covered = more.get("covered", NOW - 400 * DAY)
    fleet = build_fleet(
        SMALL, ledger, [build_holding(builder, mask, created=more.get("created", 1))],
        covered={} if covered is None else {ACCOUNT: covered},
    )  # fmt: skip
    tracker = Tracker(fleet, [], NOW)
    ledger.apply_uses([build_use(ledger, build_session(builder), [SMALL.ids["iam:PassRole"]], NOW, 1)])
    for usage in ledger.take_dirty():
        tracker.apply_uses(usage, list(usage.dirty))
    ((place, use),) = tracker.first_uses.by_place.items()
    assert (find_notice(fleet, place, use, more.get("days", 7), NOW) is not None) == told


def test_a_use_that_an_older_log_had_before_is_no_first_one() -> None:
    ledger, builder = build_ledger(), build_principal("builder")
    fleet = build_fleet(SMALL, ledger, [build_holding(builder, SMALL.all_mask)], covered={ACCOUNT: 1})
    tracker = Tracker(fleet, [], NOW)
    action = SMALL.ids["iam:CreateAccessKey"]
    for event, at in enumerate((NOW, NOW - 30 * DAY)):
        ledger.apply_uses([build_use(ledger, build_session(builder), [action], at, event)])
        for usage in ledger.take_dirty():
            tracker.apply_uses(usage, list(usage.dirty))
            usage.dirty.clear()
            for cell in usage.cells.values():
                cell.dirty = False
    ((place, use),) = tracker.first_uses.by_place.items()
    assert find_notice(fleet, place, use, 7, NOW) is None


def make_notices(count: int, text: str = "somebody did something") -> list[Notice]:
    return [Notice(str(number), "first_use", f"{text} {number}", f"/principals/{number}") for number in range(count)]


def test_each_is_told_once_and_many_go_into_one_message() -> None:
    notices = make_notices(NAMED_MAX + 3)
    assert pick_new([*notices, *notices], ["1"]) == [notices[0], *notices[2:]]
    lines = write_message(notices, "https://gapwatch.example/")
    assert lines[0] == "somebody did something 0 https://gapwatch.example/principals/0"
    assert len(lines) == NAMED_MAX + 1
    assert lines[-1] == "and 3 more"
    assert write_message(notices[:1], "") == ["somebody did something 0"]
    assert write_subject(notices) == "gapwatch: 23 first uses of privileged actions"
    assert write_subject(notices[:1]) == "gapwatch: first use of a privileged action"


def test_no_name_is_markup_or_calls_people() -> None:
    payload = json.dumps(write_slack(make_notices(1, "<!channel> <https://evil.example|click> &"), ""))
    assert "<" not in payload
    assert ">" not in payload
    assert "&lt;!channel&gt;" in payload


def test_a_failure_is_tried_again_later_each_time() -> None:
    pacer = Pacer(5)
    now = 100.0
    pauses = []
    for _ in range(12):
        assert pacer.is_due(now)
        pacer.note_failed(now)
        begun = now
        while not pacer.is_due(now):
            now += 1
        pauses.append(now - begun)
    assert pauses[:4] == [5, 5, 8, 16]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 600
    pacer.note_failed(now, 120)
    assert not pacer.is_due(now + 599)
    pacer.note_sent(now)
    assert not pacer.is_due(now + 4)
    assert pacer.is_due(now + 5)


def test_the_pipeline_is_told_of_when_it_stops_and_when_it_goes_on() -> None:
    """
    now - as_of:  well ... > 900: told once ... well: told once
    """
    standing = Standing(900, 3600)
    assert standing.look(NOW, NOW - 5_000, NOW - 5_000) == [], "history is still read: it was never well"
    assert standing.look(NOW, NOW, NOW) == []
    assert standing.look(NOW + 900, NOW, NOW) == []
    (behind,) = standing.look(NOW + 901, NOW, NOW)
    assert (behind.kind, "behind for 15 minutes" in behind.text) == ("pipeline", True)
    (silent,) = standing.look(NOW + 3_700, NOW, NOW)
    assert "No event has come for 61 minutes" in silent.text
    assert standing.look(NOW + 9_000, NOW, NOW) == []
    over = standing.look(NOW + 9_001, NOW + 9_001, NOW + 9_000)
    assert [notice.text for notice in over] == ["Verdicts are up to date again", "Events come again"]
    (again,) = standing.look(NOW + 20_000, NOW + 20_000, NOW + 10_000)
    assert len({notice.id for notice in (behind, silent, *over, again)}) == 5
    assert Standing(0, 0).look(NOW, 0, 0) == []
    assert write_subject([behind, again]) == "gapwatch: the pipeline's state"


def test_there_is_no_digest_of_nothing() -> None:
    assert build_digest((), "30d", 0, NOW) is None


@pytest.mark.parametrize(
    ("settings", "text", "says"),
    [
        ({"webhook_url_file": "hook"}, None, "No such file"),
        ({"webhook_url_file": "hook"}, f"ftp://x/{SECRET}", "holds no http"),
        ({"webhook_url_file": "hook"}, f"https://[{SECRET}", "holds no URL"),
        ({"webhook_url_file": "hook"}, "", "holds no http"),
        ({"sns_topic_arn": "arn:aws:sqs:us-east-1:1:x"}, None, "is no ARN of a topic"),
        ({"sns_topic_arn": "arn:aws:sns::1:x"}, None, "is no ARN of a topic"),
    ],
)
def test_a_channel_that_cannot_be_is_said_at_once(
    tmp_path: Path, settings: dict[str, str], text: str | None, says: str
) -> None:
    found = NotifySettings(**settings)
    if found.webhook_url_file:
        found = replace_path(found, tmp_path / "hook")
    if text is not None:
        (tmp_path / "hook").write_text(text)
    with pytest.raises(SettingsError, match=says) as raised:
        check_channels(found)
    assert SECRET not in str(raised.value)


def replace_path(settings: NotifySettings, path: Path) -> NotifySettings:
    return NotifySettings(webhook_url_file=str(path), sns_topic_arn=settings.sns_topic_arn)


# --- for real ---------------------------------------------------------------------------------------------------------


class Receiver:
    """An HTTP server that keeps what is posted; `statuses` are its next answers, 200 afterwards."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.tries = 0
        self.statuses: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.tries += 1
                status = receiver.statuses.pop(0) if receiver.statuses else 200
                if status == 200:
                    receiver.posts.append(json.loads(body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/T000/{SECRET}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def text(self) -> str:
        return "\n".join(post["text"] for post in self.posts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    found = start_redis(tmp_path / "redis")
    yield found
    found.stop()


def risky(number: int, at: float, name: str = "CreateAccessKey") -> dict[str, Any]:
    return build_record(
        number, int(at), eventSource="iam.amazonaws.com", eventName=name, sourceIPAddress="198.51.100.7",
        requestParameters={"userName": "bob", "password": SECRET},
        responseElements={"accessKey": {"secretAccessKey": SECRET, "accessKeyId": "AKIAEXAMPLE"}},
    )  # fmt: skip


def write_scene(folder: Path, receiver: Receiver, more: str = "every_seconds = 1") -> tuple[Path, list[object]]:
    """Twenty days of a role's calls, one of them risky, and settings with a webhook."""
    now = time.time()
    trail = write_lines(
        folder / "trail.ndjson",
        [build_record(day, int(now - day * DAY)) for day in range(20, 0, -1)]
        + [risky(50, now - 5 * DAY, "AttachRolePolicy"), risky(51, now - 5 * DAY, "CreateUser")],
    )
    (folder / "hook").write_text(receiver.url + "\n")
    settings = folder / "settings.toml"
    settings.write_text(
        "[run]\nflush_seconds = 0.05\npoll_seconds = 0.1\nport = 0\n"
        f'[notify]\nwebhook_url_file = "{folder / "hook"}"\npage_url = "https://gapwatch.example"\n{more}\n'
    )
    inventory = write_json(folder / "iam.json", build_details(["iam:*", "ec2:*"]))
    return trail, ["--source", trail, "--inventory", inventory, "--config", settings]


def test_a_first_use_arrives_once_and_a_restart_repeats_nothing(
    tmp_path: Path, receiver: Receiver, store: EmbeddedRedis
) -> None:
    trail, args = write_scene(tmp_path, receiver)
    args += ["--redis", store.url]
    with Running(*args) as running:
        running.wait_ready()
        running.wait_classes(use=22)
        time.sleep(2.5)
        assert receiver.posts == [], "history is not news"
        add_lines(trail, [risky(60, time.time())])
        begun = time.monotonic()
        wait_for(lambda: len(receiver.posts) == 1, 5)
        print(f"record to webhook: {time.monotonic() - begun:.2f} s")
        assert f"{ROLE} used iam:CreateAccessKey for the first time" in receiver.text
        assert "https://gapwatch.example/principals/" in receiver.text
        add_lines(trail, [risky(61, time.time())])
        running.wait_classes(use=24)
        time.sleep(2.5)
        assert len(receiver.posts) == 1, "the second use is no first one"
        assert running.stop() == 0
        assert SECRET not in running.said
    with Running(*args) as running:
        running.wait_ready()
        time.sleep(2.5)
        assert len(receiver.posts) == 1
        add_lines(trail, [risky(62, time.time(), "CreateLoginProfile")])
        wait_for(lambda: len(receiver.posts) == 2, 5)
        assert running.stop() == 0
    whole = json.dumps(receiver.posts)
    for secret in (SECRET, "AKIAEXAMPLE", "198.51.100.7", "bob"):
        assert secret not in whole
    assert not any(SECRET.encode() in found for found in dump(store.url)), "the webhook's address is in no store"


def dump(url: str) -> Iterator[bytes]:
    """All values of a Redis, as bytes."""
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter():
            yield key
            if client.type(key) == b"hash":
                yield from (part for pair in client.hgetall(key).items() for part in pair)  # type: ignore[union-attr]  # not async


def test_many_at_once_are_one_message_and_a_receiver_that_fails_loses_none(
    tmp_path: Path, receiver: Receiver, store: EmbeddedRedis
) -> None:
    trail, args = write_scene(tmp_path, receiver, "every_seconds = 3")
    with Running(*args, "--redis", store.url) as running:
        running.wait_ready()
        running.wait_classes(use=22)
        notified = "gapwatch_notified_total"
        assert running.read(notified, channel="webhook") == {"sent": 0, "failed": 0}
        receiver.statuses = [500, 302]
        now = time.time()
        add_lines(trail, [risky(70, now), risky(71, now, "CreateLoginProfile"), risky(72, now, "PutRolePolicy")])
        wait_for(lambda: len(receiver.posts) == 1, 15)
        assert receiver.tries == 3
        wait_for(lambda: running.read(notified, channel="webhook") == {"sent": 1, "failed": 2}, 5)
        assert running.read("gapwatch_notify_failing") == {"webhook": 0}
        for action in ("CreateAccessKey", "CreateLoginProfile", "PutRolePolicy"):
            assert receiver.text.count(f"iam:{action} ") == 1
        add_lines(trail, [risky(73, time.time(), "PutUserPolicy")])
        add_lines(trail, [risky(74, time.time(), "AttachUserPolicy")])
        wait_for(lambda: len(receiver.posts) == 2, 6)
        assert "iam:PutUserPolicy" in receiver.posts[1]["text"]
        assert "iam:AttachUserPolicy" in receiver.posts[1]["text"]
        assert running.stop() == 0
        assert "cannot notify by webhook: it answers 500; trying again" in running.said
        assert SECRET not in running.said


def test_a_digest_comes_once_a_day(tmp_path: Path, receiver: Receiver, store: EmbeddedRedis) -> None:
    _, args = write_scene(tmp_path, receiver, "every_seconds = 1\ndigest = true")
    for _ in range(2):
        with Running(*args, "--redis", store.url) as running:
            running.wait_ready()
            running.wait_classes(use=22)
            wait_for(lambda: len(receiver.posts) >= 1, 15)
            time.sleep(1.5)
            assert running.stop() == 0
    digests = [post["text"] for post in receiver.posts]
    assert len(digests) == 1, digests
    assert "1 principals hold risky grants that they did not use in 7d" in digests[0]
    assert ROLE in digests[0]


def test_a_store_that_goes_away_is_told_of_and_its_return_too(tmp_path: Path, receiver: Receiver) -> None:
    server = start_redis(tmp_path / "redis")
    _, args = write_scene(tmp_path, receiver, "every_seconds = 1\nbehind_seconds = 2")
    try:
        with Running(*args, "--redis", server.url) as running:
            running.wait_ready()
            running.wait_classes(use=22)
            time.sleep(2)
            os.kill(server.pid, signal.SIGSTOP)
            wait_for(lambda: "Verdicts have been behind" in receiver.text, 15)
            os.kill(server.pid, signal.SIGCONT)
            wait_for(lambda: "Verdicts are up to date again" in receiver.text, 15)
            assert running.stop() == 0
        assert len(receiver.posts) == 2
    finally:
        os.kill(server.pid, signal.SIGCONT)
        server.stop()


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """A moto server's URL."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def is_up() -> bool:
            with socket.socket() as found:
                return found.connect_ex(("127.0.0.1", port)) == 0

        wait_for(is_up, 20)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("suffix", ["", ".fifo"])
def test_sns_gets_the_same(tmp_path: Path, moto: str, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    for name, value in (
        ("AWS_ENDPOINT_URL", moto), ("AWS_ACCESS_KEY_ID", "testing"), ("AWS_SECRET_ACCESS_KEY", SECRET),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    fifo = {"FifoTopic": "true"} if suffix else {}
    sns, sqs = (boto3.client(name, region_name="eu-central-1", endpoint_url=moto) for name in ("sns", "sqs"))
    arn = sns.create_topic(Name=f"gapwatch{suffix}", Attributes=fifo)["TopicArn"]
    queue = sqs.create_queue(QueueName=f"people{suffix}", Attributes={"FifoQueue": "true"} if suffix else {})[
        "QueueUrl"
    ]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue_arn)
    with Receiver() as receiver:
        trail, args = write_scene(tmp_path, receiver, f'every_seconds = 1\nsns_topic_arn = "{arn}"')
        with Running(*args) as running:
            running.wait_ready()
            running.wait_classes(use=22)
            add_lines(trail, [risky(80, time.time())])
            wait_for(lambda: len(receiver.posts) == 1, 5)
            found: list[Any] = []

            def has_come() -> bool:
                found.extend(sqs.receive_message(QueueUrl=queue).get("Messages", []))
                return bool(found)

            wait_for(has_come, 10)
            time.sleep(2)
            assert running.stop() == 0, running.said
            assert SECRET not in running.said
        found.extend(sqs.receive_message(QueueUrl=queue).get("Messages", []))
    (message,) = [json.loads(each["Body"]) for each in found]
    assert message["Subject"] == "gapwatch: first use of a privileged action"
    assert f"{ROLE} used iam:CreateAccessKey for the first time" in message["Message"]
    assert message["MessageAttributes"]["kind"]["Value"] == "first_use"


def test_a_channel_that_is_none_ends_the_start(tmp_path: Path, receiver: Receiver, gapwatch: Gapwatch) -> None:
    _, args = write_scene(tmp_path, receiver)
    (tmp_path / "hook").write_text("nothing")
    ran = gapwatch("run", *args)
    assert (ran.code, ran.stderr.count("\n")) == (2, 1)
    assert "webhook_url_file" in ran.stderr
