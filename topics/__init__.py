"""The published contract of each Kafka topic, one module a topic; contract.py says what they share."""

from topics import alerts, coverage, gap_changes, grants, rejected, uses
from topics.contract import Topic

TOPICS: tuple[Topic, ...] = (
    uses.TOPIC,
    grants.TOPIC,
    coverage.TOPIC,
    gap_changes.TOPIC,
    alerts.TOPIC,
    rejected.TOPIC,
)
"""In the order in which a record passes them."""
