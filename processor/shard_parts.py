"""What all shards of a process have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from processor.core.catalogue import Catalogue
from processor.core.gap import Logging
from processor.core.watch import NOT_WATCHING, Watching
from processor.settings import Settings
from processor.shell.feeds import FeedHealth


@dataclass(frozen=True, slots=True)
class ShardParts:
    """`clock` gives seconds since 1970; `observed` are the actions that were used in each account, by whomever; `watching` says
    which first uses are news; `logging` is what accounts were found to log, `held` since when some cannot be read; `compared`
    counts records of log files that intakes compare with their streams."""

    catalogue: Catalogue
    settings: Settings
    clock: Callable[[], float]
    warn: Callable[[str], None]
    observed: dict[str, int]
    watching: Watching = NOT_WATCHING
    logging: dict[str, Logging] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    compared: FeedHealth = field(default_factory=lambda: FeedHealth("reconcile"))

    def take_read(self, logging: Mapping[str, Logging], held: Mapping[str, int]) -> None:
        """Take in what was read of accounts, for shards that are loaded from now on."""
        self.logging.clear()
        self.logging.update(logging)
        self.held.clear()
        self.held.update(held)
