"""Heavy imports: the garbage collector rests during them, works afterwards, and skips what they made."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc, sys, types
from autopeft.cli.imports import heavy_imports
with heavy_imports():
    print(gc.isenabled())
    sys.modules["autopeft.pipeline"] = types.ModuleType("autopeft.pipeline")
n_frozen = gc.get_freeze_count()
print(gc.isenabled(), n_frozen > 1000)
with heavy_imports():
    print(gc.isenabled())
print(gc.get_freeze_count() == n_frozen)
gc.disable()
del sys.modules["autopeft.pipeline"]
with heavy_imports():
    pass
print(gc.isenabled())
"""


def test_the_collector_rests_once_and_leaves_a_collector_that_is_off_alone():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "True", "True", "False"]
