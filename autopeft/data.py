"""Loads a labelled text dataset: its columns, its labels and four splits that share no text.

A local source never touches the network: `load_dataset("csv", ...)` counts a download at s3.amazonaws.com
even for a local file, so files go through `Dataset.from_csv` and its kin, with a cache of their own.
"""

from __future__ import annotations

import contextlib
import difflib
import glob
import hashlib
import json
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
from datasets.exceptions import DatasetsError
from datasets.naming import camelcase_to_snakecase
from huggingface_hub import HfApi
from huggingface_hub import errors as hub_errors
from sklearn.model_selection import train_test_split

from autopeft.errors import DataError, UnknownNameError
from autopeft.records import DataSpec

SAMPLE = Path(__file__).parent / "sample_data" / "uci_sentiment"
# Usual column names, the most telling first; compared without regard to case.
TEXT_NAMES = (
    "sentence1+sentence2 premise+hypothesis question1+question2 question+sentence text_a+text_b text sentence"
    " content review body title query question utterance tweet document comment input prompt message headline"
)
LABEL_NAMES = "label labels target class category intent sentiment emotion topic y gold_label rating stars"
READERS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
SPLIT_WORD = re.compile(r"(?<![a-z])(train|test|validation|valid|val|dev)(ing)?(?![a-z])")
PRECIOUS = ("test", "confirm", "train")
NUMBER = re.compile(r"-?\d+(\.\d+)?")
MIN_ROWS = 30  # for train and search together, so that train keeps 20; chosen by hand
MAX_LEVELS = 10  # more distinct fractions than this make a regression target; chosen by hand

# pyarrow's errors are ValueErrors; a blank JSON file gives StopIteration; `_quiet` makes ParserWarning one.
FILE_ERRORS = (DatasetsError, OSError, ValueError, RuntimeError, StopIteration, pd.errors.ParserWarning)
# The HTTP library changed its name between hub versions; its base error is found under this one.
HUB_ERRORS = (*FILE_ERRORS, hub_errors.HTTPError)  # type: ignore[attr-defined]

Names = tuple[str, ...]
Rows = list[tuple[Names, str]]  # the texts and the label's name


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split's rows: `texts` holds one string per text column, `labels` index `label_names`."""

    name: str
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Four splits that share no text; `test` is empty where the user has none.

    `fingerprint` is 16 hex digits over the texts and label names of all four splits in
    order; file format, path and machine do not enter it, the seed does through the cuts.
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

    `search`, and `confirm` where the user has no validation split, are cut from train: 15 %,
    at least 50 and at most 2,000 rows, never more than a third; stratified where the classes
    allow it. A text that occurs again (case and spacing aside) stays in the more precious
    split, test before confirm before train; this happens before any cut.

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
    *texts, label = _choose_columns(spec, tables["train"][0], notes)
    parts: dict[str, Rows] = {}
    # Train first, as its labels decide what the others may have.
    for part in sorted(tables, key=PRECIOUS.index, reverse=True):
        known = {name for _, name in parts.get("train", [])}
        parts[part] = _rows(part, tables[part], (*texts, label), known=known, notes=notes)
    n_removed = _remove_duplicates(parts, notes)
    label_names = _label_names(parts, tables["train"][0].features[label], label, notes)
    splits = _cut_splits(parts, spec.max_examples, seed=seed, notes=notes)
    at = {label: index for index, label in enumerate(label_names)}
    made = {
        part: Split(name=part, texts=tuple(row[0] for row in rows), labels=tuple(at[row[1]] for row in rows))
        for part, rows in splits.items()
    }
    return LabelledData(
        **made,
        label_names=label_names,
        text_columns=tuple(texts),
        label_column=label,
        name=name,
        fingerprint=hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()[:16],
        duplicates_removed=n_removed,
        notes=tuple(notes),
    )


# From a source to raw tables (a list for each of train, confirm and test), to rows of strings, to splits.


