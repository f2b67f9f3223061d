"""The way from a loop's name to a function of Python: kept machine code is loaded by LLVM, and the compiler is not imported.

Only where nothing is kept is it, which takes some twenty seconds, and half a second each time for the import alone.
"""

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding as llvm

from processor.core.compiled import LOOPS_BY_NAME, Compiled
from processor.loop_arguments import list_held
from processor.loop_cache import keep, read_kept, stamp_loops

METH_FASTCALL = 0x0080
"""Of Python's stable ABI: a function is given where its arguments stand in a row, and how many they are."""

CALLED = (
    "PyTuple_GetItem",
    "PyErr_SetObject",
    "PyErr_Occurred",
    "Py_IncRef",
    "PyLong_AsLongLong",
    "PyLong_AsUnsignedLongLongMask",
    "PyLong_FromLongLong",
    "PyBool_FromLong",
)
"""All that the machine code calls outside of itself, of Python's stable ABI."""

_LOCK = threading.RLock()


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("ml_name", ctypes.c_char_p),
        ("ml_meth", ctypes.c_void_p),
        ("ml_flags", ctypes.c_int),
        ("ml_doc", ctypes.c_char_p),
    )


_METHODS: list[_Method] = []
"""Python's functions point to them for as long as they live."""

_make_function = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.POINTER(_Method), ctypes.py_object, ctypes.c_void_p)(
    ("PyCFunction_NewEx", ctypes.pythonapi)
)


def load_loops() -> None:
    """As `compiled.load_all`."""
    with _LOCK:
        _open_engine()  # Which imports all loops, if it must compile them.
        for loop in LOOPS_BY_NAME.values():
            loop.load()


def load_loop(loop: Compiled) -> Callable[..., Any]:
    """The function of Python that a loop is."""
    with _LOCK:
        name = loop.function.__name__
        address = _open_engine().get_function_address(name)
        method = _Method(name.encode(), address, METH_FASTCALL, None)
        _METHODS.append(method)
        made: Callable[..., Any] = _make_function(ctypes.byref(method), list_held(loop), None)
        return made


@cache
def _open_engine() -> Any:
    """The engine that holds the machine code of all loops, for as long as the process lives."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = _find_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for name in CALLED:
        llvm.add_symbol(name, ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value)
    engine.add_object_file(llvm.ObjectFileRef.from_data(_find_code(machine)))
    engine.finalize_object()
    return engine


def _find_machine() -> Any:
    """This processor, as Numba has it: code that is linked where it is run."""
    target = llvm.Target.from_default_triple()
    relocation = "static" if target.name.startswith("x86") else "default"
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=_find_features(),
        opt=3,
        reloc=relocation,
        codemodel="jitdefault",
        jit=True,
    )


def describe_machine() -> str:
    """What machine code is made for."""
    return f"{llvm.get_default_triple()} {llvm.get_host_cpu_name()} {_find_features()}"


def _find_features() -> str:
    try:
        return str(llvm.get_host_cpu_features().flatten())
    except RuntimeError:  # LLVM knows not all systems; the processor's name says most of it.
        return ""


def _find_code(machine: Any) -> bytes:
    """The machine code of all loops: kept, or else compiled now."""
    stamp = stamp_loops(describe_machine())
    code = read_kept(stamp)
    if code is None:
        from processor.loop_compiling import compile_loops

        code, others = compile_loops(machine)
        if not others:
            keep(stamp, code)
    return code
