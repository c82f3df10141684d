"""The contract of an executor: result, exception and order come back."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import platform
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from autopeft.errors import SpecError, TrainingError, UnknownNameError, WorkerLostError
from autopeft.executors import EXECUTORS

PROCESSES = ["process", pytest.param("ray", marks=pytest.mark.nightly)]
HANGS = 600.0  # seconds without an answer that are no slow machine any more


def start(executor, make, *, n_workers):
    """Start workers; what this returns is to be submitted."""
    return executor.start(make, local=None, n_workers=n_workers, uses_gpu=False)


@pytest.fixture(params=EXECUTORS, scope="module")
def executor(request):
    """Each executor with a worker, shut down afterwards."""
    start(EXECUTORS[request.param], make_answering, n_workers=1)
    yield EXECUTORS[request.param]
    EXECUTORS[request.param].shutdown()


@pytest.fixture(params=PROCESSES, scope="module")
def pool(request):
    """Each executor that has workers."""
    yield EXECUTORS[request.param]
    EXECUTORS[request.param].shutdown()


def test_result_comes_back(executor):
    assert executor.submit(pow, 2, 10).result(timeout=HANGS) == 1024


def test_exception_comes_out_of_its_own_future_alone(executor):
    bad, good = executor.submit(int, "seven"), executor.submit(int, "7")
    with pytest.raises(ValueError, match="'seven'"):
        bad.result(timeout=HANGS)
    assert good.result(timeout=HANGS) == 7


def test_results_are_in_the_order_of_the_submits(executor):
    futures = [executor.submit(int, str(i)) for i in range(8)]
    assert [future.result(timeout=HANGS) for future in futures] == list(range(8))


def test_serial_has_finished_when_submit_returns():
    seen = []
    future = EXECUTORS["serial"].submit(seen.append, 1)
    assert future.done()
    assert seen == [1]


def test_serial_lets_a_keyboard_interrupt_through():
    def interrupted():
        raise KeyboardInterrupt("ctrl-c")

    with pytest.raises(KeyboardInterrupt, match="ctrl-c"):
        EXECUTORS["serial"].submit(interrupted)


# Executors with workers.


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


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs masks of signals")
def test_ctrl_c_while_a_worker_imports_is_left_to_the_main_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(IMPORTS_DURING_CTRL_C)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1024\n", "")


CLOSED_TERMINAL = """
import os, signal
from autopeft.executors import EXECUTORS

if __name__ == "__main__":
    signal.signal(signal.SIGHUP, lambda *_: None)
    pool = EXECUTORS["process"]
    pool.check()
    pool.start(range, local=None, n_workers=1, uses_gpu=False)
    print(pool.submit(pow, 2, 10).result())
    os.killpg(0, signal.SIGHUP)
    pool.shutdown()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs the signal of a closed terminal")
def test_a_closed_terminal_leaves_the_tracker_of_locks_running(tmp_path):
    (tmp_path / "script.py").write_text(CLOSED_TERMINAL)
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert (done.stdout, done.stderr) == ("1024\n", "")


