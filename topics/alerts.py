"""Topic `alerts`: what a person is to be told at once, for whoever tells it (Alertmanager, SNS, a webhook, something of yours).

Written by the ledger that owns the principal's shard. An alert is told again when it changes and when it ends; `id` is the
same for all of that, so a reader drops what it has already told: what has an id and a start that it knows. One that begins anew
after its end has a later start. `labels` and `annotations` are those of the Prometheus rule of
the same name, so that an alert from here and one from the rule are one to Alertmanager. No secrets: nothing of a record goes in
but what the fields name. JSON: readers are other programs and people.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct
from xxhash import xxh3_64_hexdigest

from topics.contract import DAY_SECONDS, AccountId, ActionName, Arn, Codec, Example, Time, Topic, UniqueId

LABELS_MAX = 32
Label = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]
TEXT_MAX = 2_048
Text = Annotated[str, Meta(max_length=TEXT_MAX)]


class Evidence(Struct, frozen=True, kw_only=True):
    """The use that an alert stands on. What is known of others with it only (a store keeps no event ids) is None."""

    event_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    event_time: Time
    operator: Annotated[str, Meta(max_length=256)] | None = None
    region: Annotated[str, Meta(max_length=64)] | None = None


class Alert(Struct, frozen=True, kw_only=True):
    """One alert as it now stands. It fires from `starts_at` until `ends_at`, where None says that it still does. `action` is None
    for unused_high_risk, which is told by risk: `risks` is then that one."""

    SCHEMA: ClassVar[int] = 1

    schema: int = SCHEMA
    kind: Literal["first_use", "unused_high_risk", "break_glass_use"]
    starts_at: Time
    ends_at: Time | None = None
    arn: Arn
    unique_id: UniqueId | None
    account_id: AccountId
    action: ActionName | None = None
    risks: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=16)] = ()
    evidence: Evidence | None = None
    labels: Annotated[dict[Label, Text], Meta(max_length=LABELS_MAX)]
    annotations: Annotated[dict[Label, Text], Meta(max_length=LABELS_MAX)] = {}

    def __post_init__(self) -> None:
        if self.ends_at is not None and self.ends_at < self.starts_at:
            raise ValueError(f"ends at {self.ends_at}, before it starts at {self.starts_at}")
        if (self.action is None) != (self.kind == "unused_high_risk") or (self.action is None and len(self.risks) != 1):
            raise ValueError(f"{self.kind} with action {self.action} and {len(self.risks)} risks")

    @property
    def id(self) -> str:
        """The same for all messages of one alert: XXH3-64, in hex, of kind, ARN, unique id and action (else risk), NUL between."""
        what = self.action or self.risks[0]
        return xxh3_64_hexdigest("\0".join((self.kind, self.arn, self.unique_id or "", what)).encode())

    @property
    def key(self) -> bytes:
        return self.id.encode()


EXAMPLE = Example(
    key=b"45f10cdade604e8d",
    partition=0,
    value=b'{"schema":1,"kind":"first_use","starts_at":1767225600,"ends_at":null,'
    b'"arn":"arn:aws:iam::111122223333:role/team/builder","unique_id":"AROAEXAMPLEBUILDER001",'
    b'"account_id":"111122223333","action":"iam:CreateAccessKey",'
    b'"risks":["permissions_management","credentials_exposure"],'
    b'"evidence":{"event_id":"3f1c1f0e-7f0a-4c57-9d5e-000000000001","event_time":1767225600,'
    b'"operator":"jo@example.com","region":"us-east-1"},'
    b'"labels":{"alertname":"GapwatchPrivilegedFirstUse","severity":"page","kind":"first_use","account":"111122223333",'
    b'"principal":"arn:aws:iam::111122223333:role/team/builder","action":"iam:CreateAccessKey"},'
    b'"annotations":{"summary":"builder used iam:CreateAccessKey for the first time"}}',
)

TOPIC = Topic(
    name="alerts",
    key="the alert's id: 16 hex digits, the same for all messages of one alert",
    partitions=1,
    retention_seconds=30 * DAY_SECONDS,
    compacted=False,
    schema=Alert.SCHEMA,
    doc="A privileged action used for the first time, a dangerous one long unused, a break-glass role used.",
    example=EXAMPLE,
)

CODEC = Codec(TOPIC, Alert, "json")
