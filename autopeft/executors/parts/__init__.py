"""What executors with workers are made of: the pool, and workers as processes.

Inside the folder each file imports only from those before it:
resident → pool, processes.
"""

from autopeft.executors.parts.pool import Backend, Worker, WorkerPool
from autopeft.executors.parts.processes import ProcessWorker, require_locks
from autopeft.executors.parts.resident import call_resident, has_lost_its_gpu, make_resident

__all__ = [
    "Backend",
    "ProcessWorker",
    "Worker",
    "WorkerPool",
    "call_resident",
    "has_lost_its_gpu",
    "make_resident",
    "require_locks",
]
