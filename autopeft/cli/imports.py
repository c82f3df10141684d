"""The import of the heavy libraries, which is most of what a short command takes."""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator

_HEAVY = "autopeft.pipeline"


@contextlib.contextmanager
def heavy_imports() -> Iterator[None]:
    """A block that imports the pipeline, with the garbage collector at rest.

    Imports make millions of objects that stay; the collector would look at them again and again, and once
    more at the end of the process. These objects are set apart, so that the collector never does. Where the
    pipeline is imported already, nothing is changed.
    """
    if _HEAVY in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(_thaw)


def _thaw() -> None:
    """Let the collector see all objects again where triton is loaded, which reports them as leaks else."""
    if "triton" in sys.modules:
        gc.unfreeze()
