"""Every metric of gapwatch, and the pipeline's own as /metrics serves them; gap_text.py has the gap's."""

import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from processor.core.tally import CLASSES, Tally
from processor.shell.channel_metrics import CHANNEL_ROWS, ChannelHealth, list_channels
from processor.shell.feed_metrics import FEED_ROWS, MetricRow, list_feeds
from processor.shell.feeds import FeedHealth
from processor.shell.inventory_store import AccountStatus

CATALOGUE = (
    MetricRow(
        "gapwatch_gap_grants", "gauge", ("account", "principal", "window", "verdict"),
        "Granted actions of a principal by verdict in a window.",
    ),
    MetricRow(
        "gapwatch_gap_risk_grants", "gauge", ("account", "principal", "window", "risk"),
        "Unused granted actions of a principal that have a risk class; no series where there are none.",
    ),
    MetricRow(
        "gapwatch_gap_index", "gauge", ("account", "principal", "window"),
        "Share of a principal's grants that is unused, weighted by risk, 0 to 100.",
    ),
    MetricRow(
        "gapwatch_gap_used_not_granted", "gauge", ("account", "principal", "window"),
        "Actions that succeeded though no policy read here grants them; no series where there are none.",
    ),
    MetricRow(
        "gapwatch_gap_exempt_grants", "gauge", ("account", "principal", "window", "risk"),
        "Those of gapwatch_gap_risk_grants that an exemption covers or a break-glass principal has; no series where none.",
    ),
    MetricRow(
        "gapwatch_principal_info", "gauge", ("account", "principal", "key", "kind", "inventory"),
        "1 for each principal, with its key (the page's address) and whether an inventory lists it.",
    ),
    MetricRow(
        "gapwatch_service_unused_grants", "gauge", ("account", "service", "window"),
        "Unused granted actions of all principals of an account, by service.",
    ),
    MetricRow(
        "gapwatch_first_use_timestamp_seconds", "gauge", ("account", "principal", "action", "risk", "quiet"),
        "When a privileged action was first used by a principal; the newest 1,000. risk: its gravest class; quiet: no, or why.",
    ),
    MetricRow(
        "gapwatch_first_use_seen_timestamp_seconds", "gauge", ("account", "principal", "action", "risk", "quiet"),
        "When that became news: the time it was met, where that was within a day of the event; else the event's.",
    ),
    MetricRow("gapwatch_first_use_evicted_total", "counter", (), "First uses that were dropped for newer ones."),
    MetricRow("gapwatch_first_use_lost_total", "counter", (), "First uses that were dropped while they were news."),
    MetricRow(
        "gapwatch_learning_until_timestamp_seconds", "gauge", ("account", "principal"),
        "Until when a principal is learning: its first uses are quiet but for the gravest classes.",
    ),
    MetricRow(
        "gapwatch_denied_privileged_total", "counter", ("account", "principal", "risk"),
        "Refused calls of actions that have a privileged class, by the gravest.",
    ),
    MetricRow(
        "gapwatch_denied_privileged_recent", "gauge", ("account", "principal"),
        "Refused calls of privileged actions within ten minutes; no series where there are none.",
    ),
    MetricRow("gapwatch_break_glass_use_timestamp_seconds", "gauge", ("account", "principal"), "The last break-glass use."),
    MetricRow(
        "gapwatch_break_glass_seen_timestamp_seconds", "gauge", ("account", "principal"),
        "When that became news, as for first uses.",
    ),
    MetricRow("gapwatch_account_newest_use_timestamp_seconds", "gauge", ("account",), "The newest use by its principals."),
    MetricRow(
        "gapwatch_account_covered_since_timestamp_seconds", "gauge", ("account",),
        "Since when an account's log is known to be complete.",
    ),
    MetricRow("gapwatch_inventory_timestamp_seconds", "gauge", ("account",), "When an account's inventory was taken, whole."),
    MetricRow("gapwatch_exemption_expiry_timestamp_seconds", "gauge", ("exemption", "owner"), "When an exemption ends."),
    MetricRow("gapwatch_exemptions_failed", "gauge", (), "1 while the file of exemptions cannot be used as it now stands."),
    MetricRow("gapwatch_alerts_written_total", "counter", ("outcome",), "Messages of topic alerts: sent, or failed: tried again."),
    MetricRow("gapwatch_pushed_total", "counter", ("outcome",), "Posts to Alertmanager by gapwatch itself: sent or failed."),
    *CHANNEL_ROWS,
    MetricRow("gapwatch_window_seconds", "gauge", ("window",), "The windows that are kept, and how long they are."),
    MetricRow("gapwatch_records_total", "counter", ("class",), "CloudTrail records read, by what became of them."),
    MetricRow("gapwatch_rejected_total", "counter", ("reason",), "Records that could not be used, by reason."),
    MetricRow("gapwatch_late_total", "counter", (), "Uses older than the duplicates' horizon: not counted, but noted."),
    MetricRow("gapwatch_newest_event_timestamp_seconds", "gauge", (), "The newest event that was read."),
    MetricRow("gapwatch_as_of_timestamp_seconds", "gauge", (), "The time that verdicts are of."),
    MetricRow("gapwatch_lag_seconds", "gauge", (), "How far behind the clock the verdicts' time is."),
    MetricRow("gapwatch_flush_age_seconds", "gauge", (), "Since when no flush has been written."),
    MetricRow("gapwatch_flush_seconds", "histogram", (), "How long flushes to the store took."),
    *FEED_ROWS,
    MetricRow("gapwatch_principals", "gauge", (), "Principals that are known, by inventory or by use."),
    MetricRow("gapwatch_shards", "gauge", (), "Shards that this process owns; 64 where it holds a whole store."),
    MetricRow("gapwatch_shards_lost_total", "counter", (), "Shards that were lost to another owner or an older Redis."),
    MetricRow(
        "gapwatch_shards_untold", "gauge", (), "Shards whose gaps have moved, and topic gap-changes does not say so yet."
    ),
    MetricRow("gapwatch_log_lag_messages", "gauge", (), "Messages of topic uses that own shards have not yet applied."),
    MetricRow("gapwatch_store_waiting", "gauge", (), "1 while the store is away or full and progress waits for it."),
    MetricRow("gapwatch_inventory_failed", "gauge", ("account",), "1 while an account cannot be read: its verdicts are frozen."),
    MetricRow("gapwatch_inventory_changes_total", "counter", (), "Changes of grants that records told of."),
    MetricRow("gapwatch_build_info", "gauge", ("version", "catalogue"), "1, with what runs in the labels."),
)  # fmt: skip

