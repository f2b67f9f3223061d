"""Hashes of who calls: of all of a userIdentity but what each new set of credentials has of its own, or each new session."""

import numpy as np

from processor.core.compiled import inner, load_octet, load_word
from processor.core.json_scan import has_escapes, skip_comma, skip_key, skip_space, skip_value
from processor.core.key_tables import EMPTY, combine, hash_bytes

_ACCESS_KEY = np.uint64(int.from_bytes(b"accessKe", "little"))
_CONTEXT = np.uint64(int.from_bytes(b"sessionC", "little"))
_ATTRIBUTES = np.uint64(int.from_bytes(b"attribut", "little"))
_PRINCIPAL = np.uint64(int.from_bytes(b"principa", "little"))
_ID = np.uint64(int.from_bytes(b'lId"', "little"))
_ARN = np.uint64(int.from_bytes(b'arn"', "little"))
_FOUR = np.uint64(0xFFFFFFFF)
_ONE = np.uint64(1)
_LONGEST_KEY = 12
"""Bytes of a key that is looked at whole, its closing quote included."""


@inner
def hash_others(text: int, at: int, end: int, seed: np.uint64, left_out: np.uint64, opened: np.uint64) -> np.uint64:
    """A hash of the members of an object, but for those whose key begins with `left_out`; of one that begins with `opened`
    the members in turn, without `attributes`."""
    hashed = seed
    at = skip_space(text, at + 1, end)
    while load_octet(text, at) != 0x7D:
        key = at + 1
        at = skip_key(text, at, end)
        stop = skip_value(text, at, end)
        # A key of any length has its value and the braces behind it: eight bytes are always there but at the very end.
        word = load_word(text, key) if key + 8 <= end else EMPTY
        if word == opened and opened != EMPTY and load_octet(text, at) == 0x7B:
            hashed = combine(hashed, hash_others(text, at, stop, seed, _ATTRIBUTES, EMPTY))
        elif word != left_out:
            one, _ = hash_bytes(text, key, stop, seed)
            hashed = combine(hashed, one)
        at = skip_comma(text, stop, end)
    return hashed


@inner
def hash_caller(text: int, at: int, end: int, seed: np.uint64) -> np.uint64:
    """Of a userIdentity's JSON, which is known to be good. Credentials have an access key and a creation date of their own,
    so that a workload is another one every hour by its bytes, and the same by this."""
    if load_octet(text, at) != 0x7B:
        hashed, _ = hash_bytes(text, at, end, seed)
        return hashed
    hashed = hash_others(text, at, end, seed, _ACCESS_KEY, _CONTEXT)
    return hashed if hashed != EMPTY else _ONE


@inner
def find_colon(text: int, at: int, end: int) -> int:
    """The place of the first colon of a string from behind its quote, or of its closing quote, which lies before `end`."""
    while at < end - 1 and load_octet(text, at) != 0x3A:
        at += 1
    return at


@inner
def is_simple(text: int, at: int, stop: int) -> bool:
    """Whether a value is a string of ASCII without escapes."""
    if load_octet(text, at) != 0x22:
        return False
    for place in range(at + 1, stop):
        octet = load_octet(text, place)
        if octet == 0x5C or octet >= 0x80:
            return False
    return True


@inner
def hash_role(text: int, at: int, end: int, seed: np.uint64) -> tuple[np.uint64, int, int]:
    """Of a role session's userIdentity, as `hash_caller`, but without the session's name: without what follows the colon of
    `principalId`, and without `arn`, which nothing is read from in a session. Behind it where the name lies. EMPTY where that must
    be decoded to be known."""
    nothing = EMPTY, 0, 0
    hashed = seed
    begin = close = 0
    if load_octet(text, at) != 0x7B:
        return nothing
    at = skip_space(text, at + 1, end)
    while load_octet(text, at) != 0x7D:
        key = at + 1
        at = skip_key(text, at, end)
        stop = skip_value(text, at, end)
        if has_escapes(text, key, at):
            return nothing
        word = load_word(text, key) if key + _LONGEST_KEY <= end else EMPTY
        if word == _CONTEXT and load_octet(text, at) == 0x7B:
            hashed = combine(hashed, hash_others(text, at, stop, seed, _ATTRIBUTES, EMPTY))
        elif word == _PRINCIPAL and load_word(text, key + 4) >> np.uint64(32) == _ID:
            if not is_simple(text, at, stop):
                return nothing
            colon = find_colon(text, at + 1, stop)
            one, _ = hash_bytes(text, at, colon, seed)
            hashed = combine(hashed, one)
            begin, close = min(colon + 1, stop - 1), stop - 1
        elif word & _FOUR == _ARN:
            if not is_simple(text, at, stop):
                return nothing
        elif word != _ACCESS_KEY:
            one, _ = hash_bytes(text, key, stop, seed)
            hashed = combine(hashed, one)
        at = skip_comma(text, stop, end)
    if close == 0:
        return nothing
    return (hashed if hashed != EMPTY else _ONE), begin, close
