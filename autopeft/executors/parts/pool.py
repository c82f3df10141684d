"""A pool of workers of any kind: hands out functions, replaces workers that die, repeats their functions."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from autopeft.errors import AutopeftError, WorkerLostError
from autopeft.executors.parts.resident import call_resident
from autopeft.extension import Function

Result = TypeVar("Result")

_PATIENCE_SECONDS = 3.0  # for idle workers to end; chosen by hand
_MOST_TRIES = 2  # of a function whose worker died; chosen by hand


class Worker(Protocol):
    """Runs one function at a time, in a process of its own."""

    def start(self) -> None:
        """Start the process, which makes its function first; it takes the place of one that died."""

    def ready(self) -> Future[Any] | None:
        """A future that ends once the started process takes work, or has failed; None where it does now."""

    def submit(self, fn: Function, *args: Any) -> Future[Any]:
        """A future of `fn(*args)`. BrokenExecutor, from here or from the future, where the process died.

        It may also run on, of no use; `start` ends it then.
        """

    def fault(self) -> AutopeftError | None:
        """Why no process of this worker can begin; None where it died at its work, and may be replaced."""

    def close(self) -> None:
        """Let the process end once it is idle."""

    def end(self, deadline: float) -> None:
        """Wait for the process to end; end it by force at the deadline, in seconds of `time.monotonic`."""


class Backend(Protocol):
    """A kind of workers."""

    def check(self) -> None:
        """Raise an AutopeftError where workers cannot be reached; called before any work."""

    def open(self, n_workers: int, *, uses_gpu: bool) -> None:
        """Prepare the place where workers run, or keep it; SpecError where it has no room for so many."""

    def worker(self, make: Callable[[int], Function] | None, index: int) -> Worker:
        """A worker that has been started."""

    def close(self) -> None:
        """Release what `open` prepared; called after the workers have ended."""


@dataclass
class _Submitted:
    """A function that was submitted, and how often it was given to a worker."""

    future: Future[Any]
    fn: Function
    args: tuple[Any, ...]
    n_tries: int = 0


class WorkerPool:
    """An executor whose functions run in workers, each in the worker that is free first.

    A worker that dies is replaced, and its function runs once more. One that cannot even begin is not.
    """

    max_workers: int | None = None
    shares_memory = False

    def __init__(
        self, name: str, backend: Backend, *, packages: tuple[str, ...] = (), assigns_gpus: bool = False
    ) -> None:
        """No worker runs before `start` or the first `submit`."""
        self.name, self.packages, self.assigns_gpus = name, packages, assigns_gpus
        self.n_workers = 1
        self._backend = backend
        self._lock = threading.RLock()
        self._workers: list[Worker] = []
        self._idle: deque[Worker] = deque()
        self._waiting: deque[_Submitted] = deque()

    def check(self) -> None:
        """Raise an AutopeftError where workers cannot be reached."""
        self._backend.check()

    def start(
        self, make: Callable[[int], Function], *, local: Function, n_workers: int, uses_gpu: bool = False
    ) -> Function:
        """Start workers that each call `make` with their index from 0; submit what this returns.

        The result calls, in a worker, the function that `make` gave there. `local` is left unused.
        """
        self._end_workers()
        with self._lock:
            self._open(n_workers, make, uses_gpu=uses_gpu)
        return call_resident

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """A future of `fn(*args)`; function, arguments and result are pickled.

        `result()` raises what `fn` raised, WorkerLostError where two workers died at it, and SpecError where
        workers cannot import the script that started them.
        """
        submitted = _Submitted(Future(), fn, args)
        with self._lock:
            if not self._workers:
                self._open(1, None, uses_gpu=False)
            self._waiting.append(submitted)
            self._dispatch()
        return submitted.future

    def shutdown(self) -> None:
        """End all workers and what they run; `submit` may follow again."""
        self._end_workers()
        self._backend.close()

    def _end_workers(self) -> None:
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

    def _open(self, n_workers: int, make: Callable[[int], Function] | None, *, uses_gpu: bool) -> None:
        self._backend.open(n_workers, uses_gpu=uses_gpu)
        self._workers = [self._backend.worker(make, index) for index in range(n_workers)]
        self.n_workers = n_workers
        for worker in self._workers:
            self._await(worker)

    def _await(self, worker: Worker) -> None:
        """Let a worker be idle once it takes work: until then others do its work; holds the lock."""
        ready = worker.ready()
        if ready is None:
            self._free(worker)
        else:
            ready.add_done_callback(lambda _: self._free(worker))

    def _free(self, worker: Worker) -> None:
        with self._lock:
            if worker in self._workers:
                self._idle.append(worker)
                self._dispatch()

    def _dispatch(self) -> None:
        """Give waiting functions to idle workers, in their order; holds the lock."""
        while self._waiting and self._idle:
            worker, submitted = self._idle.popleft(), self._waiting.popleft()
            _give(submitted, worker).add_done_callback(partial(self._finish, worker, submitted))

    def _finish(self, worker: Worker, submitted: _Submitted, inner: Future[Any]) -> None:
        """Take a result from a worker, or replace it and try once more; runs in a thread of the worker."""
        error = None if inner.cancelled() else inner.exception()
        is_lost = inner.cancelled() or isinstance(error, BrokenExecutor)
        if is_lost and (fault := worker.fault()) is not None:
            error, is_lost = fault, False
        with self._lock:
            is_open = worker in self._workers
            is_repeated = is_open and is_lost and submitted.n_tries < _MOST_TRIES
            if is_repeated:
                self._waiting.appendleft(submitted)
            if is_open and is_lost:
                worker.start()
                self._await(worker)
                self._dispatch()  # what is repeated, to workers that are idle
            elif is_open:
                self._free(worker)
        if is_repeated:
            return
        if is_lost:
            text = (
                f"the worker process died, {submitted.n_tries} times; the machine may have run out of memory"
            )
            text += f" ({error})" if error else ""
            submitted.future.set_exception(WorkerLostError(text))
        elif error is not None:
            submitted.future.set_exception(error)
        else:
            submitted.future.set_result(inner.result())


def _give(submitted: _Submitted, worker: Worker) -> Future[Any]:
    """Pass a function to a worker, or to a new one where the worker has died in the meantime."""
    submitted.n_tries += 1
    try:
        return worker.submit(submitted.fn, *submitted.args)
    except BrokenExecutor:
        if (fault := worker.fault()) is not None:
            failed: Future[Any] = Future()
            failed.set_exception(fault)
            return failed
        worker.start()
        return worker.submit(submitted.fn, *submitted.args)
