"""PostgreSQL: workers on any machine, which `autopeft worker` starts and a database connects with the search.

`DATABASE_URL` names the database. A call is a row: a worker claims it in one statement, sends signs of life
while it measures, and writes the answer. A worker without a sign of life for the lease is given up, and its
call goes to another one. All of it is deleted when the search ends, and the workers leave.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from typing import Any

from autopeft.errors import AutopeftError, DatabaseError, SpecError, TrainingError
from autopeft.executors.parts import (
    BEATS_PER_LEASE,
    IS_ALIVE,
    MEASURING,
    Database,
    WorkerPool,
    database_url,
    decode,
    decode_error,
    encode,
)
from autopeft.extension import Function
from autopeft.records import VERSION

_LEASE_SECONDS = 15.0  # of a worker that is not heard of; chosen by hand
_POLL_SECONDS = 0.1  # between looks for answers; chosen by hand
_MOST_REFUSALS = 6  # workers in a row that cannot begin, after which the search stops; chosen by hand

log = logging.getLogger(__name__)


class _WorkerPlace:
    """A place for one measurement at a time; any worker that is free takes it."""

    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    def start(self) -> None:
        """Do nothing: a worker that died is replaced by whoever joins."""

    def ready(self) -> None:
        """None: a call waits for whoever joins."""

    def submit(self, fn: Function, *args: Any) -> Future[Any]:
        """A future of `fn(*args)`, which raises BrokenExecutor where the worker was lost."""
        return self._calls.add(encode((fn, *args)))

    def fault(self) -> None:
        """None: it imports no script."""

    def close(self) -> None:
        """Do nothing: the worker ends its measurement when the search ends."""

    def end(self, deadline: float) -> None:
        """End the search, which all places share; the caller holds no lock that a thread may wait for."""
        self._calls.close()


class _Calls:
    """The calls of one search, and the thread that passes them on and takes their answers.

    The thread alone talks with the database.
    """

    def __init__(
        self, database: Database, setup: str | None, *, n_workers: int, lease_seconds: float
    ) -> None:
        self._database, self._lease_seconds = database, lease_seconds
        self._id = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._new: deque[tuple[str, str]] = deque()
        self._futures: dict[str, Future[Any]] = {}
        self._error: AutopeftError | None = None
        self._has_ended = threading.Event()
        self._ready: set[str] = set()  # workers whose beginning is logged
        self._n_refusals = 0  # since a worker has begun
        database.prepare()
        database.run(f"DELETE FROM autopeft_search WHERE NOT {IS_ALIVE}")
        database.run(
            "INSERT INTO autopeft_search (id, version, host, setup, n_workers, lease_seconds) "
            "VALUES (%s, %s, %s, %s, %s, %s)",
            self._id,
            VERSION,
            platform.node(),
            setup,
            n_workers,
            lease_seconds,
        )
        database.patience_seconds = lease_seconds
        self._n_workers = n_workers
        log.info("Waiting for workers; start up to %d with: autopeft worker", n_workers)
        self._thread = threading.Thread(target=self._pass_on, name="postgresql", daemon=True)
        self._thread.start()

    def add(self, request: str) -> Future[Any]:
        """A future of the answer to a call."""
        future: Future[Any] = Future()
        with self._lock:
            if self._error is None:
                call = uuid.uuid4().hex
                self._futures[call] = future
                self._new.append((call, request))
                return future
        future.set_exception(self._error)
        return future

    def close(self) -> None:
        """End the thread, delete the search, and with it what its workers wait for; may be called twice."""
        if self._has_ended.is_set():
            return
        self._has_ended.set()
        self._database.patience_seconds = 0.0
        self._thread.join()
        try:
            self._run("DELETE FROM autopeft_search WHERE id = %s")
        except DatabaseError as error:  # the search has its answers, or the same error already
            log.debug("%s", error)
        self._database.close()

    def _run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a statement whose last parameter is this search."""
        return self._database.run(statement, *values, self._id)

    def _pass_on(self) -> None:
        """Pass calls and answers on until the search ends; runs in the thread."""
        last_beat = -self._lease_seconds
        try:
            while not self._has_ended.wait(_POLL_SECONDS):
                self._send()
                self._receive()
                if time.monotonic() >= last_beat + self._lease_seconds / BEATS_PER_LEASE:
                    last_beat = time.monotonic()
                    self._beat()
        except AutopeftError as error:
            with self._lock:
                self._error = error
                futures, self._futures = list(self._futures.values()), {}
            for future in futures:
                future.set_exception(error)

    def _send(self) -> None:
        while self._new:
            self._database.run(
                "INSERT INTO autopeft_call (id, request, search) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                *self._new[0],
                self._id,
            )
            self._new.popleft()

    def _receive(self) -> None:
        """Take what workers wrote; a row is deleted after it was taken, so that no answer is lost."""
        rows = self._run(
            "SELECT id, answer, error, loss FROM autopeft_call WHERE (answer IS NOT NULL OR "
            "error IS NOT NULL OR loss IS NOT NULL) AND search = %s"
        )
        for call, answer, error, loss in rows:
            self._run("DELETE FROM autopeft_call WHERE id = %s AND search = %s", call)
            with self._lock:
                future = self._futures.pop(call, None)
            if future is None:
                continue
            if answer is None:
                future.set_exception(BrokenExecutor(loss) if error is None else decode_error(error))
                continue
            try:
                value = decode(answer, MEASURING)
            except SpecError as fault:
                future.set_exception(fault)
            else:
                future.set_result(value)

    def _beat(self) -> None:
        """Give a sign of life; give up workers without one, and tell who joined and who could not begin."""
        if not self._run("UPDATE autopeft_search SET seen = clock_timestamp() WHERE id = %s")[0][0]:
            raise DatabaseError("The search was deleted from the database; continue with --resume.")
        self._database.run(
            "DELETE FROM autopeft_worker WHERE seen < clock_timestamp() - %s * interval '1 second' "
            "AND search = %s",
            self._lease_seconds,
            self._id,
        )
        self._run(
            "UPDATE autopeft_call SET loss = 'it was not heard of any more' WHERE worker IS NOT NULL AND "
            "answer IS NULL AND error IS NULL AND loss IS NULL AND worker NOT IN "
            "(SELECT id FROM autopeft_worker) AND search = %s"
        )
        workers = self._run("SELECT id, host, status, refusal FROM autopeft_worker WHERE search = %s")
        ready = {worker for worker, _, status, refusal in workers if status == "ready" and refusal is None}
        for worker, host, _, refusal in workers:
            if refusal is not None:
                self._note_refusal(worker, host, refusal)
            elif worker in ready - self._ready:
                self._n_refusals = 0
                log.info("A worker on %s is ready; %d of %d", host, len(ready), self._n_workers)
        if lost := len(self._ready - ready):
            log.warning("%d of the workers left or died; %d are ready", lost, len(ready))
        self._ready = ready

    def _note_refusal(self, worker: str, host: str, refusal: str) -> None:
        """Tell why a worker could not begin; raise TrainingError where none can."""
        self._run("DELETE FROM autopeft_worker WHERE id = %s AND search = %s", worker)
        self._n_refusals += 1
        log.warning("A worker on %s could not begin: %s", host, refusal)
        if self._n_refusals >= _MOST_REFUSALS:
            raise TrainingError(
                f"The last {self._n_refusals} workers could not begin, one on {host}: "
                f"{refusal.rstrip('.')}. Mend the cause and continue with --resume."
            )


