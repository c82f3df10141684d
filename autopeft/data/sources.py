"""Finds what --data names: files, folders, saved datasets and hub datasets, sorted into splits.

A local source never touches the network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from huggingface_hub import errors as hub_errors

from autopeft.data.files import CONLL, FILE_ERRORS, TABLES, quiet, read_table
from autopeft.errors import DataError, nearest
from autopeft.types import DataSpec, listed, path_at_home

SAMPLE = Path(__file__).parents[1] / "sample_data" / "clinc_domain10"

# A split word in a name: `train`, `training` and `trainset`, but not `latest`, `contest` or `trainer`.
_SPLIT_WORD = re.compile(
    r"(?<![a-z])(train|test|validation|valid|val|dev|eval)(ing)?(set|data|dataset|split)?(?![a-z])"
)
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?")  # with the configuration after a colon

# The hub client changed its HTTP library between versions; `HTTPError` is the base error of either. A loader
# whose package is missing raises an ImportError that names it.
_HUB_ERRORS = (*FILE_ERRORS, RuntimeError, ImportError, hub_errors.HTTPError)


class Source(NamedTuple):
    """A dataset as it was found: its tables by split (train, confirm, test), with a note on each decision."""

    name: str
    tables: dict[str, list[Any]]
    notes: tuple[str, ...] = ()

    def with_tables(self, change: Callable[[Any], Any]) -> Source:
        """Replace each table by a function of it."""
        tables = {split: [change(table) for table in tables] for split, tables in self.tables.items()}
        return self._replace(tables=tables)

    def rows(self, rows_of: Callable[[str, Any], list[Any]]) -> dict[str, list[Any]]:
        """Read the rows of each split, by a function of its name and of a table."""
        return {
            split: [row for table in tables for row in rows_of(split, table)]
            for split, tables in self.tables.items()
        }


def read(spec: DataSpec, *, suffixes: Sequence[str] = TABLES) -> Source:
    """Read the tables of a file, several files by comma, a folder, a saved dataset, or a hub id."""
    source = str(spec.source or SAMPLE)
    path = path_at_home(source)
    if os.path.exists(path):  # noqa: PTH110 - Path.exists raises where the name is too long
        is_saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
        name = path.resolve().name if path.is_dir() else path.stem
        if is_saved or path.is_file():
            table = read_table(path, suffixes)
            is_split = isinstance(table, dict)
            return by_split(name, list(table.items())) if is_split else Source(name, {"train": [table]})
        named = [(str(file.relative_to(path)), file) for file in _data_files(path, suffixes)]
        files = by_split(name, named)
    elif "," in source:
        paths = [path_at_home(word.strip()) for word in source.split(",")]
        for path in paths:
            if not path.is_file():
                raise _missing(path)
        files = by_split(paths[0].resolve().parent.name, [(path.name, path) for path in paths])
    else:
        is_file_name = path.suffix.lower() in (*TABLES, *CONLL)
        in_folder = path.parent != Path() and path.parent.is_dir()
        if is_file_name or in_folder or not _HUB_ID.fullmatch(source):
            raise _missing(path)
        return by_split(source, list(_read_hub(source).items()))
    return files.with_tables(lambda path: read_table(path, suffixes))


def _missing(path: Path) -> DataError:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, siblings)
    hint = f" Did you mean {close!r}?" if close else ""
    return DataError(f"The data file {path} does not exist.{hint} Correct --data.")


def _data_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """List the tables of a folder, of its subfolder `data`, or of its splits' images; else other files."""
    for pattern in ("[!._]*", "data/[!._]*", "[!._]*/metadata.*"):
        for some in (TABLES, suffixes):
            if files := sorted(file for file in folder.glob(pattern) if file.suffix.lower() in some):
                return files
    raise DataError(
        f"The folder {folder} has no data file; put {', '.join(suffixes)} files there, or set --task "
        "image-classification for images."
    )


def by_split(name: str, sources: Sequence[tuple[str, Any]]) -> Source:
    """Sort named files or tables by the split word in their names; all are train if no name has one.

    A source without a split word next to others, or with the words of several splits, is left out with a
    note. Raises DataError without train.
    """
    tables: dict[str, list[Any]] = {}
    unclear = []
    for key, source in sources:
        words = {word[1] for word in _SPLIT_WORD.finditer(key.lower())}
        splits = {word if word in ("train", "test") else "confirm" for word in words}
        if len(splits) == 1:
            tables.setdefault(splits.pop(), []).append(source)
        else:
            unclear.append(key)
    if not tables:
        note = f"No file name has a split word (train, validation, test): {listed(unclear)} are all train."
        return Source(name, {"train": [source for _, source in sources]}, (note,) if len(unclear) > 1 else ())
    if "train" not in tables:
        raise DataError(
            f"{name} has no train split, only {listed([key for key, _ in sources])}; rename one of them to "
            "train, or pass the file to train on by itself."
        )
    notes = (f"Left out, as the name has not exactly one split word: {listed(unclear)}.",) if unclear else ()
    return Source(name, tables, notes)


def class_folders(path: Path, suffixes: Collection[str]) -> Source:
    """List images such as `train/cat/1.png` with labels, or `cat/1.png` if no folder names a split."""
    folders = sorted(child for child in path.glob("[!.]*") if child.is_dir())
    source = Source(path.resolve().name, {"train": [path]})
    if any(_SPLIT_WORD.search(child.name.lower()) for child in folders):
        source = by_split(source.name, [(child.name, child) for child in folders])

    def listed_images(folder: Path) -> datasets.Dataset:
        paths = {file: file.relative_to(folder).parts for file in sorted(folder.glob("*/**/*"))}
        labels = {
            str(file.resolve()): parts[0]
            for file, parts in paths.items()
            if file.suffix.lower() in suffixes and not any(name.startswith(".") for name in parts)
        }
        if not labels:
            raise DataError(
                f"{folder} has neither a table ({', '.join(TABLES)}) nor folders of images; put the images "
                "into a folder per class, or add a table with the columns file and label. Folders named like "
                "a split need a folder per class inside."
            )
        return datasets.Dataset.from_dict({"file": list(labels), "label": list(labels.values())})

    return source.with_tables(listed_images)


def _read_hub(source: str) -> Any:
    """Load the splits of a hub dataset, `id` or `id:configuration`; DataError if that fails."""
    dataset_id, _, configuration = source.partition(":")
    try:
        with quiet():
            return datasets.load_dataset(dataset_id, name=configuration or None)
    except _HUB_ERRORS as error:
        reason = " ".join(str(error).partition("\nExample of usage")[0].split()).rstrip(".")
        raise DataError(
            f"No local file has the name {source!r}, and the hub dataset cannot be loaded ({reason}); check "
            f"its name, and name its configuration: --data {dataset_id}:NAME."
        ) from error
