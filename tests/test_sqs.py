"""SQS: events as messages, and log files that messages name; nothing is deleted before it is durable."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_servers import Microburst, Roto, aws_environment, wrap_event, zip_log
from conftest import Gapwatch
from test_kinesis import count_read, make_calls, replay, summarise, wait_read
from test_run import Running, fast, plain_redis, read_report, wait_for

from processor.core.notifications import LogObject, Message, read_message
from processor.shell.aws import Aws
from processor.shell.embedded import EmbeddedRedis
from processor.shell.sqs import WAIT_SECONDS, SqsFeed

__all__ = ["fast", "plain_redis"]

BUCKET = "trail-logs"


@pytest.fixture(scope="module")
def roto() -> Iterator[Roto]:
    with aws_environment(), Roto() as found:
        found.client("s3").create_bucket(Bucket=BUCKET)
        yield found


def make_queue(roto: Roto, name: str, **attributes: str) -> str:
    return str(roto.client("sqs").create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])


def find_arn(roto: Roto, url: str) -> str:
    answer = roto.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return str(answer["Attributes"]["QueueArn"])


def send(roto: Roto, url: str, bodies: list[str]) -> None:
    client = roto.client("sqs")
    for at in range(0, len(bodies), 10):
        entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies[at : at + 10])]
        assert not client.send_message_batch(QueueUrl=url, Entries=entries).get("Failed")


def count_messages(roto: Roto, url: str) -> tuple[int, int]:
    """Messages that are visible, and that somebody holds."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = roto.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return int(found[names[0]]), int(found[names[1]])


def put_log(roto: Roto, key: str, records: list[dict[str, Any]]) -> None:
    roto.client("s3").put_object(Bucket=BUCKET, Key=key, Body=zip_log(records))


def notify(key: str) -> dict[str, Any]:
    """A notification as S3 writes it."""
    told = {"bucket": {"name": BUCKET}, "object": {"key": key, "size": 1}}
    return {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": told}]}


def name_log(number: int) -> str:
    return f"AWSLogs/111122223333/CloudTrail/us-east-1/2026/11/26/111122223333_CloudTrail_us-east-1_20261126T{number:04}Z_x.json.gz"


# --- what a message says ------------------------------------------------------------------------------------------------


FILE = LogObject("b", "a b/c+d.json.gz", "e1", 5)
S3_DIRECT = {
    "Records": [
        {
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": "b"}, "object": {"key": "a+b/c%2Bd.json.gz", "eTag": "e1", "size": 5}},
        }
    ]
}
THROUGH_EVENTBRIDGE = {
    "source": "aws.s3",
    "detail-type": "Object Created",
    "detail": {"bucket": {"name": "b"}, "object": {"key": "a b/c+d.json.gz", "etag": "e1", "size": 5}},
}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (S3_DIRECT, Message(files=(FILE,))),
        ({"Type": "Notification", "Message": json.dumps(S3_DIRECT)}, Message(files=(FILE,))),
        (THROUGH_EVENTBRIDGE, Message(files=(FILE,))),
        ({"Type": "Notification", "Message": json.dumps(THROUGH_EVENTBRIDGE)}, Message(files=(FILE,))),
        ({"s3Bucket": "b", "s3ObjectKey": ["k1", "k2"]}, Message(files=(LogObject("b", "k1"), LogObject("b", "k2")))),
        ({**THROUGH_EVENTBRIDGE, "detail-type": "Object Deleted"}, Message()),
        ({"Records": [{**S3_DIRECT["Records"][0], "eventName": "ObjectRemoved:Delete"}]}, Message()),
        ({"Service": "Amazon S3", "Event": "s3:TestEvent"}, Message()),
    ],
)
def test_a_message_names_files_in_each_form(body: Any, expected: Message) -> None:
    assert read_message(json.dumps(body)) == expected


@pytest.mark.parametrize(
    "body",
    ["", "no JSON", "[]", "7", '{"detail":{}}', '{"Records":[{"s3":{}}]}', '{"Records":[{"s3":7}]}', '{"s3Bucket":"b"}', "\ud800"],
)  # fmt: skip
def test_what_is_no_notification_is_a_payload(body: str) -> None:
    assert read_message(body).payload is not None


# --- events as messages -------------------------------------------------------------------------------------------------


