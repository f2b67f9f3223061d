"""AWS' Service Reference -> the actions of a catalogue, and what a new catalogue moves against the one in use.

One JSON document a service (servicereference.us-east-1.amazonaws.com, Service Authorization Reference, "programmatic service
reference"): `Name`, `Actions[]` with `Annotations.Properties` (what becomes the access level) and `SupportedBy` (whether IAM
tracks when it was last used).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from processor.core.catalogue import Catalogue

TRACKED = "IAM Action Last Accessed"
"""The flag that is reliable where it is true, and proves nothing where it is false (FACTS, Observability)."""

LEVELS = (
    ("IsPermissionManagement", "Permissions management"),
    ("IsTaggingOnly", "Tagging"),
    ("IsList", "List"),
    ("IsWrite", "Write"),
)
LOST_SHARE_MAX = 0.1
"""A reference with a tenth of the actions gone is broken, not new."""


class ReferenceRefused(ValueError):
    """A document that is no Service Reference; the text says which and why."""


class _Annotations(Struct, frozen=True):
    Properties: dict[str, bool] = {}


class _Action(Struct):
    Name: str
    Annotations: _Annotations = _Annotations()
    SupportedBy: dict[str, bool] = {}


class _Service(Struct):
    Name: str
    Actions: list[_Action] = []


class _Entry(Struct):
    service: str
    url: str


class Snapshot(Struct, frozen=True):
    """A catalogue as a file holds it: pairs of (action, access level), and the actions that AWS says it tracks."""

    version: str
    actions: list[tuple[str, str]]
    tracked: list[str]


@dataclass(frozen=True, slots=True)
class Moves:
    """What another catalogue changes, by action."""

    added: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    levels: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    observable: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.gone or self.levels or self.observable)


def read_index(raw: bytes) -> list[tuple[str, str]]:
    """Pairs of (service, URL of its document). Raises ReferenceRefused."""
    try:
        found = msgspec.json.decode(raw, type=list[_Entry])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ReferenceRefused(f"the list of services is no Service Reference: {error}") from error
    if not found:
        raise ReferenceRefused("the list of services is empty")
    return [(entry.service, entry.url) for entry in found]


def read_service(name: str, raw: bytes) -> list[tuple[str, str, bool]]:
    """Actions of a service as (name, access level, whether IAM tracks it). Raises ReferenceRefused."""
    try:
        found = msgspec.json.decode(raw, type=_Service)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ReferenceRefused(f"the document of {name} is no Service Reference: {error}") from error
    if found.Name != name:
        raise ReferenceRefused(f"the document of {name} is that of {found.Name}")
    return [
        (f"{name}:{action.Name}", _find_level(action.Annotations.Properties), action.SupportedBy.get(TRACKED, False))
        for action in found.Actions
    ]


def _find_level(properties: Mapping[str, bool]) -> str:
    return ", ".join(level for flag, level in LEVELS if properties.get(flag)) or "Read"


def build_snapshot(version: str, actions: Iterable[tuple[str, str, bool]], before: Catalogue) -> Snapshot:
    """A snapshot of all services' actions. Raises ReferenceRefused where much of the catalogue in use is missing."""
    found = {name: (level, tracked) for name, level, tracked in actions}
    lower = {name.lower() for name in found}
    lost = sum(1 for name in before.names if name.lower() not in lower)
    if lost > before.size * LOST_SHARE_MAX:
        raise ReferenceRefused(
            f"{lost} of {before.size} known actions are not in it: this is no whole Service Reference"
        )
    return Snapshot(
        version,
        [(name, found[name][0]) for name in sorted(found, key=str.lower)],
        sorted((name for name, (_, tracked) in found.items() if tracked), key=str.lower),
    )


def find_moves(before: Catalogue, now: Catalogue) -> Moves:
    """What the verdicts may change by, with a new catalogue in the place of another."""
    known = [name for name in now.names if name.lower() in before.lower]
    levels = {
        name: (before.access_levels[before.lower[name.lower()]], now.access_levels[now.lower[name.lower()]])
        for name in known
    }
    return Moves(
        added=tuple(name for name in now.names if name.lower() not in before.lower),
        gone=tuple(name for name in before.names if name.lower() not in now.lower),
        levels={name: pair for name, pair in levels.items() if pair[0] != pair[1]},
        observable=tuple(name for name in known if _is_shown(now, name) != _is_shown(before, name)),
    )


def _is_shown(catalogue: Catalogue, name: str) -> bool:
    classes = catalogue.observability_masks
    return bool((classes["management"] | classes["seen"]) >> catalogue.lower[name.lower()] & 1)


def say_moves(moves: Moves) -> list[str]:
    """One line a moved action, in the catalogue's order of each kind."""
    return [
        *(f"+ {name}" for name in moves.added),
        *(f"- {name}" for name in moves.gone),
        *(f"~ {name}: {before} -> {now}" for name, (before, now) in moves.levels.items()),
        *(f"o {name}: IAM tracks it now, so that the log shows it" for name in moves.observable),
    ]