def _read(spec: DataSpec, notes: list[str]) -> tuple[str, dict[str, list[Any]]]:
    path = SAMPLE if spec.source is None else Path(spec.source).expanduser()
    if spec.source and not path.exists() and not _looks_like_path(spec.source):
        name = "/".join(filter(None, [spec.source, spec.config_name]))
        return name, _by_part(dict(_read_hub(spec.source, spec.config_name)), name, notes)
    if not path.exists():
        raise DataError(f"The data path {path} does not exist.{_near(path)} Check the spelling.")
    if spec.config_name:
        raise DataError(f"data.config_name {spec.config_name!r} is for hub ids, {path} is local; remove it.")
    if path.is_file():
        return path.stem, {"train": [_read_table(path)]}
    name = path.resolve().name
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = _read_table(path)
        return name, _by_part(dict(saved) if isinstance(saved, dict) else {"train": saved}, name, notes)
    files = {file.name: file for file in sorted(path.glob("[!._]*")) if file.suffix.lower() in READERS}
    if not files:
        raise DataError(f"The folder {path} holds no data file; put {', '.join(READERS)} files there.")
    parts = _by_part(files, name, notes)
    return name, {part: [_read_table(file) for file in chosen] for part, chosen in parts.items()}


def _looks_like_path(source: str) -> bool:
    path = Path(source)
    is_hub_id = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source)
    in_folder = path.parent != Path() and path.parent.is_dir()
    return not is_hub_id or in_folder or path.suffix.lower() in READERS


def _near(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.5)
    return f" Near names there: {', '.join(near)}." if near else ""


def _by_part(sources: dict[str, Any], name: str, notes: list[str]) -> dict[str, list[Any]]:
    """Sources by the split word in their names; all of them train where no name has one."""
    words = {key: SPLIT_WORD.search(key.lower()) for key in sources}
    parts: dict[str, list[Any]] = {}
    for key, word in words.items():
        if word:
            part = word[1] if word[1] in ("train", "test") else "confirm"
            parts.setdefault(part, []).append(sources[key])
    if not parts:
        return {"train": list(sources.values())}
    if "train" not in parts:
        raise DataError(f"{name} has no train part, only {', '.join(sources)}; name one of them train.")
    if ignored := [key for key, word in words.items() if not word]:
        notes.append(f"Left out, as no split is in the name: {', '.join(ignored)}.")
    return parts


@contextlib.contextmanager
def _quiet() -> Iterator[str]:
    """Silences `datasets`; gives a cache folder that is gone afterwards."""
    had_bars, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory(prefix="autopeft-") as cache, warnings.catch_warnings():
            # pandas cuts off the cells of a row that is longer than the header, and only warns.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield cache
    finally:
        datasets.logging.set_verbosity(verbosity)
        if had_bars:
            datasets.enable_progress_bars()


def _read_table(path: Path) -> Any:
    """One file, or a folder that `save_to_disk` wrote."""
    suffix = path.suffix.lower()
    if path.is_file() and suffix not in READERS:
        raise DataError(f"{path} has the suffix {suffix!r}; convert it to one of {', '.join(READERS)}.")
    options: dict[str, Any] = {}
    with _quiet() as cache:
        try:
            if path.is_dir():
                return datasets.load_from_disk(str(path))
            if suffix in (".csv", ".tsv"):
                # Every cell as the text that stands there: no "007" -> 7, no "null" or "NA" -> missing.
                options = {"sep": "," if suffix == ".csv" else "\t", "index_col": False}
                header = pd.read_csv(path, nrows=0, **options).columns
                options |= {"converters": dict.fromkeys(header, str), "na_filter": False}
            read = getattr(datasets.Dataset, f"from_{READERS[suffix]}")
            return read(glob.escape(str(path)), cache_dir=cache, keep_in_memory=True, **options)
        except FILE_ERRORS as error:
            why = str(error.__cause__ or error).strip().rstrip(".!") or "it is blank"
            what = f"UTF-8 {suffix[1:]} file" if path.is_file() else "saved dataset"
            raise DataError(f"{path} holds no rows or is no {what}: {why}. Repair or replace it.") from error


def _read_hub(source: str, config_name: str | None) -> Any:
    """Asks once whether the hub answers: left alone, `load_dataset` retries for half a minute and more."""
    try:
        HfApi().dataset_info(source, timeout=10)
    except HUB_ERRORS as error:
        *owner, last = source.split("/")
        cached = "___".join([*owner, camelcase_to_snakecase(last)])
        if not any(Path(datasets.config.HF_DATASETS_CACHE).glob(f"{cached}/*/*/*")):
            seen = f"Neither the hub ({type(error).__name__}) nor a local file gives dataset {source!r}."
            raise DataError(f"{seen}{_near(Path(source))} Check spelling, network and access.") from error
    with _quiet():
        try:
            return datasets.load_dataset(source, name=config_name)
        except HUB_ERRORS as error:
            raise DataError(f"Check the name and config of hub dataset {source!r}: {error}") from error


