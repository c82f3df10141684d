"""`study.sqlite` of a run: an Optuna study that grows during the search."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from autopeft.errors import RunDirError, reason_of

_ENDINGS = ("", "-wal", "-shm", "-journal")  # of the files that SQLite keeps for one study


@contextmanager
def study_file(path: Path) -> Iterator[RDBStorage]:
    """Delete the study in an SQLite file, and yield a new Optuna storage there.

    Within the context Optuna and alembic only log errors. Raises RunDirError if the file cannot be written.
    """
    from sqlalchemy.exc import SQLAlchemyError  # slow, and few commands need it

    for ending in _ENDINGS:
        path.with_name(path.name + ending).unlink(missing_ok=True)
    storage = None
    try:
        with errors_alone("optuna", "alembic"):
            # With `creator` the URL only names the dialect, so that a path may contain `?`.
            storage = RDBStorage("sqlite:///study.sqlite", engine_kwargs={"creator": lambda: _connect(path)})
            yield storage
    except (sqlite3.Error, SQLAlchemyError, StorageInternalError) as error:
        reason = reason_of(error.__cause__ or error)
        raise RunDirError(
            f"{path} cannot be written ({reason}). What was measured is kept; free space, then continue "
            "with --resume."
        ) from error
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


@contextmanager
def errors_alone(*names: str) -> Iterator[None]:
    """Let loggers report only errors within the context."""
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _connect(path: Path) -> sqlite3.Connection:
    # Many times faster than the defaults, and safe: a resumed run writes the whole study again.
    # The timeout in seconds is heuristic: a dashboard that reads may lock the file for a moment.
    connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=MEMORY")
    connection.execute("PRAGMA synchronous=OFF")
    return connection
