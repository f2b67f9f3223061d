"""`gapwatch catalogue update`: a new catalogue names what it moves, and never moves a gap silently."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from building import build_details, build_record, build_small_catalogue, write_json, write_lines
from conftest import Gapwatch

from processor.core.catalogue import Catalogue
from processor.core.reference import (
    Moves,
    ReferenceRefused,
    build_snapshot,
    find_moves,
    read_index,
    read_service,
    say_moves,
)
from processor.shell.tables import load_catalogue

NOW = 1_790_000_000
FLAGS = {
    "Permissions management": "IsPermissionManagement",
    "Tagging": "IsTaggingOnly",
    "List": "IsList",
    "Write": "IsWrite",
}

Documents = dict[str, dict[str, Any]]


def make_action(name: str, level: str, *, tracked: bool = False) -> dict[str, Any]:
    """An action as AWS' documents have it."""
    return {
        "Name": name,
        "ActionConditionKeys": [],
        "Annotations": {"Properties": {flag: known in level.split(", ") for known, flag in FLAGS.items()}},
        "Resources": [{"Name": "thing"}],
        "SupportedBy": {"IAM Access Analyzer Policy Generation": False, "IAM Action Last Accessed": tracked},
    }


def make_documents(catalogue: Catalogue) -> Documents:
    """The Service Reference that a catalogue could have come from."""
    documents: Documents = {}
    for name, level in zip(catalogue.names, catalogue.access_levels, strict=True):
        service, _, action = name.partition(":")
        document = documents.setdefault(service, {"Name": service, "Actions": [], "Version": "v1.4"})
        document["Actions"].append(make_action(action, level))
    return documents


