"""`gapwatch export`: what a store holds, as Parquet files and as items of a DynamoDB table, by one schema."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from aws_server import FaultyAws, MotoServer
from building import ROLE, ROLE_ID, build_details, build_record, write_json, write_lines
from conftest import Gapwatch

from processor.core.export import SCHEMA

NOW = 1_790_000_000
DAY_OF = "2026-09-21"
GRANTED = ("ec2:DescribeInstances", "iam:CreateAccessKey", "s3:GetObject")
FAR = "arn:aws:iam::444455556666:role/far"


@pytest.fixture
def state(tmp_path: Path, gapwatch: Gapwatch) -> Path:
    """A store with one principal of an inventory, and one that was used only."""
    inventory = write_json(tmp_path / "iam.json", build_details(GRANTED))
    far = build_record(3, NOW)["userIdentity"]
    far["sessionContext"]["sessionIssuer"] = {"type": "Role", "principalId": "AROAFAR", "arn": FAR}
    records = [
        build_record(1, NOW - 60),
        build_record(2, NOW - 30, errorCode="AccessDenied", eventName="RunInstances"),
        build_record(3, NOW, userIdentity=far, recipientAccountId="444455556666"),
    ]
    folder = tmp_path / "state"
    ran = gapwatch(
        "replay",
        "--inventory",
        inventory,
        "--state",
        folder,
        "--covered-since",
        "2026-01-01",
        write_lines(tmp_path / "l", records),
    )
    assert ran.code == 0, ran.stderr
    return folder


def read_tables(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        table: pq.read_table(out / table / f"dt={DAY_OF}" / "part-0.parquet", partitioning=None).to_pylist()
        for table in SCHEMA
    }


def test_parquet_holds_what_the_report_says(state: Path, tmp_path: Path, gapwatch: Gapwatch) -> None:
    out = tmp_path / "out"
    ran = gapwatch("export", "--parquet", out, "--state", state)
    assert ran.code == 0, ran.stderr
    tables = read_tables(out)
    report = gapwatch("report", "--state", state, "--format", "json", "--actions").json
    by_arn = {principal["arn"]: principal for principal in report["principals"]}
    assert {row["principal"] for row in tables["principals"]} == set(by_arn)
    verdicts: dict[str, dict[str, str]] = {}
    for row in tables["grants"]:
        assert row["principal"] == ROLE
        verdicts.setdefault(row["action"], {})[f"{row['window_days']}d"] = row["verdict"]
        assert row["policies"] == ["inline-work"]
    assert verdicts == {action: grant["verdict"] for action, grant in by_arn[ROLE]["grants"].items()}
    uses = {(row["principal"], row["action"]): (row["count"], row["denied"]) for row in tables["usage"]}
    assert uses == {
        (arn, action): (cell["count"], cell["denied"])
        for arn, found in by_arn.items()
        for action, cell in found["usage"].items()
    }
    (denied,) = [row for row in tables["usage"] if row["action"] == "ec2:RunInstances"]
    assert denied["last_used"] is None
    (principal,) = [row for row in tables["principals"] if row["principal"] == FAR]
    assert (principal["in_inventory"], principal["created"], principal["unique_id"]) == (False, None, "AROAFAR")
    # Again: the same files, and none beside them.
    assert gapwatch("export", "--parquet", out, "--state", state).code == 0
    assert read_tables(out) == tables
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["part-0.parquet"] * 3


def test_the_schema_is_printed_and_is_that_of_the_files(state: Path, tmp_path: Path, gapwatch: Gapwatch) -> None:
    printed = gapwatch("export", "--schema")
    assert printed.code == 0
    for columns in SCHEMA.values():
        for column, meaning in columns.items():
            assert column in printed.stdout
            assert meaning in printed.stdout
    out = tmp_path / "out"
    gapwatch("export", "--parquet", out, "--state", state)
    for table, columns in SCHEMA.items():
        schema = pq.read_schema(out / table / f"dt={DAY_OF}" / "part-0.parquet")
        assert schema.names == list(columns)
        assert schema.metadata[b"gapwatch_schema"] == b"1"
        assert {field.name: field.metadata[b"meaning"].decode() for field in schema} == columns


def test_dynamodb_holds_an_item_a_row(state: Path, aws: MotoServer, gapwatch: Gapwatch) -> None:
    client = aws.open("dynamodb")
    client.create_table(
        TableName="gaps",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        BillingMode="PAY_PER_REQUEST",
    )
    ran = gapwatch("export", "--dynamodb", "gaps", "--state", state)
    assert ran.code == 0, ran.stderr
    assert ran.stdout == "gaps 14 items\n"
    items = {item["sk"]["S"]: item for item in client.query(
        TableName="gaps", KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": f"{ROLE}#{ROLE_ID}"}},
    )["Items"]}  # fmt: skip
    assert set(items) == {
        "principal",
        *(f"grants#{days}#{action}" for days in (7, 30, 90) for action in GRANTED),
        "usage#ec2:DescribeInstances",
        "usage#ec2:RunInstances",
    }  # fmt: skip
    assert items["grants#7#s3:GetObject"]["verdict"] == {"S": "unobservable"}
    assert items["usage#ec2:DescribeInstances"]["last_used"] == {"N": str(NOW - 60)}
    assert "last_used" not in items["usage#ec2:RunInstances"]
    assert client.scan(TableName="gaps")["Count"] == 14
    # Once more: the same items.
    assert gapwatch("export", "--dynamodb", "gaps", "--state", state).code == 0
    assert client.scan(TableName="gaps")["Count"] == 14


def test_a_table_that_is_refused(state: Path, faulty_aws: FaultyAws, gapwatch: Gapwatch) -> None:
    for code, words in (("", "ResourceNotFound"), ("AccessDeniedException", "allow dynamodb:BatchWriteItem")):
        faulty_aws.faults["BatchWriteItem"] = code
        ran = gapwatch("export", "--dynamodb", "none", "--state", state)
        assert ran.code == 2
        assert ran.stderr.count("\n") == 1, ran.stderr
        assert "dynamodb:BatchWriteItem" in ran.stderr
        assert words in ran.stderr


@pytest.mark.parametrize(
    "options", [(), ("--parquet", "x", "--dynamodb", "y"), ("--parquet", "x", "--redis", "redis://x", "--state", "y")]
)
def test_usage(gapwatch: Gapwatch, options: tuple[str, ...]) -> None:
    ran = gapwatch("export", *options)
    assert ran.code == 2
    assert "Usage" in ran.stderr


def test_a_folder_that_cannot_be_written(state: Path, tmp_path: Path, gapwatch: Gapwatch) -> None:
    (tmp_path / "file").write_text("")
    ran = gapwatch("export", "--parquet", tmp_path / "file" / "deeper", "--state", state)
    assert ran.code == 2
    assert ran.stderr.count("\n") == 1, ran.stderr
