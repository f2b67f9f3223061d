"""The command line as a person and a script meet it: help, exit codes, one clear line an error, table and JSON, evidence."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from building import ACCOUNT, DAY, ROLE, ROLE_ID, build_details, build_record, write_json, write_lines, write_time
from conftest import Gapwatch, build_environment

NOW = 1_767_225_600  # 2026-01-01T00:00:00Z
COMMANDS = ("replay", "report", "explain", "run", "demo", "topics")
NAMES = ("ec2:DescribeInstances", "ec2:RunInstances", "s3:CreateBucket", "s3:GetObject", "iam:CreateAccessKey")


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_json(tmp_path_factory.mktemp("inventory") / "iam.json", build_details(NAMES))


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coverage of 60 days; a use today, one of 10 days ago, one that nothing grants."""
    records = [
        build_record(1, NOW - 60 * DAY),
        build_record(2, NOW - 10 * DAY, eventName="RunInstances"),
        build_record(3, NOW - 5, errorCode="Client.UnauthorizedOperation", eventName="StartInstances"),
        build_record(4, NOW - 4, eventName="StopInstances"),
        build_record(5, NOW),
    ]
    return write_lines(tmp_path_factory.mktemp("trail") / "trail.ndjson", records)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory, gapwatch: Gapwatch, inventory: Path, trail: Path) -> Path:
    """A store with one replay in it."""
    folder = tmp_path_factory.mktemp("kept") / "state"
    ran = gapwatch("replay", "--state", folder, "--inventory", inventory, trail)
    assert ran.code == 0, ran.stderr
    return folder


# --- help and completion ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(gapwatch: Gapwatch, command: str) -> None:
    ran = gapwatch(command, "--help")
    assert ran.code == 0
    assert ran.stdout.startswith(f"Usage: python -m processor {command}")
    assert ran.stderr == ""


def test_help_names_every_command(gapwatch: Gapwatch) -> None:
    for flag in ("--help", "-h"):
        ran = gapwatch(flag)
        assert ran.code == 0
        for command in COMMANDS:
            assert f"\n  {command} " in ran.stdout


def test_the_version_is_told(gapwatch: Gapwatch) -> None:
    ran = gapwatch("--version")
    assert ran.code == 0
    assert "version" in ran.stdout


@pytest.mark.parametrize(("shell", "mark"), [("bash", "complete "), ("zsh", "#compdef"), ("fish", "complete --")])
def test_a_completion_script_is_printed(shell: str, mark: str) -> None:
    ran = run_as_gapwatch({"_GAPWATCH_COMPLETE": f"{shell}_source"})
    if shell == "bash" and "Bash" in ran.stderr:
        pytest.skip("bash is too old or not here")
    assert ran.returncode == 0, ran.stderr
    assert mark in ran.stdout
    assert "_GAPWATCH_COMPLETE" in ran.stdout


