"""Ray: resident workers on the nodes of a Ray cluster, each an actor that keeps a base model of its own.

`RAY_ADDRESS` names the cluster; without it, a cluster of this machine alone starts and ends with the workers.
Ray gives each actor a GPU of its own where GPUs are used, and a core otherwise. Ray's own retries are off:
the pool repeats what a dead actor ran, at most once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from typing import Any

from autopeft.errors import SpecError, TrainingError
from autopeft.executors.parts import WorkerPool, make_resident
from autopeft.extension import Function

# Ray's least. Plans and measurements are small, and the base model is loaded by each actor itself.
_OBJECT_STORE_BYTES = 80_000_000
# Sockets lie in Ray's folder, and a path of a socket has at most 103 bytes: TMPDIR may be too long for it.
_SHORT_FOLDER = "/tmp" if os.name == "posix" else None
_NODE = re.compile(r"\bip=([^,)]+)")  # in the traceback of an actor
_ANSWER_SECONDS = 5.0  # of a cluster that is reached at all; chosen by hand
_LONG_SECONDS = 60.0  # for an actor to begin; chosen by hand
_WATCH_SECONDS = 10.0  # between two looks at the head; Ray ends this process 60 s after it was lost

log = logging.getLogger(__name__)


class _Actor:
    """What runs in the process of an actor."""

    def __init__(self, make: Callable[[int], Function] | None, index: int) -> None:
        make_resident(make, index)

    def call(self, fn: Function, *args: Any) -> Any:
        """`fn(*args)`, in the actor's process."""
        return fn(*args)


