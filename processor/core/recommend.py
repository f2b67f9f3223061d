"""Verdicts -> the policy that a principal's use would need, as IAM policy documents.

    used          stays: that is the policy
    unused        goes
    too_new, unproven, unobservable   stay, in statements of their own whose Sid tells why: nobody knows that they are not needed

An action keeps the resources and conditions of the statements that allow it today, so that the documents allow nothing that
was not allowed before. What only takes away (Deny statements, the boundary, the organization's policies) is in none of
them, and `notes` say so.

Limits: a customer managed policy has at most 6,144 characters without white space, a role at most 10 of them unless AWS was
asked for more (IAM User Guide, quotas). Names are written out, service by service, where that fits into one document; else
with all services in a statement; else what is only kept is written as patterns, over as many documents as it takes. Patterns
match nothing but what their statement is for and what was used; only where that takes more documents than a role may have,
those of kept statements may match each other's actions, and a note says so.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from processor.core.catalogue import Catalogue
from processor.core.gap import Logging, Verdicts
from processor.core.packing import DOCUMENT_CHARS_MAX, Json, measure, pack
from processor.core.policies import NOT_RESOURCE, Granting, Grants
from processor.core.report import granted_services
from processor.core.wildcards import write_patterns

DOCUMENTS_MAX = 10

KEPT = ("too_new", "unproven", "unobservable")


@dataclass(frozen=True, slots=True)
class Recommendation:
    """`documents` replace the Allow statements of all policies that a principal has now. `counts` are actions by why they are
    in them (`used`, or one of KEPT), and `dropped` those that are not: unused. `patterns`: names did not fit."""

    documents: tuple[Json, ...]
    counts: dict[str, int]
    dropped: int
    patterns: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Bound:
    """Where and when an action is allowed. `resources` begin with NOT_RESOURCE where they are exempt."""

    resources: tuple[str, ...]
    condition: str


@dataclass(frozen=True, slots=True)
class _Draft:
    """A statement to be: `slack` are the actions that its patterns may match besides, because they are used, too, within the same
    bounds; `area` all that other statements allow within them."""

    sid: str
    bound: _Bound
    mask: int
    slack: int
    area: int


def recommend(
    catalogue: Catalogue, grants: Grants, verdicts: Verdicts, logging: Logging, window: str
) -> Recommendation:
    """The policy for what was used in a window, `verdicts` being those of it. Give the longest one. `window` is its label."""
    reasons = list(_split_reasons(catalogue, verdicts, logging))
    kept = 0
    for _, mask in reasons:
        kept |= mask
    areas, lost = _find_areas(grants.provenance, kept)
    drafts = [
        _Draft(sid, bound, area & mask, area & (mask | verdicts.used), area)
        for sid, mask in reasons
        for bounds, area in areas
        if area & mask
        for bound in bounds
    ]
    documents, form = _write_documents(catalogue, drafts)
    counts = {"used": (verdicts.used & ~lost).bit_count()}
    counts |= {verdict: (getattr(verdicts, verdict) & ~lost).bit_count() for verdict in KEPT}
    notes = tuple(_write_notes(catalogue, grants, counts, lost, documents, form, window))
    return Recommendation(documents, counts, verdicts.unused.bit_count(), form != "names", notes)


def _split_reasons(catalogue: Catalogue, verdicts: Verdicts, logging: Logging) -> Iterator[tuple[str, int]]:
    """Why actions stay, as the beginning of a Sid, and which."""
    yield "Used", verdicts.used
    yield "KeptTooNew", verdicts.too_new
    yield "KeptUnproven", verdicts.unproven
    for reason, mask in split_unobservable(catalogue, logging, verdicts.unobservable):
        yield f"KeptUnobservable{_write_sid(reason)}", mask


def split_unobservable(catalogue: Catalogue, logging: Logging, mask: int) -> Iterator[tuple[str, int]]:
    """Unobservable actions by reason, the reasons being those of gap.why_unobservable."""
    classes = catalogue.observability_masks
    managed = classes["management"] | classes["seen"]
    excluded = 0
    for service in logging.excluded:
        excluded |= catalogue.service_masks.get(service, 0)
    reasons = (
        ("data_events_off", classes["data"]),
        ("excluded", managed & excluded),
        ("read_only_off", 0 if logging.read_only else managed & catalogue.read_mask),
        ("writes_off", 0 if logging.writes else managed & ~catalogue.read_mask),
        ("regions_off", managed if logging.blind_regions else 0),
        ("no_api", classes["no_api"]),
        ("dependent_only", classes["dependent_only"]),
        ("unknown", mask),
    )
    for reason, found in reasons:
        if mask & found:
            yield reason, mask & found
        mask &= ~found


def _find_areas(provenance: Iterable[Granting], kept: int) -> tuple[list[tuple[tuple[_Bound, ...], int]], int]:
    """The kept actions by the bounds that they have now, and those whose bounds are not known: conditional, without the
    condition."""
    by_bound: dict[_Bound, int] = {}
    lost = kept
    for granting in provenance:
        if granting.mask & kept and (granting.condition or not granting.conditional):
            bound = _Bound(granting.resources, granting.condition)
            by_bound[bound] = by_bound.get(bound, 0) | granting.mask & kept
            lost &= ~granting.mask
    parts: list[tuple[tuple[_Bound, ...], int]] = [((), kept & ~lost)]
    for bound, mask in by_bound.items():
        split = [((*bounds, bound), area & mask) for bounds, area in parts if area & mask]
        parts = [(bounds, area & ~mask) for bounds, area in parts if area & ~mask] + split
    areas: dict[tuple[_Bound, ...], int] = {}
    for bounds, area in parts:
        if area:
            joined = _join_bounds(bounds)
            areas[joined] = areas.get(joined, 0) | area
    return sorted(areas.items(), key=lambda item: item[1] & -item[1]), lost


def _join_bounds(bounds: Iterable[_Bound]) -> tuple[_Bound, ...]:
    """The same bounds in as few as are needed: resources of one condition join; what holds everywhere makes the rest idle."""
    joined: dict[str, set[str]] = {}
    exempt: set[_Bound] = set()
    for bound in bounds:
        if bound.resources and bound.resources[0].startswith(NOT_RESOURCE):
            exempt.add(bound)
        else:
            joined.setdefault(bound.condition, set()).update(bound.resources)
    plain = joined.get("", set())
    if "*" in plain:
        return (_Bound(("*",), ""),)
    found = {
        _Bound(("*",) if "*" in resources else tuple(sorted(resources)), condition)
        for condition, resources in joined.items()
        if not condition or not resources <= plain
    }
    return tuple(sorted(found | exempt, key=lambda bound: (bound.condition, bound.resources)))


def _write_documents(catalogue: Catalogue, drafts: Sequence[_Draft]) -> tuple[tuple[Json, ...], str]:
    """Documents in the first form that fits, and which that is: names, patterns, or patterns that match each other's actions."""
    reasons = list(dict.fromkeys(draft.sid for draft in drafts))
    parts = [(draft, *part) for draft in drafts for part in granted_services(catalogue, draft.mask)]
    parts.sort(key=lambda part: (reasons.index(part[0].sid), part[1]))
    by_service = [replace(draft, sid=draft.sid + _write_sid(service), mask=mask) for draft, service, mask in parts]
    for form in (by_service, drafts):
        if _fit_by_name(catalogue, form):
            return pack(_write_statement(catalogue, draft, patterns=False) for draft in form), "names"
    named = _fit_by_name(catalogue, [draft for draft in drafts if draft.sid == "Used"])
    for form in (drafts, [replace(draft, slack=draft.area) for draft in drafts]):
        documents = pack(
            _write_statement(catalogue, draft, patterns=draft.sid != "Used" or not named) for draft in form
        )
        if len(documents) <= DOCUMENTS_MAX:
            break
    return documents, "patterns" if form is drafts else "overlapping"


