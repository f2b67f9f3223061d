"""What was counted: records by class, rejects by reason, names that no action bears, and the times that were seen."""

from dataclasses import dataclass, field

CLASSES = (
    "use",
    "denied",
    "duplicate",
    "not_iam",
    "no_principal",
    "out_of_scope",
    "unmapped",
    "rejected",
)

UNMAPPED_MAX = 2_000
OTHERS = "(others)"


class AccountLog:
    """The log of one account, as far as it was read: `first` is the time of its first record."""

    __slots__ = ("account_id", "first")

    def __init__(self, account_id: str, first: int) -> None:
        self.account_id = account_id
        self.first = first


@dataclass(slots=True)
class Tally:
    """Counters of one store. `newest` and `second_newest` are the newest distinct times of records that were not
    rejected; `late` counts uses older than the duplicates' horizon."""

    classes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    rejected: dict[str, int] = field(default_factory=dict)
    unmapped: dict[str, int] = field(default_factory=dict)
    logs: dict[str, AccountLog] = field(default_factory=dict)
    newest: int = 0
    second_newest: int = 0
    late: int = 0

    @property
    def read(self) -> int:
        return sum(self.classes.values())

    @property
    def accounts(self) -> dict[str, int]:
        """The time of the first record by account."""
        return {account_id: log.first for account_id, log in self.logs.items()}

    @property
    def compared(self) -> tuple[int, int, int]:
        """What a comparison looks at before and after: duplicates, uses older than the horizon, and those that are counted."""
        counted = self.classes["use"] + self.classes["denied"]
        return self.classes["duplicate"], self.late, counted - self.late

    def log_of(self, account_id: str, time: int) -> AccountLog:
        """The log of an account, opened with this time where it is new."""
        found = self.logs.get(account_id)
        if found is None:
            found = self.logs[account_id] = AccountLog(account_id, time)
        return found

    def note_time(self, log: AccountLog, time: int) -> None:
        """Take notice of a record's time: since when the log is known, and how far."""
        log.first = min(log.first, time)
        if time > self.newest:
            self.second_newest, self.newest = self.newest, time
        elif time > self.second_newest and time != self.newest:
            self.second_newest = time

    def count_unmapped(self, event_source: str, event_name: str) -> None:
        self.classes["unmapped"] += 1
        name = f"{event_source}:{event_name}"[:256]
        if name not in self.unmapped and len(self.unmapped) >= UNMAPPED_MAX:
            name = OTHERS
        self.unmapped[name] = self.unmapped.get(name, 0) + 1

    def count_rejected(self, reason: str) -> None:
        self.classes["rejected"] += 1
        self.rejected[reason] = self.rejected.get(reason, 0) + 1
