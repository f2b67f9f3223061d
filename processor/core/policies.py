"""Policy documents -> grants.

A document is read into clauses, what it says; a clause becomes a statement where it meets the catalogue; the statements
of all that bears on a principal become its grants. No action is pruned for its resource: resources stay with the grant.

    own and group policies    Allow grants; Deny removes, or marks as conditional
    guards                    a boundary, SCPs and RCPs of each level: what their Allows lack is taken away, and
                              their Denies remove or mark

The rules of the language are those of the IAM User Guide (JSON policy elements; policy evaluation logic).
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from processor.core.catalogue import Catalogue, mask_of_ids

DOCUMENT_BYTES_MAX = 1024 * 1024
"""A customer's document has at most 10,240 characters besides white space (IAM User Guide, quotas); AWS' own reach
157,000 bytes without indentation."""

PATTERNS_MAX = 4_096
DOCUMENTS_MAX = 4_096
"""How many masks of patterns, of lists of patterns, and how many documents a parser remembers; a mask is at most 3 KB."""

PATTERN_CHARS_MAX = 512
"""A longer pattern, without doubled `*`, has more letters than any action's name (a test holds that)."""

NOT_RESOURCE = "NotResource:"
"""Put before each resource of a NotResource, so that it is not read as one that the statement is about."""

_AFTER_EVERY_NAME = "\U0010ffff"
_STARS = re.compile(r"\*+")
_WILDCARD = re.compile(r"[*?]")


class PolicyError(ValueError):
    """A policy document that cannot be read; the text says where and why."""


class Clause(Struct, frozen=True, gc=False):
    """What one statement says, before it meets a catalogue. `negated` means that `patterns` are a NotAction's."""

    id: str
    effect: str
    patterns: tuple[str, ...]
    negated: bool
    conditional: bool
    everywhere: bool
    resources: tuple[str, ...]
    condition: str = ""


class Statement(Struct, frozen=True, gc=False):
    """One statement of a policy: `mask` holds its actions, `effect` is Allow or Deny, `id` its Sid or place from 1.

    `conditional` means that it does not hold for every request (or, in an RCP, not for every principal), `everywhere`
    that its resources hold `*`. `condition` is its Condition as JSON, with sorted keys, "" without one.
    """

    id: str
    effect: str
    mask: int
    conditional: bool
    everywhere: bool
    resources: tuple[str, ...]
    condition: str = ""


class Granting(Struct, frozen=True, gc=False):
    """One statement that allows something to a principal, and how it came to it. `policy_arn` is None for an inline
    policy, `via_group` where no group stands between. `mask` is all that the statement allows, `condition` as in Statement."""

    policy: str
    policy_arn: str | None
    via_group: str | None
    statement: str
    mask: int
    conditional: bool
    resources: tuple[str, ...]
    condition: str = ""


