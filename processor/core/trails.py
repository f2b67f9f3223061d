"""What an account's trails and rules log -> Logging: what can be seen of it, since when, and why not the rest, in words.

A selector shows an action only where it shows every use of it: one that is narrowed to some resources or event names proves
nothing of the others. A trail that is not logging, or a region without one, shows nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from processor.core.catalogue import Catalogue
from processor.core.gap import Logging

Json = dict[str, Any]

MANAGEMENT, DATA = "Management", "Data"
WHOLE_TYPES = {
    "AWS::S3::Object": ("arn:aws:s3", "arn:aws:s3:::"),
    "AWS::Lambda::Function": ("arn:aws:lambda",),
    "AWS::DynamoDB::Table": ("arn:aws:dynamodb",),
}
"""What a basic selector writes for all resources of a type (CloudTrail API reference, DataResource)."""

ALL_STATES = "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS"
API_CALLS = "AWS API Call via CloudTrail"
EXCLUDABLE = {"kms.amazonaws.com": "kms", "rdsdata.amazonaws.com": "rds-data"}
"""Sources that a selector can leave out of management events, and the service of each."""

NARROWING = frozenset(
    ("resources.ARN", "eventName", "eventSource", "eventType", "sessionCredentialFromConsole", "userIdentity.arn")
)

READ, WRITE = "read", "write"


@dataclass(frozen=True, slots=True)
class Trail:
    """A trail as DescribeTrails, GetTrailStatus and GetEventSelectors tell of it."""

    name: str
    home_region: str
    multi_region: bool
    global_events: bool
    logging: bool
    selectors: Sequence[Json] = ()
    advanced: Sequence[Json] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of a region's default event bus that has a target."""

    name: str
    region: str
    state: str
    pattern: str


DataTypes = Mapping[str, tuple[str, tuple[str, ...]]]
"""resources.type -> service and names of actions (`*`: all)."""


@dataclass(slots=True)
class _Seen:
    """What is logged: halves of management events, data events by resource type, and what narrows."""

    management: set[str]
    excluded: set[str] | None
    types: dict[str, set[str]]
    narrowed: dict[str, str]


def build_logging(
    catalogue: Catalogue,
    trails: Iterable[Trail],
    regions: Iterable[str],
    types: DataTypes,
    rules: Sequence[Rule] | None = None,
) -> Logging:
    """What can be seen of an account. `regions` are those that may be used; `rules`: records come by EventBridge, and pass only
    what these let through."""
    listed = list(trails)
    live = [trail for trail in listed if trail.logging]
    wanted = sorted(set(regions))
    covered = [region for region in wanted if any(_covers(trail, region) for trail in live)]
    blind = {region: f"no trail logs region {region}" for region in wanted if region not in covered}
    seen = _Seen(set(), None, {}, {})
    for trail in live:
        # A trail of one region alone shows all of an account only where that is the only region.
        if all(_covers(trail, region) for region in covered):
            _add_trail(seen, trail)
    words: dict[str, str] = {}
    if not live:
        named = ", ".join(trail.name for trail in listed)
        words["management"] = f"no trail is logging ({named} is stopped)" if named else "the account has no trail"
    read_only = READ in seen.management
    if rules is not None:
        states = {region: _find_state(rules, region) for region in covered}
        closed = [region for region, state in states.items() if not state]
        blind |= {region: f"no EventBridge rule passes on all calls of region {region}" for region in closed}
        if any(state != ALL_STATES for state in states.values()):
            read_only = False
            words["read_only"] = f"an EventBridge rule passes read-only calls on only in state {ALL_STATES}"
    if not read_only and "read_only" not in words:
        words["read_only"] = "no trail selects read-only management events"
    if WRITE not in seen.management:
        words["writes"] = "no trail selects write-only management events"
    data_events, more_words = _find_actions(catalogue, seen, types)
    return Logging(
        data_events=frozenset(() if blind and not covered else data_events),
        read_only=read_only,
        writes=WRITE in seen.management,
        excluded=frozenset(seen.excluded or ()),
        blind_regions=tuple(sorted(blind)),
        words=words | more_words | {f"region:{region}": why for region, why in blind.items()},
    )


def _covers(trail: Trail, region: str) -> bool:
    return trail.logging and (trail.multi_region or trail.home_region == region)


