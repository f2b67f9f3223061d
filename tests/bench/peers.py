"""The peers of the benchmark, over the same files: how often each (principal, event source, event name) occurs.

    python tests/bench/peers.py duckdb DIR [--threads 1] [--form transform]
    python tests/bench/peers.py gzip-json DIR
    python tests/bench/peers.py check DIR

The first two print one JSON line about their own process: `{peer, form, threads, records, groups, cpu_seconds,
start_cpu_seconds, wall_seconds, peak_rss}`. CPU is user and system time of the process since it began, children
included; `start_cpu_seconds` is the part of it that went before the first file was opened (Python and imports); wall
time is without the start; `peak_rss` is in bytes. `check` asserts that all peers and forms count the same.

The peers do less than gapwatch: no classes, duplicates, actions, days, operators, resources or gap. The principal is
the session issuer's ARN, else the caller's own, else none.
"""

import argparse
import gzip
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

Groups = Counter[tuple[str | None, str, str]]

FIELDS = (
    '{"userIdentity":{"arn":"VARCHAR","sessionContext":{"sessionIssuer":{"arn":"VARCHAR"}}},'
    '"eventSource":"VARCHAR","eventName":"VARCHAR"}'
)
COLUMNS = (
    "{Records: 'STRUCT(userIdentity STRUCT(arn VARCHAR, sessionContext STRUCT(sessionIssuer STRUCT(arn VARCHAR))), "
    "eventSource VARCHAR, eventName VARCHAR)[]'}"
)
FORMS = {
    "plain": """
        SELECT unnest(json_transform(json, '{"Records":[FIELDS]}').Records) AS record FROM read_json_objects(FILES)""",
    "transform": """
        SELECT unnest(json_transform(json, '{"Records":[FIELDS]}').Records) AS record
        FROM read_json_objects(FILES, format = 'newline_delimited', compression = 'gzip')""",
    "transform-unstructured": """
        SELECT unnest(json_transform(json, '{"Records":[FIELDS]}').Records) AS record
        FROM read_json_objects(FILES, format = 'unstructured', compression = 'gzip')""",
    "transform-records": """
        SELECT json_transform(raw, 'FIELDS') AS record FROM (
            SELECT unnest(json_extract(json, '$.Records[*]')) AS raw
            FROM read_json_objects(FILES, format = 'newline_delimited', compression = 'gzip'))""",
    "transform-csv": """
        SELECT unnest(json_transform(line, '{"Records":[FIELDS]}').Records) AS record
        FROM read_csv(FILES, compression = 'gzip', header = false, auto_detect = false, columns = {line: 'VARCHAR'},
            delim = '\x01', quote = '', escape = '', max_line_size = 268435456)""",
    "columns": """
        SELECT unnest(Records) AS record
        FROM read_json(FILES, format = 'newline_delimited', compression = 'gzip', columns = COLUMNS)""",
}
"""Ways to read a log file's records in DuckDB. `plain` is json_transform with all of DuckDB's defaults, as one writes it
first; the others say more of the files. CPU on 1M records with DuckDB 2.0, one thread, as ratios to the fastest: plain 1.4,
transform 1, transform-unstructured 1.3, transform-records 1.5, transform-csv 1.6; columns 10 (60,000 records). A
strict transform refuses users' records, and unnesting deeper or projecting before the unnest made no difference. A log
file is one line, which is why the newline-delimited reader may be used; read_text does not read gzip."""

PLAIN, STRONGEST = "plain", "transform"
GROUPED = """
    SELECT coalesce(record.userIdentity.sessionContext.sessionIssuer.arn, record.userIdentity.arn) AS principal,
        record.eventSource, record.eventName, count(*) FROM (RECORDS) GROUP BY ALL"""


def count_with_duckdb(directory: Path, threads: int, form: str = STRONGEST) -> Groups:
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"SET threads = {threads}")
    connection.execute("SET preserve_insertion_order = false")
    files = "'" + str(directory / "AWSLogs/**/*.json.gz").replace("'", "''") + "'"
    grouped = GROUPED.replace("RECORDS", FORMS[form])
    for word, text in (("FILES", files), ("FIELDS", FIELDS), ("COLUMNS", COLUMNS)):
        grouped = grouped.replace(word, text)
    rows = connection.execute(grouped).fetchall()
    return Counter({(principal, source, name): count for principal, source, name, count in rows})


def count_with_json(directory: Path) -> Groups:
    groups: Groups = Counter()
    for path in directory.glob("AWSLogs/**/*.json.gz"):
        for record in json.loads(gzip.decompress(path.read_bytes()))["Records"]:
            caller = record["userIdentity"]
            issuer = caller.get("sessionContext", {}).get("sessionIssuer", {})
            principal = issuer.get("arn") or caller.get("arn")
            groups[principal, record["eventSource"], record["eventName"]] += 1
    return groups


def read_cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure_peer(peer: str, directory: Path, threads: int, form: str) -> dict[str, Any]:
    """Runs a peer in this process."""
    if peer == "duckdb":
        import duckdb  # noqa: F401  # so that the import counts as start
    start_cpu_seconds = read_cpu_seconds()
    begun = time.perf_counter()
    groups = count_with_duckdb(directory, threads, form) if peer == "duckdb" else count_with_json(directory)
    return {
        "peer": peer,
        "form": form if peer == "duckdb" else None,
        "threads": threads,
        "records": groups.total(),
        "groups": len(groups),
        "cpu_seconds": round(read_cpu_seconds(), 3),
        "start_cpu_seconds": round(start_cpu_seconds, 3),
        "wall_seconds": round(time.perf_counter() - begun, 3),
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def run_peer(peer: str, directory: Path, threads: int = 1, form: str = STRONGEST) -> dict[str, Any]:
    """What the peer prints, from a process of its own. Raises CalledProcessError, its message on stderr."""
    command = [sys.executable, __file__, peer, str(directory), "--threads", str(threads), "--form", form]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    measured: dict[str, Any] = json.loads(answer)
    return measured


def check_peers(directory: Path) -> None:
    """Raises AssertionError where a peer or a form counts otherwise than plain Python."""
    expected = count_with_json(directory)
    for form in FORMS:
        found = count_with_duckdb(directory, 1, form)
        assert found == expected, (
            f"duckdb {form} and gzip-json differ: {list((found - expected) | (expected - found))[:5]}"
        )
    print(f"{expected.total():,} records, {len(expected):,} groups: gzip-json and all forms of duckdb agree")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a peer over a corpus.")
    parser.add_argument("peer", choices=("duckdb", "gzip-json", "check"))
    parser.add_argument("directory", type=Path, help="a folder that corpus.py wrote")
    parser.add_argument("--threads", type=int, default=1, help="of DuckDB; gzip-json has one")
    parser.add_argument("--form", choices=FORMS, default=STRONGEST, help="how DuckDB reads the files")
    arguments = parser.parse_args()
    if next(arguments.directory.glob("AWSLogs/**/*.json.gz"), None) is None:
        parser.error(f"no log files in {arguments.directory}: make them with tests/bench/corpus.py --out")
    if arguments.peer == "check":
        check_peers(arguments.directory)
        return
    threads = arguments.threads if arguments.peer == "duckdb" else 1
    print(json.dumps(measure_peer(arguments.peer, arguments.directory, threads, arguments.form)))


if __name__ == "__main__":
    main()