@dataclass(frozen=True, slots=True)
class Grants:
    """What a principal may do, as masks; `conditional` is a part of `granted`.

    `births` are (seconds since 1970, mask): since when these actions are granted, where that is known. `flags` say what
    could not be taken into account.
    """

    granted: int
    conditional: int
    births: tuple[tuple[int, int], ...]
    provenance: tuple[Granting, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Guard:
    """What statements come to: the actions that they allow, those that they allow plainly, and those that their Denies
    remove for good or mark as conditional. Of a boundary, or of all SCPs (or RCPs) of one level, it is what limits a
    principal without granting anything."""

    allowed: int
    allowed_plainly: int
    removed: int
    marked: int


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A policy as a principal has it. `born` is the time of its version in force, 0 where unknown."""

    effects: Guard
    born: int
    grantings: tuple[Granting, ...]


def expand(pattern: str, catalogue: Catalogue) -> int:
    """The mask of the actions that a pattern matches, whole and in any case; `*` and `?` may stand anywhere."""
    wanted = _STARS.sub("*", pattern.lower())
    if len(wanted) > PATTERN_CHARS_MAX:
        return 0
    literal = _WILDCARD.split(wanted, maxsplit=1)[0]
    tail = wanted[len(literal) :]
    if not tail:
        one = catalogue.lower.get(wanted)
        return 0 if one is None else 1 << one
    first = bisect_left(catalogue.names, literal, key=str.lower)
    end = bisect_left(catalogue.names, literal + _AFTER_EVERY_NAME, first, key=str.lower)
    if tail == "*":
        return (1 << end) - (1 << first)
    matches = compile_tail(tail).fullmatch
    # Looking for the longest text between wildcards first spares nine of ten the regular expression.
    needed = max(_WILDCARD.split(tail), key=len)
    start = len(literal)
    names = enumerate(map(str.lower, catalogue.names[first:end]), first)
    return mask_of_ids(action for action, name in names if needed in name and matches(name, start))


def compile_tail(tail: str) -> re.Pattern[str]:
    """The regular expression of a pattern from its first wildcard on.

    The text between two `*` is sought once and never given back: with its leftmost place all that can match still
    does, and no pattern takes more than linear time to fail.
    """
    head, *rest = (re.escape(part).replace(r"\?", ".") for part in tail.split("*"))
    if rest:
        *middle, last = rest
        head += "".join(f"(?>.*?{part})" for part in middle if part) + ".*" + last
    return re.compile(head, re.DOTALL)


class PolicyParser:
    """Reads documents against one catalogue, each text once: principals that share a document share its statements."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._expand = lru_cache(PATTERNS_MAX)(lambda pattern: expand(pattern, catalogue))
        self._expand_all = lru_cache(DOCUMENTS_MAX)(self._join_patterns)
        self._parse = lru_cache(DOCUMENTS_MAX)(
            lambda text, of_resources: self.parse_clauses(read_clauses(text, of_resources=of_resources))
        )

    def parse_document(self, document: object, *, of_resources: bool = False) -> tuple[Statement, ...]:
        """The statements of a document: an object, its JSON as text or bytes, or that URL-encoded, as the raw IAM API
        has it. `of_resources` reads an RCP. Raises PolicyError."""
        return self._parse(_as_text(document), of_resources)

    def parse_clauses(self, clauses: Iterable[Clause]) -> tuple[Statement, ...]:
        """Clauses with their patterns expanded over the catalogue."""
        every = self.catalogue.all_mask
        return tuple(
            Statement(
                clause.id,
                clause.effect,
                every & ~self._expand_all(clause.patterns) if clause.negated else self._expand_all(clause.patterns),
                clause.conditional,
                clause.everywhere,
                clause.resources,
                clause.condition,
            )
            for clause in clauses
        )

    def _join_patterns(self, patterns: tuple[str, ...]) -> int:
        mask = 0
        for pattern in patterns:
            mask |= self._expand(pattern)
        return mask


def read_clauses(document: object, *, of_resources: bool = False) -> tuple[Clause, ...]:
    """What a document says, statement by statement. Raises PolicyError: IAM stores no document that it cannot read, so
    that one bad statement makes the whole of it suspect."""
    whole = _decode_document(_as_text(document))
    if "Statement" not in whole:
        raise PolicyError("the policy document has no Statement")
    listed = whole["Statement"]
    statements = listed if isinstance(listed, list) else [listed]
    return tuple(_read_clause(found, str(at), of_resources) for at, found in enumerate(statements, 1))


def _as_text(document: object) -> str | bytes:
    if isinstance(document, dict):
        try:
            document = msgspec.json.encode(document)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise PolicyError(f"the policy document is no JSON: {error}") from error
    if not isinstance(document, str | bytes):
        raise PolicyError(f"the policy document is {say_kind(document)}, not an object or its text")
    if len(document) > DOCUMENT_BYTES_MAX:
        raise PolicyError(f"the policy document is longer than {DOCUMENT_BYTES_MAX} bytes, which IAM does not store")
    return document


def _decode_document(document: str | bytes) -> dict[str, Any]:
    try:
        text = (document.decode() if isinstance(document, bytes) else document).strip()
        found = msgspec.json.decode(unquote(text) if text.startswith("%") else text) if text else None
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise PolicyError(f"the policy document is no JSON: {error}") from error
    if not found or found == [""]:
        raise PolicyError("the policy document is empty")
    if not isinstance(found, dict):
        raise PolicyError(f"the policy document is {say_kind(found)}, not an object")
    return found


def _read_clause(found: object, place: str, of_resources: bool) -> Clause:
    if not isinstance(found, dict):
        raise PolicyError(f"statement {place} is {say_kind(found)}, not an object")
    sid = found.get("Sid")
    effect = found.get("Effect")
    if effect not in ("Allow", "Deny"):
        raise PolicyError(f"statement {place}: Effect is neither Allow nor Deny")
    condition = found.get("Condition")
    if not isinstance(condition, dict | None):
        raise PolicyError(f"statement {place}: Condition is {say_kind(condition)}, not an object")
    patterns, negated = _read_either(found, "Action", place)
    if patterns is None:
        raise PolicyError(f"statement {place} has neither Action nor NotAction")
    resources, without = _read_either(found, "Resource", place)
    return Clause(
        id=sid if isinstance(sid, str) and sid else place,
        effect=effect,
        patterns=patterns,
        negated=negated,
        conditional=bool(condition) or (of_resources and not _is_for_everyone(found.get("Principal"))),
        # IAM stores no statement without both; of a hand-written one the widest reading is the safe one.
        everywhere=resources is None or ("*" in resources and not without),
        resources=("*",) if resources is None else tuple(NOT_RESOURCE * without + each for each in resources),
        condition=msgspec.json.encode(condition, order="sorted").decode() if condition else "",
    )


def _read_either(found: dict[str, Any], name: str, place: str) -> tuple[tuple[str, ...] | None, bool]:
    """The texts of `name` or of its Not… form, and whether it is the latter; None where there is neither."""
    negated = f"Not{name}" in found
    if negated and name in found:
        raise PolicyError(f"statement {place} has both {name} and Not{name}")
    name = f"Not{name}" if negated else name
    if name not in found:
        return None, False
    value = found[name]
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str):
            raise PolicyError(f"statement {place}: {name} holds {say_kind(text)}, not text")
    return tuple(texts), negated


