"""What the compiled loops stand on: how they are marked, and how bytes and numbers are reached by their address.

The hot path is Python that Numba compiles for this machine; what it made of it is kept on disk (processor/loop_cache.py), so that
a process that finds it there never imports the compiler. Here is only what says which functions are compiled, and of what types.

A loop looks at the bytes of a payload in place and makes no object a record. A text is an address there (`address_of`): Numba
counts references to arrays at every call, which takes six times as long as reading them. Every loop ends at the length that it
is given.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Loop = TypeVar("Loop", bound=Callable[..., Any])
Array = TypeVar("Array")

Words = Annotated[NDArray[np.uint64], np.uint64]
Numbers = Annotated[NDArray[np.int64], np.int64]
Halves = Annotated[NDArray[np.int32], np.int32]
Octets = Annotated[NDArray[np.uint8], np.uint8]
Flags = Annotated[NDArray[np.bool_], np.bool_]
"""Arrays that loops share with Python: in a row, aligned, of one dimension and to be written where nothing else is said."""

Word = Annotated[int, np.uint64]
"""A number of a loop that Python calls of 64 bits without a sign; an `int` there has one."""

TABLE, READ = "of two dimensions", "only read"
Table = Annotated[Array, TABLE]
Read = Annotated[Array, READ]
"""An array that a loop does not write, so that it may be one that cannot be written. The compiler sees to it."""

_LOADER = "processor.loop_loading"
"""Knows where loops are kept, by name: nothing in here knows of files."""

_NONE = np.uint64(0)
_EIGHT = np.uint64(8)


class Compiled:
    """A loop as Python calls it. Loops are loaded, or compiled, at the first call of one of them."""

    __slots__ = ("_native", "function")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._native: Callable[..., Any] = self._load_and_call

    def __call__(self, *arguments: Any) -> Any:
        return self._native(*arguments)

    def load(self) -> None:
        """Have the loop at hand before its first call."""
        self._native = import_module(_LOADER).load_loop(self)

    def _load_and_call(self, *arguments: Any) -> Any:
        self.load()
        return self._native(*arguments)


class Inner:
    """A function that only compiled ones call; what it is to them the compiler knows."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


class Primitive(Inner):
    """A function that the compiler makes itself, by its name (processor/loop_primitives.py)."""

    __slots__ = ()


LOOPS_BY_NAME: dict[str, Compiled] = {}
"""All loops that Python may call, as far as their modules are imported."""


def compiled(loop: Loop) -> Loop:
    """Have a function of arrays and numbers compiled, for Python to call it; its annotations say of what types. Raises TypeError
    where it is called with anything else."""
    found = LOOPS_BY_NAME[loop.__name__] = Compiled(loop)
    return cast("Loop", found)


def load_all() -> None:
    """Have all loops at hand before the first call of any, also those of modules that are imported later. Raises RuntimeError where
    they cannot be compiled."""
    import_module(_LOADER).load_loops()


def inner(loop: Loop) -> Loop:
    """Have a function compiled that only compiled ones call, without a way in from Python."""
    return cast("Loop", Inner(loop))


def _primitive(function: Loop) -> Loop:
    return cast("Loop", Primitive(function))


@_primitive
def load_octet(_text: int, _at: int) -> int:  # type: ignore[empty-body]  # the compiler has the body, here and below
    """The byte at a place of a text. The caller sees to it that it is there, here and below."""


@_primitive
def load_word(_text: int, _at: int) -> np.uint64:  # type: ignore[empty-body]
    """The eight bytes from a place on, little-endian."""


@_primitive
def store_number(_array: int, _index: int, _number: int) -> int:  # type: ignore[empty-body]
    """Set an element of an array of int64, given by its address."""


@_primitive
def load_number(_array: int, _index: int) -> int:  # type: ignore[empty-body]
    """An element of an array of int64, given by its address."""


@_primitive
def find_special(_text: int, _at: int) -> np.uint32:  # type: ignore[empty-body]
    """A bit for each of the 32 bytes from a place on that ends a plain stretch of a JSON string: a quote, a backslash, a
    control character."""


@_primitive
def find_members(_text: int, _at: int) -> np.uint32:  # type: ignore[empty-body]
    """A bit for each of the 32 bytes from a place on that a gzip member may begin with."""


@_primitive
def count_zeros(_mask: np.uint32) -> int:  # type: ignore[empty-body]
    """How many low bits are not set before the first that is; the mask is not 0."""


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
