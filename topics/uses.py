"""Topic `uses`: what principals did, from intake to ledger.

A message carries either a batch of uses of one shard, each with the hash of its eventID and its position in its source, or a
mark: how far a source is sent (source, position, watermark), in order with its uses. Partition N carries shard N and nothing
else; its order is the order in which a ledger applies it, so an intake sends a source's next batch to a partition only after the
earlier one is acknowledged.

A ledger that has to go back (a crash, a Redis that came back older) reads again from here: what is older than the retention
is gone, and becomes a hole in the coverage.

The codec lives in topics/uses.py and comes with the intake.
"""

from topics.contract import DAY_SECONDS, SHARDS, Topic

TOPIC = Topic(
    name="uses",
    key="none: the partition is the shard",
    partitions=SHARDS,
    retention_seconds=7 * DAY_SECONDS,
    compacted=False,
    schema=1,
    doc="Batches of uses of one shard, and marks: how far a source is sent.",
    example=None,
)