class Reference:
    """A server of the Service Reference."""

    def __init__(self, documents: Documents) -> None:
        self.documents = documents
        self.broken: set[str] = set()
        self.elsewhere = ""
        reference = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/").rpartition("/")[2].removesuffix(".json")
                found: Any = reference.documents.get(name)
                if not name:
                    found = [
                        {"service": each, "url": f"{reference.elsewhere or reference.url}v1/{each}/{each}.json"}
                        for each in reference.documents
                    ]
                self.send_response(500 if found is None or name in reference.broken else 200)
                self.end_headers()
                self.wfile.write(json.dumps(found).encode())

            def log_message(self, *_: object) -> None:
                """Tests' output is no access log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def reference() -> Iterator[Reference]:
    """What the installed catalogue could have come from."""
    server = Reference(make_documents(load_catalogue()))
    yield server
    server.close()


def change(documents: Documents) -> None:
    """What a year brings: one action more, one less, one with another level, one that IAM tracks now."""
    actions = documents["s3"]["Actions"]
    actions.append(make_action("BrandNew", "Write", tracked=True))
    actions[:] = [each for each in actions if each["Name"] != "CreateJob"]
    for each in documents["a4b"]["Actions"]:
        if each["Name"] == "ApproveSkill":
            each["Annotations"]["Properties"] = {"IsList": True}


def test_a_new_catalogue_names_what_it_moves(reference: Reference, tmp_path: Path, gapwatch: Gapwatch) -> None:
    same = gapwatch("catalogue", "update", "--check", "--from", reference.url)
    assert (same.code, same.stdout) == (0, ""), same.stderr
    change(reference.documents)
    moved = gapwatch("catalogue", "update", "--check", "--from", reference.url)
    assert moved.code == 1
    assert moved.stdout.splitlines() == ["+ s3:BrandNew", "- s3:CreateJob", "~ a4b:ApproveSkill: Write -> List"]
    assert "1 added, 1 gone, 1 with another access level" in moved.stderr
    out = tmp_path / "catalogue.json"
    assert gapwatch("catalogue", "update", "--out", out, "--from", reference.url).stdout == moved.stdout
    again = tmp_path / "again.json"
    gapwatch("catalogue", "update", "--out", again, "--from", reference.url)
    assert json.loads(again.read_text()) == json.loads(out.read_text()), "the same content is the same version"


def test_a_store_is_never_moved_silently(reference: Reference, tmp_path: Path, gapwatch: Gapwatch) -> None:
    inventory = write_json(tmp_path / "iam.json", build_details(["s3:*Job*", "s3:BrandNew"]))
    logs = write_lines(tmp_path / "log.ndjson", [build_record(1, NOW)])
    order = (
        "replay",
        "--inventory",
        inventory,
        "--state",
        tmp_path / "state",
        "--format",
        "json",
        "--covered-since",
        "2020-01-01",
    )
    before = gapwatch(*order, "--actions", logs)
    assert before.code == 0, before.stderr
    assert "s3:CreateJob" in before.json["principals"][0]["grants"]
    change(reference.documents)
    out = tmp_path / "catalogue.json"
    gapwatch("catalogue", "update", "--out", out, "--from", reference.url)
    report = gapwatch(
        "report",
        "--state",
        tmp_path / "state",
        "--format",
        "json",
        "--actions",
        environment={"GAPWATCH_CATALOGUE": str(out)},
    )
    assert report.code == 0, report.stderr
    assert "1 added (s3:BrandNew), 1 gone (s3:CreateJob)" in report.stderr
    grants = report.json["principals"][0]["grants"]
    assert "s3:CreateJob" not in grants
    assert "s3:BrandNew" not in grants, "granted to nobody before the next inventory"
    # With the next inventory it is granted, and too new: it counts from then on.
    after = gapwatch(*order, "--actions", logs, environment={"GAPWATCH_CATALOGUE": str(out)})
    assert after.json["principals"][0]["grants"]["s3:BrandNew"]["verdict"] == {
        "7d": "too_new",
        "30d": "too_new",
        "90d": "too_new",
    }
    silent = gapwatch("report", "--state", tmp_path / "state", environment={"GAPWATCH_CATALOGUE": str(out)})
    assert "catalogue" not in silent.stderr


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("service", ("s3", "cannot be fetched", "Nothing was written")),
        ("lost", ("actions are not in it",)),
        ("elsewhere", ("is said to be at",)),
        ("page", ("no Service Reference",)),
        ("nobody", ("cannot be fetched",)),
    ],
)  # fmt: skip
def test_a_broken_reference_changes_nothing(
    reference: Reference, tmp_path: Path, gapwatch: Gapwatch, broken: str, words: tuple[str, ...]
) -> None:
    address = reference.url
    if broken == "service":
        reference.broken.add("s3")
    elif broken == "lost":
        for service in list(reference.documents)[:200]:
            del reference.documents[service]
    elif broken == "elsewhere":
        reference.elsewhere = "http://127.0.0.1:9/"
    elif broken == "page":
        address += "v1/s3/s3.json"
    else:
        address = "http://127.0.0.1:9/"
    out = tmp_path / "catalogue.json"
    out.write_text("kept")
    ran = gapwatch("catalogue", "update", "--out", out, "--from", address)
    assert ran.code == 2
    assert ran.stderr.count("\n") == 1, ran.stderr
    for word in words:
        assert word in ran.stderr
    assert out.read_text() == "kept"


def test_a_catalogue_that_is_none_is_refused(tmp_path: Path, gapwatch: Gapwatch) -> None:
    path = write_json(tmp_path / "c.json", {"version": "x"})
    logs = write_lines(tmp_path / "log.ndjson", [build_record(1, NOW)])
    for named in (path, tmp_path / "missing.json"):
        ran = gapwatch("replay", logs, environment={"GAPWATCH_CATALOGUE": str(named)})
        assert ran.code == 2
        assert str(named) in ran.stderr
        assert "Traceback" not in ran.stderr


# --- the documents ----------------------------------------------------------------------------------------------------


def test_levels_and_flags_are_read() -> None:
    document = {
        "Name": "x",
        "Actions": [
            make_action("A", "Permissions management, Write"),
            make_action("B", "Read", tracked=True),
            {"Name": "C"},
            make_action("D", "Tagging"),
        ],
    }  # fmt: skip
    assert read_service("x", json.dumps(document).encode()) == [
        ("x:A", "Permissions management, Write", False),
        ("x:B", "Read", True),
        ("x:C", "Read", False),
        ("x:D", "Tagging", False),
    ]


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'[{"service":1}]', b"\xff"])
def test_what_is_no_reference_is_refused(raw: bytes) -> None:
    with pytest.raises(ReferenceRefused):
        read_index(raw)
    with pytest.raises(ReferenceRefused):
        read_service("x", raw)


def test_the_document_of_another_service_is_refused() -> None:
    with pytest.raises(ReferenceRefused, match="is that of y"):
        read_service("x", b'{"Name":"y","Actions":[]}')


def test_moves_between_catalogues() -> None:
    small = build_small_catalogue()
    assert not find_moves(small, small)
    other = build_small_catalogue(
        "small-2", [("ec2:RunInstances", "Read"), ("ec2:describeinstances", "List"), ("x:New", "Write")]
    )
    moves = find_moves(small, other)
    assert moves.added == ("x:New",)
    assert "s3:GetObject" in moves.gone
    assert "ec2:DescribeInstances" not in moves.gone, "the case of a name is no matter"
    assert moves.levels == {"ec2:RunInstances": ("Write", "Read")}
    assert say_moves(Moves(("a:B",), ("c:D",), {"e:F": ("Read", "Write")}, ("g:H",)))[:3] == [
        "+ a:B",
        "- c:D",
        "~ e:F: Read -> Write",
    ]
    with pytest.raises(ReferenceRefused):
        build_snapshot("v", [("x:New", "Write", False)], small)
