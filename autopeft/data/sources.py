"""Reads files, folders, saved datasets and the hub into tables, by the split word in their names.

A local source never touches the network.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets.naming import camelcase_to_snakecase
from huggingface_hub import HfApi
from huggingface_hub import errors as hub_errors

from autopeft.data.files import (
    FILE_ERRORS,
    PARAGRAPHS,
    SENTENCES,
    TABLES,
    TextFormat,
    quiet,
    read_table,
    suffix_of,
    suffixes_of,
    unpacked_name,
)
from autopeft.errors import DataError, reason_of
from autopeft.records import DataSpec, path_at_home

_SPELLING = "Check the spelling, or pass --data with the place to which it was moved."
SAMPLE = Path(__file__).parents[1] / "sample_data" / "uci_sentiment"

_STREAMED_SHARE, _STREAMED_AT_LEAST = 2, 1000  # rows read of a stream per row to learn from; chosen by hand
# `train`, `training` and `trainset`, but not `latest`, `contest` or `trainer`.
SPLIT_WORD = re.compile(
    r"(?<![a-z])(train|test|validation|valid|val|dev|evaluation|eval|devtest|heldout|holdout|trainval)"
    r"(ing)?(set|data|dataset|split|file|rows)?(?![a-z])"
)
_RARE = ("eval", "evaluation", "devtest", "heldout", "holdout")  # words for splits beside a train split alone
_PART_OF = {
    **dict.fromkeys(("train", "trainval"), "train"),
    **dict.fromkeys(("test", "devtest", "heldout", "holdout"), "test"),
}
_ABOUT = re.compile(r"(readme|licen[cs]e)([.-]\w+)*", re.IGNORECASE)  # names of files that describe the data
_LONGEST_ID = 96  # characters of an id on the hub
_MOST_NAMES = 4  # of files that a note lists

# The hub client changed its HTTP library between versions; `HTTPError` is the base error of either. A reader
# that lacks its package (of .zst files, of sound) raises an ImportError that names it.
_HUB_ERRORS = (*FILE_ERRORS, ImportError, hub_errors.HTTPError)


def read(
    spec: DataSpec, notes: list[str], *, text: TextFormat | None = None
) -> tuple[str, dict[str, list[Any]]]:
    """The name of a source, and its tables by part: train, confirm, test; raises DataError without them.

    The spec names a file, several files by comma, a folder of files, a saved dataset, or a hub id. Tables
    are read, and texts where the task has a format for them.
    """
    path = SAMPLE if spec.source is None else path_at_home(spec.source)
    if is_list(spec.source):
        name, listed = listed_by_part(str(spec.source), notes)
        return name, {
            part: [read_table(file, notes, text) for file in files] for part, files in listed.items()
        }
    if spec.source and not _is_there(path) and not _looks_like_path(spec.source):
        name = "/".join(filter(None, [spec.source, spec.config_name]))
        splits = dict(_read_hub(spec, spec.source, notes))
        remedy = "save the one to learn from as a file (to_parquet of datasets), and pass that file"
        return name, by_part(splits, name, notes, remedy=remedy)
    if spec.streaming:
        raise DataError(f"data.streaming is for hub ids, {path} is local and read at once; leave it out.")
    if not _is_there(path):
        raise DataError(f"The data path {path} does not exist.{_near(path)} {_SPELLING}")
    if spec.config_name:
        raise DataError(f"data.config_name {spec.config_name!r} is for hub ids, {path} is local; remove it.")
    if path.is_file():
        return unpacked_name(path).stem, {"train": [read_table(path, notes, text)]}
    name = path.resolve().name
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = read_table(path, notes, text)
        tables = dict(saved) if isinstance(saved, dict) else {"train": saved}
        return name, by_part(tables, name, notes)
    files = _data_files(path, text, notes)
    parts = by_part(files, name, notes)
    return name, {part: [read_table(file, notes, text) for file in chosen] for part, chosen in parts.items()}


def _data_files(folder: Path, text: TextFormat | None, notes: list[str]) -> dict[str, Path]:
    """The data files of a folder by name, or of the only folder in it that has some; raises DataError."""
    suffixes = suffixes_of(text)

    def files_of(place: Path) -> dict[str, Path]:
        return {file.name: file for file in sorted(place.glob("[!._]*")) if suffix_of(file) in suffixes}

    if files := files_of(folder):
        return _without_descriptions(files, notes)
    inside = [place for place in sorted(folder.glob("[!._]*")) if place.is_dir() and files_of(place)]
    if len(inside) == 1:  # a clone of a hub dataset has its files in `data`
        return _without_descriptions(files_of(inside[0]), notes)
    remedy = (
        f"put {', '.join(suffixes)} files there, or set --task image-classification for folders of images"
    )
    if inside:
        remedy = f"name one of its folders that do: {', '.join(place.name for place in inside)}"
    raise DataError(f"The folder {folder} holds no data file; {remedy}.")


def _without_descriptions(files: dict[str, Path], notes: list[str]) -> dict[str, Path]:
    """The files without those about the data: a readme or licence, and .md beside tables."""
    has_tables = any(suffix_of(file) in TABLES for file in files.values())

    def is_about(file: Path) -> bool:
        suffix = suffix_of(file)
        is_named_so = suffix not in TABLES and bool(_ABOUT.fullmatch(file.stem))
        return is_named_so or (suffix == ".md" and has_tables)

    about = [name for name, file in files.items() if is_about(file)]
    if not about or len(about) == len(files):
        return files
    notes.append(f"Left out {listed(about)}, taken for descriptions of the data.")
    return {name: file for name, file in files.items() if name not in about}


def _is_there(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises where the name is too long


def is_list(source: str | None) -> bool:
    """Whether a source names several files, separated by commas."""
    return bool(source) and "," in str(source) and not _is_there(path_at_home(str(source)))


def listed_by_part(source: str, notes: list[str]) -> tuple[str, dict[str, list[Path]]]:
    """The name of the files' folder, and the files of each part by the split word in their names."""
    paths = [path_at_home(word.strip()) for word in source.split(",") if word.strip()]
    if not paths:
        raise DataError(f"The data source {source!r} names no file; give paths, separated by commas.")
    for path in paths:
        if not _is_there(path) or not path.is_file():
            raise DataError(f"The data file {path} does not exist.{_near(path)} {_SPELLING}")
    name = paths[0].resolve().parent.name
    # By name, as a folder's name may hold a split word too; by folder where no name has one, as in
    # train/part.csv and test/part.csv. Blanks keep equal names apart.
    by_folder = len({path.parent for path in paths}) > 1 and not any(_splits_in(path.name) for path in paths)
    names = [f"{path.parent.name}/{path.name}" if by_folder else path.name for path in paths]
    files = {
        f"{word}{' ' * index}": path for index, (word, path) in enumerate(zip(names, paths, strict=True))
    }
    return name, by_part(files, name, notes)


