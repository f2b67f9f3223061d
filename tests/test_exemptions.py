"""The file of exemptions: what it says is kept, what it gets wrong is said in one line; and what else makes an alert quiet."""

import os
import time
from pathlib import Path

import pytest
from building import (
    ACCOUNT,
    DAY,
    ROLE,
    build_details,
    build_fleet,
    build_holding,
    build_ledger,
    build_principal,
    build_record,
    build_small_catalogue,
    mask_of,
    write_json,
    write_lines,
)
from conftest import Gapwatch
from test_run import Running, wait_for

from processor.core.denials import RECENT_SECONDS, RecentDenials
from processor.core.exemptions import Exemptions, ExemptionsError, read_exemptions
from processor.core.gap import FOREVER
from processor.core.watch import LATE_SECONDS_MAX, Watching, when_seen
from processor.settings import AlertsSettings
from processor.settings_error import SettingsError
from processor.watching import BYTES_MAX, LOOK_SECONDS, ExemptionsFile, find_inventory_time, read_watching

SMALL = build_small_catalogue()
NOW = 20_000 * DAY
RESTORER = f"arn:aws:iam::{ACCOUNT}:role/restore-1"
TEXT = """
[break_glass]
principals = ["arn:aws:iam::*:role/break-glass"]
[exemptions.restore]
principal = "arn:aws:iam::*:role/restore-*"
action = "S3:*Object"
owner = "platform@example.com"
reason = "Restores are rehearsed once a quarter."
expires = 2024-10-04
"""
END = 20_001 * DAY
"""The end of 2024-10-04, UTC."""


def test_an_exemption_holds_for_its_pattern_until_the_end_of_its_day() -> None:
    found = read_exemptions(TEXT, "the file")
    assert found.listed[0].expires == END
    covered = mask_of(SMALL, "s3:DeleteObject", "s3:GetObject")
    assert found.exempt_mask(SMALL, RESTORER, "unused", END - 1) == covered
    assert found.exempt_mask(SMALL, RESTORER, "unused", END) == 0
    assert found.exempt_mask(SMALL, RESTORER, "first_use", NOW) == 0
    assert found.exempt_mask(SMALL, RESTORER.replace("restore", "other"), "unused", NOW) == 0
    assert (found.next_expiry(NOW), found.next_expiry(END)) == (END, FOREVER)