class _Postgresql:
    """The database of DATABASE_URL, with one search at a time."""

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._n_workers = 0
        self._calls: _Calls | None = None

    def check(self) -> None:
        """Connect once; SpecError or DatabaseError where that fails."""
        Database(database_url()).close()

    def open(self, n_workers: int, *, uses_gpu: bool) -> None:
        """End an earlier search; workers have the GPUs that their environment shows them."""
        self.close()
        self._n_workers = n_workers

    def worker(self, make: Callable[[int], Function] | None, index: int) -> _WorkerPlace:
        """A place for a worker; the first one makes the search known."""
        if self._calls is None:
            self._calls = _Calls(
                Database(database_url()),
                None if make is None else encode(make),
                n_workers=self._n_workers,
                lease_seconds=self._lease_seconds,
            )
        return _WorkerPlace(self._calls)

    def close(self) -> None:
        """End the search, so that its workers leave."""
        if self._calls is not None:
            self._calls.close()
            self._calls = None


def postgresql_pool(lease_seconds: float = _LEASE_SECONDS) -> WorkerPool:
    """An executor of workers behind a database; psycopg is imported when it is first used."""
    return WorkerPool("postgresql", _Postgresql(lease_seconds), packages=("psycopg",), assigns_gpus=True)


PART = postgresql_pool()
