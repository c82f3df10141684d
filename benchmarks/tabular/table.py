"""The rows of a cell: how they stand in its files, and how they are read back.

A cell's folder holds `trials.csv`, one row for each measurement, and `examples.csv`, scores of the examples.
`measure.py` writes both, those of one job at once; examples come first, so that a stopped job leaves scores
without a row, which are passed over.
"""

from __future__ import annotations

import base64
import binascii
import csv
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FIELDS = (
    "arm position plan trainable_params learning_rate split steps seed status loss metric trained_steps "
    "train_seconds eval_examples eval_seconds peak_bytes error"
).split()
EXAMPLE_FIELDS = "plan split steps seed scores".split()
SEARCH_SEED, FULL_SEEDS = 0, (101, 102)
COMPLETE, DIVERGED = "COMPLETE", "DIVERGED"
STATUSES = (COMPLETE, DIVERGED, "OUT_OF_MEMORY", "FAIL")
_ROUNDING = 1e-5  # between a metric of seven digits and the mean of its scores in float32
Key = tuple[str, float, str, int, int]  # arm, position, split, steps, seed


class TableError(ValueError):
    """A table that cannot be read, or lacks what is asked of it."""


def packed(scores: tuple[float, ...]) -> str:
    """The scores of examples as text: float32, little endian, deflated, in base64."""
    return base64.b64encode(zlib.compress(np.asarray(scores, dtype="<f4").tobytes(), 9)).decode("ascii")


def unpacked(text: str) -> np.ndarray:
    """The scores (N,) that `packed` was given, in float32.

    Raises:
        TableError: The text is not of that form.

    Example:
        >>> unpacked(packed((0.0, 1.0, 0.5))).tolist()
        [0.0, 1.0, 0.5]
    """
    try:
        content = zlib.decompress(base64.b64decode(text, validate=True))
        return np.frombuffer(content, dtype="<f4")
    except (binascii.Error, zlib.error, ValueError) as error:
        raise TableError(f"The scores {text[:20]!r} are not float32, deflated, in base64: {error}") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One measurement. `loss` is None where it diverged; `metric` also where no text was generated.

    `scores` (N,) has one score for each evaluated example, whose mean is the metric; empty without a metric.
    """

    arm: str
    position: float
    plan: str
    learning_rate: float
    split: str
    steps: int
    seed: int
    status: str
    loss: float | None
    metric: float | None
    cost: RowCost
    scores: np.ndarray

    @property
    def key(self) -> Key:
        """What tells it from the others."""
        return (self.arm, self.position, self.split, self.steps, self.seed)


@dataclass(frozen=True, kw_only=True)
class RowCost:
    """What a measurement took: steps and seconds of this run alone, a rung from the one before."""

    trained_steps: int
    train_seconds: float
    eval_examples: int
    eval_seconds: float
    peak_bytes: int


class Results:
    """The measurements of one cell."""

    def __init__(self, rows: dict[Key, Row], *, name: str) -> None:
        """Take rows by their keys; `name` is that of the cell."""
        self.rows, self.name = rows, name

    @classmethod
    def read(cls, folder: Path) -> Results:
        """The rows in a cell's folder.

        Raises:
            TableError: A file is missing or has other columns, or a row is damaged or there twice.
        """
        scores = {
            (content["plan"], content["split"], content["steps"], content["seed"]): (line, content["scores"])
            for line, content in _lines(folder / "examples.csv", EXAMPLE_FIELDS)
        }
        rows: dict[Key, Row] = {}
        for line, content in _lines(folder / "trials.csv", FIELDS):
            place = f"{folder.name}/trials.csv, line {line}"
            of_examples = scores.get((content["plan"], content["split"], content["steps"], content["seed"]))
            row = _row(content, None if of_examples is None else of_examples[1], place)
            if row.key in rows:
                raise TableError(f"{place}: {row.key} is there twice; remove one of the rows.")
            rows[row.key] = row
        return cls(rows, name=folder.name)

    def at(self, arm: str, position: float, *, split: str, steps: int, seed: int) -> Row:
        """One measurement; raises TableError where it was not made."""
        key = (arm, position, split, steps, seed)
        if key not in self.rows:
            known = sorted({row.arm for row in self.rows.values()})
            about = (
                f"the arm has {sorted(k[1:] for k in self.rows if k[0] == arm)}"
                if arm in known
                else f"the arms are {known}"
            )
            raise TableError(f"Cell {self.name} has no row {key}; {about}. Measure it, or ask for another.")
        return self.rows[key]

    def rung(self, arm: str, position: float, *, steps: int) -> Row:
        """A plan at a rung, on the search split."""
        return self.at(arm, position, split="search", steps=steps, seed=SEARCH_SEED)

    def full(self, arm: str, position: float, *, split: str, steps: int) -> tuple[Row, ...]:
        """A plan in full on confirm or test: one row for each seed that was run, the first seed first."""
        keys = [(arm, position, split, steps, seed) for seed in FULL_SEEDS]
        return tuple(self.rows[key] for key in keys if key in self.rows)

    def positions(self, arm: str) -> tuple[float, ...]:
        """The positions of the learning rate at which an arm was measured, ascending."""
        return tuple(sorted({row.position for row in self.rows.values() if row.arm == arm}))


def _lines(path: Path, fields: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row of a file with its line number."""
    if not path.exists():
        raise TableError(f"There is no {path.name} in the folder {path.parent.name}; measure the cell first.")
    csv.field_size_limit(1 << 24)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if header != fields:
            raise TableError(f"{path.parent.name}/{path.name} has the columns {header}, not {fields}.")
        for content in reader:
            if len(content) != len(fields):
                raise TableError(
                    f"{path.parent.name}/{path.name}, line {reader.line_num}: {len(content)} cells, "
                    f"not {len(fields)}; the row was not written to its end."
                )
            yield reader.line_num, dict(zip(fields, content, strict=True))


