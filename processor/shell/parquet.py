"""Rows of an export as Parquet files for Athena: DIR/TABLE/dt=YYYY-MM-DD/part-0.parquet, zstd, a few thousand rows a group.

Times are columns of type timestamp[s, UTC]. A file is there whole or not at all; that of the same day is replaced.
"""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from processor.core.export import SCHEMA, SCHEMA_VERSION, Row

ROWS_A_GROUP = 50_000

_TIME = pa.timestamp("s", tz="UTC")
_TYPES = {
    "timestamp": _TIME,
    "text": pa.string(),
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "list of text": pa.list_(pa.string()),
}


def build_schema(table: str) -> pa.Schema:
    """The Arrow schema of a table, each column with its meaning as metadata."""
    columns = [
        pa.field(name, _TYPES[meaning.partition(":")[0].partition(",")[0]], metadata={"meaning": meaning})
        for name, meaning in SCHEMA[table].items()
    ]
    return pa.schema(columns, metadata={"gapwatch_schema": str(SCHEMA_VERSION)})


def write_parquet(folder: Path, day: str, rows: Iterable[tuple[str, list[Row]]]) -> dict[Path, int]:
    """Write all tables; returns the files and how many rows each has. Raises OSError."""
    held: dict[str, list[Row]] = {table: [] for table in SCHEMA}
    counts = dict.fromkeys(SCHEMA, 0)
    paths = {table: folder / table / f"dt={day}" / "part-0.parquet" for table in SCHEMA}
    unfinished = {table: path.with_name(f".{path.name}.{os.getpid()}") for table, path in paths.items()}
    schemas = {table: build_schema(table) for table in SCHEMA}
    try:
        with ExitStack() as stack:
            writers = {}
            for table, path in unfinished.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                writers[table] = stack.enter_context(pq.ParquetWriter(path, schemas[table], compression="zstd"))

            def write(table: str) -> None:
                counts[table] += len(held[table])
                writers[table].write_table(pa.Table.from_pylist(held[table], schemas[table]))
                held[table] = []

            for table, more in rows:
                held[table] += more
                if len(held[table]) >= ROWS_A_GROUP:
                    write(table)
            for table in SCHEMA:
                write(table)
        for table, path in unfinished.items():
            path.replace(paths[table])
    finally:
        for path in unfinished.values():
            path.unlink(missing_ok=True)
    return {paths[table]: counts[table] for table in SCHEMA}
