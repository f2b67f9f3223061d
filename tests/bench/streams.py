"""The sources' benchmark: `python -m tests.bench.streams [--seconds N] [--backlog N]`. Kinesis is roto's, on the same machine.

    decode     GetRecords' answers from their bytes to payloads, and to the gap's state; records a CPU second of one core
    latency    an event put to Kinesis until the gap in /metrics has it, at 1,000 records a second, the poll at its default
    backlog    records that lie in the stream until they are applied while more arrive; rate and memory by tenths

The machine runs the producer and the server, too: the figures are those of all three.
"""

import argparse
import base64
import itertools
import json
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from aws_servers import Roto, aws_environment, make_stream, put_payloads, wrap_event, wrap_logs  # noqa: E402 - behind the path
from building import build_details, build_record, write_json  # noqa: E402 - as above
from test_kinesis import make_calls  # noqa: E402 - as above
from test_run import Running, wait_for  # noqa: E402 - as above

from processor.core.horizon import Horizon  # noqa: E402 - as above
from processor.core.sessions import Scope  # noqa: E402 - as above
from processor.opening import build_actions  # noqa: E402 - as above
from processor.pipeline import Pipeline  # noqa: E402 - as above
from processor.shell.get_records import decode_answer  # noqa: E402 - as above
from processor.shell.payloads import decode_all  # noqa: E402 - as above
from processor.shell.tables import load_catalogue  # noqa: E402 - as above
from tests.bench.measure import print_table, read_cpu_seconds, read_memory, summarise  # noqa: E402 - as above

ANSWER_RECORDS = 5_000
ROUNDS = 9
RATE = 1_000
BATCHES_SECOND = 10
BATCH_RECORDS = 200


def make_answer() -> bytes:
    """An answer as Kinesis writes it, of EventBridge events."""
    records = [
        {
            "ApproximateArrivalTimestamp": 1_795_000_000.123 + at,
            "Data": base64.b64encode(wrap_event(record)).decode(),
            "PartitionKey": f"key{at}",
            "SequenceNumber": f"4959033827149025660855969253836157109592157598913658{at:05}",
        }
        for at, record in enumerate(make_calls(ANSWER_RECORDS))
    ]
    return json.dumps({"MillisBehindLatest": 0, "NextShardIterator": "A" * 200, "Records": records}).encode()


def show_decode() -> None:
    """By rounds in turn, CPU of this process."""
    body = make_answer()
    actions = build_actions(load_catalogue())
    pipeline = Pipeline(actions, Scope(), {}, Horizon())
    rates: dict[str, list[float]] = {"answer to payloads": [], "payloads to rows": [], "rows to usage": []}
    for at in range(ROUNDS + 1):
        begun = time.process_time()
        answer = decode_answer(body)
        decoded_at = time.process_time()
        decoded = decode_all([record.payload for record in answer.records])
        rows_at = time.process_time()
        pipeline.feed(decoded)
        fed_at = time.process_time()
        if at:  # The first round compiles, and meets everything for the first time.
            for name, seconds in zip(rates, (decoded_at - begun, rows_at - decoded_at, fed_at - rows_at), strict=True):
                rates[name].append(ANSWER_RECORDS / seconds)
    size = len(body) / ANSWER_RECORDS
    rows = [(name, summarise(found).show(0)) for name, found in rates.items()]
    whole = [1 / sum(1 / rates[name][at] for name in rates) for at in range(ROUNDS)]
    rows.append(("all three", summarise(whole).show(0)))
    print_table(f"Records a CPU second, {size:,.0f} bytes a record in the answer", ("hop", "rate"), rows)


@contextmanager
def running(roto: Roto, stream: str, folder: Path, *more: object) -> Iterator[Running]:
    config = folder / "bench.toml"
    config.write_text("[run]\nport = 0\n")
    with Running("--kinesis", stream, "--endpoint-url", roto.url, "--config", config, *more) as found:
        found.wait_ready()
        yield found


def find_used(text: str) -> int:
    """The used grants of the one role, as /metrics tells them."""
    for line in text.splitlines():
        if line.startswith("gapwatch_gap_grants") and 'verdict="used"' in line and 'window="7d"' in line:
            return int(float(line.rpartition(" ")[2]))
    return 0


