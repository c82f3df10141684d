"""The rows of a benchmark's dataset: a folder of `train`, `validation` and `test` files, CSV or JSONL."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

TAGS = ("snips_slots", "wnut17")  # the sets with a tag for each word
SETS = (
    *("cr", "mrpc", "mr", "subj", "trec50", "tweeteval_hate", "snips_slots", "banking77", "stsb", "med"),
    *("snips_intent", "wnut17"),
)
MOST_JUDGED = 1000

Rows = list[dict[str, Any]]


def read(path: Path) -> Rows:
    """Read the rows of a CSV or JSONL file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [json.loads(line) for line in file] if path.suffix == ".jsonl" else list(csv.DictReader(file))


def splits_of(folder: Path, n_rows: int, seed: int) -> dict[str, Rows]:
    """Draw the rows to train on, those to judge on and those of the test file.

    Judged are up to 1,000 left-over train rows and then the validation file, shuffled, since files may be
    sorted by class. Rows of classes that no train row has are dropped.
    """
    (ending,) = {path.suffix for path in folder.glob("train.*")}
    rows, held_out = read(folder / f"train{ending}"), read(folder / f"validation{ending}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    trained = [rows[i] for i in order[:n_rows]]
    labels = {row.get("label") for row in trained}

    def known(drawn: Rows) -> Rows:
        return drawn if are_numbers(labels) else [row for row in drawn if row.get("label") in labels]

    judged = [rows[i] for i in order[n_rows : n_rows + MOST_JUDGED]]
    judged += [held_out[i] for i in rng.permutation(len(held_out))]
    return {
        "train": trained,
        "validation": known(judged),
        "test": known(read(folder / f"test{ending}")),
    }


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether labels are numbers to predict: the names of classes have no decimal point."""
    return any("." in label and label.replace(".", "", 1).isdigit() for label in labels if label)


def as_a_user_has_them(folder: Path, n_rows: int, seed: int) -> dict[str, Rows]:
    """Draw `n_rows` train rows, a fifth as many of the validation file, and the whole test file."""
    splits = splits_of(folder, n_rows, seed)
    return {**splits, "validation": splits["validation"][-(n_rows // 5) :]}


def write_splits(splits: dict[str, Rows], folder: Path) -> None:
    """Write a JSONL file for each split."""
    for split, rows in splits.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


def measured_keys(table: Path, keys: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Read which rows a table has, by the values of some of its columns."""
    if not table.exists():
        return set()
    with table.open(encoding="utf-8", newline="") as file:
        return {tuple(row[key] for key in keys) for row in csv.DictReader(file)}


def append(table: Path, fields: tuple[str, ...], row: tuple[object, ...]) -> None:
    """Append a row to a CSV file, under a header if the file is new."""
    is_new = not table.exists()
    with table.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([fields, row] if is_new else [row])
    print(*row, flush=True)
