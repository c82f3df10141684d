"""Reads files, folders, saved datasets and the hub into tables, by the split word in their names.

A local source never touches the network.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets.naming import camelcase_to_snakecase
from huggingface_hub import HfApi
from huggingface_hub import errors as hub_errors

from autopeft.data.formats import (
    FILE_ERRORS,
    PARAGRAPHS,
    SENTENCES,
    TABLES,
    TextFormat,
    quiet,
    read_table,
    read_text,
    suffix_of,
    suffixes_of,
    unpacked_name,
)
from autopeft.errors import DataError, reason_of
from autopeft.types import DataSpec, counted, listed, path_at_home

_SPELLING = "Check the spelling, or pass --data with the place to which it was moved."
SAMPLE = Path(__file__).parents[1] / "sample_data" / "clinc_domain10"

# A split word in a name: `train`, `training` and `trainset`, but not `latest`, `contest` or `trainer`.
SPLIT_WORD = re.compile(
    r"(?<![a-z])(train|test|validation|valid|val|dev|evaluation|eval|devtest|heldout|holdout|trainval)"
    r"(ing)?(set|data|dataset|split|file|rows)?(?![a-z])"
)
_RARE = ("eval", "evaluation", "devtest", "heldout", "holdout")  # name a split only beside a train split
_PART_OF = {  # every other split word means confirm
    **dict.fromkeys(("train", "trainval"), "train"),
    **dict.fromkeys(("test", "devtest", "heldout", "holdout"), "test"),
}
_ABOUT = re.compile(r"(readme|licen[cs]e)([.-]\w+)*", re.IGNORECASE)  # names of files that describe the data
_LONGEST_ID = 96  # characters of an id on the hub
_MOST_SUFFIXES = 4  # that a note lists; chosen by hand
_OF_MACS = "__MACOSX"  # a folder that the archiver of macOS adds

# The hub client changed its HTTP library between versions; `HTTPError` is the base error of either. A reader
# that lacks its package (of .zst files, of sound) raises an ImportError that names it.
_HUB_ERRORS = (*FILE_ERRORS, ImportError, hub_errors.HTTPError)


class Source(NamedTuple):
    """A dataset as it was found: its tables by part (train, confirm, test), with a note on each decision."""

    name: str
    tables: dict[str, list[Any]]
    notes: tuple[str, ...] = ()


def read(spec: DataSpec, *, text: TextFormat | None = None) -> Source:
    """Read the tables of a file, several files by comma, a folder of files, a saved dataset, or a hub id.

    `text` is the task's format for plain texts; None reads none. Raises DataError without a train part.
    """
    if "://" in (spec.source or ""):
        raise DataError(f"{spec.source} is an address; download it first: --data takes files or hub ids.")
    path = SAMPLE if spec.source is None else path_at_home(spec.source)
    if is_list(spec.source):
        return _read_files(listed_by_part(str(spec.source)), text)
    if spec.source and not _is_there(path) and not _looks_like_path(spec.source):
        remedy = "save the one to learn from as a file (to_parquet of datasets), and pass that file"
        return Source(spec.source, *by_part(dict(_read_hub(spec.source)), spec.source, remedy=remedy))
    if not _is_there(path):
        raise DataError(f"The data path {path} does not exist.{_near(path)} {_SPELLING}")
    if not path.is_dir():
        return Source(unpacked_name(path).stem, {"train": [read_table(path, text)]})
    name = path.resolve().name
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = read_table(path, text)
        tables = dict(saved) if isinstance(saved, dict) else {"train": saved}
        return Source(name, *by_part(tables, name))
    suffixes = {suffix_of(file) for file in path.rglob("[!._]*")}
    if text is None and ".txt" in suffixes and suffixes.isdisjoint(TABLES):
        return _with_texts(read_class_folders(path, {".txt"}, content="text"))
    files, description_notes = _data_files(path, text)
    parts, notes = by_part(files, name)
    return _read_files(Source(name, parts, (*description_notes, *notes)), text)


def _read_files(files: Source, text: TextFormat | None) -> Source:
    tables = {part: [read_table(file, text) for file in paths] for part, paths in files.tables.items()}
    return files._replace(tables=tables)


def _with_texts(folders: Source) -> Source:
    """Replace the column of files by one of their texts."""
    tables: dict[str, list[Any]] = {part: [] for part in folders.tables}
    for part, of_part in folders.tables.items():
        for table in of_part:
            texts = [read_text(Path(file)) for file in table["file"]]
            tables[part].append(datasets.Dataset.from_dict({"text": texts, "label": table["label"]}))
    return folders._replace(tables=tables)


def read_class_folders(path: Path, suffixes: Collection[str], *, content: str) -> Source:
    """List files such as `train/cat/1.png`, or `cat/1.png` if no folder is named after a split, with labels.

    `content` is image or text. A class named like a split is taken for a split: it holds no folders of
    classes, which is a DataError.
    """
    name, path = path.resolve().name, _unwrapped(path)
    children = _folders_in(path)
    if not children:
        raise DataError(
            f"The folder {path} holds neither a table ({', '.join(TABLES)}) nor folders of classes; put "
            f"{content}s into one folder per class, or a table with columns file and label beside them."
        )
    parts, notes = {"train": [path]}, list[str]()
    if any(SPLIT_WORD.search(child.name.lower()) for child in children):
        folders_by_name = {child.name: _unwrapped(child) for child in children}
        remedy = "name one of them train, or rename a class that is named like a split"
        parts, part_notes = by_part(folders_by_name, name, remedy=remedy)
        notes += part_notes
    tables: dict[str, list[Any]] = {part: [] for part in parts}
    for part, folders in parts.items():
        for folder in folders:
            files = sorted(f for f in folder.glob("*/**/*") if f.is_file() and not _is_hidden(f, folder))
            readable = [file for file in files if file.suffix.lower() in suffixes]
            if not readable:
                raise DataError(
                    f"{folder} holds no {content} in a folder of its class; put {content}s into one folder "
                    "per class. A folder with the name of a split holds such folders."
                )
            skipped = Counter(f.suffix.lower() or "none" for f in files if f.suffix.lower() not in suffixes)
            if skipped:
                kinds = ", ".join(f"{suffix} {n}" for suffix, n in skipped.most_common(_MOST_SUFFIXES))
                n_files = counted(skipped.total(), "file")
                notes.append(f"Left out {n_files} in {folder.name}, no {content}s by their suffix ({kinds}).")
            labels = [file.relative_to(folder).parts[0] for file in readable]
            columns = {"file": [str(file.resolve()) for file in readable], "label": labels}
            tables[part].append(datasets.Dataset.from_dict(columns))
    return Source(name, tables, tuple(notes))


def _unwrapped(folder: Path) -> Path:
    """Step into the only folder inside as long as that one holds folders: an archive adds such folders."""
    inside = _folders_in(folder)
    return _unwrapped(inside[0]) if len(inside) == 1 and _folders_in(inside[0]) else folder


def _folders_in(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not _is_hidden(child, folder))


def _is_hidden(file: Path, root: Path) -> bool:
    """Whether a file, or a folder between it and the root, begins with a dot or was added by macOS."""
    return any(name.startswith(".") or name == _OF_MACS for name in file.relative_to(root).parts)


def _data_files(folder: Path, text: TextFormat | None) -> tuple[dict[str, Path], tuple[str, ...]]:
    """List the data files of a folder, else of the only folder in it that has some; by name, and a note.

    Files about the data are left out: a readme or licence, and .md beside tables. DataError without files.
    """
    suffixes = suffixes_of(text)

    def files_of(place: Path) -> dict[str, Path]:
        return {file.name: file for file in sorted(place.glob("[!._]*")) if suffix_of(file) in suffixes}

    files = files_of(folder)
    inside = [place for place in sorted(folder.glob("[!._]*")) if place.is_dir() and files_of(place)]
    if not files and len(inside) == 1:  # a clone of a hub dataset has its files in `data`
        files = files_of(inside[0])
    if not files:
        remedy = f"put {', '.join(suffixes)} files there, or set --task image-classification for images"
        if inside:
            remedy = f"name one of its folders that do: {', '.join(place.name for place in inside)}"
        raise DataError(f"The folder {folder} holds no data file; {remedy}.")
    has_tables = any(suffix_of(file) in TABLES for file in files.values())
    about = [
        name
        for name, file in files.items()
        if (suffix_of(file) not in TABLES and _ABOUT.fullmatch(file.stem))
        or (has_tables and suffix_of(file) == ".md")
    ]
    if not about or len(about) == len(files):
        return files, ()
    note = f"Left out {listed(about)}, taken for descriptions of the data."
    return {name: file for name, file in files.items() if name not in about}, (note,)


def _is_there(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises where the name is too long


def is_list(source: str | None) -> bool:
    """Whether a source names several files, separated by commas."""
    return bool(source) and "," in str(source) and not _is_there(path_at_home(str(source)))


def listed_by_part(source: str) -> Source:
    """Sort the files of a list with commas into parts by the split words in their names; none is read."""
    paths = [path_at_home(word.strip()) for word in source.split(",") if word.strip()]
    if not paths:
        raise DataError(f"The data source {source!r} names no file; give paths, separated by commas.")
    for path in paths:
        if not _is_there(path):
            raise DataError(f"The data file {path} does not exist.{_near(path)} {_SPELLING}")
        if path.is_dir():
            raise DataError(f"{path} in the list is a folder; list files, or pass one folder alone.")
    name = paths[0].resolve().parent.name
    # By name, as a folder's name may hold a split word too; by folder where no name has one, as in
    # train/part.csv and test/part.csv. Blanks keep equal names apart.
    by_folder = len({path.parent for path in paths}) > 1 and not any(_splits_in(path.name) for path in paths)
    names = [f"{path.parent.name}/{path.name}" if by_folder else path.name for path in paths]
    files = {
        f"{word}{' ' * index}": path for index, (word, path) in enumerate(zip(names, paths, strict=True))
    }
    return Source(name, *by_part(files, name))


def _looks_like_path(source: str) -> bool:
    """Whether a source that does not exist means a file, and not a dataset on the hub."""
    path = Path(source)
    is_hub_id = len(source) <= _LONGEST_ID and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?", source)
    if not is_hub_id:
        return True
    in_folder = path.parent != Path() and path.parent.is_dir()
    is_file = any(suffix_of(path) in suffixes_of(text) for text in (PARAGRAPHS, SENTENCES))
    return in_folder or is_file


def _near(path: Path) -> str:
    """Name files beside a missing one with a similar name, as a sentence for an error; empty without."""
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.5)
    return f" Near names there: {', '.join(near)}." if near else ""


def by_part(
    sources: Mapping[str, Any], name: str, *, remedy: str = "name one of them train"
) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
    """Sort sources into parts by the split word in their names, with notes; all are train if no name has one.

    A source with the words of several splits, or with none beside others, is left out. Raises DataError
    without train; `remedy` is what it advises.
    """
    if not sources:
        raise DataError(f"{name} holds no file of rows; pass a file, or a folder that has one.")
    splits_of = {key: sorted(_splits_in(key)) for key in sources}
    if not any("train" in splits for splits in splits_of.values()):  # course_evaluation.csv may be alone
        splits_of = {key: sorted(_splits_in(key, without=_RARE)) for key in sources}
    keys: dict[str, list[str]] = {}
    for key, splits in splits_of.items():
        if len(splits) == 1:
            keys.setdefault(splits[0], []).append(key)
    unclear = [key.strip() for key, splits in splits_of.items() if len(splits) > 1]
    several = f"words of several splits are in {listed(unclear)}; keep one of them" if unclear else ""
    if not keys and (len(sources) == 1 or not unclear):
        note = (
            "No file name has a split word (train, validation, test): "
            f"{listed([key.strip() for key in sources])} are all train rows."
        )
        return {"train": list(sources.values())}, (note,) if len(sources) > 1 else ()
    if "train" not in keys:
        raise DataError(f"{name} has no train part, only {', '.join(sources)}; {several or remedy}.")
    notes = [f"Left out, as {several}."] if several else []
    if ignored := [key for key, splits in splits_of.items() if not splits]:
        notes.append(f"Left out, as no split is in the name: {', '.join(ignored)}.")
    notes += [
        f"The {part} part is {listed([key.strip() for key in members])}."
        for part, members in keys.items()
        if len(members) > 1
    ]
    return {part: [sources[key] for key in members] for part, members in keys.items()}, tuple(notes)


def _splits_in(name: str, *, without: Collection[str] = ()) -> set[str]:
    words = {word[1] for word in SPLIT_WORD.finditer(name.lower())} - {*without}
    return {_PART_OF.get(word, "confirm") for word in words}


def _read_hub(source: str) -> Any:
    """Load the splits of a hub dataset; raises DataError if neither the hub nor the cache has it.

    `source` is the id of the dataset, or id:configuration.
    """
    dataset_id, _, configuration = source.partition(":")
    try:  # beforehand, since without network `load_dataset` retries for over half a minute
        HfApi().dataset_info(dataset_id, timeout=10)
    except _HUB_ERRORS as error:
        *owner, last = dataset_id.split("/")
        cached = "___".join([*owner, camelcase_to_snakecase(last)])
        if not any(Path(datasets.config.HF_DATASETS_CACHE).glob(f"{cached}/*/*/*")):
            names_package = isinstance(error, ImportError)  # other texts may be a proxy's page of HTML
            reason = reason_of(error) if names_package else type(error).__name__
            raise DataError(
                f"Neither the hub ({reason}) nor a local file has dataset {dataset_id!r}."
                f"{_near(Path(source))} Check spelling, network and access."
            ) from error
    with quiet():
        try:
            return datasets.load_dataset(dataset_id, name=configuration or None)
        except _HUB_ERRORS as error:
            reason = " ".join(str(error).partition("\nExample of usage")[0].split()).rstrip(".")
            raise DataError(
                f"The hub dataset {source!r} cannot be loaded ({reason}); check its name, and name its "
                f"configuration: --data {dataset_id}:NAME."
            ) from error
