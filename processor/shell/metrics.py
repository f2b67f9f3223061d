"""Every metric of gapwatch, and the text that /metrics serves.

The gap's series are rendered one shard at a time, when a principal of it changed, and kept as gzip members: a scrape
joins what is there, and Prometheus reads members one after another as one text.
"""

import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from processor.core.fleet import Member
from processor.core.sessions import SHARDS, shard_of
from processor.core.tally import CLASSES, Tally
from processor.core.tracker import FirstUse, GapCounts, Tracker
from processor.shell.inventory_store import AccountStatus


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One family: what dashboards, rules and docs are held against."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


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
        "gapwatch_service_unused_grants", "gauge", ("account", "service", "window"),
        "Unused granted actions of all principals of an account, by service.",
    ),
    MetricRow(
        "gapwatch_first_use_timestamp_seconds", "gauge", ("account", "principal", "action"),
        "When a privileged action was first used by a principal; the newest 1,000.",
    ),
    MetricRow("gapwatch_first_use_evicted_total", "counter", (), "First uses that were dropped for newer ones."),
    MetricRow("gapwatch_records_total", "counter", ("class",), "CloudTrail records read, by what became of them."),
    MetricRow("gapwatch_rejected_total", "counter", ("reason",), "Records that could not be used, by reason."),
    MetricRow("gapwatch_late_total", "counter", (), "Uses older than the duplicates' horizon: not counted, but noted."),
    MetricRow("gapwatch_newest_event_timestamp_seconds", "gauge", (), "The newest event that was read."),
    MetricRow("gapwatch_as_of_timestamp_seconds", "gauge", (), "The time that verdicts are of."),
    MetricRow("gapwatch_lag_seconds", "gauge", (), "How far behind the clock the verdicts' time is."),
    MetricRow("gapwatch_flush_age_seconds", "gauge", (), "Since when no flush has been written."),
    MetricRow("gapwatch_flush_seconds", "histogram", (), "How long flushes to the store took."),
    MetricRow("gapwatch_principals", "gauge", (), "Principals that are known, by inventory or by use."),
    MetricRow("gapwatch_store_waiting", "gauge", (), "1 while the store is away or full and progress waits for it."),
    MetricRow("gapwatch_inventory_timestamp_seconds", "gauge", ("account",), "When an account was last read whole from AWS."),
    MetricRow("gapwatch_inventory_failed", "gauge", ("account",), "1 while an account cannot be read: its verdicts are frozen."),
    MetricRow("gapwatch_inventory_changes_total", "counter", (), "Changes of grants that records told of."),
    MetricRow("gapwatch_build_info", "gauge", ("version", "catalogue"), "1, with what runs in the labels."),
)  # fmt: skip

ROWS = {row.name: row for row in CATALOGUE}
_GAP_FAMILIES = tuple(row.name for row in CATALOGUE[:4])


def find_version() -> str:
    """gapwatch's version as installed."""
    try:
        return version("gapwatch")
    except PackageNotFoundError:
        return "unknown"


def escape(text: str) -> str:
    """A label value: IAM paths may hold quotes and backslashes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class GapText:
    """The gap's series as text, by family and shard."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._rendered: dict[int, tuple[str, ...]] = {}
        self._keys: dict[int, set[int]] = {shard: set() for shard in range(SHARDS)}
        self._members: dict[tuple[str, int], bytes] = {}
        self._services: dict[tuple[str, str, str], int] = {}
        self._service_parts: dict[int, dict[tuple[str, str, str], int]] = {}
        self._services_member = b""
        self._first_uses_member = b""
        self._heads = {name: gzip.compress(_head(name), 1) for name in ROWS}

    def refresh(self) -> Iterator[None]:
        """Render what changed, one shard a step, so that the caller can let others go on in between."""
        changed, self._tracker.changed = self._tracker.changed, set()
        by_shard: dict[int, list[int]] = {}
        for key in changed:
            by_shard.setdefault(shard_of(key), []).append(key)
        for shard, keys in by_shard.items():
            for key in keys:
                if key in self._tracker:
                    self._render(key)
                    self._keys[shard].add(key)
                else:
                    self._remove(key, shard)
            yield
            self._join(shard)
            yield
        if changed:
            self._join_services()
        self._join_first_uses(self._tracker.first_uses)

    def _render(self, key: int) -> None:
        member, counts = self._tracker.count(key)
        self._add_services(key, member, counts)
        self._rendered[key] = (
            tuple("".join(lines) for lines in zip(*render_gap(member, counts), strict=True)) or ("",) * 4
        )

    def _remove(self, key: int, shard: int) -> None:
        """Forget one that is in no inventory any more, and was never used."""
        self._rendered.pop(key, None)
        self._keys[shard].discard(key)
        self._drop_services(key)

    def _drop_services(self, key: int) -> None:
        for place, count in self._service_parts.pop(key, {}).items():
            self._services[place] -= count

    def _add_services(self, key: int, member: Member, counts: Iterable[GapCounts]) -> None:
        account = member.principal.account_id
        self._drop_services(key)
        parts = {
            (account, service, found.window): count for found in counts for service, count in found.services.items()
        }
        for place, count in parts.items():
            self._services[place] = self._services.get(place, 0) + count
        if parts:
            self._service_parts[key] = parts

    def _join(self, shard: int) -> None:
        keys = sorted(self._keys[shard])
        for at, name in enumerate(_GAP_FAMILIES):
            text = "".join([self._rendered[key][at] for key in keys])
            self._members[name, shard] = gzip.compress(text.encode(), 1) if text else b""

    def _join_services(self) -> None:
        lines = [
            f'gapwatch_service_unused_grants{{account="{escape(account)}",service="{service}",window="{window}"}} {count}\n'
            for (account, service, window), count in sorted(self._services.items())
            if count
        ]
        self._services_member = gzip.compress("".join(lines).encode(), 1)

    def _join_first_uses(self, uses: Iterable[FirstUse]) -> None:
        lines = [
            f'gapwatch_first_use_timestamp_seconds{{account="{escape(use.account_id)}",principal="{escape(use.arn)}",'
            f'action="{use.action}"}} {use.time}\n'
            for use in sorted(uses, key=lambda use: (use.arn, use.action))
        ]
        self._first_uses_member = gzip.compress("".join(lines).encode(), 1)

    def members(self) -> list[bytes]:
        """All series as gzip members, each family whole."""
        parts: list[bytes] = []
        for name in _GAP_FAMILIES:
            parts.append(self._heads[name])
            parts += [found for shard in range(SHARDS) if (found := self._members.get((name, shard)))]
        parts += (self._heads["gapwatch_service_unused_grants"], self._services_member)
        parts += (self._heads["gapwatch_first_use_timestamp_seconds"], self._first_uses_member)
        return [part for part in parts if part]


