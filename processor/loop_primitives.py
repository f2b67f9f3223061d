"""The few functions of the loops that are no Python: what they are to LLVM, and how a loop is entered from Python.

Imported only where loops are compiled, as is everything that imports Numba.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.extending import intrinsic

_OCTET, _HALF, _NUMBER = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_LANES = ir.VectorType(_OCTET, 32)

NO_WAY_IN: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Options of Numba that its type hints leave out: a function is for compiled ones only."""

Generate = Callable[[Any, list[Any]], Any]


def _make(name: str, signature: Any, generate: Generate) -> Any:
    """An intrinsic function of Numba, of as many arguments as its signature has."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: list[Any]) -> Any:
        return generate(builder, arguments)

    def none(_context: Any) -> Any:
        return signature, build

    def one(_context: Any, _first: Any) -> Any:
        return signature, build

    def two(_context: Any, _first: Any, _second: Any) -> Any:
        return signature, build

    def three(_context: Any, _first: Any, _second: Any, _third: Any) -> Any:
        return signature, build

    found = (none, one, two, three)[len(signature.args)]
    found.__name__ = found.__qualname__ = name
    return intrinsic(found)


def _point(builder: Any, kind: Any, address: Any, offset: Any) -> Any:
    """A pointer to what lies some bytes behind an address."""
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


def _point_number(builder: Any, array: Any, index: Any) -> Any:
    return _point(builder, _NUMBER, array, builder.shl(index, ir.Constant(_NUMBER, 3)))


def _load_octet(builder: Any, arguments: list[Any]) -> Any:
    return builder.zext(builder.load(_point(builder, _OCTET, *arguments)), _NUMBER)


def _load_word(builder: Any, arguments: list[Any]) -> Any:
    return builder.load(_point(builder, _NUMBER, *arguments), align=1)


def _store_number(builder: Any, arguments: list[Any]) -> Any:
    builder.store(arguments[2], _point_number(builder, arguments[0], arguments[1]))
    return arguments[2]


def _load_number(builder: Any, arguments: list[Any]) -> Any:
    return builder.load(_point_number(builder, *arguments))


def _compare(builder: Any, found: Any, how: str, octet: int) -> Any:
    return builder.icmp_unsigned(how, found, ir.Constant(_LANES, [octet] * 32))


def _find_special(builder: Any, arguments: list[Any]) -> Any:
    found = builder.load(_point(builder, _LANES, *arguments), align=1)
    ends = builder.or_(_compare(builder, found, "==", 0x22), _compare(builder, found, "==", 0x5C))
    return builder.bitcast(builder.or_(ends, _compare(builder, found, "<", 0x20)), _HALF)


def _find_members(builder: Any, arguments: list[Any]) -> Any:
    found = builder.load(_point(builder, _LANES, *arguments), align=1)
    return builder.bitcast(_compare(builder, found, "==", 0x1F), _HALF)


def _count_zeros(builder: Any, arguments: list[Any]) -> Any:
    return builder.zext(builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1)), _NUMBER)


_I, _U, _M = types.int64, types.uint64, types.uint32

PRIMITIVES = {
    name: _make(name, signature, generate)
    for name, signature, generate in (
        ("load_octet", _I(_I, _I), _load_octet),
        ("load_word", _U(_I, _I), _load_word),
        ("store_number", _I(_I, _I, _I), _store_number),
        ("load_number", _I(_I, _I), _load_number),
        ("find_special", _M(_I, _I), _find_special),
        ("find_members", _M(_I, _I), _find_members),
        ("count_zeros", _I(_M), _count_zeros),
    )
}
"""By the names of the Primitives in core/compiled.py, which say what they do."""


def call_python(name: str, result: Any, *arguments: Any) -> Any:
    """A function of Python's stable ABI, by its name. Pointers are numbers of 64 bits; one that gives nothing answers 0."""
    kinds = [_NUMBER] * len(arguments)
    given_back = ir.VoidType() if result is types.void else _NUMBER

    def generate(builder: Any, given: list[Any]) -> Any:
        found = builder.module.globals.get(name)
        if found is None:
            found = ir.Function(builder.module, ir.FunctionType(given_back, kinds), name)
        answer = builder.call(found, given)
        return ir.Constant(_NUMBER, 0) if result is types.void else answer

    return _make(name, (_I if result is types.void else result)(*arguments), generate)


def _point_to(kind: np.dtype[Any]) -> Any:
    """An address as a pointer to elements of an array."""

    def generate(builder: Any, arguments: list[Any]) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8 * kind.itemsize).as_pointer())

    pointer: Any = types.CPointer  # Numba gives it no types.
    return _make("point_to", pointer(from_dtype(kind))(_I), generate)


POINTERS = {kind: _point_to(kind) for kind in map(np.dtype, (np.uint8, np.int32, np.int64, np.uint64))}


@intrinsic
def only_read(_context: Any, array: Any) -> Any:
    """The same array as one that cannot be written."""

    def generate(_context: Any, _builder: Any, _signature: Any, arguments: Any) -> Any:
        return arguments[0]

    return array.copy(readonly=True)(array), generate
