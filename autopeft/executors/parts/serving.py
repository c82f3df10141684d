"""What a worker does that serves a search through a database: it joins, measures, and leaves.

The process that talks with the database is not the one that measures: it notices the other one's death at
once, and its sign of life never waits for a training step.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import time
import uuid
from collections.abc import Collection
from concurrent.futures import BrokenExecutor, Future, wait
from functools import partial
from typing import Any, NamedTuple

from autopeft.errors import DatabaseError, SpecError, StoppedError, WorkerLostError
from autopeft.executors.parts.database import Database
from autopeft.executors.parts.processes import ProcessWorker
from autopeft.executors.parts.resident import refusal
from autopeft.executors.parts.wire import decode, encode, encode_error
from autopeft.extension import Function
from autopeft.records import VERSION

_POLL_SECONDS = 0.2  # between looks for a call; chosen by hand
_LEAVE_SECONDS = 2.0  # to reach a lost database again while leaving; chosen by hand
_WAIT_SECONDS = 1.0  # between looks for a search; chosen by hand
# Of a row of autopeft_search: whether its search has been heard of.
IS_ALIVE = "seen > clock_timestamp() - 2 * lease_seconds * interval '1 second'"
BEATS_PER_LEASE = 5  # signs of life, so that one that is late is no death; chosen by hand

log = logging.getLogger(__name__)


class _Search(NamedTuple):
    """A search that has a place for a worker."""

    id: str
    version: str
    host: str
    setup: str | None
    lease_seconds: float


def serve(database: Database, known: Collection[str]) -> int:
    """Wait for a search, measure for it until it ends, and return the number of its calls that were made.

    Args:
        database: A connection of this worker alone.
        known: The functions and classes that a search may name, as `module:name`.

    Raises:
        SpecError: The search is of another version, or this worker cannot begin.
        StoppedError: The search has not been heard of for twice its lease.
        DatabaseError: The database cannot be reached, or refuses.
        WorkerLostError: The process that measures died before its first call.
    """
    database.prepare()
    search = _await_search(database)
    if search is None:
        database.close()
        return 0
    database.patience_seconds = search.lease_seconds
    worker = _Worker(database, search, known)
    try:
        return worker.work()
    finally:
        worker.leave()


def _await_search(database: Database) -> _Search | None:
    """The search that began first of those that have a place for a worker.

    None where there were searches without a place, and the last of them has ended.
    """
    has_reported = has_seen = False
    while True:
        rows = database.run(
            "SELECT id, version, host, setup, lease_seconds, n_workers > (SELECT count(*) "
            "FROM autopeft_worker WHERE search = autopeft_search.id AND refusal IS NULL) AS has_place "
            f"FROM autopeft_search WHERE {IS_ALIVE} ORDER BY has_place DESC, started LIMIT 1"
        )
        for *search, has_place in rows:
            if has_place:
                return _Search(*search)
        if has_seen and not rows:
            return None
        has_seen = bool(rows)
        if not has_reported:
            log.info("Waiting for a search that needs a worker")
            has_reported = True
        time.sleep(_WAIT_SECONDS)


class _Worker:
    """A member of a search, and the process that measures for it."""

    def __init__(self, database: Database, search: _Search, known: Collection[str]) -> None:
        self._database, self._search, self._known = database, search, frozenset(known)
        self._id, self._status = "", "joined"
        self._is_over = False
        self._last_beat = 0.0
        self._process: ProcessWorker | None = None

    def work(self) -> int:
        """Join, and answer calls until the search is over; returns their number."""
        self._join()
        if self._search.version != VERSION:
            text = f"The search is of autopeft {self._search.version}, and this worker of {VERSION}"
            raise self._refused(f"{text}; install the same version.")
        self._begin()
        n_calls = 0
        while self._is_member():
            call = self._claim()
            if call is None:
                time.sleep(_POLL_SECONDS)
            else:
                n_calls += self._answer(*call)
        return n_calls

    def leave(self) -> None:
        """End the process, give back an unfinished call, and leave the search."""
        if self._process is not None:
            self._process.close()
            self._process.end(time.monotonic())
        self._database.patience_seconds = _LEAVE_SECONDS
        with contextlib.suppress(DatabaseError):  # the search gives this worker up in a while
            self._run(
                "UPDATE autopeft_call SET worker = NULL "
                "WHERE worker = %s AND answer IS NULL AND error IS NULL AND loss IS NULL",
                self._id,
            )
            self._run("DELETE FROM autopeft_worker WHERE id = %s AND refusal IS NULL", self._id)
        self._database.close()

    def _run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return self._database.run(statement, *values)

    def _join(self) -> None:
        self._id = uuid.uuid4().hex
        self._run(
            "INSERT INTO autopeft_worker (id, search, host, status) SELECT %s, id, %s, %s "
            "FROM autopeft_search WHERE id = %s ON CONFLICT DO NOTHING",
            self._id,
            platform.node(),
            self._status,
            self._search.id,
        )

    def _begin(self) -> None:
        """Start the process, which makes its function; raise what prevents that."""
        setup = self._search.setup
        make = None if setup is None else partial(_made, setup, self._known)
        log.info("Joined the search on %s; loading the base model", self._search.host)
        self._process = ProcessWorker(make, 0)
        future = self._process.submit(refusal)
        while not self._is_done(future):
            if not self._is_member():
                return
        if isinstance(future.exception(), BrokenExecutor):
            raise self._refused("The process that loads the base model died", WorkerLostError)
        if reason := future.result():
            raise self._refused(reason)
        self._status = "ready"
        self._run("UPDATE autopeft_worker SET status = %s WHERE id = %s", self._status, self._id)
        log.info("Ready")

    def _refused(self, reason: str, kind: type[Exception] = SpecError) -> Exception:
        """The error with which this worker leaves; the search is told too."""
        self._run("UPDATE autopeft_worker SET refusal = %s WHERE id = %s", reason, self._id)
        return kind(reason)

    def _claim(self) -> tuple[str, str] | None:
        """The first call that no worker has, or one of this worker whose claim had no reply."""
        rows = self._run(
            "UPDATE autopeft_call SET worker = %s WHERE id = (SELECT id FROM autopeft_call "
            "WHERE search = %s AND answer IS NULL AND error IS NULL AND loss IS NULL "
            "AND (worker IS NULL OR worker = %s) ORDER BY worker IS NULL, place LIMIT 1 "
            "FOR UPDATE SKIP LOCKED) RETURNING id, request",
            self._id,
            self._search.id,
            self._id,
        )
        return rows[0] if rows else None

    def _answer(self, call: str, request: str) -> bool:
        """Make a call and send what it gave; False where the search no longer waits for it."""
        assert self._process is not None
        member = self._id
        try:
            future = self._process.submit(_answered, request, self._known)
        except BrokenExecutor as error:  # it died while it was idle
            self._process.start()
            log.warning("The process that measures died (%s) and was replaced", error)
            future = self._process.submit(_answered, request, self._known)
        while not self._is_done(future):
            if not self._is_member() or self._id != member:
                self._replace_process()
                return False
        fault = future.exception()
        if isinstance(fault, BrokenExecutor):
            self._process.start()
            log.warning("The process that measures died and was replaced")
            column, text = "loss", f"on {platform.node()}"
        else:
            column, text = ("answer", future.result()) if fault is None else ("error", encode_error(fault))
        self._run(
            f"UPDATE autopeft_call SET {column} = %s WHERE id = %s AND worker = %s AND loss IS NULL",
            text,
            call,
            member,
        )
        return True

    def _replace_process(self) -> None:
        """End what runs: the search has given the call to another worker, or is over."""
        assert self._process is not None
        self._process.close()
        self._process.end(time.monotonic())
        if not self._is_over:
            self._process.start()

    def _is_done(self, future: Future[Any]) -> bool:
        """Whether a future is done after a short wait."""
        return bool(wait([future], timeout=_POLL_SECONDS).done)

    def _is_member(self) -> bool:
        """Give a sign of life when it is time to; False where the search is over.

        A worker that the search has given up, since it was not heard of for too long, joins again.
        """
        if self._is_over or time.monotonic() < self._last_beat + self._search.lease_seconds / BEATS_PER_LEASE:
            return not self._is_over
        self._last_beat = time.monotonic()
        beat = "UPDATE autopeft_worker SET seen = clock_timestamp() WHERE id = %s"
        is_known = self._run(beat, self._id)[0][0] > 0
        rows = self._run(f"SELECT {IS_ALIVE} FROM autopeft_search WHERE id = %s", self._search.id)
        self._is_over = not rows
        if rows and not rows[0][0]:
            raise StoppedError(
                f"The search on {self._search.host} has not been heard of for "
                f"{2 * self._search.lease_seconds:g} s; resume it, and start the worker again."
            )
        if rows and not is_known:
            self._join()
        return not self._is_over


def _made(setup: str, known: Collection[str], index: int) -> Function:
    """The function of a worker, in the process that measures."""
    make = decode(setup, known)
    function: Function = make(index)
    return function


def _answered(request: str, known: Collection[str]) -> str:
    """What a call gives, in the process that measures."""
    fn, *args = decode(request, known)
    return encode(fn(*args))
