"""Show that a search finds the same with workers, on Ray nodes that fail, and killed and resumed.

    python tools/same_answer.py OUT [--kills 30]

A tiny search runs undisturbed, with two worker processes, on two Ray nodes of which one is killed in the
middle (then it is resumed on a new node), and again and again with a SIGKILL at a random moment, resumed
after it. Each run is compared with the undisturbed one: `result.json` and `trials.csv` without times and the
settings of workers, the trials of the study, and each byte of the files in `plans/` and `best/` but the two
that say how long the training took. OUT/answers.csv gets one row for each run with the keys and files that
differ; runs that it holds are not repeated. Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/faults"), str(ROOT / "tools")]
from killing import begun_or_resumed, search  # noqa: E402
from toy_searches import read  # noqa: E402
from toys.folders import write_data, write_model  # noqa: E402

SETTINGS = "--max-steps 8 --batch-size 8 --budget 5% --trials 8 --max-eval-examples 20 --quiet".split()
OF_WORKERS = ("result.settings.execution.executor", "result.settings.execution.workers")
TIMED = ("README.md", "training.json")  # they say how long the training took
N_BEFORE_FAILURE = 3  # measurements, after which a Ray node is killed


def differences(run: Path, reference: Path) -> list[str]:
    """Name the keys and files of a run that are not those of another one."""
    a, b = read(run), read(reference)
    keys = [key for key in sorted({*a, *b}) if a.get(key, "absent") != b.get(key, "absent")]
    found = [key for key in keys if key not in OF_WORKERS]
    paths = {
        path.relative_to(each) for each in (run, reference) for path in each.rglob("*") if path.is_file()
    }
    for path in sorted(path for path in paths if path.parts[0] in ("plans", "best")):
        if path.name in TIMED:
            continue
        files = (run / path, reference / path)
        if not all(file.exists() for file in files) or files[0].read_bytes() != files[1].read_bytes():
            found.append(str(path))
    return found + ["study.sqlite"] * (trials_of(run) != trials_of(reference))


def trials_of(run: Path) -> list[tuple[Any, ...]]:
    """Read the trials of a run's study with plain Optuna."""
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{run}/study.sqlite")
    return [(t.number, t.state, t.value, t.params, t.user_attrs) for t in study.trials]


def undisturbed(words: list[str], run: Path) -> None:
    """Search to the end, in a process of its own; a run in the folder is resumed."""
    code, _, errors = search(begun_or_resumed(words, run))
    if code:
        raise RuntimeError(f"The search in {run} ended with {code}: {errors[-1000:]}")


def killed(words: list[str], run: Path, *, seconds: float) -> None:
    """Search, but kill the process after some seconds; then resume the run."""

    def before() -> Callable[[], int]:
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
        return lambda: 0

    code, _, errors = search(begun_or_resumed(words, run), before=before)
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"The search in {run} ended with {code}: {errors[-1000:]}")
    if code == 0:  # sooner than the undisturbed run
        shutil.rmtree(run)
        killed(words, run, seconds=seconds / 2)
    undisturbed(words, run)


def on_failing_nodes(words: list[str], run: Path) -> None:
    """Search on two Ray nodes, kill one, and resume the run with a new node."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    command = [sys.executable, "-m", "autopeft"]
    log = run / "state/measurements.jsonl"
    try:
        with subprocess.Popen([*command, *begun_or_resumed(words, run)], env=environment) as first:
            while first.poll() is None and (
                not log.exists() or len(log.read_text().splitlines()) < N_BEFORE_FAILURE
            ):
                time.sleep(0.01)
            cluster.remove_node(node, allow_graceful=False)
        if not first.returncode:
            raise RuntimeError(f"The search in {run} ended before a node was killed.")
        cluster.add_node(num_cpus=1)
        subprocess.run([*command, *begun_or_resumed(words, run)], env=environment, check=True)
    finally:
        cluster.shutdown()


def main() -> None:
    """Make what OUT/answers.csv does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    given = parser.parse_args()
    out = given.out.resolve()
    if not out.exists():
        out.mkdir(parents=True)
        write_model(out / "model")
        write_data(out / "data")
    words = ["--model", str(out / "model"), "--data", str(out / "data"), *SETTINGS]
    reference, started = out / "serial/run", time.monotonic()
    undisturbed(words, reference)
    answers, seconds = out / "answers.csv", time.monotonic() - started
    known = answers.read_text().splitlines() if answers.exists() else [f"serial,{seconds:.2f},"]
    answers.write_text("\n".join(known) + "\n")
    length, draw = float(known[0].split(",")[1]), random.Random(0)
    runs: dict[str, Callable[[Path], None]] = {
        "workers": lambda run: undisturbed([*words, "--executor", "process", "--workers", "2"], run),
        "nodes": lambda run: on_failing_nodes([*words, "--executor", "ray", "--workers", "2"], run),
    }
    for index in range(given.kills):
        moment = draw.uniform(0, 0.9 * length)
        runs[f"kill {index}"] = lambda run, moment=moment: killed(words, run, seconds=moment)
    for name, make in runs.items():
        if any(line.startswith(f"{name},") for line in known):
            continue
        run, started = out / name.replace(" ", "-") / "run", time.monotonic()
        make(run)
        found = differences(run, reference)
        with answers.open("a", newline="") as file:
            csv.writer(file).writerow([name, f"{time.monotonic() - started:.2f}", " ".join(found)])
        print(f"{name}: {len(found)} different {found[:20]}", flush=True)


if __name__ == "__main__":
    main()