def test_completion_knows_commands_and_options() -> None:
    """What the script asks for when a person presses the tab key."""
    for words, expected in (("gapwatch re", "replay"), ("gapwatch replay --cov", "--covered-since")):
        ran = run_as_gapwatch(
            {
                "_GAPWATCH_COMPLETE": "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            }
        )
        assert expected in ran.stdout


def run_as_gapwatch(more: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The installed command's entry point, under its own name."""
    return subprocess.run(
        [sys.executable, "-c", "from processor.__main__ import main; main(prog_name='gapwatch')"],
        env=build_environment() | more,
        capture_output=True,
        text=True,
        check=False,
    )


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fail_on", "allowed", "expected"),
    [
        (None, NAMES, 0),
        ("unused", NAMES, 1),
        ("high-risk", NAMES, 1),
        ("unused", ("ec2:DescribeInstances", "s3:CreateBucket"), 1),
        ("high-risk", ("ec2:DescribeInstances", "s3:CreateBucket"), 0),
        ("unused", ("ec2:DescribeInstances",), 0),
    ],
)
def test_findings_are_1_where_they_are_asked_for(
    gapwatch: Gapwatch, tmp_path: Path, trail: Path, fail_on: str | None, allowed: tuple[str, ...], expected: int
) -> None:
    inventory = write_json(tmp_path / "iam.json", build_details(allowed))
    asked = () if fail_on is None else ("--fail-on", fail_on)
    ran = gapwatch("replay", "--inventory", inventory, "--window", 30, *asked, trail)
    assert ran.code == expected, ran.stderr
    assert ROLE in ran.stdout


def test_what_cannot_be_told_is_no_finding(gapwatch: Gapwatch, inventory: Path, trail: Path) -> None:
    """The log of 60 days says nothing about a window of 90."""
    ran = gapwatch("replay", "--inventory", inventory, "--window", 90, "--fail-on", "unused", trail)
    assert ran.code == 0, ran.stderr


def assert_one_clear_line(ran: Any, code: int, *words: str) -> None:
    assert ran.code == code, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""
    lines = [line for line in ran.stderr.splitlines() if line.startswith(("gapwatch:", "Error:"))]
    assert len(lines) == 1, ran.stderr
    for word in words:
        assert word in lines[0]


def test_usage_errors_are_2(gapwatch: Gapwatch, trail: Path, tmp_path: Path) -> None:
    assert_one_clear_line(gapwatch("replay"), 2, "PATH")
    assert_one_clear_line(gapwatch("nosuch"), 2, "nosuch")
    assert_one_clear_line(gapwatch("report"), 2, "--redis URL or --state DIR")
    assert_one_clear_line(gapwatch("explain", ROLE), 2, "--redis URL or --state DIR")
    assert_one_clear_line(gapwatch("replay", "--window", 0, trail), 2, "--window")
    assert_one_clear_line(gapwatch("replay", "--window", 401, trail), 2, "--window")
    assert_one_clear_line(gapwatch("replay", "--as-of", "yesterday", trail), 2, "'yesterday' is no time")
    assert_one_clear_line(
        gapwatch("replay", "--state", tmp_path, "--redis", "redis://x", trail), 2, "exclude each other"
    )
    assert_one_clear_line(gapwatch("replay", "--redis", "http://x", trail), 2, "--redis http://x")
    assert_one_clear_line(gapwatch("replay", tmp_path / "nowhere"), 2, "nowhere: no such file or folder")
    assert_one_clear_line(gapwatch("run"), 2, "--source")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("bad.json",)),
        ("{", ("bad.json",)),
        ("[]", ("bad.json",)),
        ('{"Records": []}', ("bad.json", "get-account-authorization-details")),
        ('{"RoleDetailList": {}}', ("bad.json", "RoleDetailList")),
        ('{"RoleDetailList": [{"Arn": "arn:aws:s3:::bucket"}]}', ("bad.json", "RoleDetailList")),
        ('{"RoleDetailList": [7]}', ("bad.json", "RoleDetailList")),
    ],
)
def test_a_bad_inventory_is_one_clear_line(
    gapwatch: Gapwatch, tmp_path: Path, trail: Path, text: str, words: tuple[str, ...]
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    assert_one_clear_line(gapwatch("replay", "--inventory", bad, trail), 2, *words)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"management_account": 7, "tree": [], "policies": []}'])
def test_a_bad_organization_is_one_clear_line(
    gapwatch: Gapwatch, tmp_path: Path, trail: Path, inventory: Path, text: str
) -> None:
    bad = tmp_path / "bad-organization.json"
    bad.write_text(text)
    args = ("replay", "--inventory", inventory, "--organization", bad, trail)
    assert_one_clear_line(gapwatch(*args), 2, "bad-organization.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("windows = 7", ("windows",)),
        ("windows = [0]", ("windows",)),
        ("window = [7]", ("window",)),
        ("[run]\nport = 'x'", ("port",)),
        ("[logging.'*']\ndata = []", ("data",)),
        ("windows = [", ("no TOML",)),
    ],
)
def test_a_bad_config_is_one_clear_line(
    gapwatch: Gapwatch, tmp_path: Path, trail: Path, text: str, words: tuple[str, ...]
) -> None:
    config = tmp_path / "bad.toml"
    config.write_text(text)
    assert_one_clear_line(gapwatch("replay", "--config", config, trail), 2, "bad.toml", *words)