def _is_for_everyone(principal: object) -> bool:
    """`"AWS": "*"` says the same as `"*"` (IAM User Guide, Principal)."""
    return principal == "*" or (isinstance(principal, dict) and principal.get("AWS") in ("*", ["*"]))


def say_kind(value: object) -> str:
    """What a JSON value is, in words for an error."""
    if value is None:
        return "null"
    kinds = {dict: "an object", list: "a list", str: "text", bytes: "bytes", bool: "true or false"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")


def build_policy(
    name: str, statements: Sequence[Statement], arn: str | None = None, via_group: str | None = None, born: int = 0
) -> Policy:
    """A policy as a principal has it; without `arn` it is inline. Its Allows are plain where they have no Condition."""
    grantings = tuple(
        [
            Granting(name, arn, via_group, each.id, each.mask, each.conditional, each.resources, each.condition)
            for each in statements
            if each.effect == "Allow"
        ]
    )
    return Policy(_sum_up(statements, resources_matter=False), born, grantings)


def build_guard(statements: Sequence[Statement]) -> Guard:
    """What a boundary, or all policies of one level, leave. Allows are plain where they hold for every resource too."""
    return _sum_up(statements, resources_matter=True)


def _sum_up(statements: Sequence[Statement], *, resources_matter: bool) -> Guard:
    allowed = plain = removed = marked = 0
    for each in statements:
        if each.effect == "Allow":
            allowed |= each.mask
            if not each.conditional and (each.everywhere or not resources_matter):
                plain |= each.mask
        elif each.everywhere and not each.conditional:
            removed |= each.mask
        else:
            marked |= each.mask
    return Guard(allowed, plain, removed, marked)


def grants_for(policies: Sequence[Policy], guards: Iterable[Guard] = (), flags: Iterable[str] = ()) -> Grants:
    """The grants of one who has these policies within these guards; the order of either makes no difference."""
    allowed = plain = removed = marked = 0
    for policy in policies:
        allowed |= policy.effects.allowed
        plain |= policy.effects.allowed_plainly
        removed |= policy.effects.removed
        marked |= policy.effects.marked
    granted, doubtful = allowed & ~removed, ~plain | marked
    for guard in guards:
        granted &= guard.allowed & ~guard.removed
        doubtful |= ~guard.allowed_plainly | guard.marked
    return Grants(
        granted=granted,
        conditional=granted & doubtful,
        births=_find_births(policies, granted),
        provenance=tuple(each for policy in policies for each in policy.grantings if each.mask & granted),
        flags=tuple(dict.fromkeys(flags)),
    )


def _find_births(policies: Iterable[Policy], granted: int) -> tuple[tuple[int, int], ...]:
    """Each action is as old as the oldest policy that allows it; what a policy of unknown age allows has no birth."""
    seen = 0
    births: dict[int, int] = {}
    for policy in sorted(policies, key=lambda each: each.born):
        new = policy.effects.allowed & granted & ~seen
        if new and policy.born:
            births[policy.born] = births.get(policy.born, 0) | new
        seen |= policy.effects.allowed
    return tuple(births.items())
