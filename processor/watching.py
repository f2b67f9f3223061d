"""What a run is told of alerts: the file of exemptions, and how long a principal is learning."""

from collections.abc import Callable, Iterable
from pathlib import Path

from processor.core.exemptions import Exemptions, ExemptionsError, read_exemptions
from processor.core.records import DAY_SECONDS
from processor.core.watch import Watching
from processor.settings import AlertsSettings
from processor.settings_error import SettingsError

LOOK_SECONDS = 5.0
BYTES_MAX = 4_000_000
"""A thousand exemptions with all that they may say."""


def read_watching(settings: AlertsSettings) -> Watching:
    """What the settings say, with the file that they name. Raises SettingsError where it cannot be used."""
    return Watching(
        load_exemptions(settings.exemptions) if settings.exemptions else Exemptions(),
        settings.learning_days * DAY_SECONDS,
    )


class ExemptionsFile:
    """The file that the settings name, which a run has read at its start (`watching`) and looks at again. `failed`: what stands
    there now cannot be used, and what was read before counts."""

    def __init__(self, settings: AlertsSettings, watching: Watching, warn: Callable[[str], None]) -> None:
        self._settings = settings
        self._warn = warn
        self._looked_at = 0.0
        self._watching = watching
        self._seen: tuple[int, ...] = ()
        self.failed = False

    def _sign(self) -> tuple[int, ...]:
        """What is another one when the file is: also where a link leads to another file now, as Kubernetes does it."""
        if not self._settings.exemptions:
            return ()
        try:
            found = Path(self._settings.exemptions).stat()
        except OSError:
            return (0,)
        return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)

    def look(self, now: float) -> Watching | None:
        """What the file says now, where it has changed and can be used; asks every LOOK_SECONDS only."""
        if 0 <= now - self._looked_at < LOOK_SECONDS:
            return None
        self._looked_at = now
        if (sign := self._sign()) == self._seen:
            return None
        self._seen = sign
        try:
            found = read_watching(self._settings)
        except SettingsError as error:
            self.failed = True
            self._warn(f"{error}; what was read of it before still counts")
            return None
        self.failed = False
        if found.exemptions.says_the_same(self._watching.exemptions):
            return None
        self._watching = found
        self._warn(f"--exemptions {self._settings.exemptions}: read again, {len(found.exemptions.listed)} exemptions")
        return found


def load_exemptions(path: str) -> Exemptions:
    """The exemptions of a file. Raises SettingsError; an exemption that has expired is no error, but an alert."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(BYTES_MAX + 1)
        if len(raw) > BYTES_MAX:
            raise SettingsError(f"--exemptions {path} has more than {BYTES_MAX} bytes")
        return read_exemptions(raw.decode(), f"--exemptions {path}")
    except OSError as error:
        raise SettingsError(f"--exemptions {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"--exemptions {path} is no UTF-8 text: {error}") from error
    except ExemptionsError as error:
        raise SettingsError(str(error)) from error


def find_inventory_time(paths: Iterable[str]) -> int | None:
    """When the oldest of the inventory's files was written: what is known is as old as that. None where there is none."""
    return min((int(Path(path).stat().st_mtime) for path in paths), default=None)