def _looks_like_path(source: str) -> bool:
    path = Path(source)
    is_hub_id = len(source) <= _LONGEST_ID and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source)
    if not is_hub_id:
        return True
    in_folder = path.parent != Path() and path.parent.is_dir()
    is_file = any(suffix_of(path) in suffixes_of(text) for text in (PARAGRAPHS, SENTENCES))
    return in_folder or is_file


def _near(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.5)
    return f" Near names there: {', '.join(near)}." if near else ""


def by_part(
    sources: dict[str, Any],
    name: str,
    notes: list[str],
    *,
    remedy: str = "name one of them train",
) -> dict[str, list[Any]]:
    """Sources by the split word in their names; all are train if no name has one.

    A name with the words of several splits is left out, with a note. Raises DataError without train;
    the `remedy` says what to do then.
    """
    found = {key: sorted(_splits_in(key)) for key in sources}
    if not any("train" in splits for splits in found.values()):  # course_evaluation.csv may be all there is
        found = {key: sorted(_splits_in(key, without=_RARE)) for key in sources}
    keys: dict[str, list[str]] = {}
    for key, splits in found.items():
        if len(splits) == 1:
            keys.setdefault(splits[0], []).append(key)
    unclear = [key.strip() for key, splits in found.items() if len(splits) > 1]
    several = f"words of several splits are in {listed(unclear)}; keep one of them" if unclear else ""
    if not keys and (len(sources) == 1 or not unclear):
        if len(sources) > 1:
            notes.append(
                "No file name has a split word (train, validation, test): "
                f"{listed([key.strip() for key in sources])} are all train rows."
            )
        return {"train": list(sources.values())}
    if "train" not in keys:
        raise DataError(f"{name} has no train part, only {', '.join(sources)}; {several or remedy}.")
    if several:
        notes.append(f"Left out, as {several}.")
    if ignored := [key for key, splits in found.items() if not splits]:
        notes.append(f"Left out, as no split is in the name: {', '.join(ignored)}.")
    for part, chosen in keys.items():
        if len(chosen) > 1:
            notes.append(f"The {part} part is {listed([key.strip() for key in chosen])}.")
    return {part: [sources[key] for key in chosen] for part, chosen in keys.items()}