def _choose_columns(spec: DataSpec, table: Any, notes: list[str]) -> Names:
    """The text columns, then the label column."""
    names, texts, label = table.column_names, list(spec.text_columns), spec.label_column
    for asked in [*texts, label] if label else texts:
        if asked not in names:
            raise UnknownNameError("column", asked, names)
    by_lower = {name.lower(): name for name in names if name not in texts}
    label = label or next((by_lower[usual] for usual in LABEL_NAMES.split() if usual in by_lower), None)
    if not label:
        raise DataError(f"There is no label column among {', '.join(names)}; name it in data.label_column.")
    texts = texts or _find_texts(table, label)
    if not texts:
        raise DataError(f"There is no text column among {', '.join(names)}; name it in data.text_columns.")
    if label in texts or len(texts) > 2 or len(set(texts)) < len(texts):
        raise DataError(f"data.text_columns is {', '.join(texts)}; give 1 or 2 other than the label {label}.")
    notes.append(f"Text is column {' and '.join(texts)}; the label is column {label}.")
    return (*texts, label)


def _find_texts(table: Any, label: str) -> list[str]:
    by_lower = {name.lower(): name for name in table.column_names if name != label}
    for usual in TEXT_NAMES.split():
        if all(name in by_lower for name in usual.split("+")):
            return [by_lower[name] for name in usual.split("+")]
    strings = [
        name
        for name in by_lower.values()
        if getattr(table.features[name], "dtype", "") in ("string", "large_string")
        # csv cells are all strings; a column of numbers is an id or a count
        and not all(NUMBER.fullmatch(cell or "0") for cell in table[:1000][name])
    ]
    return strings if len(strings) == 1 else []


def _rows(part: str, tables: list[Any], columns: Names, *, known: set[str], notes: list[str]) -> Rows:
    """The complete rows; none where confirm or test have no labels. `known` are those of train."""
    cells = [row for table in tables for row in _cells(part, table, columns)]
    unlabelled = {None, "-1"} if known and "-1" not in known else {None}  # hub test splits have -1 throughout
    labelled = [row for row in cells if row[-1] not in unlabelled]
    rows = [(row[:-1], row[-1]) for row in labelled if None not in row]
    n_blank = len(labelled) - len(rows)
    if not labelled and not known:
        raise DataError(f"None of the {len(cells)} {part} rows has a {columns[-1]}; training needs labels.")
    if not labelled:
        notes.append(f"Left out the {part} part: none of its {len(cells)} rows has a label.")
    elif len(labelled) < len(cells):
        notes.append(f"Dropped {len(cells) - len(labelled)} {part} rows without a label.")
    if 2 * n_blank > len(labelled):
        seen = f"{n_blank} of {len(labelled)} {part} rows have no text in {', '.join(columns[:-1])}"
        raise DataError(f"{seen}; at most half may. Name another column in data.text_columns.")
    if n_blank:
        notes.append(f"Dropped {n_blank} {part} rows without text.")
    return rows


def _cells(part: str, table: Any, columns: Names) -> list[Any]:
    """Rows of strings, the label last, None where missing; the same from every file format."""
    lists: list[list[str | None]] = []
    for name in columns:
        if name in table.column_names:
            lists.append([_as_string(cell, name) for cell in table[name]])
        elif part == "train" or name != columns[-1]:
            raise DataError(f"A {part} table lacks column {name}; it has {', '.join(table.column_names)}.")
        else:
            lists.append([None] * len(table))
    class_names = getattr(table.features.get(columns[-1]), "names", ())
    by_code: dict[str | None, str] = {str(code): name for code, name in enumerate(class_names)}
    # One missing label turns a column of integers into floats: "1.0" is label 1.
    plain = [label and re.sub(r"^(-?\d+)\.0$", r"\1", label.strip()) for label in lists.pop()]
    return list(zip(*lists, map(by_code.get, plain) if by_code else plain, strict=True))


