"""Loads a labelled text dataset: its columns, its labels and four splits that share no text.

A local source never touches the network: `load_dataset("csv", ...)` counts a download
at s3.amazonaws.com even for a local file, so files go through `Dataset.from_csv` and
its kin, with a cache folder that lives as long as the call.
"""

from __future__ import annotations

import contextlib
import difflib
import glob
import hashlib
import json
import math
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import datasets
import huggingface_hub
import huggingface_hub.errors as hub_errors
import numpy as np
import pandas as pd
from datasets.exceptions import DatasetsError
from datasets.naming import camelcase_to_snakecase
from pyarrow.lib import ArrowException
from sklearn.model_selection import train_test_split

from autopeft.errors import DataError, UnknownNameError
from autopeft.records import DataSpec

SAMPLE = Path(__file__).parent / "sample_data" / "uci_sentiment"

# Usual column names, the most telling first; compared without regard to case.
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
)
TEXT_NAMES = tuple(
    "text sentence content review body title query question utterance tweet document comment"
    " input prompt message post article headline abstract description".split()
)
LABEL_NAMES = tuple(
    "label labels target class category intent sentiment emotion topic y gold_label label_text"
    " coarse_label rating stars".split()
)

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
SPLIT_WORD = re.compile(r"(?<![a-z])(training|train|validation|valid|val|dev|test)(?![a-z])")
PARTS = {"training": "train", "train": "train", "test": "test"}  # every other word means confirm

MIN_ROWS = 30  # for train and search together, so that train keeps 20; chosen by hand
MAX_LEVELS = 10  # more distinct fractions than this make a regression target; chosen by hand

# `StopIteration` is what `datasets` raises for a blank JSON file; `ParserWarning` is made an error below.
FILE_ERRORS = (DatasetsError, ArrowException, OSError, ValueError, StopIteration, pd.errors.ParserWarning)
# The HTTP library changed its name between hub versions; its base error is re-exported under one name.
HTTP_ERROR: type[Exception] = hub_errors.HTTPError  # type: ignore[attr-defined]
HUB_ERRORS = (DatasetsError, ArrowException, OSError, ValueError, RuntimeError, HTTP_ERROR)