def _add_trail(seen: _Seen, trail: Trail) -> None:
    if trail.advanced:
        for selector in trail.advanced:
            _add_advanced(
                seen, trail.name, {str(each.get("Field")): each for each in selector.get("FieldSelectors") or ()}
            )
        return
    # A trail without selectors logs all management events (CloudTrail API reference, PutEventSelectors).
    for selector in trail.selectors or ({"ReadWriteType": "All", "IncludeManagementEvents": True},):
        halves = {"ReadOnly": {READ}, "WriteOnly": {WRITE}}.get(str(selector.get("ReadWriteType")), {READ, WRITE})
        if selector.get("IncludeManagementEvents", True):
            excluded = {EXCLUDABLE.get(str(each), "") for each in selector.get("ExcludeManagementEventSources") or ()}
            _add_management(seen, halves, excluded - {""})
        for resource in selector.get("DataResources") or ():
            kind, values = str(resource.get("Type")), [str(value) for value in resource.get("Values") or ()]
            if any(value in WHOLE_TYPES.get(kind, ()) for value in values):
                seen.types.setdefault(kind, set()).update(halves)
            else:
                seen.narrowed[kind] = f"trail {trail.name} logs data events of {kind} of some resources only"


def _add_advanced(seen: _Seen, trail: str, fields: Mapping[str, Json]) -> None:
    categories = (fields.get("eventCategory") or {}).get("Equals") or ()
    equals = [str(value).lower() for value in (fields.get("readOnly") or {}).get("Equals") or ()]
    halves = {READ, WRITE} if len(set(equals)) != 1 else {READ if equals[0] == "true" else WRITE}
    if MANAGEMENT in categories:
        source = fields.get("eventSource") or {}
        excluded = {EXCLUDABLE.get(str(each), "") for each in source.get("NotEquals") or ()}
        if NARROWING - {"eventSource"} & fields.keys() or set(source) - {"Field", "NotEquals"} or "" in excluded:
            return
        _add_management(seen, halves, excluded)
    elif DATA in categories:
        for kind in (fields.get("resources.type") or {}).get("Equals") or ():
            if narrowing := ", ".join(sorted(NARROWING & fields.keys())):
                seen.narrowed[str(kind)] = f"trail {trail} logs data events of {kind} by {narrowing} only"
            else:
                seen.types.setdefault(str(kind), set()).update(halves)


def _add_management(seen: _Seen, halves: set[str], excluded: set[str]) -> None:
    seen.management |= halves
    # What one selector leaves out another one may log.
    seen.excluded = excluded if seen.excluded is None else seen.excluded & excluded


def _find_actions(catalogue: Catalogue, seen: _Seen, types: DataTypes) -> tuple[set[str], dict[str, str]]:
    """The actions whose data events are logged, as settings write them, and for the other services why not."""
    found: set[str] = set()
    words: dict[str, str] = {}
    for kind, (service, names) in types.items():
        halves = seen.types.get(kind, set())
        mask = catalogue.observability_masks["data"] & catalogue.service_masks.get(service, 0)
        if names != ("*",):
            mask &= catalogue.mask_of(f"{service}:{name}" for name in names)
        logged = (mask & catalogue.read_mask if READ in halves else 0) | (
            mask & ~catalogue.read_mask if WRITE in halves else 0
        )
        found.update(catalogue.names_in(logged))
        if logged != mask:
            why = seen.narrowed.get(kind) or f"no trail that is logging selects data events of {kind}"
            if halves:
                why = f"trails select {' and '.join(sorted(halves))} data events of {kind} only"
            for name in catalogue.names_in(mask & ~logged):
                words[name] = why
    return found, words


def _find_state(rules: Sequence[Rule], region: str) -> str:
    """The state of the rule of a region that lets most through, empty where none passes on all calls."""
    states = {rule.state for rule in rules if rule.region == region and _passes_all(rule.pattern)}
    return next((state for state in (ALL_STATES, "ENABLED") if state in states), "")


def _passes_all(pattern: str) -> bool:
    """Whether an event pattern takes every API call that CloudTrail tells of."""
    try:
        found = msgspec.json.decode(pattern)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    if not isinstance(found, dict):
        return False
    kinds = found.get("detail-type")
    return set(found) <= {"detail-type", "version"} and (
        kinds is None or (isinstance(kinds, list) and API_CALLS in kinds)
    )


def date_logging(found: Logging, before: Logging | None, as_of: int) -> Logging:
    """Say since when it is so: what an earlier look did not show is logged since `as_of`, as far as known, and so are data events
    in a first look: they may have been turned on just now."""
    since: dict[str, int] = {}
    for name in found.data_events:
        known = before is not None and name in before.data_events
        since[name] = before.since.get(name, 0) if before is not None and known else as_of
    for half, now, then in (
        ("read_only", found.read_only, before is None or before.read_only),
        ("writes", found.writes, before is None or before.writes),
    ):
        if now:
            since[half] = (0 if before is None else before.since.get(half, 0)) if then else as_of
    if before is not None and (
        before.excluded - found.excluded or set(before.blind_regions) - set(found.blind_regions)
    ):
        since["read_only"] = since["writes"] = as_of
    return replace(found, since={name: time for name, time in since.items() if time})