def _as_string(cell: Any, column: str) -> str | None:
    if isinstance(cell, list | dict):
        raise DataError(f"Column {column} holds {str(cell)[:60]}; allowed is one text or label per row.")
    is_missing = cell is None or cell != cell  # NaN alone differs from itself
    return None if is_missing or not str(cell).strip() else str(cell)


def _remove_duplicates(parts: dict[str, Rows], notes: list[str]) -> int:
    """Keeps a text in its most precious part only, and once in train; changes `parts`."""
    seen: set[Names] = set()
    n_removed = 0
    for part in sorted(parts, key=PRECIOUS.index):
        earlier = seen if part == "train" else set(seen)  # the user's own test and confirm may repeat a text
        kept = []
        for texts, label in parts[part]:
            key = tuple(" ".join(text.lower().split()) for text in texts)
            if key not in earlier:
                kept.append((texts, label))
                seen.add(key)
        n_removed += len(parts[part]) - len(kept)
        parts[part] = kept
    if n_removed:
        notes.append(f"Removed {n_removed} rows whose text occurs again; the most precious split kept it.")
    return n_removed


def _label_names(parts: dict[str, Rows], feature: Any, column: str, notes: list[str]) -> Names:
    present = {label for _, label in parts["train"]}
    declared = getattr(feature, "names", ())
    is_numeric = not declared and all(NUMBER.fullmatch(label) for label in present)
    names = [name for name in declared if name in present]
    names = names or sorted(present, key=lambda name: (float(name) if is_numeric else 0.0, name))
    if is_numeric and len(names) > MAX_LEVELS and any("." in name for name in names):
        seen = f"Label column {column} has {len(names)} levels such as {names[0]} and {names[1]}"
        raise DataError(f"{seen}; regression is not supported yet by task text-classification.")
    if len(names) < 2:
        raise DataError(f"Label column {column} has only {names} in train; at least 2 labels are needed.")
    for part, rows in parts.items():
        if unknown := sorted({label for _, label in rows} - present):
            raise DataError(f"The {part} part has label {unknown[0]!r}, which train lacks; drop or add it.")
    if absent := [name for name in declared if name not in present]:
        notes.append(f"Left out labels that no train row has: {', '.join(absent)}.")
    return tuple(names)


def _cut_splits(parts: dict[str, Rows], cap: int | None, *, seed: int, notes: list[str]) -> dict[str, Rows]:
    train, confirm = parts["train"], parts.get("confirm", [])
    if not confirm:
        train, confirm = _cut(train, _cut_size(len(train)), "confirm", seed=seed, notes=notes)
    n_needed = max(MIN_ROWS, 2 * len({label for _, label in train}))
    if min(len(train), cap or len(train)) < n_needed:
        seen = f"There are {len(train)} rows to learn from" + f" and data.max_examples is {cap}" * bool(cap)
        raise DataError(f"{seen}; {n_needed} are needed, 2 per label. Add rows or check the label column.")
    if cap and cap < len(train):
        train = _cut(train, len(train) - cap, f"surplus to max_examples {cap}", seed=seed, notes=notes)[0]
    train, search = _cut(train, _cut_size(len(train)), "search", seed=seed, notes=notes)
    return {"train": train, "search": search, "confirm": confirm, "test": parts.get("test", [])}


def _cut_size(n_rows: int) -> int:
    return min(max(-(-15 * n_rows // 100), 50), 2000, n_rows // 3)


def _cut(rows: Rows, n_out: int, name: str, *, seed: int, notes: list[str]) -> tuple[Rows, Rows]:
    """What stays and what is cut out, each in the order of `rows`; every label stays."""
    labels = [label for _, label in rows]
    counts, order, seed = Counter(labels), range(len(rows)), seed % 2**32
    out, how = set(), "stratified by label"
    if min(counts.values()) >= 2 and len(counts) <= min(n_out, len(rows) - n_out):
        out = set(train_test_split(order, test_size=n_out, stratify=labels, random_state=seed)[1])
    if not out or len({labels[i] for i in order if i not in out}) < len(counts):
        free = sorted(set(order) - {labels.index(label) for label in counts})
        out = set(np.random.default_rng(seed).permutation(free)[:n_out].tolist())
        how = "not stratified, as labels are too rare or too many"
    notes.append(f"Cut {len(out)} of {len(rows)} train rows as {name}, {how}.")
    return [rows[i] for i in order if i not in out], [rows[i] for i in order if i in out]
