"""From an answer of GetRecords to the metric, at 20,000 records a second: `python -m tests.bench.answers [--seconds N] [--rate N]`.

The emulator gives out some 6,000 records a second, so that its answers are recorded first, byte by byte, and then given out
at the rate by a server of this module; all else of the protocol it passes on to the emulator. gapwatch is the real one:
`gapwatch run` with its Redis, its /metrics, and the poll at its default. Each answer brings the first use of an action by a role
of its own shard, so that it is known of each when the gap in /metrics has it. Its time counts from before the first byte of the
answer is sent.

The machine runs the server and who asks for /metrics, too: the figures are those of all.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from aws_servers import Roto, aws_environment, find_ports, list_open_shards, make_stream, wrap_event  # noqa: E402 - behind the path
from building import ACCOUNT, build_details, build_record, write_json  # noqa: E402 - as above
from test_kinesis import make_calls  # noqa: E402 - as above
from test_run import Running  # noqa: E402 - as above

from processor.shell.tables import load_catalogue  # noqa: E402 - as above
from tests.bench.measure import print_table, read_cpu_seconds  # noqa: E402 - as above

SHARDS = 40
"""20,000 records of 1 to 2 KB a second need as many: a shard takes 1,000 of them, or 1 MB."""

POLL_SECONDS = 0.5
BETWEEN_SECONDS = 0.53
"""From one answer of a shard to its next: the poll and the call."""

LOOK_SECONDS = 0.015
SETTLE_SECONDS = 2.0
PREFIX = "Kinesis_20131202."


class Recorded(Struct):
    """One answer: the iterator that it is the answer to, and its bytes."""

    iterator: str
    body: bytes


class Recording(Struct):
    """Answers by shard id, in order."""

    upstream: str
    shards: dict[str, list[Recorded]]


# --- recording --------------------------------------------------------------------------------------------------------


def ask(url: str, call: str, given: dict[str, Any]) -> bytes:
    """A call's answer as the emulator's bytes; it looks at no signature."""
    headers = {
        "X-Amz-Target": PREFIX + call,
        "Content-Type": "application/x-amz-json-1.1",
        "Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/kinesis/aws4_request, SignedHeaders=host, Signature=0",
    }
    request = urllib.request.Request(url, json.dumps(given).encode(), headers)  # noqa: S310 - our own http URL
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
        found: bytes = answer.read()
        return found


def make_marker(shard: int, at: int, name: str) -> dict[str, Any]:
    """The first use of an action by the role of a shard."""
    record = build_record(50_000_000 + shard * 100_000 + at, int(time.time()), eventName=name.partition(":")[2])
    caller = record["userIdentity"]
    role = f"shard{shard:02}"
    caller["arn"] = f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/ann"
    caller["principalId"] = f"AROA{role.upper()}:ann"
    caller["sessionContext"]["sessionIssuer"] |= {
        "arn": f"arn:aws:iam::{ACCOUNT}:role/{role}", "principalId": f"AROA{role.upper()}",
    }  # fmt: skip
    return record


def build_inventory(names: Sequence[str]) -> dict[str, Any]:
    """A role for each shard, which may do all that its markers do."""
    roles = []
    for shard in range(SHARDS):
        role = f"shard{shard:02}"
        more = {
            "Arn": f"arn:aws:iam::{ACCOUNT}:role/{role}",
            "RoleId": f"AROA{role.upper()}",
            "RoleName": role,
            "Path": "/",
        }
        roles += build_details(names, **more)["RoleDetailList"]
    return build_details(names) | {"RoleDetailList": roles}


def record_answers(roto: Roto, names: Sequence[str], size: int) -> Recording:
    """Put as many answers a shard as there are names, of `size` records each, and read them back as bytes."""
    client = roto.client("kinesis")
    make_stream(client, "answers", SHARDS)
    shards = list_open_shards(client, "answers")
    for number, shard in enumerate(shards):
        key = shard["HashKeyRange"]["StartingHashKey"]
        for at, name in enumerate(names):
            calls = make_calls(size - 1, (number * len(names) + at) * size)
            payloads = [wrap_event(make_marker(number, at, name)), *map(wrap_event, calls)]
            for begin in range(0, size, 500):
                part = payloads[begin : begin + 500]
                entries = [{"Data": payload, "PartitionKey": "key", "ExplicitHashKey": key} for payload in part]
                assert client.put_records(StreamName="answers", Records=entries)["FailedRecordCount"] == 0
    found: dict[str, list[Recorded]] = {}
    for shard in shards:
        where = {"StreamName": "answers", "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
        iterator = json.loads(ask(roto.url, "GetShardIterator", where))["ShardIterator"]
        listed = found[shard["ShardId"]] = []
        for _ in names:
            body = ask(roto.url, "GetRecords", {"ShardIterator": iterator, "Limit": size})
            # What was still behind it when it was recorded is not when it is given out.
            behind, rest = body.split(b",", 1)
            assert behind.startswith(b'{"MillisBehindLatest":')
            listed.append(Recorded(iterator, b'{"MillisBehindLatest":0,' + rest))
            iterator = json.loads(body)["NextShardIterator"]
    return Recording(roto.url, found)


# --- giving out -------------------------------------------------------------------------------------------------------


class Giver:
    """Answers GetRecords with what was recorded, each shard's next one when it is asked; notes when, in a file."""

    def __init__(self, recording: Recording, notes: Path) -> None:
        self._upstream = recording.upstream
        self._firsts = {shard: listed[0].iterator for shard, listed in recording.shards.items()}
        self._places = {
            each.iterator: (number, at, each.body)
            for number, listed in enumerate(recording.shards.values())
            for at, each in enumerate(listed)
        }
        self._notes = notes.open("w", buffering=1)
        self._begin_at = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                given = json.loads(await reader.readexactly(int(fields.get("content-length", "0"))) or b"{}")
                call = fields.get("x-amz-target", "").rpartition(".")[2]
                body, note = await self._answer(call, given)
                if note:
                    self._notes.write(f"{note} {time.monotonic():.6f}\n")
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: %d\r\n\r\n"
                    % len(body)
                )
                writer.write(body)
                await writer.drain()
        writer.close()

    async def _answer(self, call: str, given: dict[str, Any]) -> tuple[bytes, str]:
        if call == "getsharditerator":
            return json.dumps({"ShardIterator": self._firsts[given["ShardId"]]}).encode(), ""
        if call != "getrecords":
            names = {"describestreamsummary": "DescribeStreamSummary", "listshards": "ListShards"}
            return await asyncio.to_thread(ask, self._upstream, names[call], given), ""
        self._begin_at = self._begin_at or time.monotonic() + SETTLE_SECONDS
        place = self._places.get(given["ShardIterator"])
        if place is None or time.monotonic() < self._begin_at:
            empty = {"MillisBehindLatest": 0, "NextShardIterator": given["ShardIterator"], "Records": []}
            return json.dumps(empty).encode(), ""
        number, at, body = place
        return body, f"{number} {at}"


