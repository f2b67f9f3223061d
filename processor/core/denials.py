"""How often privileged actions were refused lately: what makes a spike, whoever restarts meanwhile.

A store keeps how often a call was refused, not when. What a flush adds is dated with the flush's end, and only where the
flush spans little time: what a long catch-up finds is history, in the totals and in no spike.
"""

from collections import deque

RECENT_SECONDS = 600
SPAN_SECONDS_MAX = RECENT_SECONDS
"""A flush that moves the verdicts' time by more than this tells too little of when something happened."""


class RecentDenials:
    """Refusals of one principal within RECENT_SECONDS, at most one entry a second of event time."""

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque()
        self.total = 0

    def add(self, count: int, since: int, until: int) -> None:
        """Take in refusals that a flush found, which moved the verdicts' time from `since` to `until`."""
        if until - since > SPAN_SECONDS_MAX:
            return
        self.total += count
        if self._counts and self._counts[-1][0] == until:
            self._counts[-1] = (until, self._counts[-1][1] + count)
        else:
            self._counts.append((until, count))

    def forget(self, now: int) -> int:
        """Let go of what is older than RECENT_SECONDS; returns what is left."""
        while self._counts and self._counts[0][0] <= now - RECENT_SECONDS:
            self.total -= self._counts.popleft()[1]
        return self.total
