"""The ways into the loops: functions of Python's C interface (METH_FASTCALL), made for the arguments that each loop takes.

Each argument is looked at before a loop has it: a wrong array would be read, or written, where none is. Only the stable ABI of
Python is called. NumPy's arrays are read as its documentation lays them out (PyArrayObject_fields, PyArray_Descr), which
`check_layout` holds against real ones.
"""

from collections.abc import Callable
from ctypes import c_byte, c_int32, c_int64
from functools import cache
from typing import Any

import numpy as np
from numba import carray as carray_of  # type: ignore[attr-defined]  # it is public, and not listed so
from numba import njit, types

from processor.core.compiled import Compiled
from processor.loop_arguments import ARGUMENTS_FROM, COUNT_IS_WRONG, ERROR, NDARRAY, NOTHING, Argument, list_arguments
from processor.loop_primitives import NO_WAY_IN, POINTERS, PRIMITIVES, call_python, only_read

_HEAD: int = object.__basicsize__
_KIND = _HEAD - 8
_CONTENTS, _DIMENSIONS, _SHAPE, _DTYPE, _FLAGS = _HEAD, _HEAD + 8, _HEAD + 16, _HEAD + 40, _HEAD + 48
"""Where the fields of an array lie in its object; the type of an object ends its head."""

_ORDER, _NUMBER = _HEAD + 10, _HEAD + 12
"""Where those of a dtype lie: the letter of its byte order, and its number."""

_IN_ORDER, _ALIGNED, _WRITEABLE = 0x1, 0x100, 0x400
_NATIVE, _OF_ONE_BYTE = ord("="), ord("|")
_carray: Any = carray_of
_only_read: Any = only_read

_NUMBERS = "bBhHiIlLqQ"
"""NumPy's letters of whole numbers: two of them may be of one size."""

_address = types.int64
_load_octet, _load_word, _load_number = (PRIMITIVES[name] for name in ("load_octet", "load_word", "load_number"))
_get_item = call_python("PyTuple_GetItem", _address, _address, types.int64)
_set_error = call_python("PyErr_SetObject", types.void, _address, _address)
_find_error = call_python("PyErr_Occurred", _address)
_hold = call_python("Py_IncRef", types.void, _address)
_take_number = call_python("PyLong_AsLongLong", types.int64, _address)
_take_word = call_python("PyLong_AsUnsignedLongLongMask", types.uint64, _address)
_give_number = call_python("PyLong_FromLongLong", _address, types.int64)
_give_flag = call_python("PyBool_FromLong", _address, types.int64)


@njit("int64(int64, int64)", **NO_WAY_IN)
def _refuse(held: int, reason: int) -> int:
    """Have Python raise TypeError."""
    _set_error(_get_item(held, ERROR), _get_item(held, reason))
    return 0


@njit("boolean(int64, int64, int64, int64, int64, int64)", **NO_WAY_IN)
def _is_array(held: int, array: int, dimensions: int, number: int, other: int, flags: int) -> bool:
    if _load_number(array + _KIND, 0) != _get_item(held, NDARRAY):
        return False
    dtype = _load_number(array + _DTYPE, 0)
    order, kind = _load_octet(dtype, _ORDER), np.int64(_load_word(dtype, _NUMBER)) & 0xFFFFFFFF
    return (
        kind in (number, other)
        and order in (_NATIVE, _OF_ONE_BYTE)
        and np.int64(_load_word(array, _DIMENSIONS)) & 0xFFFFFFFF == dimensions
        and np.int64(_load_word(array, _FLAGS)) & flags == flags
    )


@cache
def _build_taker(kind: np.dtype[Any], dimensions: int, is_read: bool) -> Any:
    """A function that makes of the address of an array's object what the loop takes."""
    point = POINTERS[kind]

    def take(array: int) -> Any:
        shape = _load_number(array + _SHAPE, 0)
        contents = point(_load_number(array + _CONTENTS, 0))
        if dimensions == 1:
            found = _carray(contents, (_load_number(shape, 0),))
        else:
            found = _carray(contents, (_load_number(shape, 0), _load_number(shape, 1)))
        return _only_read(found) if is_read else found

    return njit(**NO_WAY_IN)(take)


def _list_numbers(kind: np.dtype[Any]) -> tuple[int, int]:
    """NumPy's numbers of a type, which has two where C has two names for it."""
    found = [np.dtype(letter).num for letter in _NUMBERS if np.dtype(letter) == kind]
    return found[0], found[-1]


