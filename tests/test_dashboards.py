"""The dashboards: as their script writes them, whole, and every query asks for series and labels that exist."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from queries import FOREIGN, find_selectors, find_series, list_known_series, load_rules

FOLDER = Path(__file__).parent.parent / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
SCRAPES = {"scrape_duration_seconds"}
RECORDED = {rule["record"] for rule in load_rules() if "record" in rule}
BUILT_IN = {"datasource", "__rate_interval", "__range", "__data"}


def load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def list_queries(found: Any) -> list[str]:
    """Every query of a dashboard: panels', variables' and annotations'."""
    queries = [target["expr"] for panel in found["panels"] for target in panel.get("targets", ())]
    queries += [each["expr"] for each in found["annotations"]["list"]]
    return queries + [each["query"]["query"] for each in found["templating"]["list"] if each["type"] == "query"]


def test_there_are_the_four() -> None:
    assert [path.stem for path in FILES] == ["gap", "oncall", "pipeline", "role"]


def test_the_files_are_what_their_script_writes(tmp_path: Path) -> None:
    for path in FOLDER.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text("utf-8"))
    subprocess.run([sys.executable, tmp_path / "build.py"], check=True, timeout=60)
    for path in FILES:
        assert (tmp_path / path.name).read_text("utf-8") == path.read_text("utf-8"), "run python dashboards/build.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_queries_ask_for_series_and_labels_that_exist(path: Path) -> None:
    known = list_known_series()
    for query in list_queries(load(path)):
        asked = find_series(query)
        assert asked <= known.keys() | RECORDED | FOREIGN, asked - known.keys()
        assert asked or SCRAPES & set(re.findall(r"\w+", query)), query
        for name, labels in find_selectors(query):
            assert labels <= known.get(name, labels), f"{name} has no label {labels - known.get(name, labels)}: {query}"
        if re.search(r"\brate\(", query):
            assert "[$__rate_interval]" in query


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_variables_are_defined_and_used(path: Path) -> None:
    found = load(path)
    names = {each["name"] for each in found["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([found["panels"], found["templating"]["list"]])))
    assert used <= names | BUILT_IN, used - names
    assert names <= used | {"datasource"}
    assert found["templating"]["list"][0]["type"] == "datasource"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_have_a_source_a_unit_a_description_and_a_place_of_their_own(path: Path) -> None:
    found = load(path)
    assert found["uid"] == f"gapwatch-{path.stem}"
    assert found["schemaVersion"] >= 41
    assert {each["name"] for each in found["annotations"]["list"]} == {"Inventory", "Catalogue"}
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    assert len({panel["title"] for panel in found["panels"]}) == len(found["panels"])
    for panel in found["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies on another"
        taken |= cells
        if panel["type"] == "text":
            continue
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        if panel["type"] == "table":
            texts = {
                each["matcher"]["options"]
                for each in panel["fieldConfig"]["overrides"]
                if {"id": "unit", "value": "string"} in each["properties"]
            }
            assert "account" in texts or "account" not in panel["targets"][0]["expr"]


def test_roles_are_a_click_away() -> None:
    for name in ("gap", "oncall"):
        assert "/d/gapwatch-role?var-account=${__data.fields.account}" in (FOLDER / f"{name}.json").read_text("utf-8")
    assert "${page}/principals/${__data.fields.key}" in (FOLDER / "role.json").read_text("utf-8")
