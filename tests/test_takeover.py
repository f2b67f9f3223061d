"""A standby takes over from an active process that it cannot see as a dead one: on another host, killed or frozen."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from building import build_record
from conftest import Gapwatch, build_environment
from test_run import Running, add_lines, fast, logs, plain_redis, read_report, wait_for

from processor.shell.embedded import EmbeddedRedis

__all__ = ["fast", "logs", "plain_redis"]

TAKEOVER_SECONDS_MAX = 15.0
FROZEN_SECONDS = 20.0
NOW = int(time.time())

ELSEWHERE = """
import sys
import processor.shell.owners as owners
host = sys.argv.pop(1)
owners.name_host = lambda: host
from processor.__main__ import main
main()
"""


class RunningElsewhere(Running):
    """A `gapwatch run` whose host is another one, by its name: nobody here looks among its processes."""

    def __init__(self, host: str, *args: object) -> None:
        self._host = host
        super().__init__(*args)

    def start(self, *args: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE, self._host, "run", *map(str, args)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=build_environment(),
        )  # fmt: skip


class Writer(threading.Thread):
    """Adds lines to a trail until it is stopped; `records` are those that it has added."""

    def __init__(self, trail: Path) -> None:
        super().__init__(daemon=True)
        self.records: list[dict[str, Any]] = []
        self._trail = trail
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(0.05):
            first = len(self.records)
            more = [build_record(first + at, NOW - 60 + first % 50) for at in range(20)]
            add_lines(self._trail, more)
            self.records += more

    def stop(self) -> int:
        self._stopping.set()
        self.join()
        return len(self.records)


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_standby_takes_over_from_another_host(
    logs: Path, fast: Path, plain_redis: EmbeddedRedis, gapwatch: Gapwatch, how: str
) -> None:
    trail = logs / "trail.ndjson"
    trail.touch()
    args = ("--source", logs, "--config", fast, "--redis", plain_redis.url)
    with RunningElsewhere("host-a/1", *args) as first:
        first.wait_ready()
        with RunningElsewhere("host-b/1", *args) as second:
            wait_for(lambda: "standby" in second.get("/readyz")[1], 15)
            writer = Writer(trail)
            writer.start()
            wait_for(lambda: first.classes().get("use", 0) > 200, 10)
            began = time.monotonic()
            first.process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            wait_for(lambda: second.get("/readyz")[0] == 200, TAKEOVER_SECONDS_MAX)
            taken = time.monotonic() - began
            print(f"takeover from a {how} process of another host after {taken:.1f} s")
            if how == "frozen":
                time.sleep(max(0.0, began + FROZEN_SECONDS - time.monotonic()))
                first.process.send_signal(signal.SIGCONT)
                # Its first flush is refused: it drops what it holds and stands by.
                wait_for(lambda: "standby" in first.get("/readyz")[1], 15)
                assert "was taken by process" in "".join(first.lines)
            written = writer.stop()
            wait_for(lambda: second.classes().get("use", 0) >= written, 10)
            assert second.get("/readyz")[0] == 200
            assert second.stop() == 0, second.said
        if how == "frozen":
            assert first.stop() == 0, first.said
    assert taken < TAKEOVER_SECONDS_MAX
    report = read_report(gapwatch, "--redis", plain_redis.url)
    replayed = gapwatch("replay", "--format", "json", logs).json
    assert report["records"] == replayed["records"]
    assert report["records"]["use"] == report["records"]["read"] == written
    assert [each["usage"] for each in report["principals"]] == [each["usage"] for each in replayed["principals"]]
