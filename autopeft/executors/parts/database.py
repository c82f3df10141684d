"""A PostgreSQL database between a search and its workers: one connection, and the tables.

`DATABASE_URL` names the database, so that no password reaches settings, files or the list of processes.
psycopg is imported when a connection is opened.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from autopeft.errors import DatabaseError, SpecError, reason_of

VARIABLE = "DATABASE_URL"
_FORM = "postgresql://USER:PASSWORD@HOST:PORT/NAME"
_CONNECT_SECONDS = 10  # chosen by hand
_RETRY_SECONDS = 0.5  # between attempts to connect again; chosen by hand
_LOCK = 6_153_094_417  # an advisory lock of our own: two processes that make the same tables would collide

_TABLES = f"""
SELECT pg_advisory_xact_lock({_LOCK});
CREATE TABLE IF NOT EXISTS autopeft_search (
    id text PRIMARY KEY,
    version text NOT NULL,
    host text NOT NULL,
    setup text,
    n_workers integer NOT NULL,
    lease_seconds double precision NOT NULL,
    seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    started timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS autopeft_worker (
    id text PRIMARY KEY,
    search text NOT NULL REFERENCES autopeft_search ON DELETE CASCADE,
    host text NOT NULL,
    status text NOT NULL DEFAULT 'joined',
    refusal text,
    seen timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS autopeft_call (
    id text PRIMARY KEY,
    search text NOT NULL REFERENCES autopeft_search ON DELETE CASCADE,
    place bigint GENERATED ALWAYS AS IDENTITY,
    request text NOT NULL,
    worker text,
    answer text,
    error text,
    loss text
);
"""


def database_url() -> str:
    """The value of DATABASE_URL; SpecError where it is missing or no address of PostgreSQL."""
    url = os.environ.get(VARIABLE, "")
    if not url.startswith(("postgresql://", "postgres://")):
        fault = "does not begin with postgresql://" if url else "is not set"
        raise SpecError(f"{VARIABLE} {fault}; search and workers need the same one: {VARIABLE}={_FORM}.")
    return url


class Database:
    """One connection, which is opened again where it is lost, for `patience_seconds`.

    A statement may then run twice, so that each has to have the same effect twice as once.
    """

    def __init__(self, url: str, *, patience_seconds: float = 0.0) -> None:
        self.patience_seconds = patience_seconds
        self._url = url
        self._place = _place_of(url)
        self._connection: Any = self._connected()

    def prepare(self) -> None:
        """Make the tables if they are missing; otherwise the right to make some is not needed."""
        if self.run("SELECT to_regclass('autopeft_call')") == [(None,)]:
            self.run(_TABLES)

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a statement, or of none the number of rows that it changed.

        Raises DatabaseError where the database refuses, or cannot be reached for too long.
        """
        import psycopg

        deadline = time.monotonic() + self.patience_seconds
        while True:
            try:
                cursor = self._connection.execute(statement, values or None)
                return cursor.fetchall() if cursor.description else [(cursor.rowcount,)]
            except psycopg.OperationalError as error:
                self._connect_again(error, deadline=deadline)
            except psycopg.Error as error:
                raise DatabaseError(f"The database {self._place} refuses: {reason_of(error)}.") from None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _connect_again(self, error: Exception, *, deadline: float) -> None:
        self._connection.close()
        while True:
            if time.monotonic() >= deadline:
                text = f"The database {self._place} was lost: {reason_of(error)}."
                raise DatabaseError(text) from None
            time.sleep(_RETRY_SECONDS)
            with contextlib.suppress(DatabaseError):  # it is tried again until the deadline
                self._connection = self._connected()
                return

    def _connected(self) -> Any:
        import psycopg

        try:
            return psycopg.connect(
                self._url,
                autocommit=True,
                prepare_threshold=None,  # a pooler between may give each statement another session
                application_name="autopeft",
                connect_timeout=_CONNECT_SECONDS,
                keepalives_idle=5,  # a machine that is gone is noticed in 15 seconds; chosen by hand
                keepalives_interval=3,
                keepalives_count=3,
                tcp_user_timeout=15_000,
            )
        except psycopg.Error as error:
            text = f"The database {self._place} cannot be reached: {reason_of(error)}."
            raise DatabaseError(text) from None


def _place_of(url: str) -> str:
    """`host:port/name` of an address; SpecError where it cannot be read, without any part of it.

    psycopg's own errors would show it: a password with an `@` or a `/` is taken for a part of the host.
    """
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.errors import ProgrammingError

    try:
        parts = conninfo_to_dict(url)
    except ProgrammingError:
        parts = {"port": "unreadable"}
    host, port, name = (str(parts.get(key) or usual) for key, usual in _USUAL.items())
    if not port.replace(",", "").isdigit() or "@" in host + name:
        raise SpecError(
            f"{VARIABLE} cannot be read; it should be of the form {_FORM}, with %40 for an @ in the password "
            "and %2F for a slash."
        )
    return f"{host}:{port}/{name}"


_USUAL = {"host": "localhost", "port": "5432", "dbname": ""}