def test_a_store_that_is_empty_or_not_there_is_said(gapwatch: Gapwatch, tmp_path: Path) -> None:
    assert_one_clear_line(gapwatch("report", "--state", tmp_path / "new"), 2, "there is no such folder")
    (tmp_path / "empty").mkdir()
    ran = gapwatch("report", "--state", tmp_path / "empty")
    assert_one_clear_line(ran, 2, "is empty: fill it by replay or run first")


# --- table and JSON ---------------------------------------------------------------------------------------------------


def test_a_table_is_for_people_and_json_for_programs(gapwatch: Gapwatch, inventory: Path, trail: Path) -> None:
    table = gapwatch("replay", "--inventory", inventory, trail)
    assert table.code == 0
    assert table.stdout.startswith(f"as of {write_time(NOW)}, 5 records read")
    assert ROLE in table.stdout
    for head in ("granted", "unused 7d", "unused 30d", "unused 90d", "gap index"):
        assert head in table.stdout
    with pytest.raises(json.JSONDecodeError):
        json.loads(table.stdout)
    ran = gapwatch("replay", "--inventory", inventory, "--format", "json", "--actions", trail)
    (principal,) = ran.json["principals"]
    assert principal["arn"] == ROLE
    assert set(principal["grants"]) == set(NAMES)
    assert principal["windows"]["7d"] == {
        "granted": 5,
        "used": 1,
        "unused": 3,
        "unobservable": 1,
        "too_new": 0,
        "unproven": 0,
        "used_not_granted": 1,
        "gap_index": principal["windows"]["7d"]["gap_index"],
    }


def test_the_table_lists_actions_when_asked(gapwatch: Gapwatch, inventory: Path, trail: Path) -> None:
    ran = gapwatch("replay", "--inventory", inventory, "--actions", "--window", 7, trail)
    assert "ec2:DescribeInstances  7d used" in ran.stdout
    assert "iam:CreateAccessKey  7d unused  [privilege_escalation, " in ran.stdout


def test_report_says_what_the_replay_said(gapwatch: Gapwatch, state: Path, inventory: Path, trail: Path) -> None:
    args = ("--format", "json", "--actions")
    fresh = gapwatch("replay", "--inventory", inventory, *args, trail)
    assert gapwatch("report", "--state", state, *args).json == fresh.json
    later = gapwatch("report", "--state", state, "--as-of", write_time(NOW + 25 * DAY), *args).json
    assert later["principals"][0]["grants"]["ec2:RunInstances"]["verdict"]["30d"] == "unused"
    assert gapwatch("report", "--state", state, *args).json == fresh.json
    ran = gapwatch("report", "--state", state, "--as-of", write_time(NOW - 1))
    assert_one_clear_line(ran, 2, "--as-of", "before the newest use")


