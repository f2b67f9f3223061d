"""The benchmark: one command, ratios from one run.

    python -m tests.bench [--small] [--corpus DIR] [--rounds N] [--only NAME]

Makes the corpus where it is missing (1,000,000 records, `--small`: 60,000), then measures gapwatch's hops and peers in
turn, in CPU seconds (the Redis server's too), each run in a process of its own. Prints medians with what lay around them.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tests.bench.measure import compare_rounds, print_table, summarise
from tests.bench.peers import PLAIN, run_peer
from tests.bench.scrape import PRINCIPALS, show_scrapes

ROOT = Path(__file__).resolve().parents[2]
RECORDS, RECORDS_SMALL = 1_000_000, 60_000

GOALS = (
    ("S3 files to gap in Redis : DuckDB json_transform, plain", "duckdb plain", "s3", 1.5, 2.0),
    ("S3 files to gap in Redis : DuckDB, its fastest form", "duckdb", "s3", 1.5, 2.0),
    ("S3 files to gap in Redis : gzip + json", "gzip-json", "s3", 3.0, 4.0),
    ("gapwatch replay, whole process : DuckDB, plain", "duckdb plain whole", "replay", 1.3, 1.5),
    ("gapwatch replay, whole process : DuckDB, its fastest form", "duckdb whole", "replay", 1.3, 1.5),
)


def run_hop(hop: str, corpus: Path, *more: str) -> dict[str, Any]:
    """One measured run of tests/bench/hops.py in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.hops", hop, str(corpus), *more]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if found.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{found.stderr.decode(errors='replace')}")
    decoded: dict[str, Any] = msgspec.json.decode(found.stdout)
    return decoded


def make_corpus(corpus: Path, records: int) -> None:
    if (corpus / "manifest.json").exists():
        return
    print(f"making a corpus of {records:,} records in {corpus}", flush=True)
    subprocess.run(
        [sys.executable, "-m", "tests.bench.corpus", "--records", str(records), "--out", str(corpus)],
        cwd=ROOT,
        check=True,
    )


def show_ratios(corpus: Path, rounds: int) -> None:
    """gapwatch and its peers in turn over the same files."""
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "duckdb": lambda: run_peer("duckdb", corpus),
        "duckdb plain": lambda: run_peer("duckdb", corpus, form=PLAIN),
        "s3": lambda: run_hop("s3", corpus),
        "gzip-json": lambda: run_peer("gzip-json", corpus),
        "replay": lambda: run_hop("replay", corpus),
        "s3, as many as framed": lambda: run_hop("s3-framed", corpus),
        "eventbridge": lambda: run_hop("eventbridge", corpus),
        "cloudwatch-logs": lambda: run_hop("cloudwatch-logs", corpus),
    }
    cost: dict[str, list[float]] = {name: [] for name in (*runs, "duckdb whole", "duckdb plain whole")}
    for at in range(rounds):
        for name, run in runs.items():
            found = run()
            print(f"round {at + 1} {name}: {found}", file=sys.stderr, flush=True)
            start = found.get("start_cpu_seconds", 0.0)
            cost[name].append((found["cpu_seconds"] - start) / found["records"])
            if name.startswith("duckdb"):
                cost[f"{name} whole"].append(found["cpu_seconds"] / found["records"])
    rates = [(name, summarise(1 / each for each in costs).show(0)) for name, costs in cost.items()]
    print_table("Records a CPU second", ("run", "median [lowest .. highest]"), rates)
    rows = [
        (title, compare_rounds(cost[slow], cost[fast]).show(), f"{least}", f"{goal}")
        for title, slow, fast, least, goal in GOALS
    ]
    rows += [
        (
            "EventBridge payloads : S3",
            compare_rounds(cost["s3, as many as framed"], cost["eventbridge"]).show(),
            "1.1",
            "",
        ),
        (
            "CloudWatch Logs batches : S3",
            compare_rounds(cost["s3, as many as framed"], cost["cloudwatch-logs"]).show(),
            "0.6",
            "",
        ),
    ]
    print_table("Ratios, round by round", ("rate of one to rate of the other", "ratio", "at least", "goal"), rows)


def show_steady(corpus: Path) -> None:
    """Rate and memory by tenths of the run, and two processes against one."""
    found = run_hop("tenths", corpus)
    rows = [
        (str(at), f"{rate:,.0f}", f"{memory / 1e6:,.1f}")
        for at, (rate, memory) in enumerate(zip(found["rates"], found["memory"], strict=True), 1)
    ]
    print_table("By tenths of the run", ("tenth", "records a CPU second", "anonymous memory, MB"), rows)
    rows = [
        ("gapwatch", f"{compare_two(corpus, 'one', 'two'):.2f}", "1.7"),
        ("unzipping alone, which shares nothing", f"{compare_two(corpus, 'unzip', 'unzip-two'):.2f}", ""),
    ]
    print_table("Two processes on two halves", ("of what", "ratio of rates by the clock", "at least"), rows)


def compare_two(corpus: Path, one: str, two: str) -> float:
    """How much faster two processes at once are than one. What shares nothing tells what the machine's cores have to give."""
    alone, both = run_hop(one, corpus), run_hop(two, corpus)
    return (both["records"] / both["wall_seconds"]) / (alone["records"] / alone["wall_seconds"])


def show_sizes(corpus: Path) -> None:
    """What the store takes, how fast it is loaded, and one gap."""
    found = run_hop("store", corpus)
    rows = [(name, f"{value:,.1f}") for name, value in found.items() if name not in ("records", "cpu_seconds")]
    print_table("The store, a restart and one gap", ("figure", "value"), rows)


def show_page() -> None:
    """What the page's answers take over 10,000 principals, and for how long they hold up the event loop."""
    subprocess.run([sys.executable, "-m", "tests.bench.page"], cwd=ROOT, check=True)


def show_turns(principals: int) -> None:
    """For how long the loop of a whole run stands still, while it is read, scraped and looked at."""
    command = [sys.executable, "-m", "tests.bench.turns", "--principals", str(principals), "--seconds", "12"]
    subprocess.run(command, cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"{RECORDS_SMALL:,} records instead of {RECORDS:,}")
    parser.add_argument("--corpus", type=Path, help="where the corpus is, or is made; default: .bench/ in the project")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("ratios", "steady", "sizes", "page", "scrapes", "turns"))
    options = parser.parse_args()
    # An installed program has its bytecode; made anew, it is a sixth of a second of each start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    records = RECORDS_SMALL if options.small else RECORDS
    corpus: Path = options.corpus or ROOT / ".bench" / str(records)
    if options.only != "page":  # It makes up its own principals, and reads no log.
        make_corpus(corpus, records)
    parts: dict[str, Callable[[], None]] = {
        "ratios": lambda: show_ratios(corpus, options.rounds),
        "steady": lambda: show_steady(corpus),
        "sizes": lambda: show_sizes(corpus),
        "page": show_page,
        "scrapes": lambda: show_scrapes(PRINCIPALS // 10 if options.small else PRINCIPALS),
        "turns": lambda: show_turns(PRINCIPALS // 10 if options.small else PRINCIPALS),
    }
    for name, show in parts.items():
        if options.only in (None, name):
            show()


if __name__ == "__main__":
    main()
