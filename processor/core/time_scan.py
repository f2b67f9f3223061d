"""A compiled loop over CloudTrail's times."""

import numpy as np

from processor.core.compiled import inner, load_octet

_MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int64)
_DAY_SECONDS = 86_400
_TIME_MAX = 2**32 - 1


@inner
def read_digits(text: int, at: int, count: int) -> int:
    """A number of so many digits, negative where one is none."""
    number = 0
    for place in range(at, at + count):
        digit = load_octet(text, place) - 0x30
        if digit < 0 or digit > 9:
            return -1_000_000
        number = number * 10 + digit
    return number


@inner
def read_time(text: int, at: int, end: int) -> int:
    """Seconds since 1970 of the string `"YYYY-MM-DDTHH:MM:SSZ"`, its quotes included; 0 for any other."""
    if (
        end - at != 22 or load_octet(text, at + 5) != 0x2D or load_octet(text, at + 8) != 0x2D or load_octet(text, at + 11) != 0x54
        or load_octet(text, at + 14) != 0x3A or load_octet(text, at + 17) != 0x3A or load_octet(text, at + 20) != 0x5A
    ):  # fmt: skip
        return 0
    year, month, day = read_digits(text, at + 1, 4), read_digits(text, at + 6, 2), read_digits(text, at + 9, 2)
    hour, minute, second = read_digits(text, at + 12, 2), read_digits(text, at + 15, 2), read_digits(text, at + 18, 2)
    if year < 1970 or not 1 <= month <= 12 or day < 1:
        return 0
    if not 0 <= hour <= 23 or not 0 <= minute <= 59 or not 0 <= second <= 59:
        return 0
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if day > _MONTH_DAYS[month] + (1 if leap and month == 2 else 0):
        return 0
    # Days before a civil date, with years that begin in March (Howard Hinnant, chrono-compatible date algorithms).
    marched = year - (1 if month <= 2 else 0)
    days = 365 * marched + marched // 4 - marched // 100 + marched // 400
    days += (153 * (month + (9 if month <= 2 else -3)) + 2) // 5 + day - 1 - 719_468
    time = days * _DAY_SECONDS + hour * 3_600 + minute * 60 + second
    return time if _DAY_SECONDS <= time <= _TIME_MAX else 0