def test_break_glass_is_exempt_from_unused_alone() -> None:
    found = read_exemptions(TEXT, "the file")
    glass = f"arn:aws:iam::{ACCOUNT}:role/break-glass"
    assert found.is_break_glass(glass)
    assert not found.is_break_glass(RESTORER)
    assert found.exempt_mask(SMALL, glass, "unused", NOW) == SMALL.all_mask
    assert found.exempt_mask(SMALL, glass, "first_use", NOW) == 0


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('owner = "platform@example.com"', "", "exemptions.restore: Object missing required field `owner`"),
        ("expires = 2024-10-04", 'expires = "soon"', "exemptions.restore.expires is soon: write a day"),
        ("expires = 2024-10-04", "expires = 2024-10-04T10:00:00", "with its offset"),
        ('action = "S3:*Object"', 'action = ""', "exemptions.restore: Expected `str` of length >= 1"),
        ("[break_glass]", "[breakglass]", "unknown field `breakglass`"),
        ("[break_glass]", "[break_glass", "is no TOML"),
        ("expires", 'alerts = ["denied"]\nexpires', "Invalid enum value 'denied'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(before: str, after: str, said: str) -> None:
    with pytest.raises(ExemptionsError) as caught:
        read_exemptions(TEXT.replace(before, after), "exemptions.toml")
    assert said in str(caught.value)
    assert str(caught.value).startswith("exemptions.toml")
    assert "\n" not in str(caught.value)


def test_a_time_with_its_offset_is_an_end_too() -> None:
    found = read_exemptions(TEXT.replace("2024-10-04", "2024-10-04T02:00:00+02:00"), "the file")
    assert found.listed[0].expires == END - DAY


def test_settings_name_the_file_and_how_long_learning_takes(tmp_path: Path) -> None:
    path = tmp_path / "exemptions.toml"
    path.write_text(TEXT)
    watching = read_watching(AlertsSettings(exemptions=str(path), learning_days=3))
    assert (len(watching.exemptions.listed), watching.learning_seconds) == (1, 3 * DAY)
    path.write_bytes(b"\xff")
    for wrong in (str(path), str(tmp_path / "nowhere.toml")):
        with pytest.raises(SettingsError, match="--exemptions"):
            read_watching(AlertsSettings(exemptions=wrong))


def test_the_inventory_is_as_old_as_its_oldest_file(tmp_path: Path) -> None:
    for name, at in (("a", 5_000), ("b", 7_000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (at, at))
    assert find_inventory_time([str(tmp_path / "a"), str(tmp_path / "b")]) == 5_000
    assert find_inventory_time([]) is None


def test_run_refuses_a_file_that_is_wrong(gapwatch: Gapwatch, tmp_path: Path) -> None:
    path = tmp_path / "exemptions.toml"
    path.write_text(TEXT.replace("owner", "who"))
    log = tmp_path / "log.ndjson"
    log.touch()
    done = gapwatch("run", "--source", log, "--exemptions", path, "--port", 0)
    assert done.code == 2
    assert done.stderr.count("\n") == 1
    assert "exemptions.restore" in done.stderr


# --- what is news ------------------------------------------------------------------------------------------------------


def test_a_principal_is_learning_from_its_creation_and_a_log_is_new_from_its_beginning() -> None:
    role = build_principal("builder")
    watching = Watching(Exemptions(), 7 * DAY)
    for created, covered, until, quiet in (
        (NOW - DAY, NOW - 400 * DAY, NOW + 6 * DAY, "learning"),
        (NOW - 400 * DAY, NOW - DAY, NOW + 6 * DAY, "new_log"),
        (NOW - 2 * DAY, NOW - DAY, NOW + 6 * DAY, "new_log"),
        (NOW - 400 * DAY, NOW - 300 * DAY, NOW - 293 * DAY, "no"),
    ):
        holding = build_holding(role, 1, created=created)
        fleet = build_fleet(SMALL, build_ledger(), [holding], covered={ACCOUNT: covered})
        (member,) = fleet.members()
        assert watching.learning_until(fleet, member) == until
        assert watching.why_quiet(fleet, member, NOW) == quiet
        assert watching.why_quiet(fleet, member, until) == "no"


def test_what_is_met_late_is_news_for_a_day() -> None:
    assert when_seen(NOW - LATE_SECONDS_MAX, NOW) == NOW
    assert when_seen(NOW - LATE_SECONDS_MAX - 1, NOW) == NOW - LATE_SECONDS_MAX - 1
    assert when_seen(NOW - 5, None) == NOW - 5


def test_refusals_are_recent_for_ten_minutes_and_a_catch_up_makes_no_spike() -> None:
    recent = RecentDenials()
    recent.add(60, NOW - 40 * DAY, NOW)
    assert recent.forget(NOW) == 0
    recent.add(3, NOW, NOW + 1)
    recent.add(4, NOW + 1, NOW + 1)
    recent.add(5, NOW + 1, NOW + 300)
    assert recent.forget(NOW + RECENT_SECONDS) == 12
    assert recent.forget(NOW + 1 + RECENT_SECONDS) == 5
    assert recent.forget(NOW + 300 + RECENT_SECONDS) == 0


# --- the file, looked at again -----------------------------------------------------------------------------------------


def test_a_file_that_changes_is_read_again_and_a_bad_one_keeps_the_old(tmp_path: Path) -> None:
    path, said = tmp_path / "exemptions.toml", list[str]()
    path.write_text(TEXT)
    settings = AlertsSettings(exemptions=str(path))
    file = ExemptionsFile(settings, read_watching(settings), said.append)
    assert file.look(100) is None, "it says what it said"
    path.write_text(TEXT.replace("2024-10-04", "2024-10-05"))
    assert file.look(101) is None, "it is not looked at all the time"
    found = file.look(100 + LOOK_SECONDS)
    assert found is not None
    assert found.exemptions.listed[0].expires == END + DAY
    for number, wrong in enumerate((b"[break_glass", b"\xff", b"#" * (BYTES_MAX + 1))):
        path.write_bytes(wrong)
        assert file.look(200 + 10 * number) is None
        assert file.failed
        assert "what was read of it before still counts" in said[-1]
        assert file.look(205 + 10 * number) is None
    path.unlink()
    assert file.look(300) is None
    assert len(said) == 5, "each is said once"
    path.write_text(TEXT)
    assert file.look(400) is not None
    assert not file.failed


def test_without_a_file_nothing_is_looked_at() -> None:
    file = ExemptionsFile(AlertsSettings(), read_watching(AlertsSettings()), print)
    assert file.look(100) is None
    assert not file.failed


def test_a_run_follows_its_file(tmp_path: Path) -> None:
    """What is exempt, and who is break-glass, changes while it runs; a bad file is a metric and a line."""
    path = tmp_path / "exemptions.toml"
    path.write_text("")
    log = write_lines(tmp_path / "log.ndjson", [build_record(n, int(time.time()) - n * DAY) for n in (40, 1)])
    inventory = write_json(tmp_path / "iam.json", build_details(["iam:*"]))
    with Running("--source", log, "--inventory", inventory, "--port", 0, "--exemptions", path) as running:
        running.wait_ready()
        running.wait_classes(30, use=2)
        assert running.read("gapwatch_gap_exempt_grants", window="7d") == {}
        path.write_text(f'[break_glass]\nprincipals = ["{ROLE}"]\n')
        wait_for(lambda: running.read("gapwatch_break_glass_use_timestamp_seconds") != {}, 60)
        wait_for(lambda: running.read("gapwatch_gap_exempt_grants", window="7d") != {}, 60)
        assert running.read("gapwatch_gap_exempt_grants", window="7d") == running.read(
            "gapwatch_gap_risk_grants", window="7d"
        )
        path.write_text("[break_glass")
        wait_for(lambda: running.read("gapwatch_exemptions_failed") == {"": 1}, 60)
        assert running.read("gapwatch_gap_exempt_grants", window="7d") != {}
        path.write_text("")
        wait_for(lambda: running.read("gapwatch_gap_exempt_grants", window="7d") == {}, 60)
        assert running.read("gapwatch_break_glass_use_timestamp_seconds") == {}
        assert running.read("gapwatch_exemptions_failed") == {"": 0}
        assert running.stop() == 0
        assert "is no TOML" in running.said
