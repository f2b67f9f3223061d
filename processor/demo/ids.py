"""Ids of the made-up company: the same for the same seed, of AWS' form, and never real.

Each is a hash of what it names. Access keys end in EXAMPLE, as those of AWS' documentation do, and session tokens hold
EXAMPLETOKEN: neither can be anybody's, and a test of secrecy can look for both.
"""

import hashlib

KEY_MARK = "EXAMPLE"
TOKEN_MARK = "EXAMPLETOKEN"  # noqa: S105 - the mark of tokens that open nothing
_BASE32 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" * 8
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" * 4
"""What each of the 256 bytes is spelt as: of 32 or 64 characters, so that all are as likely."""


def make_hex(length: int, *parts: object) -> str:
    """`length` (up to 64) hexadecimal digits that stand for these parts."""
    text = "\0".join(map(str, parts)).encode()
    return hashlib.blake2b(text, digest_size=32).hexdigest()[:length]


def make_unique_id(prefix: str, *parts: object) -> str:
    """A unique id such as AROA…: the prefix (AROA role, AIDA user, AGPA group, ANPA policy) and 17 characters."""
    return prefix + _spell(_BASE32, 17, parts)


def make_access_key(prefix: str, *parts: object) -> str:
    """An access key id of 20 characters: ASIA… of a session, AKIA… of a user."""
    return prefix + _spell(_BASE32, 9, parts) + KEY_MARK


def make_token(*parts: object) -> str:
    """A session token as AssumeRole answers it, cut to a third of a real one's length."""
    return "IQoJb3JpZ2luX2VjE" + _spell(_BASE64, 200, parts) + TOKEN_MARK + "=="


def make_uuid(*parts: object) -> str:
    return format_uuid(int(make_hex(32, *parts), 16))


def format_uuid(bits: int) -> str:
    """128 bits as a version 4 UUID: three times as fast as the library's class."""
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def _spell(alphabet: bytes, length: int, parts: tuple[object, ...]) -> str:
    """`length` characters of an alphabet that stand for these parts."""
    seed = "\0".join(map(str, parts)).encode()
    return hashlib.shake_128(seed).digest(length).translate(alphabet).decode()
