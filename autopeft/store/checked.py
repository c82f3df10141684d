"""JSON files with a checksum of their content, so that damage and edits are noticed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from autopeft.errors import RunDirError
from autopeft.records import digest_of
from autopeft.store.files import write_text

log = logging.getLogger(__name__)


def write_checked(path: Path, content: Any) -> None:
    """Write JSON content with its checksum; raises RunDirError where the file cannot be written."""
    write_text(path, json.dumps({"sha256": digest_of(content), "content": content}) + "\n")


def read_checked(path: Path, *, remedy: str) -> Any:
    """The content that `write_checked` wrote.

    A file of an earlier version, which has no checksum, is read with a warning.

    Args:
        path: The file.
        remedy: What the user can do where the file is damaged, for the error.

    Raises:
        FileNotFoundError: There is no such file.
        RunDirError: The file cannot be read, or its content differs from the checksum.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, remedy=remedy) from error
    if not isinstance(content, dict) or content.keys() != {"sha256", "content"}:
        log.warning("%s has no checksum, as in runs of version 0.2.0 and earlier; it is read as it is.", path)
        return content
    if content["sha256"] != digest_of(content["content"]):
        raise damaged(path, remedy=remedy)
    return content["content"]


def damaged(path: Path, *, remedy: str) -> RunDirError:
    """The error for a file of a run whose content is not what the run wrote."""
    return RunDirError(f"{path} cannot be read: it is damaged or was edited; {remedy}.")
