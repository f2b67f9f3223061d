"""What a process that runs on and on rejects, and when it stops rather than reject everything."""

import itertools
from collections import deque

from processor.core.tally import Tally
from processor.opening import RejectLog
from processor.shell.redis import StoreError

FUTURE_SECONDS_MAX = 15 * 60
"""A record that is further ahead of the clock is rejected: its time would hold back every later verdict."""

REJECTS_OF = 10_000


class RejectRatioError(StoreError):
    """Too many records are bad: something else than CloudTrail is being read."""


class RejectRatio:
    """Stops rather than throw everything away: when the share of rejects among the last 10,000 records is too high."""

    def __init__(self, ratio_max: float) -> None:
        self._ratio_max = ratio_max
        self._recent: deque[tuple[int, int]] = deque([(0, 0)])

    def start(self, tally: Tally) -> None:
        """Count from here on."""
        self._recent = deque([(tally.read, tally.classes["rejected"])])

    def check(self, tally: Tally, rejects: RejectLog) -> None:
        """Raise RejectRatioError where the share is too high."""
        now = (tally.read, tally.classes["rejected"])
        self._recent.append(now)
        while len(self._recent) > 1 and now[0] - self._recent[1][0] >= REJECTS_OF:
            self._recent.popleft()
        read, rejected = now[0] - self._recent[0][0], now[1] - self._recent[0][1]
        if read >= REJECTS_OF and rejected > read * self._ratio_max:
            raise RejectRatioError(
                f"{rejected} of the last {read} records were rejected, more than reject_ratio_max allows: is this CloudTrail? "
                + "; ".join(itertools.islice(rejects.lines(), 3))
            )