def show_latency(roto: Roto, folder: Path, seconds: int) -> None:
    """Ten batches a second; in each one event that is the first use of its action, so that the gap moves by one."""
    names = [name for name in load_catalogue().names if name.startswith("ec2:Describe")][: seconds * BATCHES_SECOND]
    inventory = write_json(folder / "iam.json", build_details(names))
    client = roto.client("kinesis")
    make_stream(client, "latency", 4)
    put_at: list[float] = []
    seen_at: list[float] = []
    with running(roto, "latency", folder, "--inventory", inventory) as found:

        def put() -> None:
            begun = time.monotonic()
            for at, name in enumerate(names):
                marker = build_record(10_000_000 + at, int(time.time()), eventName=name.partition(":")[2])
                size = RATE // BATCHES_SECOND - 1
                batch = [wrap_event(record) for record in make_calls(size, at * size)]
                time.sleep(max(0.0, begun + at / BATCHES_SECOND - time.monotonic()))
                put_at.append(time.monotonic())
                put_payloads(client, "latency", [*batch, wrap_event(marker)])

        producer = threading.Thread(target=put)
        producer.start()
        end = time.monotonic() + len(names) / BATCHES_SECOND + 15
        while len(seen_at) < len(names) and time.monotonic() < end:
            with urllib.request.urlopen(found.url + "/metrics", timeout=5) as page:  # noqa: S310 - our own http URL
                used = find_used(page.read().decode())
            seen_at += [time.monotonic()] * (used - len(seen_at))
            time.sleep(0.02)
        producer.join()
    took = sorted(seen - put for put, seen in zip(put_at, seen_at, strict=False))
    if len(took) < len(names):
        print(f"only {len(took)} of {len(names)} uses were seen", file=sys.stderr)
    rows = [
        (f"p{part}", f"{took[min(len(took) - 1, int(len(took) * part / 100))] * 1000:,.0f} ms") for part in (50, 99)
    ]
    print_table(f"Event in Kinesis to the gap in /metrics, {len(took)} of {RATE * seconds:,} records timed",
                ("", "latency"), [*rows, ("longest", f"{took[-1] * 1000:,.0f} ms")])  # fmt: skip


def wrap_batches(count: int, first: int) -> list[bytes]:
    return [wrap_logs(make_calls(BATCH_RECORDS, at)) for at in range(first, first + count, BATCH_RECORDS)]


def show_backlog(roto: Roto, folder: Path, backlog: int) -> None:
    """CloudWatch Logs batches that lie in 16 shards, while a tenth as many arrive. (The server gives out some 6,000 records of
    the stream a second; a batch is one of them, and holds 200 of CloudTrail's.)"""
    client = roto.client("kinesis")
    make_stream(client, "backlog", 16)
    for at in range(0, backlog, 10_000):
        put_payloads(client, "backlog", wrap_batches(10_000, at))
    total = backlog + backlog // 10

    def put_more() -> None:
        for at in range(backlog, total, 1_000):
            put_payloads(client, "backlog", wrap_batches(1_000, at))

    seen: list[tuple[int, float, float, float]] = []
    with running(roto, "backlog", folder) as found:
        pid = found.process.pid
        producer = threading.Thread(target=put_more)
        producer.start()

        def read() -> bool:
            count = sum(found.classes().values())
            seen.append((count, time.monotonic(), read_cpu_seconds(pid), read_memory(pid).anonymous_bytes / 1e6))
            return count >= total

        read()
        wait_for(read, 60 + total / 2_000)
        producer.join()
    tenths = [next(each for each in seen if each[0] >= total * at / 10) for at in range(1, 11)]
    rows = []
    for at, (before, after) in enumerate(itertools.pairwise([seen[0], *tenths]), 1):
        count = after[0] - before[0]
        by_clock, by_cpu = count / max(1e-9, after[1] - before[1]), count / max(1e-9, after[2] - before[2])
        rows.append((str(at), f"{by_clock:,.0f}", f"{by_cpu:,.0f}", f"{after[3]:,.0f}"))
    whole = total / (tenths[-1][1] - seen[0][1])
    print_table(
        f"A backlog of {backlog:,} records in 16 shards, {total - backlog:,} more arriving: {whole:,.0f} a second by the clock",
        ("tenth", "records a second", "a CPU second", "anonymous memory, MB"),
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--backlog", type=int, default=200_000)
    parser.add_argument("--only", choices=("decode", "latency", "backlog"))
    options = parser.parse_args()
    if options.only in (None, "decode"):
        show_decode()
    with tempfile.TemporaryDirectory() as folder, aws_environment(), Roto() as roto:
        parts: dict[str, Any] = {
            "latency": lambda: show_latency(roto, Path(folder), options.seconds),
            "backlog": lambda: show_backlog(roto, Path(folder), options.backlog),
        }
        for name, show in parts.items():
            if options.only in (None, name):
                show()


if __name__ == "__main__":
    main()
