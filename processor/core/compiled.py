"""What the compiled loops stand on: the compiler, and how bytes and numbers are reached by their address.

The hot path is Python that Numba compiles at its first use, and keeps on disk for the next process. It looks at the bytes
of a payload in place and makes no object a record. A text is an address there (`address_of`): Numba counts references to
arrays at every call, which takes six times as long as reading them. Every loop ends at the length that it is given.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core.errors import NumbaError
from numba.extending import intrinsic
from numpy.typing import NDArray

Loop = TypeVar("Loop", bound=Callable[..., Any])
Words = NDArray[np.uint64]
Numbers = NDArray[np.int64]
Octets = NDArray[np.uint8]
Flags = NDArray[np.bool_]

# Numba is told where it keeps what it compiled by this setting of its own, which its type hints leave out.
config.CACHE_LOCATOR_CLASSES = ",".join(f"processor.loop_cache.{name}" for name in ("Given", "Beside", "OfUser"))  # type: ignore[attr-defined]  # as said above

_NONE = np.uint64(0)
_EIGHT = np.uint64(8)


def compiled(loop: Loop) -> Loop:
    """Compile a function of arrays and numbers at its first call; what was compiled is kept beside the source, or (where
    that cannot be written) in the user's cache folder, or nowhere."""
    try:
        return cast("Loop", njit(cache=True, error_model="numpy")(loop))
    except (RuntimeError, NumbaError):
        return cast("Loop", njit(error_model="numpy")(loop))


def _point(builder: Any, address: Any, offset: Any, kind: Any) -> Any:
    """A pointer to what lies some bytes behind an address."""
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


_NO_WAY_IN: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Options of Numba that its type hints leave out."""


def inner(loop: Loop) -> Loop:
    """Compile a function that only compiled ones call: kept with them, and without a way in from Python."""
    return cast("Loop", njit(error_model="numpy", **_NO_WAY_IN)(loop))


@intrinsic
def _load_octet(_context: Any, _text: Any, _at: Any) -> Any:
    """The byte at a place of a text. The caller sees to it that it is there, here and below."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        octet = builder.load(_point(builder, arguments[0], arguments[1], ir.IntType(8)))
        return builder.zext(octet, ir.IntType(64))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _load_word(_context: Any, _text: Any, _at: Any) -> Any:
    """The eight bytes from a place on, little-endian."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(_point(builder, arguments[0], arguments[1], ir.IntType(64)), align=1)

    return types.uint64(types.int64, types.int64), generate


@intrinsic
def _store_number(_context: Any, _array: Any, _index: Any, _number: Any) -> Any:
    """Set an element of an array of int64, given by its address."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        offset = builder.shl(arguments[1], ir.Constant(ir.IntType(64), 3))
        builder.store(arguments[2], _point(builder, arguments[0], offset, ir.IntType(64)))
        return arguments[2]

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def _load_number(_context: Any, _array: Any, _index: Any) -> Any:
    """An element of an array of int64, given by its address."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        offset = builder.shl(arguments[1], ir.Constant(ir.IntType(64), 3))
        return builder.load(_point(builder, arguments[0], offset, ir.IntType(64)))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _find_special(_context: Any, _text: Any, _at: Any) -> Any:
    """A bit for each of the 32 bytes from a place on that ends a plain stretch of a JSON string: a quote, a backslash, a
    control character."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        lanes = ir.VectorType(ir.IntType(8), 32)
        found = builder.load(_point(builder, arguments[0], arguments[1], lanes), align=1)

        def every(octet: int) -> Any:
            return ir.Constant(lanes, [octet] * 32)

        ends = builder.or_(
            builder.icmp_unsigned("==", found, every(0x22)), builder.icmp_unsigned("==", found, every(0x5C))
        )
        ends = builder.or_(ends, builder.icmp_unsigned("<", found, every(0x20)))
        return builder.bitcast(ends, ir.IntType(32))

    return types.uint32(types.int64, types.int64), generate


@intrinsic
def _find_members(_context: Any, _text: Any, _at: Any) -> Any:
    """A bit for each of the 32 bytes from a place on that a gzip member may begin with."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        lanes = ir.VectorType(ir.IntType(8), 32)
        found = builder.load(_point(builder, arguments[0], arguments[1], lanes), align=1)
        return builder.bitcast(builder.icmp_unsigned("==", found, ir.Constant(lanes, [0x1F] * 32)), ir.IntType(32))

    return types.uint32(types.int64, types.int64), generate


@intrinsic
def _count_zeros(_context: Any, mask: Any) -> Any:
    """How many low bits are not set before the first that is; `mask` is not 0."""
    signature = types.int64(types.uint32)

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.zext(builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1)), ir.IntType(64))

    return signature, generate


load_octet = cast("Callable[[int, int], int]", _load_octet)
load_word = cast("Callable[[int, int], np.uint64]", _load_word)
store_number = cast("Callable[[int, int, int], int]", _store_number)
load_number = cast("Callable[[int, int], int]", _load_number)
find_special = cast("Callable[[int, int], np.uint32]", _find_special)
find_members = cast("Callable[[int, int], np.uint32]", _find_members)
count_zeros = cast("Callable[[np.uint32], int]", _count_zeros)


@inner
def load_some(text: int, at: int, end: int) -> np.uint64:
    """Up to eight bytes, as many as there are before `end`."""
    if at + 8 <= end:
        return load_word(text, at)
    word = _NONE
    for place in range(end - 1, at - 1, -1):
        word = (word << _EIGHT) | np.uint64(load_octet(text, place))
    return word


@compiled
def find_member(text: int, at: int, end: int) -> bool:
    """Whether the three bytes that a gzip member begins with stand somewhere."""
    while at < end - 2:
        if at + 32 <= end:
            found = find_members(text, at)
            if found == 0:
                at += 32
                continue
            at += count_zeros(found)
        if (
            at + 2 < end and load_octet(text, at) == 0x1F and load_octet(text, at + 1) == 0x8B
            and load_octet(text, at + 2) == 0x08
        ):  # fmt: skip
            return True
        at += 1
    return False


def holds_member(zipped: bytes, at: int) -> bool:
    """Whether the first bytes of a gzip member stand at a place or behind it; by chance they do in one of 16 million."""
    octets = np.frombuffer(zipped, np.uint8)
    return bool(find_member(address_of(octets), at, len(zipped)))


def address_of(array: NDArray[Any]) -> int:
    """Where the elements of an array lie; it must be held for as long as the address is used."""
    return int(array.__array_interface__["data"][0])