class _RayWorker:
    """One actor, which is replaced by `start`, and a thread that waits for its results.

    Ray's own futures call back in a thread of Ray, in which no actor can be started.
    """

    def __init__(self, make: Callable[[int], Function] | None, index: int, *, uses_gpu: bool) -> None:
        import ray

        self._arguments = (make, index)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"ray-{index}")
        self._actors = ray.remote(_Actor).options(
            num_cpus=1,
            num_gpus=int(uses_gpu),
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        self._actor: Any = None
        self.start()

    def start(self) -> None:
        """Start an actor in place of an earlier one, which may only have lost its connection."""
        if self._actor is not None:
            self.close()
        self._actor = self._actors.remote(*self._arguments)

    def ready(self) -> Future[Any]:
        """A future that ends once the actor has made its function, or could not.

        Ray places no actor where the cluster has no room, such as after the loss of a node.
        """
        return self._thread.submit(_wait_for, self._actor)

    def submit(self, fn: Function, *args: Any) -> Future[Any]:
        """A future of `fn(*args)`, which raises BrokenExecutor where the actor died."""
        return self._thread.submit(_result_of, self._actor, fn, args)

    def fault(self) -> None:
        """None: it imports no script."""

    def close(self) -> None:
        """End the actor, and with it what it runs."""
        import ray

        ray.kill(self._actor)

    def end(self, deadline: float) -> None:
        """Wait for the thread, which ends with the actor."""
        self._thread.shutdown()


def _wait_for(actor: Any) -> None:
    """Wait until an actor has begun or failed; log once that this takes long."""
    import ray

    begun = actor.__ray_ready__.remote()
    if not ray.wait([begun], timeout=_LONG_SECONDS)[0]:
        log.warning(
            "A worker has not begun after %.0f s: it loads its base model, or waits for room on the Ray "
            "cluster (%g CPUs, %g free). It joins when it can.",
            _LONG_SECONDS,
            ray.cluster_resources().get("CPU", 0),
            ray.available_resources().get("CPU", 0),
        )
        ray.wait([begun])


def _result_of(actor: Any, fn: Function, args: tuple[Any, ...]) -> Any:
    """Wait for what an actor returns; raise what its function raised, without Ray's traceback in the text.

    An actor that could not begin, such as on a node without this package, is no death: another could not
    begin there either.
    """
    import ray
    from ray.exceptions import RayActorError, RayError, RayTaskError

    try:
        return ray.get(actor.call.remote(fn, *args))
    except RayTaskError as error:
        raise error.cause or error from None
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        if isinstance(error, RayActorError) and error.actor_init_failed:
            node = _NODE.search(str(error))
            where = f" on the node {node[1]}" if node else ""
            raise TrainingError(f"A worker process{where} could not begin: {reason}") from error
        raise BrokenExecutor(reason) from error


class _Cluster:
    """The cluster of RAY_ADDRESS, the one to which the caller is connected, or one of this machine alone."""

    def __init__(self, *, watch_seconds: float = _WATCH_SECONDS) -> None:
        self._watch_seconds, self._leaves = watch_seconds, threading.Event()
        self._uses_gpu = False
        self._is_connected = False  # by this object
        self._folder: str | None = None  # of a cluster of this machine
        self._n_cores = 0  # of that cluster

    def check(self) -> None:
        """Raise SpecError where nothing answers at RAY_ADDRESS: Ray would try for minutes."""
        address = os.environ.get("RAY_ADDRESS", "")
        if _is_connected():
            return
        try:
            _reach(address)
        except (OSError, ValueError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SpecError(
                f"RAY_ADDRESS is {address}, and no Ray cluster answers there ({reason}); start one "
                "with `ray start --head` and give its address, or unset RAY_ADDRESS for a cluster of this "
                "machine."
            ) from error

    def open(self, n_workers: int, *, uses_gpu: bool) -> None:
        """Connect to the cluster; SpecError where it has fewer GPUs or cores than workers."""
        self._uses_gpu = uses_gpu
        if self._folder is not None and n_workers > self._n_cores:
            self.close()
        with _environment():
            import ray

            if not ray.is_initialized():
                with _own_signals():
                    self._connect(n_workers)
        resources = ray.cluster_resources()
        for kind, n_needed in (("CPU", n_workers), ("GPU", n_workers * uses_gpu)):
            if resources.get(kind, 0) < n_needed:
                self.close()
                raise SpecError(
                    f"--workers is {n_workers}, and the Ray cluster has {resources.get(kind, 0):g} {kind}s; "
                    "lower --workers, or add nodes to the cluster first."
                )
        self._watch(ray.get_runtime_context().gcs_address)

    def _watch(self, address: str) -> None:
        """Look in a thread whether the head answers, until this object leaves the cluster."""
        self._leaves.set()
        self._leaves = threading.Event()
        arguments = (address, self._leaves, self._watch_seconds)
        threading.Thread(target=_tell_lost_head, args=arguments, name="ray-head", daemon=True).start()

    def _connect(self, n_workers: int) -> None:
        import ray

        self._is_connected = True
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address := os.environ.get("RAY_ADDRESS"):
            try:
                ray.init(address, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:  # such as one of another Python
                reason = " ".join(str(error).split()).rstrip(".")
                raise SpecError(f"RAY_ADDRESS is {address}, and Ray cannot join it: {reason}.") from error
            return
        self._folder, self._n_cores = tempfile.mkdtemp(prefix="ray-", dir=_SHORT_FOLDER), n_workers
        ray.init(
            "local",
            num_cpus=n_workers,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=self._folder,
            **quiet,
        )

    def worker(self, make: Callable[[int], Function] | None, index: int) -> _RayWorker:
        """An actor that has been started."""
        return _RayWorker(make, index, uses_gpu=self._uses_gpu)

    def close(self) -> None:
        """Leave the cluster, and end it if it started here; its folder is deleted."""
        self._leaves.set()
        if self._is_connected:
            import ray

            ray.shutdown()
            self._is_connected = False
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _reach(address: str) -> None:
    """Connect to the host and port of a cluster; raises OSError, ValueError or OverflowError without answer.

    `auto` and `local` are no addresses, and pass.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()


def _tell_lost_head(address: str, leaves: threading.Event, seconds: float) -> None:
    """Log once that the head of a cluster does not answer any more: Ray ends this process without a word."""
    n_missed = 0
    while not leaves.wait(seconds):
        try:
            _reach(address)
            n_missed = 0
        except (OSError, ValueError, OverflowError):
            n_missed += 1
        if n_missed == 2:  # once may be a busy machine
            log.error(
                "The head of the Ray cluster at %s does not answer. If it does not come back, Ray ends this "
                "process a minute after the loss. What was measured is kept: start the cluster anew, and "
                "continue with --resume.",
                address,
            )


def _is_connected() -> bool:
    """Whether this process has connected itself to a cluster already."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """A context in which Ray is imported and started.

    Actors of a cluster of this machine import what this process can import.
    """
    before = dict(os.environ)
    os.environ.update({**_variables(), **before, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@functools.cache
def _variables() -> dict[str, str]:
    """What Ray reads when it is imported, and when it starts a cluster.

    Ray would print the death of a worker on stdout, where results belong. Its workers would give way to every
    other program of the machine (niceness 15), though the search waits for them. A cluster of this machine
    has a token of this process, since Ray would write its own into the home folder. Where Ray has been
    imported already, it has chosen its token.
    """
    variables = {
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }
    if "ray" not in sys.modules and "RAY_ADDRESS" not in os.environ:
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return variables


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """A context in which Ray changes the handler of SIGTERM, and after which it is as before."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def ray_pool() -> WorkerPool:
    """An executor of Ray actors; Ray is imported when it is first used."""
    return WorkerPool("ray", _Cluster(), packages=("ray",), assigns_gpus=True)


PART = ray_pool()
