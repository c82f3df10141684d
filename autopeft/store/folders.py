"""A folder that is written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from autopeft.errors import RunDirError
from autopeft.store.files import cannot_write, put_in_place

_FRESH = re.compile(r"\.[0-9a-f]{8}\.tmp")  # what follows the name of a folder in that of its fresh one


def refuse_files(out: Path) -> None:
    """Raise RunDirError where a folder to write to holds files already, is a file, or cannot be made."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunDirError(f"{out} is there already and not empty; pass another --out.")
    parents = out.absolute().parents
    parent = next((parent for parent in parents if parent.exists()), parents[-1])  # a drive may be absent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RunDirError(f"{out} cannot be written: {parent} is not a writable folder; pass another --out.")


_OS_ERROR = re.compile(r"\(os error (\d+)\)")


@contextlib.contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, renamed to `out` at the end, or removed where something goes wrong.

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
            if isinstance(error, OSError | SafetensorError):  # the second too is raised for a full disk
                reason = getattr(error, "strerror", None) or error
                raise RunDirError(f"{out} cannot be written: {reason}; pass another --out.") from error
            raise


def save_processor(processor: Any, folder: Path | str) -> None:
    """Save a tokenizer or image processor; OSError where the system refuses, whatever it raises."""
    try:
        processor.save_pretrained(str(folder))
    except Exception as error:  # tokenizers in Rust raise no class of their own, with the number in the text
        number = None if isinstance(error, OSError) else _OS_ERROR.search(str(error))
        if number is not None:
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise


def sweep_fresh_folders(out: Path) -> None:
    """Remove what killed processes left of their fresh folders for `out`."""
    for folder in out.parent.glob(f".{glob.escape(out.name)}.*.tmp"):
        if _FRESH.fullmatch(folder.name.removeprefix(f".{out.name}")):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def without_empty_parents(path: Path) -> Iterator[None]:
    """A context that removes the folders above a path that it made, where it fails and they are empty."""
    lacking = [folder for folder in path.absolute().parents if not folder.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # somebody else has put something there
            for folder in lacking:
                folder.rmdir()
        raise


@contextlib.contextmanager
def claimed_folder(wanted: Path) -> Iterator[Path]:
    """A new folder of the wanted name, or with -2, -3, … behind it where that is taken.

    Processes that want one name at one time get a folder each. It is removed at the end if it is empty.

    Raises:
        RunDirError: The folder cannot be made.
    """
    with without_empty_parents(wanted):
        try:  # a link to a folder that is gone would pass for a taken name below
            wanted.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(wanted.parent, error) from error
        for number in itertools.count(1):
            folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
            try:
                folder.mkdir()
                break
            except FileExistsError:
                continue
            except OSError as error:
                raise cannot_write(folder, error) from error
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):  # it holds a run
                folder.rmdir()


def follow_umask(folder: Path) -> None:
    """Let others read tensors as they read other new files; safetensors writes them for this user alone."""
    probe = folder / f".mode.{secrets.token_hex(4)}.tmp"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*.safetensors"):
        with contextlib.suppress(OSError):  # some file systems know no modes
            path.chmod(mode)
