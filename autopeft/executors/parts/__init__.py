"""What executors with workers are made of: the pool, workers as processes, and workers behind a database.

Inside the folder each file imports only from those before it:
resident, database → pool, processes, wire → serving.
"""

from autopeft.executors.parts.database import Database, database_url
from autopeft.executors.parts.pool import Backend, Worker, WorkerPool
from autopeft.executors.parts.processes import ProcessWorker, require_locks
from autopeft.executors.parts.resident import call_resident, has_lost_its_gpu, make_resident
from autopeft.executors.parts.serving import BEATS_PER_LEASE, IS_ALIVE, serve
from autopeft.executors.parts.wire import decode, decode_error, encode, name_of
from autopeft.records import Fidelity, Measurement, Plan

# What every search and worker name to each other.
MEASURING = frozenset(name_of(part) for part in (call_resident, Fidelity, Measurement, Plan))

__all__ = [
    "BEATS_PER_LEASE",
    "IS_ALIVE",
    "MEASURING",
    "Backend",
    "Database",
    "ProcessWorker",
    "Worker",
    "WorkerPool",
    "call_resident",
    "database_url",
    "decode",
    "decode_error",
    "encode",
    "has_lost_its_gpu",
    "make_resident",
    "name_of",
    "require_locks",
    "serve",
]
