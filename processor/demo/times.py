"""Times of the demo: CloudTrail's spelling of them, and how the made-up company's work is spread over a week."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

DAY_SECONDS = 86_400
HOUR_SECONDS = 3_600
WEEK_HOURS = 168

Week = tuple[float, ...]
"""The share of a week's work in each of its 168 hours (UTC), from Monday's first on; together 1."""


def format_time(at: int) -> str:
    """Seconds since 1970 as CloudTrail writes them."""
    day, second = divmod(at, DAY_SECONDS)
    hour, second = divmod(second, HOUR_SECONDS)
    minute, second = divmod(second, 60)
    return f"{_format_day(day)}T{hour:02d}:{minute:02d}:{second:02d}Z"


@lru_cache(maxsize=512)
def _format_day(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_SECONDS, UTC).strftime("%Y-%m-%d")


def hour_of_week(at: int) -> int:
    """0 to 167. The first day of 1970 was a Thursday."""
    return (at // HOUR_SECONDS + 3 * 24) % WEEK_HOURS


OFFICE_HOURS = (0, 0, 0, 0, 0, 0, 1, 4, 9, 10, 10, 7, 5, 9, 10, 9, 6, 3, 1, 1, 1, 0, 0, 0)
"""How busy people in a European office are in each hour of a working day (UTC)."""


def _spread(day_weights: tuple[int, ...], days: tuple[float, ...]) -> Week:
    """A week of days alike, each with its own weight."""
    weights = [weight * day for day in days for weight in day_weights]
    return tuple(weight / sum(weights) for weight in weights)


def _only(*hours: int) -> tuple[int, ...]:
    return tuple(int(hour in hours) for hour in range(24))


_WORKDAYS = (1.0, 1.1, 1.1, 1.0, 0.8, 0.02, 0.02)
RHYTHMS: Mapping[str, Week] = {
    "office": _spread(OFFICE_HOURS, _WORKDAYS),
    "release": _spread(_only(8, 9, 10, 13, 14, 15), (1, 1, 1, 1, 0, 0, 0)),
    "steady": _spread((1,) * 24, (1,) * 7),
    "busy": _spread(
        (2, 1, 1, 1, 1, 2, 3, 4, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 6, 6, 5, 4, 3, 2), (1, 1, 1, 1, 1.2, 1.3, 1.1)
    ),
    "night": _spread(_only(1, 2, 3), (1,) * 7),
    "sunday": _spread(_only(4, 5), (0, 0, 0, 0, 0, 0, 1)),
    "monday": _spread(_only(6, 7), (1, 0, 0, 0, 0, 0, 0)),
}
"""`busy` follows the company's customers, weekends included."""