ROWS = {row.name: row for row in CATALOGUE}


@cache
def find_version() -> str:
    """gapwatch's version as installed: looked up once, as that reads files, and half of a scrape's cost was that."""
    try:
        return version("gapwatch")
    except PackageNotFoundError:
        return "unknown"


def escape(text: str) -> str:
    """A label value: IAM paths may hold quotes and backslashes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def write_head(name: str) -> str:
    """The lines that a family begins with."""
    return f"# HELP {name} {ROWS[name].text}\n# TYPE {name} {ROWS[name].kind}\n"


Line = tuple[tuple[str, ...], float]
"""The values of a family's labels, in the order of its row, and the sample."""


def write_lines(name: str, lines: Iterable[Line]) -> Iterator[str]:
    """A family's series as text."""
    labels = ROWS[name].labels
    for values, sample in lines:
        told = ",".join(f'{label}="{escape(value)}"' for label, value in zip(labels, values, strict=True))
        yield f"{name}{{{told}}} {sample}\n"


def pack_family(name: str, lines: Iterable[Line]) -> bytes:
    """A whole family as one gzip member."""
    return gzip.compress("".join((write_head(name), *write_lines(name, lines))).encode(), 1)


@dataclass(slots=True)
class Health:
    """What the pipeline says of itself; times in seconds since 1970 by the process' clock."""

    ready: bool = False
    why_not: str = "starting"
    waiting: bool = False
    as_of: int = 0
    flushed_at: float = 0.0
    principals: int = 0
    first_uses_evicted: int = 0
    shards: int = 0
    shards_lost: int = 0
    shards_untold: int = 0
    log_lag: int = 0
    first_uses_lost: int = 0
    pushed: dict[str, int] = field(default_factory=lambda: {"sent": 0, "failed": 0})
    feeds: Sequence[FeedHealth] = ()
    inventory: Mapping[str, AccountStatus] = field(default_factory=dict)
    inventory_changes: int = 0
    exemptions_failed: bool = False
    channels: list[ChannelHealth] = field(default_factory=list)
    alerted: dict[str, int] = field(default_factory=lambda: {"sent": 0, "failed": 0})


