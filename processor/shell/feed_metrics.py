"""What feeds say of themselves, as metrics; and what a row of the metrics' catalogue is."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from processor.shell.feeds import FeedHealth


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One family: what dashboards, rules and docs are held against."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


FEED_ROWS = (
    MetricRow("gapwatch_source_trouble", "gauge", ("source",), "1 while a source cannot be read and is tried again."),
    MetricRow(
        "gapwatch_source_failures_total", "counter", ("source", "call", "code"),
        "Calls on a source that failed, throttled ones too, by the code that they failed with.",
    ),
    MetricRow(
        "gapwatch_compared_records_total", "counter", ("source", "result"),
        "Records of log files compared with the streams: seen there, missed there, or too late to tell; of a fleet by its ledgers.",
    ),
    MetricRow(
        "gapwatch_compared_until_timestamp_seconds", "gauge", ("source",), "The time up to which log files are compared."
    ),
)  # fmt: skip

_BY_NAME = {row.name: row for row in FEED_ROWS}


def list_feeds(feeds: Sequence[FeedHealth]) -> Iterator[Metric]:
    """The families of FEED_ROWS."""
    yield _by_source("gapwatch_source_trouble", feeds, lambda feed: {(): int(bool(feed.trouble))})
    yield _by_source("gapwatch_source_failures_total", feeds, lambda feed: feed.failures)
    compared = [feed for feed in feeds if feed.compared_until or feed.compared]
    yield _by_source(
        "gapwatch_compared_records_total", compared, lambda feed: {(r,): n for r, n in feed.compared.items()}
    )
    yield _by_source("gapwatch_compared_until_timestamp_seconds", compared, lambda feed: {(): feed.compared_until})


def _by_source(name: str, feeds: Iterable[FeedHealth], read: Callable[[FeedHealth], Mapping[Any, int]]) -> Metric:
    """A family with the label source; `read` gives a feed's values by its other labels."""
    row = _BY_NAME[name]
    family = (CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily)(name, row.text, labels=row.labels)
    for feed in feeds:
        for labels, value in sorted(read(feed).items()):
            family.add_metric((feed.source, *labels), value)
    return family
