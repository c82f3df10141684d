"""Ray: workers on the nodes of a Ray cluster, each an actor that keeps its own base model.

`RAY_ADDRESS` names the cluster; without it, a cluster of this machine alone starts and ends with the workers.
Ray gives each actor a core, and a GPU of its own if GPUs are used.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from autopeft.errors import SpecError, TrainingError
from autopeft.executors.worker import Executor, Function, Result, make_resident, worker_lost

# The least that Ray takes. Plans and measurements are small, and each actor loads the base model itself.
_OBJECT_STORE_BYTES = 80_000_000


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

    def _open(self, make: Callable[[int], Function], *, uses_gpu: bool) -> None:
        """Start actors; raise SpecError if the cluster has fewer cores or GPUs than they need."""
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
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}  # actors import what we can
        actor = ray.remote(_Actor).options(
            num_cpus=1, num_gpus=int(uses_gpu), scheduling_strategy="SPREAD", runtime_env=environment
        )
        self._actors = tuple(actor.remote(make, index) for index in range(self.n_workers))
        self._idle = deque(self._actors)

    def _call(self, fn: Callable[..., Result], *args: Any) -> Result:
        """Run `fn(*args)` in an actor; one is idle, since there are as many threads as actors."""
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
                raise TrainingError(f"A worker process could not start: {reason}") from error
            raise worker_lost(reason) from error
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
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # not 15: workers would wait for other programs
        address, handler = os.environ.get("RAY_ADDRESS"), signal.getsignal(signal.SIGTERM)
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
        finally:  # Ray replaces the handler
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)