def test_nothing_is_wrong_with_a_reader_that_went_away(inventory: Path, trail: Path) -> None:
    """`gapwatch replay … | head -1`."""
    command = [sys.executable, "-m", "processor", "replay", "--inventory", str(inventory), "--actions", str(trail)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=build_environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
        process.wait(60)
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


def test_a_progress_bar_is_for_terminals_only(gapwatch: Gapwatch, trail: Path) -> None:
    assert gapwatch("replay", trail).stderr == ""


# --- explain ----------------------------------------------------------------------------------------------------------


def explain(gapwatch: Gapwatch, state: Path, *args: object) -> Any:
    ran = gapwatch("explain", "--state", state, "--format", "json", *args)
    assert ran.code == 0, ran.stderr
    return ran.json


@pytest.mark.parametrize(
    ("action", "verdicts", "reason"),
    [
        ("ec2:DescribeInstances", ("used", "used", "used"), "last used 2026-01-01T00:00:00Z, after the window's start"),
        (
            "ec2:RunInstances",
            ("unused", "used", "used"),
            "last used 2025-12-22T00:00:00Z, though the log is known since",
        ),
        (
            "s3:CreateBucket",
            ("unused", "unused", "unproven"),
            "no use is known, though the log is known since 2025-11-02",
        ),
        ("s3:GetObject", ("unobservable",) * 3, "the log would not show a use: it is a data event"),
    ],
)
def test_explain_gives_the_evidence(
    gapwatch: Gapwatch, state: Path, action: str, verdicts: tuple[str, ...], reason: str
) -> None:
    found = explain(gapwatch, state, ROLE, action.upper())
    assert (found["arn"], found["unique_id"], found["account_id"]) == (ROLE, ROLE_ID, ACCOUNT)
    (said,) = found["actions"]
    assert said["action"] == action
    assert tuple(said["verdict"].values()) == verdicts
    assert said["because"]["7d"].startswith(reason)
    assert [(by["policy"], by["statement"], by["resources"]) for by in said["granted_by"]] == [
        ("inline-work", "Work", ["*"])
    ]

    text = gapwatch("explain", "--state", state, ROLE, action)
    assert text.code == 0
    assert f"    7d {verdicts[0]}: {reason}" in text.stdout
    assert "granted by inline-work, statement Work, on *" in text.stdout


def test_explain_says_what_is_unproven(gapwatch: Gapwatch, state: Path) -> None:
    (said,) = explain(gapwatch, state, ROLE, "s3:CreateBucket")["actions"]
    assert said["because"]["90d"] == (
        f"the log of account {ACCOUNT} is known only since 2025-11-02T00:00:00Z, the window starts 2025-10-03T00:00:00Z"
    )


def test_explain_says_what_is_too_new(gapwatch: Gapwatch, tmp_path: Path, trail: Path) -> None:
    created = write_time(NOW - 3 * DAY)
    inventory = write_json(tmp_path / "iam.json", build_details(NAMES, created=created))
    state = tmp_path / "state"
    assert gapwatch("replay", "--state", state, "--inventory", inventory, trail).code == 0
    (said,) = explain(gapwatch, state, "builder", "iam:CreateAccessKey")["actions"]
    assert said["verdict"] == {"7d": "too_new", "30d": "too_new", "90d": "too_new"}
    assert said["because"]["7d"] == f"granted {created}, later than the window's start 2025-12-25T00:00:00Z"
    assert said["granted_by"][0]["policy"] == "inline-work"


def test_explain_says_who_used_it_and_how_often(gapwatch: Gapwatch, state: Path) -> None:
    (said,) = explain(gapwatch, state, ROLE, "ec2:DescribeInstances")["actions"]
    usage = said["usage"]
    assert (usage["count"], usage["denied"]) == (2, 0)
    assert (usage["first_used"], usage["last_used"]) == (write_time(NOW - 60 * DAY), write_time(NOW))
    assert usage["operators"] == {"seen": ["ann"], "more": False}
    assert usage["regions"] == {"seen": ["eu-central-1"], "more": False}
    text = gapwatch("explain", "--state", state, ROLE, "ec2:DescribeInstances").stdout
    assert "used 2 times, denied 0; first 2025-11-02T00:00:00Z, last 2026-01-01T00:00:00Z" in text
    assert "operators: ann" in text


def test_explain_without_an_action_tells_of_what_was_used_refused_or_is_dangerous(
    gapwatch: Gapwatch, state: Path
) -> None:
    for name in (ROLE, ROLE_ID, "builder"):
        found = explain(gapwatch, state, name)
        by_name = {said["action"]: said for said in found["actions"]}
        assert set(by_name) == {
            "ec2:DescribeInstances",
            "ec2:RunInstances",
            "ec2:StartInstances",
            "ec2:StopInstances",
            "iam:CreateAccessKey",
            "s3:GetObject",
        }
        assert not by_name["ec2:StopInstances"]["granted"]
        assert by_name["ec2:StartInstances"]["usage"]["denied"] == 1
    text = gapwatch("explain", "--state", state, "builder").stdout
    assert "ec2:StopInstances  (not granted by any policy read)" in text


def test_explain_of_nobody_and_of_nothing_is_one_clear_line(gapwatch: Gapwatch, state: Path) -> None:
    ran = gapwatch("explain", "--state", state, "nobody")
    assert_one_clear_line(ran, 2, "no principal of the store has the ARN, unique id or name 'nobody'")
    ran = gapwatch("explain", "--state", state, ROLE, "s3:NoSuchAction")
    assert_one_clear_line(ran, 2, "'s3:NoSuchAction' is no IAM action of the catalogue")


def test_the_environment_can_say_where_the_store_is(state: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "processor", "report", "--format", "json"],
        env=build_environment() | {"GAPWATCH_STATE": os.fspath(state)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["records"]["read"] == 5