def test_events_arrive_and_are_deleted(roto: Roto, fast: Path, tmp_path: Path, gapwatch: Gapwatch) -> None:
    url, state, records = make_queue(roto, "events"), tmp_path / "state", make_calls(600)
    send(roto, url, [wrap_event(record).decode() for record in records])
    send(roto, url, ["no event at all", '{"Service":"Amazon S3","Event":"s3:TestEvent"}'])
    with Running("--sqs", url, "--endpoint-url", roto.url, "--config", fast, "--state", state) as running:
        wait_read(running, 601)
        assert running.read("gapwatch_rejected_total") == {"undecodable": 1}
        wait_for(lambda: count_messages(roto, url) == (0, 0), 10)
        assert running.stop() == 0, running.said
        assert "Traceback" not in running.said
    found, expected = summarise(read_report(gapwatch, "--state", state)), replay(gapwatch, tmp_path, records)
    assert found["usage"] == expected["usage"]


def test_killed_before_it_deleted_nothing_is_lost_or_doubled(
    roto: Roto, fast: Path, tmp_path: Path, gapwatch: Gapwatch
) -> None:
    """Redelivery: what was stored and not deleted comes again, and is known again."""
    url, state, records = make_queue(roto, "killed"), tmp_path / "state", make_calls(2_000)
    args = ("--sqs", url, "--endpoint-url", roto.url, "--config", fast, "--state", state)
    send(roto, url, [wrap_event(record).decode() for record in records])
    for pause in (0.05, 0.4, 0.8):
        with Running(*args) as running:
            running.wait_ready()
            time.sleep(pause)
            running.kill()
        release_all(roto, url)
    with Running(*args) as running:
        wait_for(lambda: count_messages(roto, url) == (0, 0), 60)
        assert running.stop() == 0
    assert summarise(read_report(gapwatch, "--state", state))["usage"] == replay(gapwatch, tmp_path, records)["usage"]


def release_all(roto: Roto, url: str) -> None:
    """Redelivery, without waiting two minutes for it: what a killed process holds is sent again, and more."""
    time.sleep(WAIT_SECONDS + 1)  # The server waits on for who asked it before, and would give them what comes.
    roto.client("sqs").purge_queue(QueueUrl=url)
    send(roto, url, [wrap_event(record).decode() for record in make_calls(2_000)])


def test_nothing_is_deleted_while_the_store_is_away(roto: Roto, fast: Path, plain_redis: EmbeddedRedis) -> None:
    url = make_queue(roto, "away")
    with Running("--sqs", url, "--endpoint-url", roto.url, "--config", fast, "--redis", plain_redis.url) as running:
        running.wait_ready()
        os.kill(plain_redis.pid, signal.SIGSTOP)
        send(roto, url, [wrap_event(record).decode() for record in make_calls(50)])
        time.sleep(3)
        assert sum(count_messages(roto, url)) == 50
        os.kill(plain_redis.pid, signal.SIGCONT)
        wait_for(lambda: count_messages(roto, url) == (0, 0), 20)
        assert count_read(running) == 50
        assert running.stop() == 0


async def test_at_its_end_it_gives_back_what_it_did_not_store(roto: Roto) -> None:
    """What was received and not acknowledged is visible again at once, not in two minutes."""
    url = make_queue(roto, "back")
    send(roto, url, [wrap_event(record).decode() for record in make_calls(5)])
    feed = SqsFeed(url, Aws(roto.url), {}, warn=print)
    slices = feed.slices()
    read = 0
    while read < 5:
        read += (await anext(slices)).decoded.read
    await slices.aclose()
    assert (count_messages(roto, url), feed.caught_up) == ((0, 5), False)
    await asyncio.sleep(WAIT_SECONDS + 1)  # As in release_all.
    await feed.close()
    assert count_messages(roto, url) == (5, 0)


def test_a_deletion_that_fails_is_made_again(roto: Roto, fast: Path) -> None:
    url = make_queue(roto, "undeleted")
    rules = (
        "rules: [{service: sqs, operation: DeleteMessageBatch, times: 4, error: {code: InternalError, status: 500}}]"
    )
    with (
        Microburst(roto.url, rules, fast.parent) as burst,
        Running("--sqs", url, "--endpoint-url", burst.url, "--config", fast) as running,
    ):
        running.wait_ready()
        send(roto, url, [wrap_event(record).decode() for record in make_calls(5)])
        wait_for(lambda: count_messages(roto, url) == (0, 0), 30)
        assert count_read(running) == 5
        assert running.read("gapwatch_source_failures_total", call="DeleteMessageBatch")
        assert running.stop() == 0, running.said


# --- files that messages name -------------------------------------------------------------------------------------------