def _write_taking(place: int, argument: Argument) -> list[str]:
    """The lines of an entry that take one argument."""
    taken, refused = f"a{place}", f"        return refuse(held, {ARGUMENTS_FROM + place})"
    lines = [f"    {taken} = load_number(given, {place})"]
    if argument.dimensions:
        first, second = _list_numbers(argument.kind)
        flags = _IN_ORDER | _ALIGNED | (0 if argument.is_read else _WRITEABLE)
        lines.append(f"    if not is_array(held, {taken}, {argument.dimensions}, {first}, {second}, {flags}):")
        return [*lines, refused]
    if argument.kind == np.uint64:
        lines.append(f"    {taken} = take_word({taken})")
        lines.append(f"    if {taken} == HIGHEST and find_error() != 0:")
    else:
        lines.append(f"    {taken} = take_number({taken})")
        lines.append(f"    if {taken} == -1 and find_error() != 0:")
    return [*lines, refused]


def write_entry(loop: Compiled, dispatcher: Any) -> Callable[[int, int, int], int]:
    """The Python of a way in, for Numba to compile. It is text first, as its arguments are as many and of such types as the loop's
    annotations say."""
    arguments = list_arguments(loop)
    result = loop.function.__annotations__["return"]
    lines = ["def enter(held, given, count):", f"    if count != {len(arguments)}:"]
    lines.append(f"        return refuse(held, {COUNT_IS_WRONG})")
    named: dict[str, Any] = {"loop": dispatcher, "HIGHEST": np.uint64(2**64 - 1)}
    passed = []
    for place, argument in enumerate(arguments):
        lines += _write_taking(place, argument)
        if argument.dimensions:
            named[f"t{place}"] = _build_taker(argument.kind, argument.dimensions, argument.is_read)
        passed.append(f"t{place}(a{place})" if argument.dimensions else f"a{place}")
        if argument.kind == np.bool_ and not argument.dimensions:
            passed[-1] += " != 0"
    call = f"loop({', '.join(passed)})"
    if result is None:
        lines += [f"    {call}", f"    found = get_item(held, {NOTHING})", "    hold(found)", "    return found"]
    elif result is bool:
        lines.append(f"    return give_flag(1 if {call} else 0)")
    else:
        lines.append(f"    return give_number({call})")
    named.update(
        refuse=_refuse, is_array=_is_array, load_number=_load_number, take_word=_take_word, take_number=_take_number,
        find_error=_find_error, get_item=_get_item, hold=_hold, give_flag=_give_flag, give_number=_give_number,
    )  # fmt: skip
    exec("\n".join(lines), named)  # noqa: S102 - a text of our own making, as said above
    enter: Callable[[int, int, int], int] = named["enter"]
    return enter


def check_layout() -> None:
    """Raises RuntimeError where NumPy's arrays are not laid out as here."""
    fixed = np.arange(6, dtype=">i8").reshape(2, 3)
    fixed.flags.writeable = False
    for array in (fixed, fixed.T, np.zeros(3, np.uint64), np.zeros((2, 2), np.uint8), np.zeros(4, np.int64)[::2]):
        at, dtype = id(array), id(array.dtype)
        fields = (
            c_int64.from_address(at + _KIND).value == id(np.ndarray),
            c_int64.from_address(at + _CONTENTS).value == array.__array_interface__["data"][0],
            c_int32.from_address(at + _DIMENSIONS).value == array.ndim,
            tuple((c_int64 * array.ndim).from_address(c_int64.from_address(at + _SHAPE).value)) == array.shape,
            c_int64.from_address(at + _DTYPE).value == dtype,
            c_int32.from_address(at + _FLAGS).value == array.flags.num,
            c_byte.from_address(dtype + _ORDER).value == ord(array.dtype.byteorder),
            c_int32.from_address(dtype + _NUMBER).value == array.dtype.num,
            bool(array.flags.num & _IN_ORDER) == array.flags.c_contiguous,
            bool(array.flags.num & _ALIGNED) == array.flags.aligned,
            bool(array.flags.num & _WRITEABLE) == array.flags.writeable,
        )
        if not all(fields):
            raise RuntimeError(f"NumPy {np.__version__} lays out its arrays in another way than documented: {fields}")
