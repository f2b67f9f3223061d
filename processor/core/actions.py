"""CloudTrail's names -> IAM actions, the only place where they cross.

An event's own name is right for nine of ten (eventSource, eventName) pairs. The rest is held as tables, each row with
its source: which prefix a source's actions bear, which events use other actions than their own name, and what the
parameters of a call prove beside that. This module indexes the tables over one catalogue.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from processor.core.catalogue import Catalogue
from processor.core.parameters import Parameters, Proof, build_proof
from processor.core.resolve_loop import NEEDLE_BYTES, NEEDLE_PRIME

ALL_NEEDLES = (2**64 - 1,) * 3

Prover = Callable[..., tuple[int, ...] | None]
Hint = Callable[[bytes], re.Match[bytes] | None]

KINDS = ("rename", "both", "any")
"""How an EventRow's actions relate to the event's own name, as event_rules.tsv explains."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event whose actions are not just its own name: what every call uses, and what some calls do."""

    prefix: str
    event_name: str
    actions: tuple[str, ...]
    conditional: tuple[str, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class ProofRow:
    """What parameters show. `subject` is PREFIX:EVENT_NAME, or an action that an event is credited with anyway."""

    subject: str
    proof: str
    argument: str
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ActionRules:
    """The tables. `sources` maps an eventSource without its domain to an IAM prefix, where the two differ."""

    sources: Mapping[str, str]
    events: tuple[EventRow, ...]
    proofs: tuple[ProofRow, ...]


@dataclass(frozen=True, slots=True)
class ActionRule:
    """What one kind of event is credited with, as ids of one catalogue.

    `actions` always; what `proves` answers too, which needs asking only where a hint is found in the raw parameters
    (or always, without hints); `unproved` instead of `actions` where the parameters are absent, unreadable or prove
    nothing. `needles` are three words with a bit for each way that a hint may begin: what has none of them needs no search.
    """

    actions: tuple[int, ...]
    unproved: tuple[int, ...]
    hints: tuple[Hint, ...] = ()
    needles: tuple[int, int, int] = ALL_NEEDLES
    proves: Prover | None = None


_strip_version = re.compile(r"(?:\d{8}(?:v\d+)?|_?\d{4}_\d\d_\d\d)$").sub
"""API versions at the end of Lambda's and CloudFront's event names: CreateFunction20150331, GetFunction20150331v2,
CreateDistribution2020_05_31."""


class ActionMap:
    """Answers which actions an event used. Holds no state beside its indexes: callers remember what `lookup` said."""

    def __init__(self, catalogue: Catalogue, rules: ActionRules) -> None:
        self._catalogue = catalogue
        self._sources = rules.sources
        self._events = {(row.prefix, row.event_name.lower()): row for row in rules.events}
        self._proofs: dict[str, list[ProofRow]] = {}
        for row in rules.proofs:
            self._proofs.setdefault(row.subject.lower(), []).append(row)

    def lookup(self, event_source: str, event_name: str) -> ActionRule | None:
        """The rule of a kind of event; None where the catalogue has no action for it (`unmapped`)."""
        prefix = self.find_prefix(event_source)
        for name in dict.fromkeys((event_name, _strip_version("", event_name))):
            subject = f"{prefix}:{name}".lower()
            row = self._events.get((prefix, name.lower()))
            if row is not None and (rule := self._build_rule(subject, row)) is not None:
                return rule
            own = self._catalogue.lower.get(subject)
            if own is not None:
                return self._combine(subject, (own,), ())
        return None

    def find_prefix(self, event_source: str) -> str:
        """The IAM prefix of an eventSource: by table, else its own first part, else what follows that part's last dot
        (`runtime.sagemaker`)."""
        first = event_source.lower().partition(".amazonaws.com")[0]
        known = self._sources.get(first)
        if known is not None:
            return known
        return first if first in self._catalogue.service_masks else first.rpartition(".")[2]

    def resolve(self, rule: ActionRule, raw_parameters: bytes | None) -> tuple[int, ...]:
        """The actions of one call, certain ones first, none twice, from the JSON of its requestParameters."""
        proves = rule.proves
        if proves is None:
            return rule.actions
        if not raw_parameters:
            return rule.unproved
        if rule.hints:
            for finds in rule.hints:
                if finds(raw_parameters) is not None:
                    break
            else:
                return rule.unproved
        try:
            parameters = msgspec.json.decode(raw_parameters)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return rule.unproved
        if not isinstance(parameters, dict):
            return rule.unproved
        proved = proves(parameters, raw_parameters)
        return rule.actions + proved if proved else rule.unproved

    def _build_rule(self, subject: str, row: EventRow) -> ActionRule | None:
        candidates = self._find_ids(row.conditional) if row.kind == "any" else ()
        certain = self._find_ids(row.actions)
        return self._combine(subject, certain, candidates) if certain or candidates else None

    def _combine(self, subject: str, certain: tuple[int, ...], candidates: tuple[int, ...]) -> ActionRule:
        """The rule of an event: its certain actions, with all that is known to be provable of it or of them."""
        names = self._catalogue.names
        tests: list[tuple[Proof, tuple[int, ...]]] = []
        for named in dict.fromkeys((subject, *(names[i].lower() for i in certain))):
            for row in self._proofs.get(named, ()):
                proof = build_proof(row.proof, row.argument)
                gives = tuple(i for i in self._find_ids(row.actions) if i not in certain)
                if proof is not None and gives:
                    tests.append((proof, gives))
        if not tests:
            return ActionRule(certain + candidates, certain + candidates)
        return ActionRule(
            actions=certain,
            unproved=certain + candidates,
            # A call whose candidates are all that it is credited with is read whatever its text holds.
            hints=() if candidates else compile_hints(proof for proof, _ in tests),
            needles=ALL_NEEDLES
            if candidates
            else mark_needles(needle for proof, _ in tests for needle in proof.needles),
            proves=build_prover(tests, candidates),
        )

    def _find_ids(self, names: Iterable[str]) -> tuple[int, ...]:
        """Ids of those names that this catalogue holds, none twice: a table may be newer or older than it."""
        lower = self._catalogue.lower
        return tuple(dict.fromkeys(lower[name.lower()] for name in names if name.lower() in lower))


def build_prover(tests: list[tuple[Proof, tuple[int, ...]]], candidates: tuple[int, ...]) -> Prover:
    """One function over all proofs of an event; it answers None where nothing is shown. `raw` is the parameters' JSON, which
    says at less cost than a look at each value which proofs can hold at all."""
    of_candidates = frozenset(candidates)
    asked = [(proof.needles, proof.shows, gives) for proof, gives in tests]

    def prove(parameters: Parameters, raw: bytes = b"") -> tuple[int, ...] | None:
        shown: list[int] = []
        for needles, shows, gives in asked:
            if may_show(needles, raw) and shows(parameters):
                shown += gives
        if candidates and of_candidates.isdisjoint(shown):
            shown.extend(candidates)
        return tuple(dict.fromkeys(shown)) or None

    return prove


def may_show(needles: tuple[bytes, ...], raw: bytes) -> bool:
    return not raw or not needles or any(map(raw.__contains__, needles))


def mark_needles(needles: Iterable[bytes]) -> tuple[int, int, int]:
    """The bits of the first five bytes of needles, as `may_hold` looks for them; all where one begins otherwise."""
    first = second = third = 0
    for needle in needles:
        if len(needle) < NEEDLE_BYTES or needle[0] not in b'":':
            return ALL_NEEDLES
        hashed = int.from_bytes(needle[:NEEDLE_BYTES], "little") * NEEDLE_PRIME % 2**64
        first |= 1 << (hashed >> 58)
        second |= 1 << (hashed >> 52 & 63)
        third |= 1 << (hashed >> 46 & 63)
    return (first, second, third) if first else ALL_NEEDLES


def compile_hints(proofs: Iterable[Proof]) -> tuple[Hint, ...]:
    """Searches for the needles of some proofs, one for all needles that begin alike.

    A pattern with a literal beginning is searched for at 1 ns a byte however many ends it has, a third of the time of
    a search for each needle; one without a literal beginning takes five times as long.
    """
    grouped: dict[bytes, list[bytes]] = {}
    for needle in sorted({needle for proof in proofs for needle in proof.needles}):
        grouped.setdefault(needle[:1], []).append(needle)
    return tuple(compile_hint(needles) for needles in grouped.values())


def compile_hint(needles: Sequence[bytes]) -> Hint:
    """One search for any of some sorted needles: of sorted texts, the first and the last share what all share."""
    unlike = (at for at, (first, last) in enumerate(zip(needles[0], needles[-1], strict=False)) if first != last)
    shared = next(unlike, len(needles[0]))
    ends = b"|".join(re.escape(needle[shared:]) for needle in needles)
    return re.compile(re.escape(needles[0][:shared]) + b"(?:" + ends + b")").search
