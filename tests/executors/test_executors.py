"""The contract of an executor: result, exception and order come back."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Future
from functools import partial
from pathlib import Path

import pytest

from autopeft.errors import SpecError, TrainingError, UnknownNameError, WorkerLostError
from autopeft.executors.parts import WorkerPool
from autopeft.executors.process import process_pool
from autopeft.extension import Executor, discover

EXECUTORS = discover("autopeft.executors")
HANGS = 600.0  # seconds without an answer that are no slow machine any more


@pytest.fixture(params=EXECUTORS, scope="module")
def executor(request):
    """Each discovered executor, shut down afterwards."""
    yield EXECUTORS[request.param]
    EXECUTORS[request.param].shutdown()


@pytest.fixture(params=["process", "ray"], scope="module")
def pool(request):
    """Each executor with workers; Ray's cluster serves all tests of this file."""
    yield EXECUTORS[request.param]
    EXECUTORS[request.param].shutdown()


def test_part_meets_the_protocol(executor):
    assert isinstance(executor, Executor)


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


def niceness(pid):
    return os.getpriority(os.PRIO_PROCESS, pid)


def make_answering(index):
    """A function of a worker that says which worker it is, and in which process."""
    return lambda value: (index, os.getpid(), value)


def test_workers_keep_what_was_made_for_them_and_share_the_work(pool):
    answer = pool.start(make_answering, local=None, n_workers=2)
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
    pool = process_pool()
    level = pool.start(make_telling_a_level, local=None, n_workers=1)
    assert pool.submit(level, "bitsandbytes.backends").result(timeout=HANGS) == logging.ERROR
    pool.shutdown()


def make_dying_once(folder, index):
    """A function that ends its process the first time that it is called with a name."""

    def work(name):
        try:
            (folder / name).touch(exist_ok=False)
        except FileExistsError:
            return f"{name} again"
        os.kill(os.getpid(), signal.SIGKILL)

    return work


def test_a_worker_that_dies_is_replaced_and_its_work_repeated_once(pool, tmp_path):
    work = pool.start(partial(make_dying_once, tmp_path), local=None, n_workers=2)
    futures = [pool.submit(work, name) for name in ("a", "b", "c")]
    assert [future.result(timeout=HANGS) for future in futures] == ["a again", "b again", "c again"]


def make_dying(index):
    return lambda: os._exit(3)


def test_work_at_which_two_workers_die_is_an_error_and_the_next_work_runs(pool):
    work = pool.start(make_dying, local=None, n_workers=1)
    with pytest.raises(WorkerLostError, match="the worker process died, 2 times"):
        pool.submit(work).result(timeout=HANGS)
    assert pool.submit(pow, 2, 3).result(timeout=HANGS) == 8


def make_losing_its_gpu(folder, index):
    """A function whose process cannot use its GPU after the first call, as after a failed assertion there."""

    def work(name):
        if len(list(folder.iterdir())) < 2:
            (folder / f"{name} {os.getpid()}").touch()
            import torch  # not above, as most workers of this file need none

            raise torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with ...")
        return os.getpid()

    return work


def test_a_worker_that_has_lost_its_gpu_is_replaced_and_tells_why(pool, tmp_path):
    work = pool.start(partial(make_losing_its_gpu, tmp_path), local=None, n_workers=1)
    with pytest.raises(WorkerLostError, match=r"2 times.* \(CUDA error: device-side assert triggered\)$"):
        pool.submit(work, "a").result(timeout=HANGS)
    pids = [int(path.name.split()[1]) for path in tmp_path.iterdir()]
    pids.append(pool.submit(work, "b").result(timeout=HANGS))
    assert len(set(pids)) == 3
    assert [is_running(pid) for pid in pids] == [False, False, True]


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
    work = pool.start(make_out_of_memory, local=None, n_workers=1)
    with pytest.raises(RuntimeError, match="CUDA error: out of memory"):
        pool.submit(work).result(timeout=HANGS)


def make_refusing(index):
    raise UnknownNameError("model", "nope", ["known"])


def test_a_worker_that_cannot_begin_says_why(pool):
    work = pool.start(make_refusing, local=None, n_workers=1)
    with pytest.raises(
        TrainingError, match=f"process on {platform.node()} could not begin: There is no model named 'nope'"
    ):
        pool.submit(work).result(timeout=HANGS)


def make_without_a_package(index):
    importlib.import_module("absent_package")  # as on a node where something is not installed


