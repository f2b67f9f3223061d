"""`gapwatch run` as a process: it follows files as they grow, tells the gap, and comes back from everything."""

import gzip
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest
import redis
from building import ACCOUNT, ROLE, build_details, build_record, write_json, write_lines
from conftest import Gapwatch, start_gapwatch
from prometheus_client.parser import text_string_to_metric_families

from processor.shell.embedded import EmbeddedRedis, start_redis

STOP_SECONDS_MAX = 5
SEEN_SECONDS_MAX = 2.5
START_SECONDS_MAX = 60
PATIENCE_SECONDS = 30
USED = {"principal": ROLE, "window": "7d", "verdict": "used"}
FAST = "[run]\nflush_seconds = 0.05\npoll_seconds = 0.1\nport = 0\n"

Values = dict[str, float]


class Running:
    """A gapwatch that runs: its URL, what it says, its metrics."""

    def __init__(self, *args: object) -> None:
        self.process = self.start(*args)
        self.lines: list[str] = []
        self.url = ""
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()
        wait_for(lambda: bool(self.url) or self.process.poll() is not None, START_SECONDS_MAX)

    def start(self, *args: object) -> subprocess.Popen[bytes]:
        return start_gapwatch("run", *args, stdin=subprocess.DEVNULL)

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.decode().rstrip("\n"))
            if found := re.search(r"serving (http\S+)/metrics", self.lines[-1]):
                self.url = found[1]

    @property
    def said(self) -> str:
        self._listening.join(1 if self.process.poll() is None else 5)
        return "\n".join(self.lines)

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page; 0 where nobody answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:  # noqa: S310 - our own http URL
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def read(self, name: str, **labels: str) -> Values:
        """A metric's values by the labels that are not asked for."""
        found: Values = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    rest = [value for key, value in sample.labels.items() if key not in labels]
                    found[",".join(rest)] = sample.value
        return found

    def classes(self) -> dict[str, int]:
        """Records by class, without those that none was of."""
        return {name: int(count) for name, count in self.read("gapwatch_records_total").items() if count}

    def wait_ready(self) -> None:
        wait_for(lambda: self.get("/readyz")[0] == 200, START_SECONDS_MAX)

    def wait_classes(self, seconds: float = SEEN_SECONDS_MAX, **expected: int) -> None:
        try:
            wait_for(lambda: self.classes() == expected, seconds)
        except AssertionError:
            raise AssertionError(f"{self.classes()} after {seconds} s, not {expected}; {self.said}") from None

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(STOP_SECONDS_MAX)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._listening.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds; fail when it does not within some seconds, or `PATIENCE_SECONDS`: a machine that is busy
    with something else makes no test fail."""
    end = time.monotonic() + max(seconds, PATIENCE_SECONDS)
    while not condition():
        assert time.monotonic() < end, f"not so within {max(seconds, PATIENCE_SECONDS)} s"
        time.sleep(0.05)


@pytest.fixture
def fast(tmp_path: Path) -> Path:
    """Settings that look at files often."""
    path = tmp_path / "fast.toml"
    path.write_text(FAST)
    return path


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    names = ("ec2:DescribeInstances", "ec2:RunInstances", "s3:CreateBucket", "s3:GetObject", "iam:CreateAccessKey")
    return write_json(tmp_path / "iam.json", build_details(names))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


@pytest.fixture
def plain_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that is nobody's in particular."""
    found = start_redis(tmp_path / "redis")
    yield found
    with suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGCONT)
    found.stop()


NOW = int(time.time())


def make_record(number: int, **changes: Any) -> dict[str, Any]:
    """A call of a minute ago; `number` is its id."""
    return build_record(number, NOW - 60, **changes)


def add_lines(path: Path, records: list[dict[str, Any]]) -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records))


