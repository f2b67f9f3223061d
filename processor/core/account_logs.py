"""When the log of each account begins, in a column that the loop reads."""

import numpy as np

from processor.core.compiled import Numbers
from processor.core.key_tables import grow
from processor.core.tally import AccountLog, Tally


class AccountLogs:
    """The logs of a tally by number; the loop moves `firsts` itself, and `settle` puts that into the logs."""

    def __init__(self, tally: Tally) -> None:
        self.firsts: Numbers = np.zeros(64, np.int64)
        self._tally = tally
        self._logs: list[AccountLog] = []
        self._numbers: dict[str, int] = {}

    def number(self, account_id: str, time: int) -> int:
        """The number of an account's log, which begins at a time where it is new."""
        number = self._numbers.get(account_id)
        if number is None:
            number = self._numbers[account_id] = len(self._logs)
            log = self._tally.log_of(account_id, time)
            self._logs.append(log)
            self.firsts = grow(self.firsts, number + 1)
            self.firsts[number] = log.first
        return number

    def note_time(self, number: int, time: int) -> None:
        log = self._logs[number]
        if time < log.first:
            self.firsts[number] = time
        self._tally.note_time(log, time)

    def settle(self) -> None:
        for log, first in zip(self._logs, self.firsts.tolist(), strict=False):
            log.first = min(log.first, first)