def _fit_by_name(catalogue: Catalogue, drafts: Sequence[_Draft]) -> bool:
    # Names of that many actions cannot fit: not even the shortest ones.
    if sum(draft.mask.bit_count() for draft in drafts) * 6 > DOCUMENT_CHARS_MAX:
        return False
    return len(pack(_write_statement(catalogue, draft, patterns=False) for draft in drafts)) <= 1


def _write_statement(catalogue: Catalogue, draft: _Draft, *, patterns: bool) -> Json:
    actions = (
        write_patterns(catalogue, draft.mask, draft.slack)
        if patterns and draft.mask.bit_count() > 1
        else catalogue.names_in(draft.mask)
    )
    exempt = draft.bound.resources[0].startswith(NOT_RESOURCE) if draft.bound.resources else False
    found: Json = {
        "Sid": draft.sid,
        "Effect": "Allow",
        "Action": actions,
        "NotResource" if exempt else "Resource": [each.removeprefix(NOT_RESOURCE) for each in draft.bound.resources],
    }
    if draft.bound.condition:
        found["Condition"] = json.loads(draft.bound.condition)
    return found


def _write_sid(text: str) -> str:
    """A Sid has letters and digits only (IAM User Guide, Sid)."""
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", text))


def _write_notes(
    catalogue: Catalogue,
    grants: Grants,
    counts: dict[str, int],
    lost: int,
    documents: Sequence[Json],
    form: str,
    window: str,
) -> Iterator[str]:
    """What one must know before these documents take the place of others."""
    yield (
        f"Made from what was used in {window}: what is used less often is not in here. It replaces the Allow statements of all "
        "policies of this principal, and the groups that it has them from. Keep its Deny statements and its boundary: they are "
        "not in here."
    )
    if any(counts[verdict] for verdict in KEPT):
        yield (
            "Statements whose Sid begins with Kept hold what could not be told to be unused: "
            + ", ".join(f"{counts[verdict]} {verdict}" for verdict in KEPT if counts[verdict])
            + ". Remove them only where you know better."
        )
    limited = grants.conditional & ~_join_masks(each.mask for each in grants.provenance if each.conditional)
    if limited:
        yield f"{limited.bit_count()} actions are limited further by a Deny, a boundary or the organization's policies."
    if lost:
        some = ", ".join(catalogue.names[action] for action in _first_ids(lost, 5))
        yield (
            f"Left out, because the store does not hold the Condition that they are granted under: {lost.bit_count()} actions "
            f"({some}). Start with the inventory again to have them."
        )
    if grants.flags:
        yield (
            f"The inventory was not whole ({', '.join(grants.flags)}): what is granted by the missing parts is not in here."
        )
    if form != "names":
        yield (
            f"Names would not fit: what is kept is written as patterns, which match no other action of catalogue "
            f"{catalogue.version}; they would match actions that AWS adds later."
        )
    if form == "overlapping":
        yield "To fit, the patterns of statements that are kept also match actions of each other: remove these statements together."
    if len(documents) > 1:
        more = ": more than a role may have, unless AWS raises its quota" if len(documents) > DOCUMENTS_MAX else ""
        yield f"{len(documents)} documents, each within the {DOCUMENT_CHARS_MAX} characters of a managed policy{more}."
    if any(measure(document) > DOCUMENT_CHARS_MAX for document in documents):
        yield "One document is longer than IAM takes, for a list that cannot be divided (NotResource, or a Condition)."


def _join_masks(masks: Iterable[int]) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found


def _first_ids(mask: int, count: int) -> Iterator[int]:
    for _ in range(count):
        if mask:
            low = mask & -mask
            yield low.bit_length() - 1
            mask ^= low