def _splits_in(name: str, *, without: Collection[str] = ()) -> set[str]:
    words = {word[1] for word in SPLIT_WORD.finditer(name.lower())} - {*without}
    return {_PART_OF.get(word, "confirm") for word in words}


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, `a, b and c`; of many the first ones and how many more there are."""
    if len(names) == 1:
        return names[0]
    n_more = len(names) - _MOST_NAMES
    first, last = (names[:_MOST_NAMES], f"{n_more} more") if n_more > 1 else (names[:-1], names[-1])
    return f"{', '.join(first)} and {last}"


def _read_hub(spec: DataSpec, source: str, notes: list[str]) -> Any:
    """The splits of a hub dataset."""
    if spec.streaming and spec.max_examples is None:
        text = f"The stream of {source} has no known end; limit the rows to read with --max-examples."
        raise DataError(text)
    try:  # once beforehand, since `load_dataset` retries for over half a minute without network
        HfApi().dataset_info(source, timeout=10)
    except _HUB_ERRORS as error:
        *owner, last = source.split("/")
        cached = "___".join([*owner, camelcase_to_snakecase(last)])
        if not any(Path(datasets.config.HF_DATASETS_CACHE).glob(f"{cached}/*/*/*")):
            reason = (
                reason_of(error) if isinstance(error, ImportError) else type(error).__name__
            )  # of a proxy
            raise DataError(
                f"Neither the hub ({reason}) nor a local file has dataset {source!r}."
                f"{_near(Path(source))} Check spelling, network and access."
            ) from error
    with quiet():
        try:
            splits = datasets.load_dataset(source, name=spec.config_name, streaming=spec.streaming)
            return first_rows(splits, spec.max_examples, notes) if spec.streaming else splits
        except _HUB_ERRORS as error:
            reason = " ".join(str(error).partition("\nExample of usage")[0].split()).rstrip(".")
            raise DataError(
                f"The hub dataset {source!r} cannot be loaded ({reason}); check its name, and name its "
                "configuration with --set data.config_name=NAME."
            ) from error


def first_rows(streams: Mapping[str, Any], max_examples: int | None, notes: list[str]) -> dict[str, Any]:
    """Tables of the first rows of streams by split, enough for `max_examples` rows of train and the cuts."""
    n_rows = max(_STREAMED_AT_LEAST, _STREAMED_SHARE * (max_examples or 0))
    tables = {
        # Undecoded, so that images keep their bytes; the table decodes them where they are read.
        split: datasets.Dataset.from_list(
            list((stream.decode(False) if stream.features else stream).take(n_rows)), features=stream.features
        )
        for split, stream in streams.items()
    }
    sizes = ", ".join(f"{len(table)} of {split}" for split, table in tables.items())
    notes.append(f"Read the first rows of each stream ({sizes}): where they are sorted, load all of them.")
    return tables
