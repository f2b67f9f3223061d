"""Topic `coverage`: since when, and with which gaps, the log of an account and region is known to be complete.

Written by intakes, read whole by every ledger at its start: a verdict `unused` needs the window covered. Spans are
`[from, to)` in event time, ascending and apart from each other. Up to the watermark all records of the account and region are
in `uses`; no span goes beyond it. JSON: few messages, and people look at them when verdicts say `unproven`.
"""

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from topics.contract import AccountId, Codec, Example, Time, Topic

SPANS_MAX = 256
"""Of more than that a writer drops the oldest: less coverage says `unproven`, never a false `unused`."""

Region = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^|]+$")]


class Coverage(Struct, frozen=True, kw_only=True):
    """What is known of the log of one account and region."""

    SCHEMA: ClassVar[int] = 1

    schema: int = SCHEMA
    account_id: Annotated[AccountId, Meta(pattern=r"^[^|]+$")]
    region: Region
    spans: Annotated[tuple[tuple[Time, Time], ...], Meta(max_length=SPANS_MAX)]
    watermark: Time

    def __post_init__(self) -> None:
        before = -1
        for start, end in self.spans:
            if not before < start < end:
                raise ValueError(f"span {start} to {end} is empty, or not apart from the one before it")
            before = end
        if before > self.watermark:
            raise ValueError(f"a span ends at {before}, after the watermark {self.watermark}")

    @property
    def key(self) -> bytes:
        return f"{self.account_id}|{self.region}".encode()


EXAMPLE = Example(
    key=b"111122223333|eu-central-1",
    partition=0,
    value=b'{"schema":1,"account_id":"111122223333","region":"eu-central-1",'
    b'"spans":[[1764547200,1766102400],[1766106000,1767225600]],"watermark":1767225600}',
)

TOPIC = Topic(
    name="coverage",
    key="account_id|region, in UTF-8",
    partitions=1,
    retention_seconds=0,
    compacted=True,
    schema=Coverage.SCHEMA,
    doc="Account and region -> the spans in which its log is complete, and the watermark.",
    example=EXAMPLE,
)

CODEC = Codec(TOPIC, Coverage, "json")
