"""`gapwatch backfill`: the log files of some days, from S3, once, however often it is killed or started."""

import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_servers import Microburst, Roto, aws_environment, zip_log
from building import build_record, write_lines
from conftest import Gapwatch, start_gapwatch
from test_kinesis import make_calls, summarise
from test_run import read_report

from processor.shell.files import SourceError
from processor.shell.log_bucket import read_url

BUCKET = "organization-logs"
DAYS = ("2026-11-23", "2026-11-24", "2026-11-25")
FILES = 500


@pytest.fixture(scope="module")
def roto() -> Iterator[Roto]:
    with aws_environment(), Roto() as found:
        found.client("s3").create_bucket(Bucket=BUCKET)
        yield found


@pytest.fixture(scope="module")
def records(roto: Roto) -> list[dict[str, Any]]:
    """500 files of three days, two accounts of an organization and two regions, with what else lies about there."""
    client = roto.client("s3")
    found: list[dict[str, Any]] = []
    for number in range(FILES):
        day = DAYS[number % 3]
        account, region = ("111122223333", "444455556666")[number % 2], ("us-east-1", "eu-central-1")[number // 2 % 2]
        calls = make_calls(20, 20 * number)
        for at, record in enumerate(calls):
            record["eventTime"] = f"{day}T{number % 24:02}:{at:02}:00Z"
        found += calls
        name = (
            f"{account}_CloudTrail_{region}_{day.replace('-', '')}T{number % 24:02}{number % 60:02}Z_{number}.json.gz"
        )
        key = f"logs/AWSLogs/o-abc123/{account}/CloudTrail/{region}/{day.replace('-', '/')}/{name}"
        client.put_object(Bucket=BUCKET, Key=key, Body=zip_log(calls))
    for key in (
        f"logs/AWSLogs/o-abc123/111122223333/CloudTrail-Digest/us-east-1/{DAYS[0].replace('-', '/')}/digest.json.gz",
        f"logs/AWSLogs/o-abc123/111122223333/vpcflowlogs/us-east-1/{DAYS[0].replace('-', '/')}/flows.json.gz",
        "logs/AWSLogs/o-abc123/111122223333/CloudTrail/us-east-1/2026/10/01/old_CloudTrail_us-east-1_20261001T0000Z_x.json.gz",
    ):
        client.put_object(Bucket=BUCKET, Key=key, Body=zip_log([build_record(999_999, int(time.time()))]))
    return found


def arguments(url: str, *more: object, prefix: str = "logs/") -> list[object]:
    return [
        "backfill", f"s3://{BUCKET}/{prefix}", "--from", DAYS[0], "--to", DAYS[-1], "--endpoint-url", url,
        "--format", "json", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def expected(records: list[dict[str, Any]], gapwatch: Gapwatch, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = write_lines(tmp_path_factory.mktemp("replayed") / "all.ndjson", records)
    return summarise(gapwatch("replay", "--format", "json", path).json)


def test_all_of_an_organization_is_read_and_nothing_else(roto: Roto, gapwatch: Gapwatch, expected: Any) -> None:
    ran = gapwatch(*arguments(roto.url))
    assert ran.code == 0, ran.stderr
    assert summarise(ran.json) == expected
    assert "500 files read, 0 known from before" in ran.stderr


def test_killed_at_random_it_ends_in_the_same_counts(
    roto: Roto, gapwatch: Gapwatch, tmp_path: Path, expected: Any
) -> None:
    state = tmp_path / "state"
    command = arguments(roto.url, "--state", state)
    for _ in range(3):
        process = start_gapwatch(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.uniform(1.5, 4.0))
        process.kill()
        process.wait()
    ran = gapwatch(*command)
    assert ran.code == 0, ran.stderr
    assert summarise(ran.json) == expected
    again = gapwatch(*command)
    assert summarise(again.json) == expected
    assert "0 files read, 500 known from before" in again.stderr


def test_killed_between_its_flushes_it_reads_no_file_twice(
    roto: Roto, records: list[dict[str, Any]], tmp_path: Path, gapwatch: Gapwatch
) -> None:
    """One that is throttled so that it takes long, and flushes on the way, is killed on the way."""
    slow = "rules: [{service: s3, operation: GetObject, latency: {min: 600, max: 1000}}]"
    state = tmp_path / "state"
    with Microburst(roto.url, slow, tmp_path) as burst:
        process = start_gapwatch(*arguments(burst.url, "--state", state), stdout=subprocess.DEVNULL)
        time.sleep(16)
        process.kill()
        process.wait()
        assert process.stderr is not None
        said = process.stderr.read().decode()
        process.stderr.close()
    assert re.search(r"\d+ of (about )?[\d,]+ files, .* left", said), said
    ran = gapwatch(*arguments(roto.url, "--state", state))
    read, known = map(int, re.findall(r"(\d+) files read, (\d+) known", ran.stderr)[0])
    assert read + known == FILES
    assert 50 < known < FILES
    assert ran.json["records"]["read"] == len(records)
    assert ran.json["records"]["duplicate"] == 0


@pytest.mark.parametrize(
    ("prefix", "files"),
    [
        ("logs/AWSLogs", 500),
        ("logs/AWSLogs/o-abc123/111122223333/", 250),
        ("logs/AWSLogs/o-abc123/111122223333/CloudTrail/us-east-1/", 125),
        ("logs/AWSLogs/o-abc123/111122223333/CloudTrail/us-east-1/2026/11/24/", 42),
        ("", 500),
    ],
)
def test_any_folder_on_the_way_is_a_prefix(
    roto: Roto, records: list[dict[str, Any]], gapwatch: Gapwatch, prefix: str, files: int
) -> None:
    ran = gapwatch(*arguments(roto.url, prefix=prefix))
    assert ran.code == 0, ran.stderr
    assert f"{files} files read" in ran.stderr
    assert ran.json["records"]["read"] == 20 * files == len(records) * files // FILES


def test_throttled_it_ends_in_the_same_counts(roto: Roto, tmp_path: Path, gapwatch: Gapwatch, expected: Any) -> None:
    rules = "rules: [{service: s3, probability: 0.2, error: {code: SlowDown, status: 503}}]"
    with Microburst(roto.url, rules, tmp_path) as burst:
        ran = gapwatch(*arguments(burst.url))
    assert ran.code == 0, ran.stderr
    assert summarise(ran.json) == expected


def test_a_replay_of_the_same_files_adds_no_use(
    roto: Roto, records: list[dict[str, Any]], gapwatch: Gapwatch, tmp_path: Path, expected: Any
) -> None:
    state = tmp_path / "state"
    assert gapwatch(*arguments(roto.url, "--state", state)).code == 0
    assert gapwatch("replay", "--state", state, write_lines(tmp_path / "all.ndjson", records)).code == 0
    assert summarise(read_report(gapwatch, "--state", state))["usage"] == expected["usage"]


# --- what cannot work -----------------------------------------------------------------------------------------------------


def test_a_damaged_file_and_one_that_is_gone_are_said(roto: Roto, gapwatch: Gapwatch, tmp_path: Path) -> None:
    client = roto.client("s3")
    folder = "bad/AWSLogs/111122223333/CloudTrail/us-east-1/2026/11/24/111122223333_CloudTrail_us-east-1_20261124T"
    whole = zip_log(make_calls(50))
    client.put_object(Bucket=BUCKET, Key=f"{folder}0000Z_a.json.gz", Body=whole[: len(whole) // 2])
    client.put_object(Bucket=BUCKET, Key=f"{folder}0005Z_b.json.gz", Body=zip_log(make_calls(10)))
    client.put_object(Bucket=BUCKET, Key=f"{folder}0010Z_c.json.gz", Body=zip_log(make_calls(10, 100)))
    gone = "rules: [{service: s3, operation: GetObject, times: 1, error: {code: NoSuchKey, status: 404}}]"
    with Microburst(roto.url, gone, tmp_path) as burst:
        ran = gapwatch(*arguments(burst.url, prefix="bad/"))
    assert ran.code == 0, ran.stderr
    assert "cannot be had (NoSuchKey): left out" in ran.stderr
    ran = gapwatch(*arguments(roto.url, prefix="bad/"))
    assert ran.code == 0
    assert "T0000Z_a.json.gz is cut off: what could be read of it was" in ran.stderr
    assert ran.json["records"]["read"] >= 21


@pytest.mark.parametrize(
    ("code", "status", "operation", "said"),
    [
        ("AccessDenied", 403, "ListObjectsV2", "allow s3:ListBucket"),
        ("AccessDenied", 403, "GetObject", "allow s3:GetObject"),
        ("InvalidAccessKeyId", 403, "ListObjectsV2", "AWS does not accept the credentials"),
    ],
)
def test_what_is_denied_is_named(
    roto: Roto, records: list[dict[str, Any]], gapwatch: Gapwatch, tmp_path: Path, code: str, status: int, operation: str,
    said: str,
) -> None:  # fmt: skip
    rules = f"rules: [{{service: s3, operation: {operation}, error: {{code: {code}, status: {status}}}}}]"
    with Microburst(roto.url, rules, tmp_path) as burst:
        ran = gapwatch(*arguments(burst.url))
    assert ran.code == 2, ran.stderr
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert f"s3:{operation}" in ran.stderr


def test_what_is_not_there_is_bad_input(roto: Roto, gapwatch: Gapwatch) -> None:
    ran = gapwatch("backfill", "s3://no-such-bucket", "--from", DAYS[0], "--endpoint-url", roto.url)
    assert (ran.code, "s3:ListObjectsV2 on s3://no-such-bucket: there is none" in ran.stderr) == (2, True), ran.stderr
    ran = gapwatch(*arguments(roto.url, prefix="elsewhere/"))
    assert (ran.code, "no log files from 2026-11-23 to 2026-11-25" in ran.stderr) == (2, True), ran.stderr
    ran = gapwatch("backfill", f"s3://{BUCKET}", "--from", DAYS[1], "--to", DAYS[0])
    assert (ran.code, "--to 2026-11-23 is before --from 2026-11-24" in ran.stderr) == (2, True), ran.stderr


def test_an_endpoint_that_is_away_is_a_failure_on_the_way(gapwatch: Gapwatch, roto: Roto) -> None:
    ran = gapwatch(*arguments("http://127.0.0.1:9"))
    assert ran.code == 3
    assert "cannot reach AWS" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("url", ["s3:/b", "bucket", "s3://B_AD/x", "https://b/x", "s3://"])
def test_what_is_no_place_in_s3(url: str) -> None:
    with pytest.raises(SourceError, match="write it as s3://BUCKET"):
        read_url(url)


def test_a_prefix_gets_its_slash() -> None:
    assert read_url("s3://bucket") == read_url("s3://bucket/") == ("bucket", "")
    assert read_url("s3://bucket/a/b") == read_url("s3://bucket/a/b/") == ("bucket", "a/b/")