def _row(content: dict[str, str], scores: str | None, place: str) -> Row:
    """A row from its text; raises TableError where that contradicts itself."""
    try:
        numbers: dict[str, Any] = {
            name: int(content[name]) for name in ("steps", "seed", "trained_steps", "eval_examples")
        }
        numbers |= {name: float(content[name]) for name in ("position", "learning_rate")}
        loss, metric = (float(content[n]) if content[n] else None for n in ("loss", "metric"))
        cost = RowCost(
            trained_steps=numbers.pop("trained_steps"),
            train_seconds=float(content["train_seconds"]),
            eval_examples=numbers.pop("eval_examples"),
            eval_seconds=float(content["eval_seconds"]),
            peak_bytes=int(content["peak_bytes"]),
        )
    except ValueError as error:
        raise TableError(f"{place}: {error}.") from error
    status = content["status"]
    if status not in STATUSES:
        raise TableError(f"{place}: the status is {status!r}, not one of {', '.join(STATUSES)}.")
    if (loss is not None) != (status == COMPLETE):
        raise TableError(f"{place}: the status is {status} and the loss {content['loss'] or 'empty'}.")
    values = unpacked(scores) if scores is not None and metric is not None else np.empty(0, dtype="<f4")
    if metric is not None:
        _check_scores(values, metric, cost.eval_examples, place)
    texts: dict[str, Any] = {name: content[name] for name in ("arm", "plan", "split")}
    return Row(**texts, **numbers, status=status, loss=loss, metric=metric, cost=cost, scores=values)


def _check_scores(scores: np.ndarray, metric: float, n_examples: int, place: str) -> None:
    if len(scores) != n_examples:
        raise TableError(f"{place}: examples.csv has {len(scores)} scores of {n_examples} examples.")
    mean = float(scores.mean(dtype=np.float64))
    if not math.isclose(mean, metric, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        raise TableError(f"{place}: the metric is {metric:g}, the mean of its scores {mean:g}.")
