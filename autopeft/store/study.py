"""Optuna's storage in an SQLite file: fast writes, and one whole file at the end."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.errors import RunDirError, reason_of

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

STUDY_FILES = ("study.sqlite", "study.sqlite-wal", "study.sqlite-shm", "study.sqlite-journal")


def open_study(path: Path) -> RDBStorage:
    """Optuna's storage in a file, which is made where it is missing; RunDirError where it cannot be."""
    # Half a second to import, and `autopeft count` reads plans without it.
    from optuna.exceptions import OptunaError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    try:
        # With `creator` the URL only names the dialect, so that a path may hold `?`.
        creator = {"creator": lambda: _connect(path, journal_mode="WAL")}
        return RDBStorage("sqlite:///study.sqlite", engine_kwargs=creator)
    except (sqlite3.Error, SQLAlchemyError, OptunaError) as error:
        reason = reason_of(error)
        if "disk" in reason:  # it is full, or fails
            sentence = f"{path} cannot be written: {reason}. Make room there, or pass another --out."
        else:
            sentence = f"{path} cannot be opened as an Optuna study: {reason}. Pass another --out."
        raise RunDirError(sentence) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context in which a study that cannot be written is a RunDirError of one sentence.

    Optuna logs errors alone in it. Its level, and that of alembic, which its storage sets, are put back.
    """
    import optuna
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    levels = {logger: logger.level for logger in map(logging.getLogger, ("optuna", "alembic"))}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    except (sqlite3.Error, SQLAlchemyError, StorageInternalError) as error:
        reason = reason_of(error.__cause__ or error)
        raise RunDirError(
            f"{path} cannot be written ({reason}). What was measured is kept; free the disk, then continue "
            "with --resume."
        ) from error
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def close_study(storage: RDBStorage, path: Path) -> None:
    """Close a storage so that its file alone holds the study, with no files beside it."""
    storage.remove_session()
    storage.engine.dispose()
    # Leaving WAL writes the log back into the file and removes -wal and -shm.
    _connect(path, journal_mode="DELETE").close()


def _connect(path: Path, *, journal_mode: str) -> sqlite3.Connection:
    # 25 times faster on `ask` than the defaults; power loss may cost the last commits, not the file.
    # The timeout in seconds is chosen by hand: a dashboard that reads may hold the file for a moment.
    connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
    connection.execute(f"PRAGMA journal_mode={journal_mode}")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection
