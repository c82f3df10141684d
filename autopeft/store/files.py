"""Write a file or a folder whole or not at all; read and write records."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from autopeft.errors import DISK_FULL, RunDirError
from autopeft.types.text import Record, from_json, to_json

_IS_WINDOWS = os.name == "nt"
_TRIES, _PAUSE_SECONDS = (10 if _IS_WINDOWS else 1), 0.1  # of replacing a file; heuristic
_NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
_FRESH = re.compile(r"\.[0-9a-f]{8}\.tmp")  # ends the name of a folder that `fresh_folder` makes
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how Rust writes the number of a system error


def write_text(path: Path | str, text: str) -> None:
    """Write a file in UTF-8 in one step: after a crash it holds the old content or the new, never half.

    Missing folders are created. Raises RunDirError (no permission, disk full, a file where a folder should
    be).
    """
    path = Path(path)
    # In the same folder, since a rename across file systems is a copy; not `tempfile`, whose files only
    # their owner can read.
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with fresh.open("xb") as stream:
                stream.write(text.encode())
                stream.flush()
                os.fsync(stream.fileno())
            put_in_place(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def put_in_place(fresh: Path, path: Path) -> None:
    """Move a file to a path in one step, over an older file; or a folder to a path that is free.

    Windows refuses while a program reads the old file, or a file in the folder: we try for a second.
    """
    for n_more_tries in reversed(range(_TRIES)):
        try:
            os.replace(fresh, path)  # noqa: PTH105 - the call that makes the write atomic, by its own name
            return
        except PermissionError:  # a virus scanner may read it for a moment
            if not n_more_tries:
                raise
            time.sleep(_PAUSE_SECONDS)


def replace_folder(fresh: Path, folder: Path) -> None:
    """Replace `folder` by `fresh`, or raise RunDirError and delete neither.

    The older folder is moved away before it is removed, since Windows keeps a folder with an open file.
    """
    older = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        if folder.exists():
            put_in_place(folder, older)
        put_in_place(fresh, folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    shutil.rmtree(older, ignore_errors=True)


def cannot_write(path: Path, error: OSError) -> RunDirError:
    """Return the error for a path that the system refuses to write."""
    remedy = "Fix the cause"
    if error.errno in DISK_FULL:
        remedy = "Free space there"
    elif error.errno in _NO_PERMISSION:
        remedy = "Allow this user to write there, close programs that have it open"
    return RunDirError(
        f"{path} cannot be written: {error.strerror or error}. {remedy}, or pass another --out."
    )


def write_record(path: Path, record: Any) -> None:
    """Write a record, or a dictionary, as JSON; raises RunDirError if the file cannot be written."""
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
        raise damaged(path, remedy=remedy) from error


def damaged(path: Path, *, remedy: str) -> RunDirError:
    """Return the error for a file that does not hold what the run wrote."""
    return RunDirError(f"{path} cannot be read: it is damaged or of another version; {remedy}.")


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file is missing, damaged, or holds anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def sha256_of(path: Path | str) -> str:
    """Compute the SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sync_files(folder: Path) -> None:
    """Sync the files of a folder to the disk, and let other users read its tensors as they read new files."""
    follow_umask(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as stream:  # Windows only syncs files that are open to write
                os.fsync(stream.fileno())


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
    """Yield a new folder next to `out`; rename it to `out` at the end, or remove it if the context fails.

    Raises:
        RunDirError: `out` holds files already, or cannot be written.
    """
    refuse_files(out)
    out = out.absolute()
    fresh = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    with without_empty_parents(out):
        try:
            fresh.mkdir(parents=True)
            yield fresh
            follow_umask(fresh)
            if out.exists():
                out.rmdir()
            put_in_place(fresh, out)
        except BaseException as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if isinstance(error, OSError | SafetensorError):  # either may mean a full disk
                reason = getattr(error, "strerror", None) or error
                raise RunDirError(f"{out} cannot be written: {reason}; pass another --out.") from error
            raise


def save_processor(processor: Any, folder: Path | str) -> None:
    """Save a tokenizer or image processor; raises OSError if the system refuses, also for errors of Rust."""
    try:
        processor.save_pretrained(str(folder))
    except Exception as error:  # tokenizers in Rust raise a bare Exception with the number in its text
        number = None if isinstance(error, OSError) else _OS_ERROR.search(str(error))
        if number is not None:
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise


def sweep_fresh_folders(out: Path) -> None:
    """Remove folders that `fresh_folder` made for `out` in processes that were killed."""
    for folder in out.parent.glob(f".{glob.escape(out.name)}.*.tmp"):
        if _FRESH.fullmatch(folder.name.removeprefix(f".{out.name}")):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def without_empty_parents(path: Path) -> Iterator[None]:
    """Remove the empty folders above a path that were made in this context, if it fails."""
    missing = [folder for folder in path.absolute().parents if not folder.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # another program has put something there
            for folder in missing:
                folder.rmdir()
        raise


@contextlib.contextmanager
def claimed_folder(path: Path) -> Iterator[Path]:
    """Create a folder, with -2, -3, … after its name if that is taken; remove it at the end if it is empty.

    Processes that ask for the same name get a folder each. Raises RunDirError if it cannot be created.
    """
    with without_empty_parents(path):
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


def follow_umask(folder: Path) -> None:
    """Set tensor files to the mode of other new files: safetensors lets only this user read them."""
    probe = folder / f".mode.{secrets.token_hex(4)}.tmp"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*.safetensors"):
        with contextlib.suppress(OSError):  # some file systems know no modes
            path.chmod(mode)