def test_log_files_are_read_once_however_often_they_are_named(
    roto: Roto, fast: Path, tmp_path: Path, gapwatch: Gapwatch
) -> None:
    url, state, records = make_queue(roto, "files"), tmp_path / "state", make_calls(1_200)
    roto.client("s3").put_bucket_notification_configuration(
        Bucket=BUCKET,
        NotificationConfiguration={
            "QueueConfigurations": [{"QueueArn": find_arn(roto, url), "Events": ["s3:ObjectCreated:*"]}]
        },
    )
    with Running("--sqs", url, "--endpoint-url", roto.url, "--config", fast, "--state", state) as running:
        running.wait_ready()
        for number in range(12):
            put_log(roto, name_log(number), records[100 * number : 100 * number + 100])
        roto.client("s3").put_object(Bucket=BUCKET, Key="AWSLogs/x/CloudTrail-Digest/y.json.gz", Body=b"no log")
        wait_read(running, 1_200)
        # The same files again, in each form that there is, and one that is gone.
        direct = [json.dumps(notify(name_log(number))) for number in range(4)]
        wrapped = [json.dumps({"Type": "Notification", "Message": body}) for body in direct]
        trail = [json.dumps({"s3Bucket": BUCKET, "s3ObjectKey": [name_log(5), name_log(6)]})]
        send(roto, url, [*direct, *wrapped, *trail, json.dumps(notify("AWSLogs/gone.json.gz"))])
        wait_read(running, 1_201)
        wait_for(lambda: count_messages(roto, url) == (0, 0), 15)
        assert running.read("gapwatch_rejected_total") == {"missing_file": 1}
        assert count_read(running) == 1_201
        assert running.stop() == 0, running.said
        assert "Traceback" not in running.said
    time.sleep(WAIT_SECONDS + 1)  # As in release_all.
    with Running("--sqs", url, "--endpoint-url", roto.url, "--config", fast, "--state", state) as running:
        running.wait_ready()
        send(roto, url, direct)
        wait_for(lambda: count_messages(roto, url) == (0, 0), 15)
        assert count_read(running) == 1_201
        assert running.stop() == 0
    found = summarise(read_report(gapwatch, "--state", state))
    expected = replay(gapwatch, tmp_path, records)
    assert found["usage"] == expected["usage"]
    assert found["records"]["duplicate"] == 0
    roto.client("s3").put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration={})


def test_a_damaged_file_is_rejected_and_the_queue_goes_on(roto: Roto, fast: Path) -> None:
    url = make_queue(roto, "damaged")
    whole = zip_log(make_calls(50))
    roto.client("s3").put_object(Bucket=BUCKET, Key="AWSLogs/cut.json.gz", Body=whole[: len(whole) // 2])
    put_log(roto, "AWSLogs/good.json.gz", make_calls(10, 5_000))
    with Running("--sqs", url, "--endpoint-url", roto.url, "--config", fast) as running:
        running.wait_ready()
        send(roto, url, [json.dumps(notify("AWSLogs/cut.json.gz")), json.dumps(notify("AWSLogs/good.json.gz"))])
        wait_for(lambda: running.read("gapwatch_rejected_total").get("damaged_file") == 1, 10)
        wait_for(lambda: count_messages(roto, url) == (0, 0), 15)
        assert running.classes().get("use", 0) >= 8
        assert "AWSLogs/cut.json.gz is cut off" in running.said
        assert running.stop() == 0


def test_a_denied_file_stays_in_the_queue(roto: Roto, fast: Path, tmp_path: Path) -> None:
    url = make_queue(roto, "denied")
    put_log(roto, "AWSLogs/denied.json.gz", make_calls(10))
    rules = "rules: [{service: s3, operation: GetObject, error: {code: AccessDenied, status: 403}}]"
    with (
        Microburst(roto.url, rules, tmp_path) as burst,
        Running("--sqs", url, "--endpoint-url", burst.url, "--config", fast) as running,
    ):
        running.wait_ready()
        send(roto, url, [json.dumps(notify("AWSLogs/denied.json.gz")), wrap_event(make_calls(1, 1)[0]).decode()])
        wait_for(lambda: "allow s3:GetObject" in "".join(running.lines), 15)
        wait_read(running, 1)
        assert running.stop() == 0
    assert sum(count_messages(roto, url)) == 1


def test_a_queue_that_is_not_there_is_bad_input(roto: Roto, gapwatch: Gapwatch) -> None:
    ran = gapwatch("run", "--sqs", f"{roto.url}/123456789012/nowhere", "--endpoint-url", roto.url, "--port", "0")
    assert ran.code == 2
    assert "sqs:GetQueueAttributes on queue nowhere: there is none" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
