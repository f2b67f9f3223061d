"""What must be said before anything else is imported; the command line imports this first, and calls `end` when all is here, and
`begin` before and `end` after what a command imports.

Importing makes no garbage, but walks over what was imported so far took a tenth of the start; numpy's linear algebra, of which
nothing is used here, would start a thread for each core, which spins.
"""

import atexit
import gc
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

frozen = 0
"""Objects that `end` put aside."""


def begin() -> None:
    """Collect no garbage until `end`."""
    gc.disable()


def end() -> None:
    """Collect garbage again from here on, but not among what was imported, which is here to stay."""
    global frozen  # noqa: PLW0603 - as the collector itself, it is of the process
    gc.freeze()
    frozen = gc.get_freeze_count()
    gc.enable()
    # The interpreter's last collections need not walk over what ends with the process anyhow.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


begin()
