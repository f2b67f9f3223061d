"""Compiled loops over JSON text: where a value ends, and whether it is JSON at all.

Strict, as RFC 8259 has it, but for UTF-8 inside of strings that nobody reads. A text that nests deeper than DEPTH_MAX is
left to the decoders that are not compiled. Every function takes the place `at` and the length `end` of the text, and
answers the place behind what it read; a negative answer `-place - 1` says where the text broke off or went wrong.
"""

import numpy as np

from processor.core.compiled import count_zeros, find_special, inner, load_octet, load_word

DEPTH_MAX = 62
"""Kinds of the open brackets are bits of one word. Records of CloudTrail nest to 11."""

_ONE = np.uint64(1)
_NONE = np.uint64(0)
_THREE = np.uint64(0xFFFFFF)
_COLON = np.uint64(int.from_bytes(b'":"', "little"))
_COMMA = np.uint64(int.from_bytes(b'","', "little"))
_MEMBER_BYTES = 128
"""More than a member of two strings of less than 32 bytes takes, and what is looked at behind it."""


@inner
def peek(text: int, at: int, end: int) -> int:
    """The byte at a place, 0 behind the end: no byte of JSON, so that nothing goes on there."""
    return load_octet(text, at) if at < end else 0


@inner
def skip_space(text: int, at: int, end: int) -> int:
    """To the next byte that is no white space; AWS writes none, so that one comparison says it."""
    while at < end:
        octet = load_octet(text, at)
        if octet > 0x20 or (octet != 0x20 and octet != 0x0A and octet != 0x0D and octet != 0x09):
            return at
        at += 1
    return at


@inner
def skip_comma(text: int, at: int, end: int) -> int:
    """From behind an element of an object or array, whose JSON is known to be good, to the next one or to what closes it."""
    at = skip_space(text, at, end)
    return skip_space(text, at + 1, end) if load_octet(text, at) == 0x2C else at


@inner
def read_hex(text: int, at: int, end: int) -> int:
    """The number that four hexadecimal digits write, -1 where they do not stand there."""
    number = 0
    for place in range(at, at + 4):
        octet = peek(text, place, end)
        if 0x30 <= octet <= 0x39:
            digit = octet - 0x30
        elif 0x61 <= octet <= 0x66 or 0x41 <= octet <= 0x46:
            digit = (octet & 0x0F) + 9
        else:
            return -1
        number = number * 16 + digit
    return number


@inner
def skip_escape(text: int, at: int, end: int) -> int:
    """From the letter behind a backslash. A half of a surrogate pair without the other is no text."""
    letter = peek(text, at, end)
    if letter == 0x75:
        unit = read_hex(text, at + 1, end)
        if unit < 0 or 0xDC00 <= unit <= 0xDFFF:
            return -min(at + 5, end) - 1
        if unit < 0xD800 or unit > 0xDBFF:
            return at + 5
        if peek(text, at + 5, end) != 0x5C or peek(text, at + 6, end) != 0x75:
            return -min(at + 6, end) - 1
        other = read_hex(text, at + 7, end)
        return at + 11 if 0xDC00 <= other <= 0xDFFF else -min(at + 11, end) - 1
    if (
        letter == 0x22 or letter == 0x5C or letter == 0x2F or letter == 0x62 or letter == 0x66
        or letter == 0x6E or letter == 0x72 or letter == 0x74
    ):  # fmt: skip
        return at + 1
    return -at - 1


@inner
def skip_string(text: int, at: int, end: int) -> int:
    """From behind the opening quote; 32 bytes at a time where there are so many."""
    while True:
        if at + 32 <= end:
            special = find_special(text, at)
            if special == 0:
                at += 32
                continue
            at += count_zeros(special)
        octet = peek(text, at, end)
        if octet == 0x22:
            return at + 1
        if octet == 0x5C:
            at = skip_escape(text, at + 1, end)
            if at < 0:
                return at
        elif octet < 0x20:
            return -at - 1
        else:
            at += 1


@inner
def has_escapes(text: int, at: int, close: int) -> bool:
    """Whether a string that was read holds a backslash; `close` is the place of its closing quote."""
    while at < close:
        if load_octet(text, at) == 0x5C:
            return True
        at += 1
    return False


@inner
def ends_plainly(text: int, at: int, close: int, end: int) -> bool:
    """Whether a string that was read holds no backslash up to its closing quote."""
    if at + 32 <= end:
        special = find_special(text, at)
        if special != 0:
            return at + count_zeros(special) == close
    return not has_escapes(text, at, close)


@inner
def find_plain_end(text: int, at: int, end: int) -> int:
    """The place of the quote that ends a short string without escapes, of which the first lies at `at`; -1 for all else. Something
    follows, as far as one more byte."""
    if at + 35 <= end and load_octet(text, at) == 0x22:
        special = find_special(text, at + 1)
        if special != 0:
            close = at + 1 + count_zeros(special)
            if load_octet(text, close) == 0x22:
                return close
    return -1


