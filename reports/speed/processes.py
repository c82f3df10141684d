"""Two worker processes of one thread against one process of two threads, on the demo's model and data.

    python reports/speed/processes.py --rounds 3

Each round runs the same small search both ways, in turn, so that a busy machine slows both. Told are the
seconds from the first rung to the end, workers' loading included, and from the fifth measurement on, when
all models are loaded. Printed as JSON: seconds of each run, and the ratios of their medians, serial over
process: above 1, two processes are faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEARCH = {"budget": "0.5%", "max_steps": 16, "trials": 8, "confirm": "none", "dtype": "float32"}
WAYS = {"serial": {"executor": "serial"}, "process": {"executor": "process", "workers": 2}}
N_THREADS = 2
WARM = 4  # measurements after which every worker has loaded its model: a wave


class Stopwatch:
    """Progress that notes when phases begin and measurements end."""

    def __init__(self) -> None:
        """Nothing has begun yet."""
        self.began: float | None = None
        self.measured_at: list[float] = []

    def phase(self, name: str, n_measurements: int) -> None:
        """Note the beginning of the first rung."""
        if name == "rung 1":
            self.began = time.perf_counter()

    def measured(
        self, measurement: object, *, arm: str, is_baseline: bool, seconds_left: float | None
    ) -> None:
        """Note the end of a measurement."""
        self.measured_at.append(time.perf_counter())


def timed(way: str) -> dict[str, float]:
    """Seconds of one search, for the process that this script starts for it."""
    import torch

    from autopeft import pipeline
    from autopeft.store import by_dotted_name, resolve_settings

    torch.set_num_threads(N_THREADS)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        flags = by_dotted_name({**SEARCH, **WAYS[way], "out": str(Path(folder) / "run")})
        spec, given = resolve_settings(config=None, env={}, flags=flags, assignments=())
        pipeline.search(spec, given=given, progress=watch)
    assert watch.began is not None
    end = watch.measured_at[-1]
    return {
        "measurements": len(watch.measured_at),
        "seconds": end - watch.began,
        "warm_seconds": end - watch.measured_at[WARM - 1],
    }


def main() -> None:
    """Time both ways in turn, or one of them where this script calls itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=WAYS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(timed(options.one)))
        return
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            command = [sys.executable, __file__, "--one", way]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(way, runs[way][-1], file=sys.stderr, flush=True)  # a stopped script has shown something
    ratios = {
        key: statistics.median(run[key] for run in runs["serial"])
        / statistics.median(run[key] for run in runs["process"])
        for key in ("seconds", "warm_seconds")
    }
    print(json.dumps({"runs": runs, "ratios": ratios}, indent=2))


if __name__ == "__main__":
    main()