Row = tuple[tuple[str, ...], str]  # the texts and the label's name
Rows = list[Row]
Source = TypeVar("Source")


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split's rows: `texts` holds one string per text column, `labels` index `label_names`."""

    name: str
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Four splits that share no text; `test` is empty where the user has none.

    `fingerprint` is 16 hex digits over the texts and label names of all four splits
    in order; file format, path and machine do not enter it, the seed does through the cuts.
    """

    train: Split
    search: Split
    confirm: Split
    test: Split
    label_names: tuple[str, ...]
    text_columns: tuple[str, ...]
    label_column: str
    name: str
    fingerprint: str
    duplicates_removed: int
    notes: tuple[str, ...]


def load(spec: DataSpec, *, seed: int) -> LabelledData:
    """The dataset of a spec, cleaned and split into train, search, confirm and test.

    `search`, and `confirm` where the user has no validation split, are cut from train:
    15 % of it, at least 50 and at most 2,000 rows, never more than a third; stratified
    where every class allows it. A text that occurs again (case and spacing aside) stays in
    the more precious split only, test before confirm before train; this happens before any cut.

    Args:
        spec: Where the data is, and which columns to use; an unset column is found by name.
        seed: Decides every cut; the same seed gives the same rows.

    Returns:
        The splits, with a note in plain words on each decision taken.

    Raises:
        DataError: The source cannot be read, or its rows cannot train a classifier.
        UnknownNameError: A column that the spec names is not there.

    Example:
        >>> sample = load(DataSpec(), seed=0)
        >>> sample.label_names, len(sample.train.texts), len(sample.search.texts)
        (('negative', 'positive'), 1773, 313)
    """
    notes: list[str] = []
    name, tables = _read(spec, notes)
    text_columns, label_column = _choose_columns(spec, tables["train"][0], notes)
    columns = (*text_columns, label_column)
    parts = {"train": _rows(tables["train"], columns, part="train", notes=notes)}
    trained = {label for _, label in parts["train"]}
    for part in tables.keys() - {"train"}:
        parts[part] = _rows(tables[part], columns, part=part, notes=notes, known=trained)
    n_removed = _remove_duplicates(parts, notes)
    label_names = _label_names(parts, tables["train"][0].features[label_column], label_column, notes)
    splits = _cut_splits(parts, spec.max_examples, seed=seed, notes=notes)
    return LabelledData(
        **{split: _as_split(split, rows, label_names) for split, rows in splits.items()},
        label_names=label_names,
        text_columns=text_columns,
        label_column=label_column,
        name=name,
        fingerprint=_fingerprint(splits),
        duplicates_removed=n_removed,
        notes=tuple(notes),
    )


# Reading: from a source to raw tables, a list of them for each of train, confirm and test.


def _read(spec: DataSpec, notes: list[str]) -> tuple[str, dict[str, list[Any]]]:
    source = str(SAMPLE) if spec.source is None else spec.source
    path = Path(source).expanduser()
    if not path.exists() and not _looks_like_path(source):
        name = f"{source}/{spec.config_name}" if spec.config_name else source
        return name, _by_part(dict(_read_hub(source, spec.config_name)), name, notes)
    if spec.config_name:
        raise DataError(f"data.config_name {spec.config_name!r} is for hub ids; {source} is a path. Remove it.")
    if not path.exists():
        raise DataError(f"The data path {source} does not exist.{_near(path)} Check the spelling.")
    if path.is_file():
        return path.stem, {"train": [_read_file(path)]}
    name = path.resolve().name
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return name, _by_part(_read_saved(path), name, notes)
    files = {
        file.name: file
        for file in sorted(path.iterdir())
        if file.suffix.lower() in SUFFIXES and not file.name.startswith((".", "_"))
    }
    if not files:
        raise DataError(f"The folder {source} holds no data file; put {', '.join(SUFFIXES)} files there.")
    chosen = _by_part(files, name, notes)
    return name, {part: [_read_file(file) for file in of_part] for part, of_part in chosen.items()}


def _looks_like_path(source: str) -> bool:
    path = Path(source)
    return (
        path.suffix.lower() in SUFFIXES
        or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source)  # the shape of a hub id
        or (path.parent != Path() and path.parent.is_dir())
    )


def _near(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.5)
    return f" Near names there: {', '.join(near)}." if near else ""


def _by_part(sources: dict[str, Source], name: str, notes: list[str]) -> dict[str, list[Source]]:
    """Sources by the split word in their names; all of them train where no name has one."""
    parts: dict[str, list[Source]] = {}
    ignored = []
    for key, source in sources.items():
        found = SPLIT_WORD.search(key.lower())
        if found:
            parts.setdefault(PARTS.get(found[1], "confirm"), []).append(source)
        else:
            ignored.append(key)
    if not parts:
        return {"train": list(sources.values())}
    if "train" not in parts:
        raise DataError(f"{name} has no train split, only {', '.join(sources)}. Name one of them train.")
    if ignored:
        notes.append(f"Left out, because their names hold no known split: {', '.join(ignored)}.")
    return parts


@contextlib.contextmanager
def _quiet() -> Iterator[str]:
    """Silences `datasets`; gives a cache folder that is gone afterwards."""
    had_bars = not datasets.are_progress_bars_disabled()
    verbosity = datasets.logging.get_verbosity()
    if had_bars:
        datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="autopeft-") as cache, warnings.catch_warnings():
            # pandas drops the cells of a row that is longer than the header, with this warning only.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield cache
    finally:
        datasets.logging.set_verbosity(verbosity)
        if had_bars:
            datasets.enable_progress_bars()


def _read_file(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path} has the suffix {suffix!r}; convert it to one of {', '.join(SUFFIXES)}.")
    readers = {".parquet": datasets.Dataset.from_parquet, ".csv": datasets.Dataset.from_csv}
    readers[".tsv"] = readers[".csv"]
    options: dict[str, Any] = {}
    with _quiet() as cache:
        try:
            if suffix in (".csv", ".tsv"):
                # Every cell as the text that stands there: no "007" -> 7, no "null" or "NA" -> missing.
                options = {"sep": "," if suffix == ".csv" else "\t", "index_col": False}
                header = pd.read_csv(path, nrows=0, **options).columns
                options |= {"converters": dict.fromkeys(header, str), "na_filter": False}
            reader = readers.get(suffix, datasets.Dataset.from_json)
            return reader(glob.escape(str(path)), cache_dir=cache, keep_in_memory=True, **options)
        except FILE_ERRORS as error:
            reason = str(error.__cause__ or error).strip() or "the file is blank"
            raise DataError(
                f"{path} holds no rows or is not a {suffix[1:]} file in UTF-8: {reason}. Repair or replace it."
            ) from error


def _read_saved(path: Path) -> dict[str, Any]:
    try:
        saved = datasets.load_from_disk(str(path))
    except FILE_ERRORS as error:
        raise DataError(f"The saved dataset {path} cannot be read: {error}. Save it again.") from error
    return dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}


def _read_hub(source: str, config_name: str | None) -> Any:
    """Asks once whether the hub is there: left alone, `load_dataset` retries for half a minute and more."""
    try:
        huggingface_hub.HfApi().dataset_info(source, timeout=10)
    except (OSError, HTTP_ERROR) as error:
        *owner, last = source.split("/")
        cached = "___".join([*owner, camelcase_to_snakecase(last)])
        if not any(Path(datasets.config.HF_DATASETS_CACHE).glob(f"{cached}/*/*/*")):
            raise DataError(
                f"The dataset {source!r} cannot be reached on the hub ({type(error).__name__}) and nothing"
                f" local has that name.{_near(Path(source))} Check the spelling, the network and your access."
            ) from error
    with _quiet():
        try:
            return datasets.load_dataset(source, name=config_name)
        except HUB_ERRORS as error:
            raise DataError(
                f"The hub dataset {source!r} with data.config_name {config_name!r} cannot be loaded: {error}"
            ) from error


# Columns and rows.


def _choose_columns(spec: DataSpec, table: Any, notes: list[str]) -> tuple[tuple[str, ...], str]:
    names: list[str] = table.column_names
    for asked in (*spec.text_columns, *filter(None, [spec.label_column])):
        if asked not in names:
            raise UnknownNameError("column", asked, names)
    by_lower = {name.lower(): name for name in names}
    label = spec.label_column or next(
        (
            by_lower[usual]
            for usual in LABEL_NAMES
            if usual in by_lower and by_lower[usual] not in spec.text_columns
        ),
        None,
    )
    if label is None:
        raise DataError(f"No label column among {', '.join(names)}; name it in data.label_column.")
    if label in spec.text_columns or len(spec.text_columns) > 2:
        raise DataError(
            f"data.text_columns is {', '.join(spec.text_columns)} with label column {label!r}; "
            "give one or two columns other than the label."
        )
    texts = spec.text_columns or _find_texts(table, label)
    if not texts:
        listed = ", ".join(names)
        raise DataError(f"No text column beside {label!r} among {listed}; name it in data.text_columns.")
    notes.append(f"Text is column {' and '.join(texts)}; the label is column {label}.")
    return texts, label


def _find_texts(table: Any, label: str) -> tuple[str, ...]:
    by_lower = {name.lower(): name for name in table.column_names if name != label}
    for usual in (*TEXT_PAIRS, *((name,) for name in TEXT_NAMES)):
        if all(name in by_lower for name in usual):
            return tuple(by_lower[name] for name in usual)
    strings = [
        name
        for name in by_lower.values()
        if getattr(table.features[name], "dtype", "") in ("string", "large_string")
        # csv cells are all strings; a column of numbers is an id or a count
        and not all(_is_number(cell) for cell in table[:1000][name] if cell)
    ]
    return (strings[0],) if len(strings) == 1 else ()


def _rows(
    tables: Sequence[Any],
    columns: tuple[str, ...],
    *,
    part: str,
    notes: list[str],
    known: set[str] | None = None,
) -> Rows:
    """The complete rows of one part; none at all where test or confirm carry no labels."""
    split = {"confirm": "validation"}.get(part, part)
    cells: list[tuple[Any, ...]] = []
    for table in tables:
        lacking = [name for name in columns if name not in table.column_names]
        if lacking == [columns[-1]] and part != "train":
            table = table.add_column(lacking[0], [None] * len(table))
        elif lacking:
            raise DataError(f"The {split} part lacks column {lacking[0]!r}; it has {', '.join(table.column_names)}.")
        whole = table.select_columns(list(columns))[:]
        names = getattr(table.features.get(columns[-1]), "names", None)
        labels = [_label(value, names, columns[-1]) for value in whole[columns[-1]]]
        cells.extend(zip(*(map(_text, whole[name]) for name in columns[:-1]), labels, strict=True))
    # -1 stands for "no label" on hub test splits, unless train uses it as a class
    unlabelled = {None, "-1"} - (known if known is not None else {"-1"})
    labelled = [row for row in cells if row[-1] not in unlabelled]
    rows = [(tuple(row[:-1]), row[-1]) for row in labelled if all(row[:-1])]
    if not cells or (part == "train" and not labelled):
        what = "labels" if cells else "rows"
        raise DataError(f"The {split} part has no {what} in {', '.join(columns)}; give it some or remove it.")
    if not labelled:
        notes.append(f"The {split} part was left out: none of its {len(cells)} rows has a label.")
        return []
    if len(labelled) < len(cells):
        notes.append(f"Dropped {len(cells) - len(labelled)} {split} rows without a label.")
    n_blank = len(labelled) - len(rows)
    if 2 * n_blank > len(labelled):
        raise DataError(
            f"{n_blank} of {len(labelled)} {split} rows have no text in {', '.join(columns[:-1])}; at most half "
            "may. Name another column in data.text_columns."
        )
    if n_blank:
        notes.append(f"Dropped {n_blank} {split} rows without text.")
    return rows
