"""Write a file or a folder whole or not at all; read and write records."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
from safetensors import SafetensorError

from autopeft.errors import RunDirError
from autopeft.types.text import Record, from_json, to_json

LOCK = ".lock"
_WRITE_ERRORS = (OSError, SafetensorError)  # either may mean a full disk


def write_text(path: Path | str, text: str) -> None:
    """Write a file in UTF-8 as `replaced_file` does."""
    with replaced_file(Path(path)) as fresh:
        fresh.write_bytes(text.encode())


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a new file that replaces `path` at the end: after a crash it has the old content or the new.

    Missing folders are created. Raises RunDirError if the file cannot be written.
    """
    # In the same folder, since a rename across file systems is a copy; not `tempfile`, whose files only
    # their owner can read.
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield fresh
            _sync(fresh)
            os.replace(fresh, path)  # noqa: PTH105 - the call that makes the write atomic, by its own name
        finally:
            fresh.unlink(missing_ok=True)
    except _WRITE_ERRORS as error:
        raise cannot_write(path, error) from error


def _sync(path: Path) -> None:
    with path.open("r+b") as stream:  # Windows only syncs files that are open to write
        os.fsync(stream.fileno())


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `folder` at the end; if the context fails, `folder` stays as it was.

    The older folder is moved away before it is removed, since Windows keeps a folder with an open file.
    """
    fresh, older = folder.with_name(f".{folder.name}.new.tmp"), folder.with_name(f".{folder.name}.old.tmp")
    for leftover in (fresh, older):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        yield fresh
        if folder.exists():
            folder.rename(older)
        fresh.rename(folder)
    except _WRITE_ERRORS as error:
        raise cannot_write(folder, error) from error
    finally:
        if older.exists() and not folder.exists():
            older.rename(folder)
        for leftover in (fresh, older):
            shutil.rmtree(leftover, ignore_errors=True)


def locked_folder(folder: Path) -> filelock.BaseFileLock:
    """Make a folder if it is missing, and lock it; raises RunDirError if another process holds the lock."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except filelock.Timeout as error:
        raise RunDirError(f"{folder} is in use by another process. Wait, or pass another --out.") from error
    except OSError as error:
        raise cannot_write(folder, error) from error
    return lock


def cannot_write(path: Path, error: Exception) -> RunDirError:
    """Return the error for a path that the system refuses to write."""
    reason = getattr(error, "strerror", None) or error
    return RunDirError(f"{path} cannot be written: {reason}. Fix the cause, or pass another --out.")


def write_record(path: Path, record: Any) -> None:
    """Write a record, or a dictionary, as JSON."""
    write_text(path, json.dumps(to_json(record)) + "\n")


def read_record(path: Path, kind: type[Record], *, remedy: str) -> Record:
    """Read what `write_record` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        RunDirError: The file does not hold such a record; `remedy` is what the user can do.
    """
    try:
        return from_json(kind, json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise RunDirError(f"{path} cannot be read: it is damaged or of another version; {remedy}.") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file is missing, damaged, or holds anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def sync_files(folder: Path) -> None:
    """Sync the files of a folder to the disk, and let other users read its tensors as they read new files."""
    _follow_umask(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            _sync(path)


def _follow_umask(folder: Path) -> None:
    """Set the mode of tensor files by that of the new folder: safetensors lets only this user read them."""
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in folder.rglob("*.safetensors"):
        with contextlib.suppress(OSError):  # some file systems have no modes
            path.chmod(mode)


def refuse_files(out: Path) -> None:
    """Raise RunDirError if a folder to write to holds files already, is a file, or cannot be created."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunDirError(f"{out} exists already and is not empty; pass another --out.")
    parents = out.absolute().parents
    parent = next((parent for parent in parents if parent.exists()), parents[-1])  # a drive may be absent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RunDirError(f"{out} cannot be written: {parent} is not a writable folder; pass another --out.")


@contextlib.contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `out` at the end; it is removed if the context fails.

    Raises RunDirError if `out` holds files already, or cannot be written.
    """
    refuse_files(out)
    with replaced_folder(out.absolute()) as fresh:
        yield fresh
        _follow_umask(fresh)


@contextlib.contextmanager
def claimed_folder(path: Path) -> Iterator[Path]:
    """Create a folder, with -2, -3, … after its name if that is taken; remove it at the end if it is empty.

    Processes that ask for the same name get a folder each. Raises RunDirError if it cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                break
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()