IMPORTS_FOR_LONG = """
import multiprocessing, time

if multiprocessing.current_process().name != "MainProcess":
    print(flush=True)
    time.sleep(60)
def make(index):
    return print
"""
DIES_MEANWHILE = """
import os, signal
from autopeft.executors import EXECUTORS

if __name__ == "__main__":
    import slow
    pool = EXECUTORS["process"]
    pool.start(slow.make, local=None, n_workers=1, uses_gpu=False)
    pool.submit(pow, 2, 10)
    input()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_worker_that_imports_ends_when_the_main_process_is_killed(tmp_path):
    (tmp_path / "slow.py").write_text(IMPORTS_FOR_LONG)
    (tmp_path / "script.py").write_text(DIES_MEANWHILE)
    command = [sys.executable, str(tmp_path / "script.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()  # the worker imports
        process.communicate("\n", timeout=30)  # it holds stdout open


def niceness(pid):
    return os.getpriority(os.PRIO_PROCESS, pid)


def make_answering(index):
    """A function of a worker that says which worker it is, and in which process."""
    return lambda value: (index, os.getpid(), value)


def test_workers_keep_what_was_made_for_them_and_share_the_work(pool):
    answer = start(pool, make_answering, n_workers=2)
    answers = [future.result(timeout=HANGS) for future in [pool.submit(answer, i) for i in range(8)]]
    assert [value for _, _, value in answers] == list(range(8))
    assert len({(index, pid) for index, pid, _ in answers}) == len({index for index, _, _ in answers}) <= 2
    assert os.getpid() not in {pid for _, pid, _ in answers}
    assert {niceness(pid) for _, pid, _ in answers} == {niceness(0)}, "they wait for no other program"
    assert pool.n_workers == 2


def make_telling_a_level(index):
    """A function of a worker that says from which level on bitsandbytes warns there."""
    return lambda name: logging.getLogger(name).getEffectiveLevel()


def test_worker_processes_do_not_repeat_the_warnings_of_libraries():
    pool = EXECUTORS["process"]
    level = start(pool, make_telling_a_level, n_workers=1)
    assert pool.submit(level, "bitsandbytes.backends").result(timeout=HANGS) == logging.ERROR
    pool.shutdown()


def make_dying_once(folder, index):
    """A function that ends its process the first time that any worker calls it."""

    def work(name):
        try:
            (folder / "died").touch(exist_ok=False)
        except FileExistsError:
            return f"{name} after all"
        os.kill(os.getpid(), signal.SIGKILL)

    return work


def test_a_worker_that_dies_is_replaced_and_no_work_is_lost(pool, tmp_path):
    work = start(pool, partial(make_dying_once, tmp_path), n_workers=2)
    futures = [pool.submit(work, name) for name in "abcd"]
    assert [future.result(timeout=HANGS) for future in futures] == [f"{name} after all" for name in "abcd"]


def test_an_idle_worker_that_dies_is_replaced_when_there_is_work(pool):
    answer = start(pool, make_answering, n_workers=1)
    _, pid, _ = pool.submit(answer, 1).result(timeout=HANGS)
    os.kill(pid, signal.SIGKILL)
    index, other, _ = pool.submit(answer, 2).result(timeout=HANGS)
    assert (index, other == pid) == (0, False)


def make_dying(index):
    return lambda: os._exit(3)


def test_a_second_death_ends_the_search_and_workers_can_be_started_again(pool):
    work = start(pool, make_dying, n_workers=1)
    with pytest.raises(
        WorkerLostError, match=r"died, a second time .* What was measured is kept; .* --resume"
    ):
        pool.submit(work).result(timeout=HANGS)
    start(pool, make_answering, n_workers=1)
    assert pool.submit(pow, 2, 3).result(timeout=HANGS) == 8


def make_losing_its_gpu(folder, index):
    """A function whose process cannot use its GPU after the first call, as after a failed assertion there."""

    def work(name):
        if not list(folder.iterdir()):
            (folder / f"{os.getpid()}").touch()
            import torch  # not above, as most workers of this file need none

            raise torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with ...")
        return os.getpid()

    return work


def test_a_worker_that_has_lost_its_gpu_is_replaced(pool, tmp_path):
    work = start(pool, partial(make_losing_its_gpu, tmp_path), n_workers=1)
    pid = pool.submit(work, "a").result(timeout=HANGS)
    (lost,) = (int(path.name) for path in tmp_path.iterdir())
    assert [is_running(pid) for pid in (lost, pid)] == [False, True]


def test_one_process_that_has_lost_its_gpu_says_how_to_go_on():
    def work(message):
        import torch

        raise torch.AcceleratorError(message)

    serial = EXECUTORS["serial"]
    with pytest.raises(TrainingError, match=r"broke the GPU .*side assert.*--resume and --executor process"):
        serial.submit(work, "CUDA error: device-side assert triggered\nCompile with ...").result()
    with pytest.raises(RuntimeError, match="out of memory"):
        serial.submit(work, "CUDA error: out of memory").result()


def make_out_of_memory(index):
    def work():
        import torch

        raise torch.AcceleratorError("CUDA error: out of memory")

    return work


def test_a_gpu_without_memory_is_an_error_of_the_work_alone(pool):
    work = start(pool, make_out_of_memory, n_workers=1)
    with pytest.raises(RuntimeError, match="CUDA error: out of memory"):
        pool.submit(work).result(timeout=HANGS)


def make_refusing(index):
    raise UnknownNameError("model", "nope", ["known"])


def test_a_worker_that_cannot_begin_says_why(pool):
    work = start(pool, make_refusing, n_workers=1)
    with pytest.raises(
        TrainingError, match=f"process on {platform.node()} could not begin: There is no model named 'nope'"
    ):
        pool.submit(work).result(timeout=HANGS)


def make_without_a_package(index):
    importlib.import_module("absent_package")  # as on a node where something is not installed


@pytest.mark.parametrize("pool", PROCESSES[1:], indirect=True)
def test_a_node_that_lacks_a_package_is_named_and_costs_no_measurement(pool):
    work = start(pool, make_without_a_package, n_workers=1)
    with pytest.raises(TrainingError, match=r"on the node [\d.]+ could not begin: .*'absent_package'"):
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


def test_processes_are_refused_before_any_work_where_the_system_has_no_locks(monkeypatch):
    """As in a container whose /dev/shm cannot be written."""

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    EXECUTORS["process"].check()
    monkeypatch.setattr("multiprocessing.synchronize._multiprocessing.SemLock", refuse)
    with pytest.raises(SpecError, match=r"system refuses them \(.*Read-only file system\); .*/dev/shm"):
        EXECUTORS["process"].check()
