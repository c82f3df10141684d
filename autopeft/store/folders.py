"""A folder that is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from autopeft.errors import RunDirError


def refuse_files(out: Path) -> None:
    """Raise RunDirError where a folder to write to holds files already, is a file, or cannot be made."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunDirError(f"{out} is there already and not empty; pass another --out.")
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RunDirError(f"{out} cannot be written: {parent} is not a writable folder; pass another --out.")


@contextlib.contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, renamed to `out` at the end, or removed where something goes wrong.

    Raises:
        RunDirError: `out` holds files already, or cannot be written.
    """
    refuse_files(out)
    out = out.absolute()
    lacking = [folder for folder in out.parents if not folder.exists()]
    fresh = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        follow_umask(fresh)
        if out.exists():
            out.rmdir()
        fresh.rename(out)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        with contextlib.suppress(OSError):  # somebody else has put something there
            for folder in lacking:
                folder.rmdir()
        if isinstance(error, OSError | SafetensorError):  # the second too is raised for a full disk
            reason = getattr(error, "strerror", None) or error
            raise RunDirError(f"{out} cannot be written: {reason}; pass another --out.") from error
        raise


def follow_umask(folder: Path) -> None:
    """Let others read tensors as they read other new files; safetensors writes them for this user alone."""
    probe = folder / f".mode.{secrets.token_hex(4)}.tmp"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*.safetensors"):
        with contextlib.suppress(OSError):  # some file systems know no modes
            path.chmod(mode)
