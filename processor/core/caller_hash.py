"""A hash of who calls: of all of a userIdentity but what each new set of credentials has of its own."""

import numpy as np

from processor.core.compiled import inner, load_octet, load_word
from processor.core.json_scan import skip_key, skip_space, skip_value
from processor.core.key_tables import EMPTY, combine, hash_bytes

_ACCESS_KEY = np.uint64(int.from_bytes(b"accessKe", "little"))
_CONTEXT = np.uint64(int.from_bytes(b"sessionC", "little"))
_ATTRIBUTES = np.uint64(int.from_bytes(b"attribut", "little"))
_ONE = np.uint64(1)


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
        at = skip_space(text, stop, end)
        if load_octet(text, at) == 0x2C:
            at = skip_space(text, at + 1, end)
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
