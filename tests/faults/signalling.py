"""End searches by signals at random moments, resume them, and compare them with the undisturbed one.

    PYTHONPATH=.:tests python tests/faults/signalling.py OUT.csv [--rounds 10] [--kinds serial …]

Each run is a fork of this process, which has imported everything; only worker processes import again. Moments
are drawn uniformly over the processor time of an undisturbed run, with worker processes over its wall-clock
time; every third run is ended once more while it resumes. A row has signal, kind, index, the exit codes, and
what differs from the undisturbed run: rows, answer, weights, measurements made twice, processes left running.
Rows that OUT.csv has already are skipped. Ten rounds are 200 SIGKILLs and 100 of each other signal.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import importlib.util
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from killing import CODES, faults_of, outcome_of, search
from toys.counting import tiny_config
from toys.folders import write_data, write_model
from toys.trainers import SCRIPT

from autopeft.store.files import sha256_of

COLUMNS = ("signal", "kind", "index", "moments", "codes", "fault")
SETTINGS = "--max-steps 3 --batch-size 8 --budget 5% --trials 3 --max-eval-examples 12 --quiet".split()
RUNS = {"serial": 5, "tune": 4, "workers": 1}  # of a signal in each round; twice as many by SIGKILL
TICKS = os.sysconf("SC_CLK_TCK")


def words_of(kind: str, folder: Path) -> list[str]:
    """The command of a kind of run, without its folder."""
    if kind == "tune":
        flags = f"--model {folder / 'llama'} --budget r4 --full-steps 20 --metric accuracy --seeds 1 --quiet"
        trainer = [sys.executable, "-S", str(folder / "train.py"), "{trial}", "{result}", "0.02"]
        return ["tune", *flags.split(), "--margin", "0.01", "--out", "OUT", "--", *trainer]
    workers = ["--executor", "process", "--workers", "2"] if kind == "workers" else []
    words = ["--model", str(folder / "bert"), "--data", str(folder / "rows"), "--methods", "ia3,lora"]
    return ["search", *words, *SETTINGS, *workers, "--out", "OUT"]


def command(words: Sequence[str], out: Path) -> list[str]:
    """The words that begin a run in a folder, or go on with the one that is there."""
    begun = [str(out) if word == "OUT" else word for word in words]
    if words[0] == "search" and (out / "run.yaml").exists():
        return ["search", "--resume", "--quiet", "--out", str(out)]
    return begun


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def at_moment(seconds: float, name: str, *, kind: str, to_group: bool) -> Callable[[], Callable[[], int]]:
    """What to do before a run: start a process that sends the signal at a moment; give the milliseconds."""

    def before() -> Callable[[], int]:
        run, begun = os.getpid(), time.monotonic()
        used = processor_seconds(run)

        def clock() -> float:
            return time.monotonic() - begun if kind == "workers" else processor_seconds(run) - used

        if seconds and os.fork() == 0:
            os.setpgid(0, 0)
            while os.getppid() == run and clock() < seconds:
                time.sleep(0.002)
            if os.getppid() == run:
                (os.killpg if to_group else os.kill)(run, getattr(signal, name))
            os._exit(0)
        return lambda: round(1000 * clock())

    return before


def found_in(out: Path) -> tuple[object, list[tuple[str, str]]]:
    """All that a run found, without seconds, and the digests of its weights."""
    weights = sorted((out / "best").rglob("*.safetensors"))
    return outcome_of(out), [(path.relative_to(out).as_posix(), sha256_of(path)) for path in weights]


def left_running(out: Path) -> list[str]:
    """The processes of a run that are still there ten seconds after its end."""
    deadline = time.monotonic() + 10
    while True:
        running = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"SIGNALS_RUN={out}\0".encode() in path.read_bytes():  # spawned processes carry it
                    running.append(path.parent.name)
        if not running or time.monotonic() > deadline:
            return running
        time.sleep(0.1)


def undisturbed(kind: str, folder: Path) -> tuple[Any, float]:
    """What a run finds that no signal ends, and its seconds."""
    out = folder / f"whole-{kind}"
    before = at_moment(0.0, "", kind=kind, to_group=False)
    code, milliseconds, errors = search(command(words_of(kind, folder), out), before=before)
    assert code == 0, errors
    return found_in(out), milliseconds / 1000


def one_run(
    words: Sequence[str], out: Path, *, kind: str, name: str, n_ends: int, expected: Any, seconds: float
) -> tuple[list[float], list[int], str]:
    """End a run at drawn moments, resume it; give the moments, the exit codes, and what is wrong."""
    rng, moments, codes = random.Random(out.name), list[float](), list[int]()
    os.environ["SIGNALS_RUN"] = str(out)
    while len(codes) < n_ends and 0 not in codes:
        moment = rng.uniform(0.01, 1.0) * seconds
        to_group = name == "SIGINT" or rng.random() < 0.5  # a terminal sends it to all, a scheduler to one
        before = at_moment(moment, name, kind=kind, to_group=to_group)
        code, _, errors = search(command(words, out), before=before)
        moments.append(round(moment, 3))
        codes.append(code)
        if code not in (0, CODES[name]) or "Traceback" in errors:
            return moments, codes, f"ended with {code}: {errors[-900:]}"
        if running := left_running(out):
            return moments, codes, f"left running: {running}"
    code, _, errors = search(command(words, out))
    codes.append(code)
    if code or "Traceback" in errors:
        return moments, codes, f"resumed with {code}: {errors[-900:]}"
    faults = faults_of(out, expected[0])
    return moments, codes, "; ".join(faults if found_in(out) == expected else [*faults, "weights differ"])


def main() -> None:
    """Draw ends, run them, and write a row as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kinds", nargs="*", default=list(RUNS), choices=RUNS)
    arguments = parser.parse_args()
    importlib.import_module("autopeft.commands")  # once, for all forks
    importlib.import_module("autopeft.cli.results")
    # Workers import what those of `python -m autopeft` import, and not this file.
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("autopeft.__main__")
    folder = Path(tempfile.mkdtemp(prefix="signals-"))
    write_model(folder / "bert")
    write_data(folder / "rows")
    tiny_config().save_pretrained(folder / "llama")
    (folder / "train.py").write_text(SCRIPT, encoding="utf-8")
    known = {kind: undisturbed(kind, folder) for kind in arguments.kinds}
    is_new = not arguments.out.exists()
    with arguments.out.open("r+" if not is_new else "w+", newline="", encoding="utf-8") as stream:
        done = {tuple(row[:3]) for row in csv.reader(stream)}
        writer = csv.writer(stream)
        if is_new:
            writer.writerow(COLUMNS)
        for index in range(arguments.rounds):
            for kind, name in itertools.product(arguments.kinds, CODES):
                for number in range(index * (n := RUNS[kind] * (1 + (name == "SIGKILL"))), (index + 1) * n):
                    row = (name, kind, str(number))
                    if row in done:
                        continue
                    out = folder / "-".join(row)
                    expected, seconds = known[kind]
                    result = one_run(
                        words_of(kind, folder),
                        out,
                        kind=kind,
                        name=name,
                        n_ends=1 + (number % 3 == 2),
                        expected=expected,
                        seconds=seconds,
                    )
                    writer.writerow((*row, *(" ".join(map(str, each)) for each in result[:2]), result[2]))
                    stream.flush()
                    if not result[2]:
                        shutil.rmtree(out)


if __name__ == "__main__":
    main()
