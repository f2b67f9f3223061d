"""What the page and /api say, as types: HTML is rendered from them, JSON is their encoding, and the OpenAPI document their
schema. Times are ISO 8601 in UTC, None for never or not known."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Verdict = Literal["used", "unused", "unobservable", "too_new", "unproven"]
Key = Annotated[
    str, Meta(pattern="^[0-9a-f]{16}$", description="A principal's key: 16 hex digits, XXH3-64 of ARN NUL unique id.")
]
Time = Annotated[str, Meta(description="ISO 8601, UTC, to the second.")]
Label = Annotated[str, Meta(description="A window's label, such as 90d.")]


class WindowCounts(Struct, frozen=True, kw_only=True):
    """A principal's grants in one window: how many there are of each verdict. `risks` counts unused grants by risk class."""

    window: Label
    granted: int
    used: int
    unused: int
    unobservable: int
    too_new: int
    unproven: int
    used_not_granted: int
    gap_index: Annotated[float, Meta(ge=0, le=100)]
    risks: dict[str, int]


class Row(Struct, frozen=True, kw_only=True):
    """One principal in the list. No `windows`: no inventory tells what it may do."""

    key: Key
    arn: str
    unique_id: str | None
    account_id: str
    kind: str
    windows: tuple[WindowCounts, ...]
    path: Annotated[str, Meta(description="Where its page is.")]

    @property
    def name(self) -> str:
        return self.arn.rpartition("/")[2] or self.arn

    def counts_in(self, window: str) -> WindowCounts | None:
        return next((found for found in self.windows if found.window == window), None)


class FleetAnswer(Struct, frozen=True, kw_only=True):
    """One page of the principals that a search found, `matched` of `total`; the widest gaps of a window first by default."""

    as_of: Time
    window: Label
    sort: str
    total: int
    matched: int
    page: int
    pages: int
    principals: tuple[Row, ...]


class ServiceRow(Struct, frozen=True, kw_only=True):
    """A service that something is granted of. `verdict`, `used` and `unused` are by window; `last_used` is of granted actions."""

    service: str
    granted: int
    used: dict[str, int]
    unused: dict[str, int]
    verdict: dict[str, Verdict]
    last_used: Time | None


class Unobservable(Struct, frozen=True, kw_only=True):
    """Why grants cannot be judged: how many, and of which services most, at most ten."""

    reason: str
    says: str
    count: int
    services: dict[str, int]


class PrincipalAnswer(Struct, frozen=True, kw_only=True):
    """One principal. `flags` say what of its policies could not be read; `not_granted` are actions that succeeded in the longest
    window though no policy read grants them. No `windows`: no inventory tells what it may do."""

    key: Key
    arn: str
    unique_id: str | None
    account_id: str
    kind: str
    created: Time | None
    boundary: str | None
    tags: dict[str, str]
    flags: tuple[str, ...]
    as_of: Time
    covered_since: Time | None
    windows: tuple[WindowCounts, ...]
    services: tuple[ServiceRow, ...]
    unobservable: tuple[Unobservable, ...]
    not_granted: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.arn.rpartition("/")[2] or self.arn


class Facet(Struct, frozen=True):
    """What was seen with an action's uses; `more`: and others."""

    seen: tuple[str, ...]
    more: bool


class Usage(Struct, frozen=True, kw_only=True):
    """An action's uses, ever. `denied` calls are not in `count`. `vias` are services that called for the principal."""

    count: int
    denied: int
    first_used: Time | None
    last_used: Time | None
    last_success: Time | None
    operators: Facet
    regions: Facet
    resources: Facet
    vias: Facet


class GrantedBy(Struct, frozen=True, kw_only=True):
    """A statement that allows an action. `condition` is JSON, "" without one; resources may begin with `NotResource:`."""

    policy: str
    policy_arn: str | None
    via_group: str | None
    statement: str
    conditional: bool
    condition: str
    resources: tuple[str, ...]


class ActionRow(Struct, frozen=True, kw_only=True):
    """An action of a principal with the evidence: verdict and reason by window, its uses, the statements that allow it."""

    action: str
    granted: bool
    conditional: bool
    risk: tuple[str, ...]
    verdict: dict[str, Verdict]
    because: dict[str, str]
    usage: Usage | None
    granted_by: tuple[GrantedBy, ...]


class ActionsAnswer(Struct, frozen=True, kw_only=True):
    """One page of a principal's actions, the unused ones with a risk first. `whole` False: the store did not answer, so that
    operators, regions, resources and vias may be missing."""

    as_of: Time
    window: Label
    matched: int
    page: int
    pages: int
    whole: bool
    actions: tuple[ActionRow, ...]


class Day(Struct, frozen=True):
    """The uses of one day (UTC), and of how many actions."""

    day: Annotated[str, Meta(description="YYYY-MM-DD")]
    uses: int
    actions: int


class TimelineAnswer(Struct, frozen=True, kw_only=True):
    """The days of the longest window up to now. `whole` False: the store did not answer, earlier days may be missing."""

    whole: bool
    days: tuple[Day, ...]


class PolicyAnswer(Struct, frozen=True, kw_only=True):
    """The policy that the use in a window would need, as IAM policy documents that replace all Allow statements of today.
    `counts` are actions by why they are in; `dropped` are the unused ones. Read `notes` before use."""

    window: Label
    documents: tuple[dict[str, Any], ...]
    counts: dict[str, int]
    dropped: int
    patterns: bool
    notes: tuple[str, ...]


class StatusAnswer(Struct, frozen=True, kw_only=True):
    """How the pipeline is. `why_not` says why it is not ready; `lag_seconds` how far verdicts are behind the clock."""

    version: str
    ready: bool
    why_not: str | None
    store_waiting: bool
    as_of: Time | None
    lag_seconds: float | None
    principals: int
    windows: tuple[str, ...]
    records: dict[str, int]


class ErrorAnswer(Struct, frozen=True, kw_only=True):
    """What is wrong, and what to do."""

    error: str
