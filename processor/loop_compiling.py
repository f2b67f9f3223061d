"""Compiles all loops by Numba into one piece of machine code, which needs nothing of Numba to run.

Imported only where there is something to compile: the import takes longer than everything else at a start.
"""

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
from numba import cfunc, njit, types
from numba.extending import typeof_impl

from processor.core.compiled import LOOPS_BY_NAME, Compiled, Inner, Primitive
from processor.loop_cache import LOOPS
from processor.loop_entries import check_layout, write_entry
from processor.loop_loading import CALLED
from processor.loop_primitives import NO_WAY_IN, PRIMITIVES

_ENTRY = types.int64(types.int64, types.int64, types.int64)


@cache
def _compile_lazily(function: Compiled | Inner) -> Any:
    """What Numba calls where loops call one of ours. It is made of the same Python, but that the primitives are Numba's own."""
    plain = function.function
    around = plain.__globals__
    known = {name: PRIMITIVES[name] for name, found in around.items() if isinstance(found, Primitive)}
    changed = FunctionType(plain.__code__, {**around, **known}, plain.__name__, plain.__defaults__, plain.__closure__)
    return njit(error_model="numpy", **NO_WAY_IN)(changed)


@typeof_impl.register(Inner)
@typeof_impl.register(Compiled)
def _type_function(function: Compiled | Inner, _context: Any) -> Any:
    return types.Dispatcher(_compile_lazily(function))


def compile_loops(machine: llvm.TargetMachine) -> tuple[bytes, set[str]]:
    """All loops, as an object file in which each has its own name; and what it calls that is Numba's, so that only a process that
    has imported it may load the file: nothing, but who knows its next version."""
    check_layout()
    for name in LOOPS:
        import_module(f"processor.core.{name}")
    module = llvm.parse_assembly("")
    for name, loop in LOOPS_BY_NAME.items():
        entry = cfunc(_ENTRY, error_model="numpy")(write_entry(loop, _compile_lazily(loop)))
        more = llvm.parse_assembly(entry.inspect_llvm())
        more.get_function(entry.native_name).name = name
        module.link_in(more)
    return _emit(module, LOOPS_BY_NAME, machine)


def _emit(module: llvm.ModuleRef, names: Iterable[str], machine: llvm.TargetMachine) -> tuple[bytes, set[str]]:
    """Machine code of what is reached from the functions of these names, all else left out: what loops have for errors that they
    cannot have, and what Numba does to count references to arrays."""
    for found in (*module.functions, *module.global_variables):
        if not found.is_declaration and found.name not in names:
            found.linkage = "internal"
    for level in (3, 1):  # What the first finds to be constant the second makes use of.
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=level))
        builder.getModulePassManager().run(module, builder)
    named = {found.name for found in (*module.functions, *module.global_variables) if found.is_declaration}
    others = {name for name in named if not name.startswith("llvm.") and name not in CALLED}
    return bytes(machine.emit_object(module)), others