def write_log(path: Path, records: list[dict[str, Any]]) -> Path:
    """A log file as CloudTrail puts it into S3."""
    path.write_bytes(gzip.compress(json.dumps({"Records": records}).encode()))
    return path


def read_report(gapwatch: Gapwatch, *place: object) -> Any:
    ran = gapwatch("report", "--format", "json", *place)
    assert ran.code == 0, ran.stderr
    return ran.json


def count_uses(report: Any) -> dict[str, int]:
    return {action: cell["count"] for principal in report["principals"] for action, cell in principal["usage"].items()}


def find_servers(folder: Path) -> list[int]:
    """redis-servers that work below a folder, by their working folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder) in str((process / "cwd").readlink()) and b"redis" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


# --- following --------------------------------------------------------------------------------------------------------


def test_a_file_of_lines_is_followed_as_it_grows(logs: Path, fast: Path, inventory: Path) -> None:
    trail = write_lines(logs / "trail.ndjson", [make_record(1)])
    with Running("--source", trail, "--config", fast, "--inventory", inventory) as running:
        running.wait_ready()
        running.wait_classes(use=1)
        assert running.get("/healthz") == (200, "ok\n")
        assert running.read("gapwatch_gap_grants", **USED) == {ACCOUNT: 1}
        # A use is told within two seconds of its line.
        add_lines(trail, [make_record(2, eventName="RunInstances")])
        wait_for(lambda: running.read("gapwatch_gap_grants", **USED) == {ACCOUNT: 2}, SEEN_SECONDS_MAX)
        # Half a line is no line, however it is cut.
        whole = json.dumps(make_record(3, eventSource="s3.amazonaws.com", eventName="CreateBucket", userAgent="ä"))
        raw = whole.replace("\\u00e4", "ä").encode() + b"\n"
        cut = raw.index("ä".encode()) + 1
        for part in (raw[:40], raw[40:cut], raw[cut:-1]):
            with trail.open("ab") as file:
                file.write(part)
            time.sleep(0.3)
            assert running.classes() == {"use": 2}
        with trail.open("ab") as file:
            file.write(raw[-1:])
        running.wait_classes(use=3)
        add_lines(trail, [make_record(2, eventName="RunInstances"), make_record(4, errorCode="AccessDenied")])
        running.wait_classes(use=3, duplicate=1, denied=1)
        assert running.stop() == 0
        assert "Traceback" not in running.said


def test_new_files_in_a_folder_are_read_when_they_are_whole(logs: Path, fast: Path) -> None:
    with Running("--source", logs, "--config", fast) as running:
        running.wait_ready()
        write_log(logs / "one.json.gz", [make_record(1), make_record(2)])
        running.wait_classes(use=2)
        (logs / "deeper" / "down").mkdir(parents=True)
        write_log(logs / "deeper" / "down" / "two.json.gz", [make_record(3)])
        (logs / "plain.json").write_text(json.dumps({"Records": [make_record(4)]}, indent=1))
        (logs / "notes.txt").write_text("no log")
        running.wait_classes(use=4)
        # A file that is still being written is not taken for a damaged one.
        zipped = gzip.compress(json.dumps({"Records": [make_record(number) for number in range(5, 405)]}).encode())
        with (logs / "slow.json.gz").open("wb") as file:
            for at in range(0, len(zipped), 1 + len(zipped) // 12):
                file.write(zipped[at : at + 1 + len(zipped) // 12])
                file.flush()
                time.sleep(0.05)
        running.wait_classes(use=404)
        assert running.stop() == 0


def test_a_rotated_file_and_the_new_one_are_read_once(logs: Path, fast: Path) -> None:
    trail = write_lines(logs / "trail.ndjson", [make_record(number) for number in range(1, 4)])
    with Running("--source", logs, "--config", fast) as running:
        running.wait_ready()
        running.wait_classes(use=3)
        add_lines(trail, [make_record(4)])
        trail.rename(logs / "trail.1.ndjson")
        write_lines(trail, [make_record(5), make_record(6)])
        running.wait_classes(use=6)
        (logs / "trail.1.ndjson").rename(logs / "trail.2.ndjson")
        trail.rename(logs / "trail.1.ndjson")
        write_lines(trail, [make_record(7)])
        running.wait_classes(use=7)
        # Cut off and written anew, as copytruncate does.
        trail.write_text("")
        time.sleep(0.4)
        add_lines(trail, [make_record(8), make_record(9)])
        running.wait_classes(use=9)
        assert running.stop() == 0


def test_a_record_from_the_future_is_rejected(logs: Path, fast: Path) -> None:
    trail = write_lines(logs / "trail.ndjson", [make_record(1)])
    with Running("--source", trail, "--config", fast) as running:
        running.wait_ready()
        ahead = [build_record(2, int(time.time()) + 14 * 60), build_record(3, int(time.time()) + 16 * 60)]
        add_lines(trail, ahead)
        running.wait_classes(use=2, rejected=1)
        assert running.read("gapwatch_rejected_total") == {"future": 1}
        assert running.read("gapwatch_as_of_timestamp_seconds")[""] <= time.time() + 1
        assert running.stop() == 0


def test_coverage_begins_with_the_first_record(logs: Path, fast: Path, inventory: Path) -> None:
    """
       first record                       now
    -----x-------------------------(--------]---> 7 d: unused
      (----------------------------------------]  30 d: unproven
    """
    trail = write_lines(logs / "trail.ndjson", [])
    with Running("--source", trail, "--config", fast, "--inventory", inventory) as running:
        running.wait_ready()
        place = {"principal": ROLE, "account": ACCOUNT}
        nothing = {"7d": 4, "30d": 4, "90d": 4}
        wait_for(lambda: running.read("gapwatch_gap_grants", verdict="unproven", **place) == nothing, SEEN_SECONDS_MAX)
        add_lines(trail, [build_record(1, NOW - 20 * 86_400)])
        wait_for(
            lambda: running.read("gapwatch_gap_grants", verdict="unused", **place) == {"7d": 4, "30d": 0, "90d": 0},
            SEEN_SECONDS_MAX,
        )
        assert running.read("gapwatch_gap_grants", verdict="used", **place) == {"7d": 0, "30d": 1, "90d": 1}
        assert running.stop() == 0


# --- starting again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restart_neither_loses_nor_doubles(
    logs: Path, fast: Path, tmp_path: Path, gapwatch: Gapwatch, how: str
) -> None:
    state = tmp_path / "state"
    trail = write_lines(logs / "trail.ndjson", [make_record(number) for number in range(1, 11)])
    write_log(logs / "one.json.gz", [make_record(number) for number in range(100, 110)])
    for start in range(3):
        with Running("--source", logs, "--config", fast, "--state", state) as running:
            running.wait_ready()
            running.wait_classes(use=20 + 2 * start, seconds=START_SECONDS_MAX)
            add_lines(trail, [make_record(1_000 + 2 * start), make_record(1_001 + 2 * start)])
            running.wait_classes(use=22 + 2 * start)
            if how == "stop":
                assert running.stop() == 0
            else:
                time.sleep(0.5)
                running.kill()
    wait_for(lambda: find_servers(state) == [], 5)
    report = read_report(gapwatch, "--state", state)
    assert report["records"]["read"] == report["records"]["use"] == 26
    assert count_uses(report) == {"ec2:DescribeInstances": 26}


def test_killed_at_any_moment_it_ends_in_the_same_numbers(
    logs: Path, fast: Path, tmp_path: Path, gapwatch: Gapwatch
) -> None:
    state = tmp_path / "state"
    trail = write_lines(logs / "trail.ndjson", [])
    written = 0
    for pause in (0.6, 0.9, 1.3):
        with Running("--source", logs, "--config", fast, "--state", state) as running:
            end = time.monotonic() + pause
            while time.monotonic() < end:
                add_lines(trail, [make_record(written + at) for at in range(200)])
                written += 200
                time.sleep(0.02)
            running.kill()
    with Running("--source", logs, "--config", fast, "--state", state) as running:
        wait_for(lambda: sum(running.classes().values()) >= written, START_SECONDS_MAX)
        assert running.stop() == 0
    report = read_report(gapwatch, "--state", state)
    assert count_uses(report) == {"ec2:DescribeInstances": written}
    assert report["records"]["use"] == report["records"]["read"] == written


def test_sigterm_ends_it_and_its_redis(logs: Path, fast: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with Running("--source", logs, "--config", fast, "--state", state) as running:
        running.wait_ready()
        assert len(find_servers(state)) == 1
        begin = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - begin < STOP_SECONDS_MAX
        assert find_servers(state) == []
        assert "Traceback" not in running.said


# --- Redis and others --------------------------------------------------------------------------------------------------


def test_a_standby_takes_over_from_one_that_was_killed(
    logs: Path, fast: Path, plain_redis: EmbeddedRedis, gapwatch: Gapwatch
) -> None:
    trail = write_lines(logs / "trail.ndjson", [make_record(1), make_record(2)])
    args = ("--source", logs, "--config", fast, "--redis", plain_redis.url)
    with Running(*args) as first:
        first.wait_ready()
        first.wait_classes(use=2)
        with Running(*args) as second:
            time.sleep(1)
            status, why = second.get("/readyz")
            assert (status, second.get("/healthz")[0]) == (503, 200)
            assert "standby" in why
            first.kill()
            add_lines(trail, [make_record(3)])
            second.wait_ready()
            second.wait_classes(use=3)
            assert second.stop() == 0
    assert count_uses(read_report(gapwatch, "--redis", plain_redis.url)) == {"ec2:DescribeInstances": 3}


def test_a_standby_can_be_stopped(logs: Path, fast: Path, plain_redis: EmbeddedRedis) -> None:
    args = ("--source", logs, "--config", fast, "--redis", plain_redis.url)
    with Running(*args) as first:
        first.wait_ready()
        with Running(*args) as second:
            wait_for(lambda: "standby" in second.get("/readyz")[1], 5)
            assert second.stop() == 0
        assert first.get("/readyz")[0] == 200
        assert first.stop() == 0


def test_a_store_that_was_emptied_is_filled_again(logs: Path, fast: Path, plain_redis: EmbeddedRedis) -> None:
    trail = write_lines(logs / "trail.ndjson", [make_record(number) for number in range(5)])
    with Running("--source", logs, "--config", fast, "--redis", plain_redis.url) as running:
        running.wait_ready()
        running.wait_classes(use=5)
        with redis.Redis.from_url(plain_redis.url) as client:
            client.flushall()
        add_lines(trail, [make_record(7)])
        running.wait_classes(use=6, seconds=10)
        assert "came back older" in running.said
        assert running.stop() == 0


def test_a_redis_that_is_frozen_holds_nothing_up_for_good(logs: Path, fast: Path, plain_redis: EmbeddedRedis) -> None:
    trail = write_lines(logs / "trail.ndjson", [make_record(1)])
    with Running("--source", logs, "--config", fast, "--redis", plain_redis.url) as running:
        running.wait_ready()
        running.wait_classes(use=1)
        os.kill(plain_redis.pid, signal.SIGSTOP)
        add_lines(trail, [make_record(2)])
        time.sleep(1)
        assert running.get("/healthz")[0] == 200
        os.kill(plain_redis.pid, signal.SIGCONT)
        running.wait_classes(use=2)
        os.kill(plain_redis.pid, signal.SIGSTOP)
        add_lines(trail, [make_record(3)])
        time.sleep(1)
        running.process.terminate()
        assert running.process.wait(STOP_SECONDS_MAX) == 0


def test_a_redis_that_is_gone_does_not_keep_it_from_ending(logs: Path, fast: Path, tmp_path: Path) -> None:
    other = start_redis(tmp_path / "other")
    with Running("--source", logs, "--config", fast, "--redis", other.url) as running:
        running.wait_ready()
        other.stop()
        wait_for(lambda: "waiting for Redis" in "".join(running.lines), 5)
        assert running.get("/metrics")[0] == 200
        assert running.read("gapwatch_store_waiting") == {"": 1}
        running.process.terminate()
        assert running.process.wait(STOP_SECONDS_MAX) == 0
    with Running("--source", logs, "--config", fast, "--redis", other.url) as running:
        wait_for(lambda: "waiting for Redis" in "".join(running.lines), 5)
        running.process.terminate()
        assert running.process.wait(STOP_SECONDS_MAX) == 0


# --- what must not go on -----------------------------------------------------------------------------------------------


def test_too_many_rejects_stop_it(logs: Path, fast: Path) -> None:
    trail = write_lines(logs / "trail.ndjson", [make_record(1)])
    with trail.open("a") as file:
        file.write('{"not": "CloudTrail"}\n' * 12_000)
    with Running("--source", trail, "--config", fast) as running:
        assert running.process.wait(START_SECONDS_MAX) == 3
        assert re.search(r"rejected, more than reject_ratio_max allows: is this CloudTrail", running.said)
        assert "Traceback" not in running.said


def test_a_source_that_is_not_there_is_bad_input(tmp_path: Path, fast: Path, gapwatch: Gapwatch) -> None:
    ran = gapwatch("run", "--source", tmp_path / "nowhere", "--config", fast)
    assert ran.code == 2
    assert "nowhere: no such file or folder" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_port_that_is_taken_is_bad_input(logs: Path, fast: Path, gapwatch: Gapwatch) -> None:
    with Running("--source", logs, "--config", fast) as running:
        running.wait_ready()
        port = running.url.rpartition(":")[2]
        ran = gapwatch("run", "--source", logs, "--port", port)
        assert ran.code == 2
        assert f"cannot listen on 127.0.0.1:{port}" in ran.stderr
        assert running.stop() == 0


# --- after a replay ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["one.json.gz", "trail.ndjson"])
def test_run_goes_on_where_a_replay_ended(
    logs: Path, fast: Path, tmp_path: Path, gapwatch: Gapwatch, name: str
) -> None:
    """History by `replay`, then `run` on the same folder and store: nothing twice."""
    state = tmp_path / "state"
    records = [make_record(number) for number in range(20)]
    path = write_lines(logs / name, records) if name.endswith("ndjson") else write_log(logs / name, records)
    assert gapwatch("replay", "--state", state, path).code == 0
    with Running("--source", logs, "--config", fast, "--state", state) as running:
        running.wait_ready()
        write_log(logs / "two.json.gz", [make_record(99)])
        wait_for(lambda: running.classes().get("use") == 21, 5)
        assert running.stop() == 0, running.said
    assert count_uses(read_report(gapwatch, "--state", state)) == {"ec2:DescribeInstances": 21}


def test_a_replay_goes_on_where_a_run_ended(logs: Path, fast: Path, tmp_path: Path, gapwatch: Gapwatch) -> None:
    state = tmp_path / "state"
    path = write_log(logs / "one.json.gz", [make_record(number) for number in range(20)])
    with Running("--source", logs, "--config", fast, "--state", state) as running:
        running.wait_classes(use=20, seconds=START_SECONDS_MAX)
        assert running.stop() == 0
    more = write_log(tmp_path / "two.json.gz", [make_record(number) for number in range(15, 25)])
    ran = gapwatch("replay", "--state", state, "--format", "json", path, more)
    assert ran.code == 0, ran.stderr
    assert count_uses(ran.json) == {"ec2:DescribeInstances": 25}
