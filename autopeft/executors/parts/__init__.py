"""What executors with workers are made of: the pool, and the function that stays in a worker.

Inside the folder each file imports only from those before it: resident → pool.
"""

from autopeft.executors.parts.pool import Backend, Worker, WorkerPool
from autopeft.executors.parts.resident import make_resident

__all__ = ["Backend", "Worker", "WorkerPool", "make_resident"]
