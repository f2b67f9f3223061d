"""Reading PromQL in tests: which series a query asks for, and the programs that know PromQL for real."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from processor.shell.metrics import CATALOGUE

DEPLOY = Path(__file__).parent.parent / "deploy"
RULE_FILES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
FOREIGN = frozenset(("up", "ALERTS"))
"""Series that Prometheus makes itself."""

_NAME = re.compile(r"(?<![\w:\"])((?:[a-z_]+:)?gapwatch(?:_\w+|:[\w:]+)+|up|ALERTS)(?![\w:])")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_LABELS = re.compile(r"(?<![\w:])((?:[a-z_]+:)?gapwatch(?:_\w+|:[\w:]+)+)\{([^}]*)\}")


def find_program(name: str, package: str) -> str:
    """The path of a program; the test is skipped where it is missing, and fails so in CI."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} must be there in CI (apt-get install {package})")
        pytest.skip(f"{name} is not here")
    return found


def find_series(query: str) -> set[str]:
    """The names of the series that a query asks for."""
    return set(_NAME.findall(_STRING.sub('""', query)))


def find_selectors(query: str) -> list[tuple[str, set[str]]]:
    """Each selector with labels: its series and the labels that it names."""
    return [
        (name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels)))
        for name, labels in _LABELS.findall(_STRING.sub('""', query))
    ]


def load_rules() -> list[dict[str, Any]]:
    """Every rule of deploy/prometheus/rules, with the file that it stands in."""
    return [
        {**rule, "file": path.name}
        for path in RULE_FILES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def list_known_series() -> dict[str, set[str]]:
    """Every series that there may be, with its labels: the catalogue's and the recorded ones (any label)."""
    known: dict[str, set[str]] = {}
    for row in CATALOGUE:
        labels = {*row.labels, "job", "instance"}
        known[row.name] = labels
        for suffix in SUFFIXES.get(row.kind, ()):
            known[row.name + suffix] = {*labels, "le"}
    return known
