"""Compiled loops: what is kept of them is found again and nothing else is run, and they take nothing but what they are made for."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from processor import loop_cache, loop_loading
from processor.core.compiled import LOOPS_BY_NAME, load_all
from processor.core.count_loop import count_loop
from processor.core.key_tables import KeyTable, find_value, put_keys, put_pairs
from processor.core.pack_loop import pack_days
from processor.core.scan import scan_loop
from processor.loop_arguments import list_arguments
from processor.loop_cache import KEPT_MAX, keep, read_kept, stamp_loops

ROOT = Path(__file__).parent.parent
STAMP = "0123456789abcdef" * 2
CODE = b"\x7fELF, or what else machine code is"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where loops are kept first of all."""
    found = tmp_path / "kept"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(found))
    return found


@pytest.fixture(scope="module")
def code() -> bytes:
    """The machine code of all loops, as this machine has it."""
    load_all()
    found = read_kept(stamp_loops(loop_loading.describe_machine()))
    assert found is not None, "what was compiled is kept"
    return found


def run_python(text: str, *args: object, **environment: str) -> str:
    """What a Python of its own prints."""
    held = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", text, *map(str, args)],
        env=held,
        cwd=held["PYTHONPATH"],  # A Python that is given a text looks for modules where it is started, first.
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- what is kept ------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_read_as_it_was_written(folder: Path) -> None:
    assert read_kept(STAMP) is None
    path = keep(STAMP, CODE)
    assert path is not None
    assert path.parent == folder
    assert path.stat().st_mode & 0o777 == 0o644
    assert read_kept(STAMP) == CODE


def spoil(held: bytes, how: str) -> bytes:
    return {
        "empty": b"",
        "truncated": held[:-1],
        "cut in its head": held[:20],
        "longer": held + b"\0",
        "changed": held[:-1] + bytes([held[-1] ^ 1]),
        "changed in its sum": held[:30] + bytes([held[30] ^ 1]) + held[31:],
        "of something else": b"\x7fELF" + held,
    }[how]


@pytest.mark.parametrize(
    "how",
    ["empty", "truncated", "cut in its head", "longer", "changed", "changed in its sum", "of something else"],
)
def test_a_file_that_is_not_as_it_was_written_is_not_read(folder: Path, how: str) -> None:
    path = keep(STAMP, CODE)
    assert path is not None
    path.write_bytes(spoil(path.read_bytes(), how))
    assert read_kept(STAMP) is None
    keep(STAMP, CODE)
    assert read_kept(STAMP) == CODE


def test_a_file_of_another_stamp_is_not_read_under_this_one(folder: Path) -> None:
    path = keep(STAMP[::-1], CODE)
    assert path is not None
    path.rename(folder / path.name.replace(STAMP[::-1], STAMP))
    assert read_kept(STAMP) is None


def test_a_folder_that_cannot_be_written_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    read_only, last = tmp_path / "file" / "kept", tmp_path / "last"
    monkeypatch.setattr(loop_cache, "_list_folders", lambda: iter((read_only, last)))
    path = keep(STAMP, CODE)
    assert path is not None
    assert path.parent == last
    assert read_kept(STAMP) == CODE
    monkeypatch.setattr(loop_cache, "_list_folders", lambda: iter((read_only,)))
    assert keep(STAMP, CODE) is None
    assert read_kept(STAMP) is None


def test_what_is_kept_in_a_folder_that_cannot_be_written_is_read(folder: Path) -> None:
    keep(STAMP, CODE)
    folder.chmod(0o555)
    try:
        assert read_kept(STAMP) == CODE
    finally:
        folder.chmod(0o755)


def test_old_files_are_removed(folder: Path) -> None:
    for number in range(KEPT_MAX + 5):
        path = keep(f"{number:032x}", CODE)
        assert path is not None
        os.utime(path, (number, number))
    (folder / "another").write_text("not ours")
    keep(STAMP, CODE)
    assert len(list(folder.glob("loops-*"))) == KEPT_MAX
    assert read_kept(STAMP) == CODE
    assert (folder / "another").exists()


