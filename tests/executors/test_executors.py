"""The contract of an executor: result, exception and order come back."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from autopeft.errors import SpecError, TrainingError, UnknownNameError, WorkerLostError
from autopeft.executors import EXECUTORS

PROCESSES = ["process", pytest.param("ray", marks=pytest.mark.nightly)]
HANGS = 600.0  # seconds; a slow machine answers sooner


def start(executor, make, *, n_workers):
    """Start workers; what this returns is to be submitted."""
    return executor.start(make, local=None, n_workers=n_workers, uses_gpu=False)


@pytest.fixture(params=PROCESSES, scope="module")
def pool(request):
    """Each executor that has workers."""
    yield EXECUTORS[request.param]
    EXECUTORS[request.param].shutdown()


def test_exception_comes_out_of_its_own_future_alone(pool):
    start(pool, make_answering, n_workers=1)
    bad, good = pool.submit(int, "seven"), pool.submit(int, "7")
    with pytest.raises(ValueError, match="'seven'"):
        bad.result(timeout=HANGS)
    assert good.result(timeout=HANGS) == 7


def test_serial_returns_a_result_and_raises_an_exception_at_once():
    assert EXECUTORS["serial"].submit(int, "7").result() == 7
    with pytest.raises(ValueError, match="'seven'"):
        EXECUTORS["serial"].submit(int, "seven")


IMPORTS_DURING_CTRL_C = """
import os, signal
from autopeft.executors import EXECUTORS

if __name__ == "__mp_main__":  # as a worker imports it
    os.kill(os.getpid(), signal.SIGINT)
def make(index):
    return print
if __name__ == "__main__":
    pool = EXECUTORS["process"]
    pool.start(make, local=None, n_workers=1, uses_gpu=False)
    print(pool.submit(pow, 2, 10).result())
    pool.shutdown()
"""


def test_ctrl_c_while_a_worker_imports_is_left_to_the_main_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(IMPORTS_DURING_CTRL_C)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1024\n", "")


def niceness(pid):
    return os.getpriority(os.PRIO_PROCESS, pid)


def make_answering(index):
    """Return a function that returns the worker's index and process id."""
    return lambda value: (index, os.getpid(), value)


def test_workers_keep_what_was_made_for_them_and_share_the_work(pool):
    answer = start(pool, make_answering, n_workers=2)
    answers = [future.result(timeout=HANGS) for future in [pool.submit(answer, i) for i in range(8)]]
    assert [value for _, _, value in answers] == list(range(8))
    assert len({(index, pid) for index, pid, _ in answers}) == len({index for index, _, _ in answers}) <= 2
    assert os.getpid() not in {pid for _, pid, _ in answers}
    assert {niceness(pid) for _, pid, _ in answers} == {niceness(0)}
    assert pool.n_workers == 2


def make_dying(index):
    return lambda: os._exit(3)


def test_a_dead_worker_ends_the_search_and_workers_can_be_started_again(pool):
    work = start(pool, make_dying, n_workers=1)
    with pytest.raises(WorkerLostError, match="--resume"):
        pool.submit(work).result(timeout=HANGS)
    start(pool, make_answering, n_workers=1)
    assert pool.submit(pow, 2, 3).result(timeout=HANGS) == 8


def make_refusing(index):
    raise UnknownNameError("model", "nope", ["known"])


def test_a_worker_that_cannot_start_reports_why(pool):
    work = start(pool, make_refusing, n_workers=1)
    with pytest.raises(TrainingError, match="'nope'"):
        pool.submit(work).result(timeout=HANGS)


USED = """
import os, sys, time
from toys.processes import command_of, descendants
from autopeft.executors import EXECUTORS
def make(index):
    return print
if __name__ == "__main__":
    pool = EXECUTORS[sys.argv[1]]
    pool.start(make, local=None, n_workers=1, uses_gpu=False)
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 600)
    if sys.argv[2] == "killed":
        time.sleep(600)
    pool.shutdown()
    print(*filter(None, map(command_of, descendants(os.getpid()))), sep="\\n")
"""


@contextlib.contextmanager
def using(name, end, folder):
    """A process that uses an executor, and the id of a worker that works."""
    script = folder / "script.py"
    script.write_text(USED)
    command = [sys.executable, str(script), name, end]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as used:
        yield used, int(used.stdout.readline())


@pytest.mark.parametrize("name", PROCESSES)
def test_nothing_is_left_after_a_shutdown_even_of_a_worker_that_works(name, tmp_path):
    with using(name, "shut down", tmp_path) as (used, worker):
        rest = used.stdout.read()
    assert used.returncode == 0
    assert [command for command in rest.split("\n") if command and "resource_tracker" not in command] == []
    assert not is_running(worker)


@pytest.mark.parametrize("name", PROCESSES)
def test_workers_end_with_a_parent_that_is_killed(name, tmp_path):
    with using(name, "killed", tmp_path) as (used, worker):
        used.kill()
    for _ in range(600):
        if not is_running(worker):
            break
        time.sleep(0.1)
    assert not is_running(worker)


def is_running(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


WITH_A_LOCK = """
import multiprocessing

from autopeft.executors import EXECUTORS


def make(index):
    lock = multiprocessing.RLock()  # as progress bars of libraries do
    return lambda number: number + 1 if lock else 0


if __name__ == "__main__":
    process = EXECUTORS["process"]
    submitted = process.start(make, local=int, n_workers=2, uses_gpu=False)
    print([process.submit(submitted, number).result() for number in range(4)])
    process.shutdown()
"""


def test_idle_workers_free_their_locks(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WITH_A_LOCK)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1, 2, 3, 4]"
    assert "leaked" not in done.stderr


def test_a_cluster_that_cannot_be_joined_is_refused_in_a_sentence(monkeypatch):
    def init(*_, **__):
        raise ValueError("Invalid address\nformat: foo")

    ray = SimpleNamespace(init=init, is_initialized=lambda: False, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_ADDRESS", "foo")
    pool = EXECUTORS["ray"]
    with pytest.raises(SpecError, match="RAY_ADDRESS") as refused:
        pool.start(print, local=None, n_workers=1, uses_gpu=False)
    pool.shutdown()
    assert "\n" not in str(refused.value)
