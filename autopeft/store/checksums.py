"""Checksums of adapters, in a file beside them, and inside JSON files: a later change or damage is noticed.

Other files, such as a model card, are not sealed: people edit them on the hub.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from autopeft.errors import RunDirError, SpecError
from autopeft.store.files import follow_umask, read_object, sha256_of, sync_folder, write_text
from autopeft.types import digest_of

_FILE, TRAINING = "checksums.json", "training.json"
BASE = "base"  # in TRAINING: the facts of the base model
# Tensors, configs, also that with the label names, what processors write, and what says how it was trained.
_SEALED = re.compile(
    r".*\.(safetensors|model|spm|txt|jinja)|(config|adapter_config|order|trained|training|tokenizer.*|vocab.*|special_tokens_map|"
    r"added_tokens|preprocessor_config)\.json"
)
_UNSEAL = f"delete {_FILE} and {TRAINING} to use the folder as a plain adapter of peft"
_SYNCED = "r+b" if os.name == "nt" else "rb"  # Windows only syncs files that are open to write


def seal_folder(folder: Path) -> None:
    """Write the SHA-256 of tensors, configs and processor to `checksums.json`; sync all files."""
    paths = _synced_files(folder)
    sums = {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths if _is_sealed(path.name)}
    write_text(folder / _FILE, json.dumps(sums, indent=2) + "\n")


def reseal(folder: Path, rewritten: Collection[Path]) -> None:
    """Renew the checksums of the `rewritten` files only, and drop those of files that are gone.

    A folder without checksums is sealed whole.
    """
    sums = _read_sums(folder)
    if sums is None:
        return seal_folder(folder)
    _synced_files(folder)
    renewed = {path.relative_to(folder).as_posix(): sha256_of(path) for path in rewritten}
    sums = {name: digest for name, digest in sums.items() if (folder / name).is_file()} | renewed
    write_text(folder / _FILE, json.dumps(sums, indent=2) + "\n")


def seal_of(folder: Path) -> str | None:
    """Digest a folder's `checksums.json`; None if it is missing or damaged, or a file changed."""
    try:
        sums = _read_sums(folder)
        if sums is None or any(sha256_of(folder / name) != digest for name, digest in sums.items()):
            return None
        return sha256_of(folder / _FILE)
    except (OSError, SpecError):
        return None


def require_unchanged(folder: Path) -> None:
    """Raise SpecError if a sealed file is missing or changed, or `training.json` is not sealed.

    A folder that `peft` wrote without autopeft has neither, and passes; so does one of autopeft 0.2.0.
    """
    sums = _read_sums(folder) or {}
    if TRAINING not in sums and BASE in read_object(folder / TRAINING):
        raise SpecError(
            f"{folder / _FILE} is missing or of other files, so that nothing tells whether the weights are "
            f"those that {TRAINING} describes; put it back, or {_UNSEAL}."
        )
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            raise SpecError(f"{path} is missing; write the folder again, or {_UNSEAL}.")
        if sha256_of(path) != expected:
            raise SpecError(
                f"{path} is damaged or was edited (a later training that saves into its folder does that): "
                f"its SHA-256 differs from the one in {_FILE}; write the folder again and save elsewhere, or "
                f"{_UNSEAL}."
            )


def _synced_files(folder: Path) -> list[Path]:
    """Sync the files of a folder to the disk, and list them; `checksums.json` is left out."""
    follow_umask(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _FILE)
    for path in paths:
        with path.open(_SYNCED) as stream:
            os.fsync(stream.fileno())
    for sub_folder in {path.parent for path in paths}:
        sync_folder(sub_folder)
    return paths


def _is_sealed(name: str) -> bool:
    return _SEALED.fullmatch(name) is not None


def _read_sums(folder: Path) -> dict[str, str] | None:
    """Read the checksums of sealed files, None without the file. Earlier versions sealed all files."""
    path = folder / _FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise SpecError(f"{path} is damaged; write the folder again, or {_UNSEAL}.")
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in content):
        raise SpecError(f"{path} names files outside its folder; write the folder again.")
    return {name: digest for name, digest in content.items() if _is_sealed(Path(name).name)}


def write_checked(path: Path, content: Any) -> None:
    """Write JSON content with its checksum; raises RunDirError if the file cannot be written."""
    write_text(path, json.dumps({"sha256": digest_of(content), "content": content}) + "\n")


def read_checked(path: Path, *, remedy: str) -> Any:
    """Read the content that `write_checked` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        RunDirError: The file cannot be read, or its content differs from the checksum; `remedy` is what the
            user can do.
    """
    try:
        written = json.loads(path.read_bytes())
        content = written["content"]
        is_whole = written["sha256"] == digest_of(content)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, remedy=remedy) from error
    if not is_whole:
        raise damaged(path, remedy=remedy)
    return content


def damaged(path: Path, *, remedy: str) -> RunDirError:
    """Make the error for a file whose content is not what the run wrote."""
    return RunDirError(f"{path} cannot be read: it is damaged or was edited; {remedy}.")