def test_changed_text_voids_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "processor", tmp_path / "processor", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(loop_cache, "__file__", str(tmp_path / "processor" / "loop_cache.py"))
    stamp = stamp_loops.__wrapped__
    first = stamp("a processor")
    assert first == stamp("a processor")
    assert first != stamp("another processor")
    for name in ("core/scan.py", "core/json_scan.py", "loop_entries.py"):
        path = tmp_path / "processor" / name
        held = path.read_text()
        path.write_text(held + "\n")
        assert stamp("a processor") != first
        path.write_text(held)
    assert stamp("a processor") == first


def test_processes_may_keep_loops_at_the_same_time(folder: Path) -> None:
    writes = (
        "import sys; from processor.loop_cache import keep\nfor _ in range(300): keep(sys.argv[1], b'code' * 50_000)"
    )
    held = {**os.environ, "PYTHONPATH": str(ROOT)}
    writing = [subprocess.Popen([sys.executable, "-c", writes, STAMP], env=held) for _ in range(2)]
    seen = set()
    while any(each.poll() is None for each in writing):
        seen.add(read_kept(STAMP))
    assert seen <= {None, b"code" * 50_000}
    assert [each.returncode for each in writing] == [0, 0]
    assert len(list(folder.iterdir())) == 1


# --- what a process does with it ---------------------------------------------------------------------------------------

RUN_A_LOOP = """
import sys
from types import SimpleNamespace
compiled = []
def compile_loops(machine):
    compiled.append(machine)
    return open(sys.argv[1], "rb").read(), set(sys.argv[2:])
if len(sys.argv) > 1:
    sys.modules["processor.loop_compiling"] = SimpleNamespace(compile_loops=compile_loops)
from processor.opening import load_loops
from processor.core.key_tables import KeyTable
load_loops(print)
table = KeyTable()
table.put_all([3, 4], [7, -8])
assert [table.find(3), table.find(4), table.find(5)] == [7, -8, -1]
print("numba" in sys.modules, len(compiled))
"""


def test_a_process_that_finds_its_loops_never_imports_the_compiler(code: bytes) -> None:
    assert run_python(RUN_A_LOOP) == "False 0\n"


def test_the_command_line_imports_neither_compiler_nor_loader() -> None:
    named = "sorted(name for name in ('numba', 'llvmlite') if name in sys.modules)"
    assert run_python(f"import sys, processor.__main__; print({named})") == "[]\n"


@pytest.mark.parametrize("how", ["truncated", "changed", "of something else"])
def test_a_process_compiles_anew_what_is_damaged(code: bytes, tmp_path: Path, how: str) -> None:
    """In a program of its own, beside which nothing is kept. (The compiler only gives what was compiled before.)"""
    shutil.copytree(ROOT / "processor", tmp_path / "processor", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "code").write_bytes(code)
    places = {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "kept"), "XDG_CACHE_HOME": str(tmp_path)}
    assert run_python(RUN_A_LOOP, tmp_path / "code", **places) == "False 1\n"
    (path,) = (tmp_path / "kept").iterdir()
    held = path.read_bytes()
    path.write_bytes(spoil(held, how))
    assert run_python(RUN_A_LOOP, tmp_path / "code", **places) == "False 1\n"
    assert path.read_bytes() == held
    assert run_python(RUN_A_LOOP, tmp_path / "code", **places) == "False 0\n"


def test_what_needs_the_compiler_is_not_kept(code: bytes, tmp_path: Path) -> None:
    (tmp_path / "code").write_bytes(code)
    shutil.copytree(ROOT / "processor", tmp_path / "processor", ignore=shutil.ignore_patterns("__pycache__"))
    places = {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "kept"), "XDG_CACHE_HOME": str(tmp_path)}
    for _ in range(2):
        assert run_python(RUN_A_LOOP, tmp_path / "code", "numba_gil_ensure", **places) == "False 1\n"
    assert not (tmp_path / "kept").exists()