@inner
def skip_digits(text: int, at: int, end: int) -> int:
    while at < end and 0x30 <= load_octet(text, at) <= 0x39:
        at += 1
    return at


@inner
def skip_number(text: int, at: int, end: int) -> int:
    """From its first byte: a minus or a digit."""
    if peek(text, at, end) == 0x2D:
        at += 1
    first = peek(text, at, end)
    whole = skip_digits(text, at, end)
    if whole == at or (first == 0x30 and whole > at + 1):
        return -at - 1
    at = whole
    if peek(text, at, end) == 0x2E:
        at += 1
        part = skip_digits(text, at, end)
        if part == at:
            return -at - 1
        at = part
    if peek(text, at, end) == 0x65 or peek(text, at, end) == 0x45:
        at += 1
        if peek(text, at, end) == 0x2B or peek(text, at, end) == 0x2D:
            at += 1
        part = skip_digits(text, at, end)
        if part == at:
            return -at - 1
        at = part
    return at


@inner
def skip_word(text: int, at: int, end: int) -> int:
    """true, false or null."""
    first = peek(text, at, end)
    if first == 0x74:
        if (
            at + 4 <= end
            and load_octet(text, at + 1) == 0x72
            and load_octet(text, at + 2) == 0x75
            and load_octet(text, at + 3) == 0x65
        ):
            return at + 4
    elif first == 0x6E:
        if (
            at + 4 <= end
            and load_octet(text, at + 1) == 0x75
            and load_octet(text, at + 2) == 0x6C
            and load_octet(text, at + 3) == 0x6C
        ):
            return at + 4
    elif (
        first == 0x66 and at + 5 <= end and load_octet(text, at + 1) == 0x61 and load_octet(text, at + 2) == 0x6C
        and load_octet(text, at + 3) == 0x73 and load_octet(text, at + 4) == 0x65
    ):  # fmt: skip
        return at + 5
    # A word that the end cuts off is taken for one that goes on.
    return -min(end, at + 5) - 1 if at + 5 > end else -at - 1


@inner
def skip_key(text: int, at: int, end: int) -> int:
    """From the quote of a key to its value, the colon and white space included."""
    if peek(text, at, end) != 0x22:
        return -at - 1
    at = skip_string(text, at + 1, end)
    if at < 0:
        return at
    at = skip_space(text, at, end)
    if peek(text, at, end) != 0x3A:
        return -at - 1
    return skip_space(text, at + 1, end)


@inner
def skip_scalar(text: int, at: int, end: int) -> int:
    first = peek(text, at, end)
    if first == 0x22:
        return skip_string(text, at + 1, end)
    if first == 0x2D or 0x30 <= first <= 0x39:
        return skip_number(text, at, end)
    return skip_word(text, at, end)


@inner
def skip_plain_members(text: int, at: int, end: int) -> int:
    """From the quote of a key to that of the last one before which all were `"key":"value",` with short plain strings."""
    if peek(text, at, end) != 0x22:
        return at
    while at + _MEMBER_BYTES < end:
        special = find_special(text, at + 1)
        if special == 0:
            return at
        close = at + 1 + count_zeros(special)
        if load_word(text, close) & _THREE != _COLON:
            return at
        special = find_special(text, close + 3)
        if special == 0:
            return at
        close += 3 + count_zeros(special)
        if load_word(text, close) & _THREE != _COMMA:
            return at
        at = close + 2
    return at


@inner
def skip_value(text: int, at: int, end: int) -> int:
    """A value of any kind, from its first byte."""
    depth = 0
    objects = _NONE
    while True:
        first = peek(text, at, end)
        if first == 0x7B or first == 0x5B:
            depth += 1
            if depth > DEPTH_MAX:
                return -at - 1
            objects = (objects << _ONE) | (_ONE if first == 0x7B else _NONE)
            at = skip_space(text, at + 1, end)
            if peek(text, at, end) != first + 2:
                if first == 0x7B:
                    at = skip_key(text, skip_plain_members(text, at, end), end)
                    if at < 0:
                        return at
                continue
            at += 1
            depth -= 1
            objects >>= _ONE
        else:
            at = skip_scalar(text, at, end)
            if at < 0:
                return at
            if objects & _ONE and at + 1 < end and load_octet(text, at) == 0x2C and load_octet(text, at + 1) == 0x22:
                at = skip_key(text, skip_plain_members(text, at + 1, end), end)  # As most are.
                if at < 0:
                    return at
                continue
        while True:  # Behind a value: what closes, up to a comma or the end of the outermost.
            if depth == 0:
                return at
            at = skip_space(text, at, end)
            octet = peek(text, at, end)
            if octet == 0x2C:
                at = skip_space(text, at + 1, end)
                if objects & _ONE:
                    at = skip_key(text, at, end)
                    if at < 0:
                        return at
                break
            if octet != (0x7D if objects & _ONE else 0x5D):
                return -at - 1
            at += 1
            depth -= 1
            objects >>= _ONE
