"""What a run is told of alerts: the file of exemptions, and how long a principal is learning."""

from collections.abc import Iterable
from pathlib import Path

from processor.core.exemptions import Exemptions, ExemptionsError, read_exemptions
from processor.core.records import DAY_SECONDS
from processor.core.watch import Watching
from processor.settings import AlertsSettings, SettingsError


def read_watching(settings: AlertsSettings) -> Watching:
    """What the settings say, with the file that they name. Raises SettingsError where it cannot be used."""
    return Watching(
        load_exemptions(settings.exemptions) if settings.exemptions else Exemptions(),
        settings.learning_days * DAY_SECONDS,
    )


def load_exemptions(path: str) -> Exemptions:
    """The exemptions of a file. Raises SettingsError; an exemption that has expired is no error, but an alert."""
    try:
        return read_exemptions(Path(path).read_text("utf-8"), f"--exemptions {path}")
    except OSError as error:
        raise SettingsError(f"--exemptions {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"--exemptions {path} is no UTF-8 text: {error}") from error
    except ExemptionsError as error:
        raise SettingsError(str(error)) from error


def find_inventory_time(paths: Iterable[str]) -> int | None:
    """When the oldest of the inventory's files was written: what is known is as old as that. None where there is none."""
    return min((int(Path(path).stat().st_mtime) for path in paths), default=None)