def _head(name: str) -> bytes:
    return f"# HELP {name} {ROWS[name].text}\n# TYPE {name} {ROWS[name].kind}\n".encode()


def render_gap(member: Member, counts: Iterable[GapCounts]) -> Iterator[tuple[str, str, str, str]]:
    """A principal's lines of the four gap families, one element a window."""
    place = f'{{account="{escape(member.principal.account_id)}",principal="{escape(member.principal.arn)}",window="'
    for found in counts:
        window = f'{place}{found.window}"'
        yield (
            "".join(
                f'gapwatch_gap_grants{window},verdict="{verdict}"}} {count}\n'
                for verdict, count in found.verdicts.items()
            ),
            "".join(
                f'gapwatch_gap_risk_grants{window},risk="{risk}"}} {count}\n' for risk, count in found.risks.items()
            ),
            f"gapwatch_gap_index{window}}} {found.index}\n",
            f"gapwatch_gap_used_not_granted{window}}} {found.not_granted}\n" if found.not_granted else "",
        )


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
    inventory: Mapping[str, AccountStatus] = field(default_factory=dict)
    inventory_changes: int = 0


class PipelineCollector(Collector):
    """The pipeline's own counters, read where they are kept at the time of the scrape."""

    def __init__(self, tally: Callable[[], Tally], health: Health, clock: Callable[[], float], catalogue: str) -> None:
        self._tally = tally
        self._health = health
        self._clock = clock
        self._catalogue = catalogue

    def collect(self) -> Iterator[Metric]:
        """The families of CATALOGUE that are not the gap's."""
        """All families, as prometheus_client asks for them at a scrape."""
        tally, health, now = self._tally(), self._health, self._clock()
        yield _counter("gapwatch_records_total", "class", {name: tally.classes[name] for name in CLASSES})
        yield _counter("gapwatch_rejected_total", "reason", tally.rejected)
        yield _plain("gapwatch_late_total", tally.late)
        yield _plain("gapwatch_first_use_evicted_total", health.first_uses_evicted)
        yield _plain("gapwatch_newest_event_timestamp_seconds", tally.newest)
        yield _plain("gapwatch_as_of_timestamp_seconds", health.as_of)
        yield _plain("gapwatch_lag_seconds", max(0.0, now - health.as_of) if health.as_of else 0.0)
        yield _plain("gapwatch_flush_age_seconds", max(0.0, now - health.flushed_at) if health.flushed_at else 0.0)
        yield _plain("gapwatch_principals", health.principals)
        yield _plain("gapwatch_store_waiting", int(health.waiting))
        yield _plain("gapwatch_inventory_changes_total", health.inventory_changes)
        read = {account: float(found.read) for account, found in health.inventory.items() if found.read}
        yield _gauge("gapwatch_inventory_timestamp_seconds", "account", read)
        failed = {account: float(bool(found.failed)) for account, found in health.inventory.items()}
        yield _gauge("gapwatch_inventory_failed", "account", failed)
        info = GaugeMetricFamily(
            "gapwatch_build_info", ROWS["gapwatch_build_info"].text, labels=("version", "catalogue")
        )
        info.add_metric((find_version(), self._catalogue), 1)
        yield info


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
