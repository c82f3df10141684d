"""Process: resident workers, each a spawned process that keeps a base model of its own.

Each worker is a pool of one process. `concurrent.futures` starts it, passes it work, and notices its death;
in a pool of several processes the death of one would end them all.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from autopeft.errors import AutopeftError, TrainingError, WorkerLostError

Result = TypeVar("Result")
Function = Callable[..., Any]

_PATIENCE_SECONDS = 3.0  # for idle workers to end; chosen by hand
_MOST_TRIES = 2  # of a function whose worker died; chosen by hand
_SPAWNED = multiprocessing.get_context("spawn")  # a forked process could not use a GPU
_RESIDENT: list[Function] = []  # in a worker: the function that its `make` gave, which keeps the base model


@dataclass
class _Task:
    """A function that was submitted, and how often it was given to a worker."""

    future: Future[Any]
    fn: Function
    args: tuple[Any, ...]
    n_tries: int = 0


class _Worker:
    """One process, which is replaced by `start`."""

    def __init__(self, index: int, make: Callable[[int], Function] | None) -> None:
        self._index, self._make = index, make
        self.start()

    def start(self) -> None:
        """Start a process; it makes its function before it takes work."""
        arguments = (self._make, self._index)
        self._pool = ProcessPoolExecutor(1, mp_context=_SPAWNED, initializer=_begin, initargs=arguments)
        before = multiprocessing.active_children()
        self._pool.submit(int)  # the process starts with its first work
        self._processes = [child for child in multiprocessing.active_children() if child not in before]

    def submit(self, task: _Task) -> Future[Any]:
        """Pass work to the process, or to a new one where the process has died in the meantime."""
        task.n_tries += 1
        try:
            return self._pool.submit(task.fn, *task.args)
        except BrokenExecutor:
            self.start()
            return self._pool.submit(task.fn, *task.args)

    def close(self) -> None:
        """Let the process end once it is idle, so that it frees its locks."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def end(self, deadline: float) -> None:
        """Wait for the process to end; end it by force at the deadline, in seconds of `time.monotonic`."""
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()


class Process:
    """Runs functions in worker processes, each in the worker that is free first.

    A worker that dies is replaced, and its function runs once more. Workers end with this process, even if it
    is killed.
    """

    name = "process"
    max_workers: int | None = None
    shares_memory = False

    def __init__(self) -> None:
        """No worker runs before `start` or the first `submit`."""
        self.n_workers = 1
        self._lock = threading.RLock()
        self._workers: list[_Worker] = []
        self._idle: deque[_Worker] = deque()
        self._waiting: deque[_Task] = deque()

    def start(self, make: Callable[[int], Function], *, local: Function, n_workers: int) -> Function:
        """Start workers that each call `make` with their index from 0; submit what this returns.

        The result calls, in a worker, the function that `make` gave there. `local` is left unused.
        """
        self.shutdown()
        with self._lock:
            self._open(n_workers, make)
        return _call_resident

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """A future of `fn(*args)`; function, arguments and result are pickled.

        `result()` raises what `fn` raised, and WorkerLostError where two workers died at it.
        """
        task = _Task(Future(), fn, args)
        with self._lock:
            if not self._workers:
                self._open(1, None)
            self._waiting.append(task)
            self._dispatch()
        return task.future

    def shutdown(self) -> None:
        """End all workers and what they run; `submit` may follow again."""
        with self._lock:
            workers, self._workers = self._workers, []
            self._idle.clear()
            self._waiting.clear()
            self.n_workers = 1
        for worker in workers:
            worker.close()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for worker in workers:
            worker.end(deadline)

    def _open(self, n_workers: int, make: Callable[[int], Function] | None) -> None:
        self._workers = [_Worker(index, make) for index in range(n_workers)]
        self._idle = deque(self._workers)
        self.n_workers = n_workers

    def _dispatch(self) -> None:
        """Give waiting functions to idle workers, in their order; holds the lock."""
        while self._waiting and self._idle:
            worker, task = self._idle.popleft(), self._waiting.popleft()
            worker.submit(task).add_done_callback(partial(self._finish, worker, task))

    def _finish(self, worker: _Worker, task: _Task, inner: Future[Any]) -> None:
        """Take a result from a worker, or replace it and try once more; runs in a thread of a pool."""
        error = None if inner.cancelled() else inner.exception()
        is_lost = inner.cancelled() or isinstance(error, BrokenExecutor)
        with self._lock:
            is_open = worker in self._workers
            is_repeated = is_open and is_lost and task.n_tries < _MOST_TRIES
            if is_repeated:
                self._waiting.appendleft(task)
            if is_open:
                if is_lost:
                    worker.start()
                self._idle.append(worker)
                self._dispatch()
        if is_repeated:
            return
        if is_lost:
            text = f"the worker process died, {task.n_tries} times; the machine may have run out of memory"
            task.future.set_exception(WorkerLostError(text))
        elif error is not None:
            task.future.set_exception(error)
        else:
            task.future.set_result(inner.result())


def _begin(make: Callable[[int], Function] | None, index: int) -> None:
    """Prepare a worker: Ctrl-C is for its parent, with which it ends, and its function is made once."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if make is None:
        return
    try:
        _RESIDENT[:] = [make(index)]
    except AutopeftError as error:  # raised by the first call, since here it would only end the worker
        _RESIDENT[:] = [partial(_refuse, str(error))]


def _call_resident(*args: Any) -> Any:
    """Call the function of this worker; errors with arguments of their own could not be unpickled."""
    try:
        return _RESIDENT[0](*args)
    except AutopeftError as error:
        raise TrainingError(str(error)) from None


def _refuse(message: str, *_: Any) -> None:
    raise TrainingError(f"A worker process could not begin: {message}")


def _end_with_parent() -> None:
    """End this process once its parent has: a worker of a killed parent would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


PART = Process()
