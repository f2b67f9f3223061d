"""The shards of a stream, as splits and merges made them, and which of them may be read.

    before a split    A -> B, C        B and C name A as their parent
    before a merge    B, C -> D        D names B as its parent and C as its adjacent parent

A child holds what was put after its parents closed: read before them, a principal's events would come out of order.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard as ListShards tells it; `parents` are none, one (split) or two (merge)."""

    shard_id: str
    parents: tuple[str, ...] = ()


def find_ready(shards: Iterable[Shard], is_applied: Callable[[str], bool]) -> list[Shard]:
    """The shards to read now: not yet applied to their end, and each parent is, or is no longer listed (its records are
    older than the stream keeps)."""
    listed = {shard.shard_id: shard for shard in shards}
    return [
        shard
        for shard in listed.values()
        if not is_applied(shard.shard_id)
        and all(parent not in listed or is_applied(parent) for parent in shard.parents)
    ]
