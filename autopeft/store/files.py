"""Writing a file whole or not at all, and the checksum of one."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import time
from pathlib import Path

from autopeft.errors import NO_ROOM, RunDirError

_IS_WINDOWS = os.name == "nt"
_TRIES, _PAUSE_SECONDS = (10 if _IS_WINDOWS else 1), 0.1  # of replacing a file; chosen by hand
# What network and FUSE file systems say that sync files, and no folders.
_NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP)
_REMEDIES = {
    **dict.fromkeys(NO_ROOM, "Make room there, or pass another --out"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "Close programs that have it open, allow this user to write there, or pass another --out"
        if _IS_WINDOWS
        else "Allow this user to write there, or pass another --out",
    ),
}


def write_text(path: Path | str, text: str) -> None:
    """Write a text in UTF-8 as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path | str, content: bytes) -> None:
    """Replace a file in one step: after a crash it holds the old content or the new, never half.

    Missing folders are made.

    Raises:
        RunDirError: The file cannot be written (no permission, disk full, a file where a folder should be).
    """
    path = Path(path)
    # In the same folder, since a rename across file systems is a copy; not `tempfile`, whose files only
    # their owner can read.
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with fresh.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            put_in_place(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def put_in_place(fresh: Path, path: Path) -> None:
    """Put a file in the place of another at once, or a folder where there is none.

    Windows refuses it while a program reads the old file, or one in the new folder; it is tried for a second.
    """
    for n_left in reversed(range(_TRIES)):
        try:
            os.replace(fresh, path)  # noqa: PTH105 - the call that makes the write atomic, by its own name
            return
        except PermissionError:  # a virus scanner may read it for a moment
            if not n_left:
                raise
            time.sleep(_PAUSE_SECONDS)


def cannot_write(path: Path, error: OSError) -> RunDirError:
    """The error for a path that the system refuses to write."""
    remedy = _REMEDIES.get(error.errno or 0, "Mend the cause, or pass another --out")
    return RunDirError(f"{path} cannot be written: {error.strerror or error}. {remedy}.")


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, as far as its file system does that."""
    if os.name != "posix":  # Windows cannot open a folder, and needs no sync of it
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)