class PipelineCollector(Collector):
    """The pipeline's own counters, read where they are kept at the time of the scrape."""

    def __init__(self, tally: Callable[[], Tally], health: Health, clock: Callable[[], float], catalogue: str) -> None:
        self._tally = tally
        self._health = health
        self._clock = clock
        self._catalogue = catalogue

    def collect(self) -> Iterator[Metric]:
        """The families of CATALOGUE that are not the gap's, as prometheus_client asks for them at a scrape."""
        tally, health, now = self._tally(), self._health, self._clock()
        yield _counter("gapwatch_records_total", "class", {name: tally.classes[name] for name in CLASSES})
        yield _counter("gapwatch_rejected_total", "reason", tally.rejected)
        yield _plain("gapwatch_late_total", tally.late)
        yield _plain("gapwatch_first_use_evicted_total", health.first_uses_evicted)
        yield _plain("gapwatch_first_use_lost_total", health.first_uses_lost)
        yield _plain("gapwatch_exemptions_failed", int(health.exemptions_failed))
        yield _counter("gapwatch_alerts_written_total", "outcome", health.alerted)
        yield _counter("gapwatch_pushed_total", "outcome", health.pushed)
        yield _plain("gapwatch_newest_event_timestamp_seconds", tally.newest)
        yield _plain("gapwatch_as_of_timestamp_seconds", health.as_of)
        yield _plain("gapwatch_lag_seconds", max(0.0, now - health.as_of) if health.as_of else 0.0)
        yield _plain("gapwatch_flush_age_seconds", max(0.0, now - health.flushed_at) if health.flushed_at else 0.0)
        yield _plain("gapwatch_principals", health.principals)
        yield _plain("gapwatch_shards", health.shards)
        yield _plain("gapwatch_shards_lost_total", health.shards_lost)
        yield _plain("gapwatch_shards_untold", health.shards_untold)
        yield _plain("gapwatch_log_lag_messages", health.log_lag)
        yield _plain("gapwatch_store_waiting", int(health.waiting))
        yield from list_feeds(health.feeds)
        yield _plain("gapwatch_inventory_changes_total", health.inventory_changes)
        failed = {account: float(bool(found.failed)) for account, found in health.inventory.items()}
        yield _gauge("gapwatch_inventory_failed", "account", failed)
        yield from list_channels(health.channels)
        yield describe_build(self._catalogue)


def describe_build(catalogue: str) -> Metric:
    """The family gapwatch_build_info, with the version of a catalogue."""
    row = ROWS["gapwatch_build_info"]
    info = GaugeMetricFamily(row.name, row.text, labels=row.labels)
    info.add_metric((find_version(), catalogue), 1)
    return info


def _counter(name: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, ROWS[name].text, labels=(label,))
    for value, count in sorted(values.items()):
        family.add_metric((value,), count)
    return family


def _gauge(name: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, ROWS[name].text, labels=(label,))
    for value, number in sorted(values.items()):
        family.add_metric((value,), number)
    return family


def _plain(name: str, value: float) -> Metric:
    row = ROWS[name]
    if row.kind == "counter":
        return CounterMetricFamily(name, row.text, value=value)
    return GaugeMetricFamily(name, row.text, value=value)


def make_registry(collector: PipelineCollector) -> tuple[CollectorRegistry, Histogram]:
    """A registry of its own, so that two pipelines fit into one process."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # `_created` families would be in no catalogue
    registry = CollectorRegistry()
    registry.register(collector)
    flush = Histogram(
        "gapwatch_flush_seconds",
        ROWS["gapwatch_flush_seconds"].text,
        registry=registry,
        buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    )
    return registry, flush


def render_pipeline(registry: CollectorRegistry) -> bytes:
    """The pipeline's own metrics as one gzip member."""
    return gzip.compress(generate_latest(registry), 1)
