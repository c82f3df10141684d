"""Ray: resident workers on the nodes of a Ray cluster, each an actor that keeps a base model of its own.

`RAY_ADDRESS` names the cluster; without it, a cluster of this machine alone starts and ends with the workers.
Ray gives each actor a core, and a GPU of its own if GPUs are used. If an actor dies, Ray starts it again and
repeats its measurement, once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from autopeft.errors import SpecError, TrainingError, WorkerLostError
from autopeft.executors.worker import Executor, Function, Result, make_resident

# The least that Ray takes. Plans and measurements are small, and each actor loads the base model itself.
_OBJECT_STORE_BYTES = 80_000_000
_NODE = re.compile(r"\bip=([^,)]+)")  # the node's address in the traceback of an actor
_ANSWER_SECONDS = 5.0  # a cluster that can be reached answers sooner; chosen by hand


class _Actor:
    """The object in the process of an actor."""

    def __init__(self, make: Callable[[int], Function], index: int) -> None:
        make_resident(make, index)

    def call(self, fn: Function, *args: Any) -> Any:
        """Run `fn(*args)` in the actor's process."""
        return fn(*args)


class Ray(Executor):
    """Actors in the cluster that was joined before, else that of RAY_ADDRESS, else one of this machine."""

    name = "ray"
    packages = ("ray",)
    assigns_gpus = True
    _actors: tuple[Any, ...] = ()
    _is_connected = False  # whether this object joined or started the cluster

    def check(self) -> None:
        """Raise SpecError if nothing answers at RAY_ADDRESS, since Ray would try for minutes."""
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            return
        address = os.environ.get("RAY_ADDRESS", "")
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:
            if host and port.isdigit():  # not a word such as `auto`
                socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
        except (OSError, ValueError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SpecError(
                f"RAY_ADDRESS is {address}, and no Ray cluster answers there ({reason}); start one "
                "with `ray start --head` and give its address, or unset RAY_ADDRESS for a cluster of this "
                "machine."
            ) from error

    def _open(self, make: Callable[[int], Function], *, uses_gpu: bool) -> None:
        """Start actors; raise SpecError if the cluster has fewer cores or GPUs than they need."""
        with _environment_restored():
            import ray

            if not ray.is_initialized():
                self._connect()
        resources = ray.cluster_resources()
        for kind, n_needed in (("CPU", self.n_workers), ("GPU", self.n_workers * uses_gpu)):
            if resources.get(kind, 0) < n_needed:
                self.shutdown()
                raise SpecError(
                    f"--workers is {self.n_workers}, and the Ray cluster has {resources.get(kind, 0):g} "
                    f"{kind}s; lower --workers, or add nodes to the cluster first."
                )
        place = {"num_cpus": 1, "num_gpus": int(uses_gpu), "scheduling_strategy": "SPREAD"}
        actor = ray.remote(_Actor).options(max_restarts=-1, max_task_retries=1, **place)
        self._actors = tuple(actor.remote(make, index) for index in range(self.n_workers))
        self._idle = deque(self._actors)

    def _call(self, fn: Callable[..., Result], *args: Any) -> Result:
        """Run `fn(*args)` in an idle actor; there are as many threads as actors, so that one is idle.

        Raises TrainingError if the actor could not begin, such as on a node without this package, and
        WorkerLostError if it died twice.
        """
        import ray
        from ray.exceptions import RayActorError, RayError, RayTaskError

        actor = self._idle.popleft()
        try:
            result: Result = ray.get(actor.call.remote(fn, *args))
            return result
        except RayTaskError as error:
            raise error.cause or error from None  # without Ray's traceback in the text
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            if isinstance(error, RayActorError) and error.actor_init_failed:
                node = _NODE.search(str(error))
                where = f" on the node {node[1]}" if node else ""
                raise TrainingError(f"A worker process{where} could not begin: {reason}") from error
            raise WorkerLostError(
                "A worker process died, a second time at the same measurement; the machine may have run out "
                f"of memory ({reason}). What was measured is kept; mend the cause and continue with --resume."
            ) from error
        finally:
            self._idle.append(actor)

    def _close(self) -> None:
        for actor in self._actors:
            sys.modules["ray"].kill(actor)
        self._actors = ()
        if self._is_connected:
            sys.modules["ray"].shutdown()
            self._is_connected = False

    def _connect(self) -> None:
        import ray

        self._is_connected = True
        address = os.environ.get("RAY_ADDRESS")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not address:
            size = {"num_cpus": self.n_workers, "object_store_memory": _OBJECT_STORE_BYTES}
            options |= {"include_dashboard": False, **size}
        try:
            ray.init(address or "local", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:  # such as a cluster of another Python
            reason = " ".join(str(error).split()).rstrip(".")
            place = f"RAY_ADDRESS is {address}, and Ray cannot join it" if address else "Ray cannot start"
            raise SpecError(f"{place}: {reason}.") from error


@contextlib.contextmanager
def _environment_restored() -> Iterator[None]:
    """A context for importing Ray and starting a cluster; restores environment and SIGTERM at its end.

    Within it, actors import what this process can, the death of a worker is not printed on stdout, where
    results belong, and workers run at normal priority (niceness 0, not Ray's 15).
    """
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    defaults = {"RAY_DEDUP_LOGS_SKIP_REGEX": ".*", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    os.environ.update({**defaults, **environment, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)
