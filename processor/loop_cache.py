"""Where compiled loops are kept between processes, and when what is kept is void.

All loops are one file, of machine code. Its name is a stamp of everything that it was made of and for: the text of all loops and of
what compiles them, the versions of Python and of the libraries, the processor. It is held against a checksum, as it is run.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

LOOPS = (
    "caller_hash",
    "compiled",
    "count_loop",
    "day_counts",
    "fields",
    "horizon",
    "json_scan",
    "key_tables",
    "pack_loop",
    "resolve_loop",
    "scan",
    "sessions",
    "time_scan",
    "usage",
)
"""The modules of core that hold compiled functions, or constants that are compiled into them."""

_COMPILERS = ("loop_arguments", "loop_compiling", "loop_entries", "loop_loading", "loop_primitives")
_LIBRARIES = ("numba", "llvmlite", "numpy")

KEPT_MAX = 8
"""Files of one folder: it may serve several machines, and versions; older ones go."""

_MARK = b"gapwatch loops 1\n"
_SUM_BYTES = 32
_USERS_FOLDER = "gapwatch"


@cache
def stamp_loops(machine: str) -> str:
    """A stamp of what loops are made of, for a processor in words."""
    folder = Path(__file__).parent
    texts = [folder / "core" / f"{name}.py" for name in LOOPS] + [folder / f"{name}.py" for name in _COMPILERS]
    made_for = [sys.version, str(object.__basicsize__), machine, *(f"{name} {version(name)}" for name in _LIBRARIES)]
    parts = [*(path.read_bytes() for path in texts), *(each.encode() for each in made_for)]
    return blake2b(b"\0".join(parts), digest_size=16).hexdigest()


def read_kept(stamp: str) -> bytes | None:
    """What is kept under a stamp; None where there is nothing, or not all of it as it was written."""
    for folder in _list_folders():
        with suppress(OSError):
            held = (folder / _name(stamp)).read_bytes()
            code = held[len(_MARK) + _SUM_BYTES :]
            if held == _seal(stamp, code):
                return code
    return None


def keep(stamp: str, code: bytes) -> Path | None:
    """Keep machine code in the first place that can be written, for all who look meanwhile at once or not at all. Answers where,
    None where there is no such place."""
    for folder in _list_folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / _name(stamp)
            _write(path, _seal(stamp, code))
            _remove_old(folder)
            return path
    return None


def _name(stamp: str) -> str:
    return f"loops-{stamp}.bin"


def _seal(stamp: str, code: bytes) -> bytes:
    return _MARK + blake2b(stamp.encode() + code, digest_size=_SUM_BYTES).digest() + code


def _list_folders() -> Iterator[Path]:
    """NUMBA_CACHE_DIR where it is set, beside the source, the user's cache folder. The setting bears the name of the compiler,
    which kept loops there itself once."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given:
        yield Path(given)
    yield Path(__file__).parent / "__pycache__"
    users = os.environ.get("XDG_CACHE_HOME")
    if users:
        yield Path(users) / _USERS_FOLDER
    else:
        with suppress(RuntimeError):  # There may be no home.
            yield Path.home() / ".cache" / _USERS_FOLDER


def _write(path: Path, held: bytes) -> None:
    number, name = tempfile.mkstemp(prefix=f"{path.stem}-", dir=path.parent)
    fresh = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(held)
        fresh.chmod(0o644)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _remove_old(folder: Path) -> None:
    with suppress(OSError):  # Another process may remove them just now.
        for path in sorted(folder.glob("loops-*"), key=lambda path: path.stat().st_mtime)[:-KEPT_MAX]:
            path.unlink(missing_ok=True)
