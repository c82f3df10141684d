"""Searches with `--max-time` from 15 seconds to 10 minutes: how long they took, and their verdicts.

    PYTHONPATH=.:tests python tests/faults/timing.py --settings 20

The search is the demo's, or that of `--model` and `--data`. The settings are spread evenly by ratio. A search
should end within 10 % and 5 seconds of its limit. Searches are rows of a CSV file; the same command goes on
with those that are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rows import Rows

_SHORTEST, _LONGEST = 15.0, 600.0
_MOST_SHARE, _MOST_SECONDS = 1.1, 5.0
_CODES = (0, 75)  # with a verdict, and stopped before one


def limits(n_settings: int) -> list[int]:
    """Seconds of each search."""
    ratio = (_LONGEST / _SHORTEST) ** (1 / max(1, n_settings - 1))
    return [round(_SHORTEST * ratio**index) for index in range(n_settings)]


def one_search(seconds: int, options: Sequence[str]) -> tuple[float, int, str, int, str]:
    """Seconds that it took, exit code, verdict, number of measurements, and what is wrong."""
    with tempfile.TemporaryDirectory(prefix="timing-") as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "autopeft", "search", *options]
        command += ["--max-time", f"{seconds}s", "--out", str(out), "--quiet"]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        taken = time.monotonic() - started
        log = out / "state/measurements.jsonl"
        n_measured = len(log.read_text().splitlines()) if log.exists() else 0
        result = out / "result.json"
        verdict = json.loads(result.read_text())["verdict"]["label"] if result.exists() else ""
    fault = "" if done.returncode in _CODES else f"ended with {done.returncode}: {done.stderr[-300:]}"
    if not fault and taken > _MOST_SHARE * seconds + _MOST_SECONDS:
        fault = f"took {taken:.0f} s"
    return taken, done.returncode, verdict, n_measured, fault


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object; the exit code is 1 where a search took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=int, default=20)
    parser.add_argument("--limits", type=int, nargs="+", help="Seconds; default: --settings from 15 to 600")
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--csv", type=Path, default=Path("reports/faults/timing.csv"))
    options = parser.parse_args(arguments)
    words = [
        word
        for name in ("model", "data")
        if (value := getattr(options, name))
        for word in (f"--{name}", value)
    ]
    others = ("seconds", "code", "verdict", "measurements", "load", "fault")
    rows = Rows(options.csv, key=("limit_seconds",), others=others)
    for limit in options.limits or limits(options.settings):
        if not rows.has(limit):
            load = os.getloadavg()[0]
            taken, code, verdict, n_measured, fault = one_search(limit, words)
            rows.add(limit, f"{taken:.1f}", code, verdict, n_measured, f"{load:.1f}", fault)
    faults = {key[0]: row["fault"] for key, row in rows.by_key.items() if row["fault"]}
    print(json.dumps({"searches": len(rows.by_key), "faults": faults}))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