async def give_out(recording: Recording, notes: Path, port: int) -> None:
    giver = Giver(recording, notes)
    server = await asyncio.start_server(giver.serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


@contextmanager
def giving_out(recording: Recording, folder: Path) -> Iterator[tuple[str, Path]]:
    """A server process; its URL, and the file of its notes."""
    (port,) = find_ports(1)
    path, notes = folder / "recording", folder / "notes"
    path.write_bytes(msgspec.msgpack.encode(recording))
    command = [sys.executable, "-m", "tests.bench.answers", "--give", str(path), str(notes), str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        end = time.monotonic() + 30
        while not notes.exists() and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.3)
        yield f"http://127.0.0.1:{port}", notes
    finally:
        process.kill()
        process.wait()


# --- measuring --------------------------------------------------------------------------------------------------------


def read_metrics(url: str) -> str:
    """/metrics as Prometheus asks for it: gzip members one after another."""
    request = urllib.request.Request(url + "/metrics", headers={"Accept-Encoding": "gzip"})  # noqa: S310 - our own http URL
    with urllib.request.urlopen(request, timeout=10) as page:  # noqa: S310 - as above
        rest: bytes = page.read()
    text = b""
    while rest:
        member = zlib.decompressobj(31)
        text += member.decompress(rest)
        rest = member.unused_data
    return text.decode()


def find_used_by_shard(text: str) -> dict[int, int]:
    """How many answers of each shard the gap has: the used grants of its role."""
    found: dict[int, int] = {}
    for line in text.splitlines():
        if line.startswith("gapwatch_gap_grants") and "role/shard" in line and 'window="7d",verdict="used"' in line:
            number = int(line.partition("role/shard")[2][:2])
            found[number] = int(float(line.rpartition(" ")[2]))
    return found


def follow(url: str, expected: int, seconds: float) -> dict[tuple[int, int], float]:
    """When each answer was first seen in /metrics, by (shard, answer)."""
    seen: dict[tuple[int, int], float] = {}
    reached: dict[int, int] = {}
    end = time.monotonic() + seconds
    while len(seen) < expected and time.monotonic() < end:
        used = find_used_by_shard(read_metrics(url))
        now = time.monotonic()
        for number, count in used.items():
            for at in range(reached.get(number, 0), count):
                seen[number, at] = now
            reached[number] = count
        time.sleep(LOOK_SECONDS)
    return seen


def take_recording(roto: Roto, kept: Path | None, names: Sequence[str], size: int) -> Recording:
    """What was recorded before, or is now."""
    if kept is not None and kept.exists():
        make_stream(roto.client("kinesis"), "answers", SHARDS)
        found = msgspec.msgpack.decode(kept.read_bytes(), type=Recording)
        found.upstream = roto.url
        return found
    begun = time.monotonic()
    recording = record_answers(roto, names, size)
    print(f"recorded {SHARDS * len(names) * size:,} records in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    if kept is not None:
        kept.write_bytes(msgspec.msgpack.encode(recording))
    return recording


def show_answers(roto: Roto, folder: Path, seconds: int, rate: int, kept: Path | None) -> None:
    size = round(rate * BETWEEN_SECONDS / SHARDS)
    names = [name for name in load_catalogue().names if name.startswith("ec2:Describe")][
        : round(seconds / POLL_SECONDS)
    ]
    recording = take_recording(roto, kept, names, size)
    inventory = write_json(folder / "iam.json", build_inventory(names))
    config = folder / "bench.toml"
    config.write_text("[run]\nport = 0\n")
    expected = SHARDS * len(names)
    with giving_out(recording, folder) as (url, notes):
        order = ("--kinesis", "answers", "--endpoint-url", url, "--config", config, "--inventory", inventory)
        with Running(*order) as found:
            found.wait_ready()
            cpu, clock = read_cpu_seconds(found.process.pid), time.monotonic()
            seen = follow(found.url, expected, seconds * 2 + 20)
            cpu, clock = read_cpu_seconds(found.process.pid) - cpu, time.monotonic() - clock
            classes = found.classes()
    given = {(int(number), int(at)): float(when) for number, at, when in map(str.split, notes.read_text().splitlines())}
    took = sorted(seen[place] - when for place, when in given.items() if place in seen)
    spent = max(given.values()) - min(given.values()) + POLL_SECONDS
    rows = [
        (f"p{part}", f"{took[min(len(took) - 1, len(took) * part // 100)] * 1000:,.0f} ms") for part in (50, 90, 99)
    ]
    rows += [
        ("longest", f"{took[-1] * 1000:,.0f} ms"),
        ("records a second, by the clock", f"{len(given) * size / spent:,.0f}"),
        ("gapwatch's CPU seconds a second", f"{cpu / clock:.2f}"),
        ("answers seen, of those given out", f"{len(took):,} of {len(given):,}"),
        ("records counted", f"{sum(classes.values()):,} of {expected * size:,}"),
    ]
    print_table(
        f"An answer of GetRecords ({size} records) to the gap in /metrics, {SHARDS} shards", ("", "latency"), rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument(
        "--recording", type=Path, help="a file to keep the answers in, for the next time with the same options"
    )
    parser.add_argument("--give", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.give:
        path, notes, port = options.give
        recording = msgspec.msgpack.decode(Path(path).read_bytes(), type=Recording)
        asyncio.run(give_out(recording, Path(notes), int(port)))
        return
    with tempfile.TemporaryDirectory() as folder, aws_environment(), Roto() as roto:
        show_answers(roto, Path(folder), options.seconds, options.rate, options.recording)


if __name__ == "__main__":
    main()
