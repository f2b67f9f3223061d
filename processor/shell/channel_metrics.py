"""What channels to people say of themselves, as metrics."""

import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from processor.shell.feed_metrics import MetricRow

CHANNEL_ROWS = (
    MetricRow("gapwatch_notified_total", "counter", ("channel", "outcome"), "Messages to people: sent, or failed: tried again."),
    MetricRow("gapwatch_notify_waiting", "gauge", ("channel",), "What is to be told and waits for its message."),
    MetricRow("gapwatch_notify_failing", "gauge", ("channel",), "1 while the last message of a channel was not taken."),
)  # fmt: skip

_SENT, _WAITING, _FAILING = CHANNEL_ROWS


@dataclass(slots=True)
class ChannelHealth:
    """How one channel does."""

    name: str
    counts: dict[str, int] = field(default_factory=lambda: {"sent": 0, "failed": 0})
    waiting: int = 0
    failing: bool = False


def list_channels(channels: Sequence[ChannelHealth]) -> Iterator[Metric]:
    """The families of CHANNEL_ROWS."""
    sent = CounterMetricFamily(_SENT.name, _SENT.text, labels=_SENT.labels)
    waiting = GaugeMetricFamily(_WAITING.name, _WAITING.text, labels=_WAITING.labels)
    failing = GaugeMetricFamily(_FAILING.name, _FAILING.text, labels=_FAILING.labels)
    for channel in channels:
        for outcome, count in channel.counts.items():
            sent.add_metric((channel.name, outcome), count)
        waiting.add_metric((channel.name,), channel.waiting)
        failing.add_metric((channel.name,), int(channel.failing))
    yield from (sent, waiting, failing)


class ChannelCollector(Collector):
    """The families of a process that does nothing but tell people."""

    def __init__(self, channels: Callable[[], Sequence[ChannelHealth]], collect_build: Callable[[], Metric]) -> None:
        self._channels = channels
        self._collect_build = collect_build

    def collect(self) -> Iterator[Metric]:
        yield from list_channels(self._channels())
        yield self._collect_build()


def render_channels(collector: ChannelCollector) -> bytes:
    """As one gzip member."""
    registry = CollectorRegistry()
    registry.register(collector)
    return gzip.compress(generate_latest(registry), 1)