@pytest.mark.parametrize("pool", ["ray"], indirect=True)
def test_a_node_that_lacks_a_package_is_named_and_costs_no_measurement(pool):
    work = pool.start(make_without_a_package, local=None, n_workers=1)
    with pytest.raises(TrainingError, match=r"on the node [\d.]+ could not begin: .*'absent_package'"):
        pool.submit(work).result(timeout=HANGS)


class Placed:
    """A worker that runs its work at once, and may wait for a machine."""

    def __init__(self, ready):
        self.is_ready, self.seen = ready, []

    def start(self):
        self.is_ready = Future()  # its machine is lost, and no other has room

    def ready(self):
        return self.is_ready

    def submit(self, fn, *args):
        done = Future()
        self.seen.append(args)
        done.set_exception(BrokenExecutor()) if fn is None else done.set_result(args)
        return done

    def fault(self):
        return None

    def close(self):
        """Nothing to end."""

    def end(self, deadline):
        """Nothing to wait for."""


class Machines:
    """Two workers: one is there, and one gets a machine later."""

    def __init__(self):
        self.workers = [Placed(Future()), Placed(None)]

    def open(self, n_workers, *, uses_gpu):
        """Nothing to prepare."""

    def worker(self, make, index):
        return self.workers[index]

    def close(self):
        """Nothing to release."""


def test_work_goes_past_a_worker_that_waits_for_a_machine_until_it_has_one():
    machines = Machines()
    late, there = machines.workers
    pool = WorkerPool("toy", machines)
    pool.start(None, local=None, n_workers=2)
    assert [pool.submit(len, i).result(timeout=0) for i in range(2)] == [(0,), (1,)]
    late.is_ready.set_result(None)
    assert [pool.submit(len, i).result(timeout=0) for i in (2, 3, 4)] == [(2,), (3,), (4,)]
    assert (late.seen, there.seen) == ([(3,)], [(0,), (1,), (2,), (4,)])
    lost = pool.submit(None, 5)  # the worker dies at it, and then the other one too
    assert (late.seen[1:], there.seen[4:]) == ([(5,)], [(5,)])
    with pytest.raises(WorkerLostError, match="2 times"):
        lost.result(timeout=0)
    waiting = pool.submit(len, 6)
    assert not waiting.done()
    there.is_ready.set_result(None)
    assert waiting.result(timeout=0) == (6,)


USED = """
import os, sys, time
from toys.processes import command_of, descendants
from autopeft.extension import discover
if __name__ == "__main__":
    pool = discover("autopeft.executors")[sys.argv[1]]
    print(os.getpid(), pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 600)
    if sys.argv[2] == "killed":
        time.sleep(600)
    pool.shutdown()
    print(*filter(None, map(command_of, descendants(os.getpid()))), sep="\\n")
"""


@contextlib.contextmanager
def using(name, end, folder):
    """A process that uses an executor, its id, and the id of a worker that works; the home is the folder."""
    script = folder / "script.py"
    script.write_text(USED)
    command = [sys.executable, str(script), name, end]
    environment = {**os.environ, "HOME": str(folder / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as used:
        yield (used, *map(int, used.stdout.readline().split()))


@pytest.mark.parametrize("name", ["process", "ray"])
def test_nothing_is_left_after_a_shutdown_even_of_a_worker_that_works(name, tmp_path):
    with using(name, "shut down", tmp_path) as (used, pid, worker):
        rest = used.stdout.read()
    assert used.returncode == 0
    assert [command for command in rest.split("\n") if command and "resource_tracker" not in command] == []
    assert not is_running(worker)
    assert not (tmp_path / "home").exists()
    assert not list(Path("/tmp").glob(f"ray*/session_*_{pid}"))


@pytest.mark.parametrize("name", ["process", "ray"])
def test_workers_end_with_a_parent_that_is_killed(name, tmp_path):
    with using(name, "killed", tmp_path) as (used, pid, worker):
        used.kill()
    for _ in range(600):
        if not is_running(worker):
            break
        time.sleep(0.1)
    assert not is_running(worker)
    for folder in Path("/tmp").glob(f"ray*/session_*_{pid}"):  # of Ray: a killed process deletes nothing
        shutil.rmtree(folder.parent)


def is_running(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


WITH_A_LOCK = """
import multiprocessing

from autopeft.executors.process import process_pool


def make(index):
    lock = multiprocessing.RLock()  # as progress bars of libraries do
    return lambda number: number + 1 if lock else 0


if __name__ == "__main__":
    process = process_pool()
    submitted = process.start(make, local=int, n_workers=2)
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