def test_loops_are_loaded_once_by_threads_that_need_them_at_once(code: bytes) -> None:
    threads = """
import threading, numpy as np
from processor.core.key_tables import find_value
begin, found = threading.Barrier(8), []
def look():
    begin.wait()
    found.append(find_value(np.zeros(64, np.uint64), np.zeros(64, np.int64), 5))
all_threads = [threading.Thread(target=look) for _ in range(8)]
for each in all_threads: each.start()
for each in all_threads: each.join()
print(found)
"""
    assert run_python(threads) == f"{[-1] * 8}\n"


def test_every_loop_has_a_name_of_its_own() -> None:
    """By which it is found in the machine code."""
    load_all()
    texts = [(ROOT / "processor" / "core" / f"{name}.py").read_text() for name in loop_cache.LOOPS]
    for name in loop_cache.LOOPS:
        import_module(f"processor.core.{name}")
    assert len(LOOPS_BY_NAME) == sum(len(re.findall(r"^@compiled$", text, re.MULTILINE)) for text in texts) > 10


# --- what loops take ---------------------------------------------------------------------------------------------------


def make_argument(loop: Any, place: int) -> Any:
    """An argument that a loop takes, so that it has nothing to do; it looks at its notes and tables all the same."""
    argument = list_arguments(loop)[place]
    if not argument.dimensions:
        return 0
    size = 64 if argument.name in ("notes", "keys", "values") else 0
    return np.zeros((size, 16) if argument.dimensions == 2 else size, argument.kind)


def list_arrays() -> list[tuple[str, int]]:
    """Every array that a loop takes."""
    loops = LOOPS_BY_NAME.items()
    return [(name, at) for name, loop in loops for at, each in enumerate(list_arguments(loop)) if each.dimensions]


def spoil_array(array: Any, how: str) -> Any:
    other = np.int64 if array.dtype == np.uint64 else np.uint64
    wide = np.zeros((8,) * array.ndim, array.dtype)
    octets = np.zeros(8 * array.itemsize + 1, np.uint8)[1:]
    spoiled = {
        "of another type": lambda: array.astype(other),
        "of floats": lambda: array.astype(np.float64),
        "of narrower numbers": lambda: array.astype(np.int16),
        "of objects": lambda: array.astype(object),
        "byte-swapped": lambda: array.astype(array.dtype.newbyteorder()),
        "with gaps": lambda: wide[::2],
        "in Fortran's order": lambda: np.asfortranarray(wide) if array.ndim == 2 else wide[::-1],
        "unaligned": lambda: octets.view(array.dtype).reshape(1, -1) if array.ndim == 2 else octets.view(array.dtype),
        "of no dimension": lambda: np.zeros((), array.dtype),
        "of one dimension more": lambda: wide[np.newaxis],
        "a list": array.tolist,
        "None": lambda: None,
        "an address": lambda: 4_096,
        "a memoryview": lambda: memoryview(wide),
        "of a class of its own": lambda: array.view(np.recarray),
        "a dtype": lambda: array.dtype,
    }
    return spoiled[how]()


WRONG = (
    "of another type", "of floats", "of narrower numbers", "of objects", "byte-swapped", "with gaps", "in Fortran's order",
    "unaligned", "of no dimension", "of one dimension more", "a list", "None", "an address", "a memoryview",
    "of a class of its own", "a dtype",
)  # fmt: skip


@pytest.mark.parametrize("how", WRONG)
def test_wrong_arrays_are_refused_by_name(how: str) -> None:
    load_all()
    assert len(list_arrays()) > 80
    for name, place in list_arrays():
        loop = LOOPS_BY_NAME[name]
        arguments = list_arguments(loop)
        if how in ("byte-swapped", "unaligned") and arguments[place].kind.itemsize == 1:
            continue
        given = [make_argument(loop, at) for at in range(len(arguments))]
        given[place] = spoil_array(given[place], how)
        with pytest.raises(
            TypeError, match=rf"^{name}: {arguments[place].name} must be an array of {arguments[place].kind}"
        ):
            loop(*given)


