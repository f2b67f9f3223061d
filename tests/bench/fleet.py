"""Kafka mode measured: each side alone on preloaded data, how ledgers share and take over, and how late a metric is.

    python -m tests.bench.fleet [--corpus DIR] [--small] [--only sides|sharing|latency]

Rates are records a CPU second, the Redis server's included, less what an empty run of the same process takes; ratios are against
the embedded pipeline over the same files in the same run. The clock's figures are of this machine, as loaded as it was.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.__main__ import RECORDS, RECORDS_SMALL, ROOT, make_corpus, run_hop
from tests.bench.measure import print_table, read_cpu_seconds

sys.path.insert(0, str(ROOT / "tests"))

from building import build_record
from fleet import Fleet, Member

WAIT_SECONDS_MAX = 600.0
RATE = 5_000
LATENCY_SECONDS = 20


LOOK_SECONDS = 2.0
"""How often a side is asked whether it is done: each answer is work of the side that is measured."""


def wait_for(state: Callable[[], bool], what: str, every: float = 0.02) -> float:
    """Seconds until something is so, which is looked at again and again. Ends the program where it never is."""
    began = time.monotonic()
    while not state():
        if time.monotonic() - began > WAIT_SECONDS_MAX:
            sys.exit(f"never so: {what}")
        time.sleep(every)
    return time.monotonic() - began


def count_shards(members: list[Member]) -> list[int]:
    return [int(member.read_metrics().get("gapwatch_shards", 0)) for member in members]


def count_lag(members: list[Member]) -> float:
    found = [member.read_metrics() for member in members]
    if sum(each.get("gapwatch_shards", 0) for each in found) != 64:
        return 1e9
    return sum(each.get("gapwatch_log_lag_messages", 1e9) for each in found)


def link_files(corpus: Path, source: Path) -> None:
    for number, path in enumerate(sorted((corpus / "AWSLogs").rglob("*.json.gz"), key=lambda path: path.name)):
        os.link(path, source / f"{number:05d}-{path.name}")


def read_fleet_cpu(fleet: Fleet, member: Member) -> float:
    return read_cpu_seconds(member.pid) + read_cpu_seconds(fleet.redis.pid)


def measure_side(fleet: Fleet, side: str, is_done: Callable[[Member], bool]) -> float:
    """CPU seconds of one member, and of Redis meanwhile, from its start until it is done."""
    before = read_cpu_seconds(fleet.redis.pid)
    member = fleet.add(side)
    wait_for(lambda: is_done(member), f"{side} is done", LOOK_SECONDS)
    cost = read_fleet_cpu(fleet, member) - before
    member.stop()
    fleet.members.remove(member)
    return cost


def is_sent(member: Member) -> bool:
    return member.read_metrics().get("gapwatch_as_of_timestamp_seconds", 0) > 0


def is_applied(member: Member) -> bool:
    # What is applied last is flushed within a second.
    return count_lag([member]) == 0 and member.read_metrics().get("gapwatch_as_of_timestamp_seconds", 0) > 0


def show_sides(corpus: Path, records: int) -> None:
    """The intake and the ledger, each alone, against the embedded pipeline."""
    embedded = run_hop("s3", corpus)
    embedded_cost = embedded["cpu_seconds"] / embedded["records"]
    inventories = sorted(corpus.glob("inventory-*.json"))
    with tempfile.TemporaryDirectory(dir=corpus.parent) as made:
        with Fleet(Path(made) / "empty", inventories) as fleet:
            idle = {
                side: measure_side(fleet, side, done) for side, done in (("intake", is_sent), ("ledger", is_applied))
            }
        with Fleet(Path(made) / "full", inventories) as fleet:
            link_files(corpus, fleet.source)
            costs = {
                side: measure_side(fleet, side, done) for side, done in (("intake", is_sent), ("ledger", is_applied))
            }
    rows = [("embedded, S3 files to gap", f"{1 / embedded_cost:,.0f}", "", "")]
    for side, cost in costs.items():
        each = (cost - idle[side]) / records
        rows.append((side, f"{1 / each:,.0f}", f"{embedded_cost / each:.2f}", "0.6"))
    print_table("Each side alone", ("side", "records a CPU second", "to embedded", "at least"), rows)


def show_sharing(corpus: Path) -> None:
    """How three ledgers share 64 shards, and how long it takes when one leaves, is killed, or joins."""
    with tempfile.TemporaryDirectory(dir=corpus.parent) as made, Fleet(Path(made) / "fleet", []) as fleet:
        link_files(corpus, fleet.source)
        ledgers = [fleet.add("ledger") for _ in range(3)]
        fleet.add("intake")
        wait_for(lambda: sum(count_shards(ledgers)) == 64 and min(count_shards(ledgers)) > 0, "three share")
        fleet.wait_until_drained()
        rows = [("three ledgers have", " + ".join(map(str, count_shards(ledgers))), "even")]
        left = ledgers.pop()
        left.stop()
        fleet.members.remove(left)
        rows.append(
            ("one leaves: all served again after", f"{wait_for(lambda: count_lag(ledgers) == 0, 'left'):.1f} s", "15 s")
        )
        ledgers.append(fleet.add("ledger"))
        took = wait_for(lambda: sum(count_shards(ledgers)) == 64 and min(count_shards(ledgers)) > 0, "joined")
        rows.append(("one joins: all served again after, its start included", f"{took:.1f} s", "15 s"))
        killed = ledgers.pop(0)
        killed.end(signal.SIGKILL)
        fleet.members.remove(killed)
        rows.append(
            (
                "one is killed -9: all served again after",
                f"{wait_for(lambda: count_lag(ledgers) == 0, 'killed'):.1f} s",
                "15 s",
            )
        )
    print_table("Sharing", ("what", "seen", "at most"), rows)


def show_latency(corpus: Path) -> None:
    """From a record's line to its count in a ledger's metrics, at RATE records a second."""
    with tempfile.TemporaryDirectory(dir=corpus.parent) as made, Fleet(Path(made) / "fleet", []) as fleet:
        ledgers = [fleet.add("ledger"), fleet.add("ledger")]
        fleet.add("intake")
        wait_for(lambda: count_lag(ledgers) == 0, "ledgers are ready")
        late: list[float] = []
        written: list[tuple[int, float]] = []
        ended = threading.Event()

        def write() -> None:
            began = time.monotonic()
            number = 0
            with (fleet.source / "growing.ndjson").open("ab", buffering=0) as file:
                while time.monotonic() - began < LATENCY_SECONDS:
                    due = int((time.monotonic() - began) * RATE) - number
                    now = int(time.time())
                    lines = [json.dumps(build_record(number + each, now)).encode() + b"\n" for each in range(due)]
                    file.write(b"".join(lines))
                    number += due
                    written.append((number, time.monotonic()))
                    time.sleep(0.02)
            ended.set()

        threading.Thread(target=write, daemon=True).start()
        at = 0
        while not ended.is_set() or at < len(written):
            seen = sum(member.read_labelled("gapwatch_records_total", "use") for member in ledgers)
            now = time.monotonic()
            while at < len(written) and written[at][0] <= seen:
                late.append(now - written[at][1])
                at += 1
            time.sleep(0.02)
    cuts = statistics.quantiles(late, n=100)
    rows = [("median", f"{cuts[49]:.2f}", ""), ("99 of 100", f"{cuts[98]:.2f}", "1"), ("worst", f"{max(late):.2f}", "")]
    print_table(f"Record to metric at {RATE:,} records a second, seconds", ("part", "seen", "at most"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"{RECORDS_SMALL:,} records instead of {RECORDS:,}")
    parser.add_argument("--corpus", type=Path, help="where the corpus is, or is made; default: .bench/ in the project")
    parser.add_argument("--only", choices=("sides", "sharing", "latency"))
    options = parser.parse_args()
    records = RECORDS_SMALL if options.small else RECORDS
    corpus: Path = options.corpus or ROOT / ".bench" / str(records)
    make_corpus(corpus, records)
    parts: dict[str, Callable[[], None]] = {
        "sides": lambda: show_sides(corpus, records),
        "sharing": lambda: show_sharing(corpus),
        "latency": lambda: show_latency(corpus),
    }
    for name, show in parts.items():
        if options.only in (None, name):
            show()


if __name__ == "__main__":
    main()
