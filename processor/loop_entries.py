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

from processor.core.compiled import Compiled, Numbers, Table
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

_WAY, _COUNT, _FIRST, _SECOND, _SET = range(5)
"""What is wanted of an argument: in what way it is taken; of an array how many dimensions, two numbers of a dtype, flags."""

_ARRAY, _SIGNED, _WORD = range(3)
_HIGHEST = np.uint64(2**64 - 1)

_carray: Any = carray_of
_only_read: Any = only_read

_NUMBERS = "?bBhHiIlLqQ"
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


@njit("boolean(int64, int64, Array(int64, 1, 'C', readonly=True))", **NO_WAY_IN)
def _is_array(held: int, array: int, wanted: Numbers) -> bool:
    if _load_number(array + _KIND, 0) != _get_item(held, NDARRAY):
        return False
    dtype = _load_number(array + _DTYPE, 0)
    order, kind = _load_octet(dtype, _ORDER), np.int64(_load_word(dtype, _NUMBER)) & 0xFFFFFFFF
    return bool(
        kind in (wanted[_FIRST], wanted[_SECOND])
        and order in (_NATIVE, _OF_ONE_BYTE)
        and np.int64(_load_word(array, _DIMENSIONS)) & 0xFFFFFFFF == wanted[_COUNT]
        and np.int64(_load_word(array, _FLAGS)) & wanted[_SET] == wanted[_SET]
    )


@njit("int64(int64, int64, int64, Array(int64, 2, 'C', readonly=True))", **NO_WAY_IN)
def _find_wrong(held: int, given: int, count: int, wanted: Table[Numbers]) -> int:
    """Why the arguments are none that a loop takes: a place in what its way in has at hand, 0 for no reason."""
    if count != len(wanted):
        return COUNT_IS_WRONG
    for place in range(count):
        argument, way = _load_number(given, place), wanted[place, _WAY]
        if way == _ARRAY:
            is_right = _is_array(held, argument, wanted[place])
        elif way == _WORD:
            is_right = _take_word(argument) != _HIGHEST or _find_error() == 0
        else:
            is_right = _take_number(argument) != -1 or _find_error() == 0
        if not is_right:
            return ARGUMENTS_FROM + place
    return 0


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


def _list_wanted(arguments: list[Argument]) -> Numbers:
    """What `_find_wrong` looks for, a row an argument."""
    rows = []
    for argument in arguments:
        way = _ARRAY if argument.dimensions else _WORD if argument.kind == np.uint64 else _SIGNED
        flags = _IN_ORDER | _ALIGNED | (0 if argument.is_read else _WRITEABLE)
        rows.append((way, argument.dimensions, *_list_numbers(argument.kind), flags))
    return np.array(rows, np.int64)


def write_entry(loop: Compiled, dispatcher: Any) -> Callable[[int, int, int], int]:
    """The Python of a way in, for Numba to compile. It is text first, as its arguments are as many and of such types as the loop's
    annotations say."""
    arguments = list_arguments(loop)
    named: dict[str, Any] = {
        "loop": dispatcher, "wanted": _list_wanted(arguments), "find_wrong": _find_wrong, "refuse": _refuse,
        "load_number": _load_number, "take_word": _take_word, "take_number": _take_number, "get_item": _get_item, "hold": _hold,
        "give_flag": _give_flag, "give_number": _give_number,
    }  # fmt: skip
    passed = []
    for place, argument in enumerate(arguments):
        take = "take_word" if argument.kind == np.uint64 else "take_number"
        if argument.dimensions:
            take = f"take_{place}"
            named[take] = _build_taker(argument.kind, argument.dimensions, argument.is_read)
        taken = f"{take}(load_number(given, {place}))"
        passed.append(f"{taken} != 0" if take == "take_number" and argument.kind == np.bool_ else taken)
    call = f"loop({', '.join(passed)})"
    answer = {
        None: [call, f"nothing = get_item(held, {NOTHING})", "hold(nothing)", "return nothing"],
        bool: [f"return give_flag(1 if {call} else 0)"],
        int: [f"return give_number({call})"],
    }[loop.function.__annotations__["return"]]
    check = ["wrong = find_wrong(held, given, count, wanted)", "if wrong: return refuse(held, wrong)"]
    text = "\n    ".join(("def enter(held, given, count):", *check, *answer))
    exec(text, named)  # noqa: S102 - a text of our own making, as said above
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
