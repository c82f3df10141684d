"""A script that starts workers without a `__main__` guard is told so at once."""

from __future__ import annotations

import subprocess
import sys
import time

UNGUARDED = """
from autopeft.errors import AutopeftError
from autopeft.executors import EXECUTORS

if __name__ == "__mp_main__":  # as a worker imports it; autopeft.search raises a SpecError there
    raise RuntimeError("the script would start another search")
def make(index):
    return print
pool = EXECUTORS["process"]
pool.start(make, local=None, n_workers=1, uses_gpu=False)
futures = [pool.submit(pow, 2, number) for number in range(5)]
for future in futures:
    try:
        print(future.result())
    except AutopeftError as error:
        print(type(error).__name__, error)
pool.shutdown()
"""


def test_every_function_of_an_unguarded_script_fails_with_what_to_do(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    began = time.monotonic()
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 5 and len(set(lines)) == 1
    assert lines[0].startswith("SpecError A worker process ended while it imported the script")
    assert lines[0].endswith('under: if __name__ == "__main__":')
    assert done.stderr.count("\nRuntimeError: the script would start") == 1  # no worker is replaced
    assert time.monotonic() - began < 30
