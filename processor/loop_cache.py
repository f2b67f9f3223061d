"""Where compiled loops are kept between processes, and when what is kept is void.

Numba keeps a loop for as long as the loop's own file is the same. Ours call each other from file to file, so that what is
kept is stamped with the text of all of them: a loop never runs on with an older version of what it calls.
"""

from functools import cache
from hashlib import blake2b
from pathlib import Path

from numba.core.caching import InTreeCacheLocator, UserProvidedCacheLocator, UserWideCacheLocator

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
    "usage",
)
"""The modules of core that hold compiled functions, or constants that are compiled into them."""


@cache
def stamp_loops() -> str:
    folder = Path(__file__).parent / "core"
    return blake2b(b"\0".join((folder / f"{name}.py").read_bytes() for name in LOOPS)).hexdigest()


class Given(UserProvidedCacheLocator):
    """In NUMBA_CACHE_DIR, where it is set."""

    def get_source_stamp(self) -> str:
        return stamp_loops()


class Beside(InTreeCacheLocator):
    """Beside the source, where that can be written."""

    def get_source_stamp(self) -> str:
        return stamp_loops()


class OfUser(UserWideCacheLocator):
    """In the user's cache folder."""

    def get_source_stamp(self) -> str:
        return stamp_loops()