def test_arrays_that_cannot_be_written_are_taken_only_to_read() -> None:
    load_all()
    for name, place in list_arrays():
        loop = LOOPS_BY_NAME[name]
        arguments = list_arguments(loop)
        given = [make_argument(loop, at) for at in range(len(arguments))]
        given[place].flags.writeable = False
        if arguments[place].is_read:
            loop(*given)
        else:
            with pytest.raises(TypeError, match=rf"^{name}: {arguments[place].name} must .* writeable"):
                loop(*given)


def test_numbers_are_whole_and_as_many_as_a_loop_takes() -> None:
    keys, values = np.zeros(64, np.uint64), np.zeros(64, np.int64)
    with pytest.raises(TypeError, match=r"^find_value: key must be a whole number"):
        find_value(keys, values, 5.0)  # type: ignore[arg-type]  # as it is meant to be wrong
    with pytest.raises(TypeError, match=r"^find_value: key must be a whole number"):
        find_value(keys, values, "5")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^find_value takes 3 arguments"):
        find_value(keys, values)  # type: ignore[call-arg]  # as it is meant to be wrong
    with pytest.raises(TypeError, match=r"^find_value takes 3 arguments"):
        find_value(keys, values, 5, 6)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="keyword"):
        find_value(keys, values, key=5)
    with pytest.raises(TypeError, match=r"^count_loop: begin must be a whole number"):
        count_loop(
            *[2**63 if each.name == "begin" else make_argument(count_loop, at) for at, each in list_named(count_loop)]
        )
    with pytest.raises(TypeError, match=r"^scan_loop: seed must be a whole number"):
        scan_loop(
            *[None if each.name == "seed" else make_argument(scan_loop, at) for at, each in list_named(scan_loop)]
        )


def list_named(loop: Callable[..., Any]) -> list[tuple[int, Any]]:
    return list(enumerate(list_arguments(loop)))  # type: ignore[arg-type]  # it is one, by what marks it


def test_numbers_of_numpy_and_all_words_are_taken() -> None:
    table = KeyTable()
    keys = [1, 2**63, 2**64 - 1]
    table.put_all(keys, [-1, 2**63 - 1, -(2**63)])
    assert [table.find(key) for key in keys] == [-1, 2**63 - 1, -(2**63)]
    assert find_value(table.keys, table.values, np.uint64(2**63)) == 2**63 - 1  # type: ignore[arg-type]


def test_nothing_is_written_where_an_argument_is_refused() -> None:
    keys, values = np.zeros(64, np.uint64), np.zeros(64, np.int64)
    with pytest.raises(TypeError):
        put_pairs(np.array([5], np.uint64), np.array([6.0]), keys, values)  # type: ignore[arg-type]
    assert not keys.any()
    assert put_keys(np.array([5, 5, 7], np.uint64), keys) == 2


def test_references_stay_as_many() -> None:
    """Of arguments and answers, whether a loop takes them or not."""
    keys, values = np.zeros(64, np.uint64), np.zeros(64, np.int64)
    before = sys.getrefcount(keys), sys.getrefcount(values), sys.getrefcount(TypeError), sys.getrefcount(np.ndarray)
    for _ in range(1_000):
        find_value(keys, values, 2**62)
        with pytest.raises(TypeError):
            find_value(keys, keys, 2**62)
    after = sys.getrefcount(keys), sys.getrefcount(values), sys.getrefcount(TypeError), sys.getrefcount(np.ndarray)
    assert all(abs(one - other) < 50 for one, other in zip(before, after, strict=True))


def test_a_loop_that_answers_nothing_answers_none() -> None:
    found = pack_days(*[make_argument(pack_days, at) for at, _ in list_named(pack_days)])
    assert found == 0
    given = [make_argument(count_loop, at) for at, _ in list_named(count_loop)]
    before = sys.getrefcount(None)
    assert {count_loop(*given) for _ in range(1_000)} == {None}
    assert abs(sys.getrefcount(None) - before) < 500
