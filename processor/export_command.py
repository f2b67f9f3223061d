"""`gapwatch export`: inventory, verdicts and usage of a store, for Athena (Parquet) or DynamoDB.

Exit codes: 0 done; 2 usage, a store or table that is refused, a missing library; 3 the store failed on the way.
"""

import asyncio
from pathlib import Path

import click


@click.command()
@click.option(
    "--parquet",
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write Parquet files here.",
)
@click.option("--dynamodb", "table", metavar="TABLE", help="Put items into this table, with keys pk and sk (text).")
@click.option("--schema", is_flag=True, help="Print the tables and their columns, and end.")
@click.option(
    "--state",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="GAPWATCH_STATE",
    metavar="DIR",
    help="The folder of an embedded store.",
)
@click.option("--redis", "url", envvar="GAPWATCH_REDIS", metavar="URL", help="A store in a Redis of yours.")
def export(out: Path | None, table: str | None, schema: bool, folder: Path | None, url: str | None) -> None:
    """Write what a store holds to tables elsewhere: principals, grants with their verdicts, usage.

    DynamoDB needs dynamodb:BatchWriteItem on the table; Parquet the library pyarrow (pip install 'gapwatch[parquet]').
    """
    from processor.__main__ import choose_place, explain_failure

    if schema:
        print_schema()
        return
    if (out is None) == (table is None):
        raise click.UsageError("where to? Give --parquet DIR or --dynamodb TABLE")
    place = choose_place(url, folder, needed=True)
    explain_failure(lambda: asyncio.run(run_export(place, out, table)))()


def print_schema() -> None:
    """The schema, as a person reads it."""
    from processor.core.export import SCHEMA, SCHEMA_VERSION

    click.echo(f"schema {SCHEMA_VERSION}")
    for name, columns in SCHEMA.items():
        click.echo(f"\n{name}")
        for column, meaning in columns.items():
            click.echo(f"  {column:<16}{meaning}")


async def run_export(place: object, out: Path | None, table: str | None) -> int:
    """Read the store, and write its rows."""
    from processor.batch import open_for_reading
    from processor.core.export import build_rows
    from processor.core.records import format_time
    from processor.opening import Place, open_store
    from processor.saying import warn
    from processor.shell.files import SourceError

    assert isinstance(place, Place)  # noqa: S101 - what choose_place gives
    async with open_store(place, warn, reading=True) as store:
        opened, fleet, as_of = await open_for_reading(store, None, warn)
        rows = build_rows(fleet, opened.state.names.names, as_of)
        if out is not None:
            try:
                from processor.shell.parquet import write_parquet
            except ImportError as error:
                raise SourceError("--parquet needs the library pyarrow: pip install 'gapwatch[parquet]'") from error
            try:
                written = write_parquet(out, format_time(as_of)[:10], rows)
            except OSError as error:
                raise SourceError(f"--parquet {out}: {error.strerror or error}") from error
            for path, count in written.items():
                click.echo(f"{path} {count} rows")
            return 0
        assert table is not None  # noqa: S101 - one of the two is given
        from processor.shell.aws_accounts import Accounts, RolePlan
        from processor.shell.dynamodb import write_items

        accounts = Accounts(RolePlan())
        own = await accounts.find_own()
        async with accounts.open("dynamodb", own) as client:
            count = await write_items(client, table, rows)
        click.echo(f"{table} {count} items")
    return 0
