"""The files of a cell: what is written is read back, and what is damaged is refused."""

from __future__ import annotations

import base64
import csv
import struct
import zlib

import description
import pytest
from table import Results, TableError, packed, unpacked
from toys.benchmark import CELL, EXAMPLES, right, toy_candidates, write_table
from toys.engine import TARGETS


def truth(candidate, split, steps, seed):
    """A loss of its own for each run; the highest rate diverges after the first rung and in full."""
    if candidate.position == 0.85 and steps > CELL.rungs[0]:
        return None
    return 1 + candidate.position + 1 / steps + seed / 1000, round(candidate.position, 1)


@pytest.fixture
def folder(tmp_path):
    return write_table(tmp_path / "toy", truth, toy_candidates(["lora/all", "head"]))


def test_scores_are_float32_deflated_in_base64():
    scores = (0.0, 1.0, -2.5, 1 / 3)
    by_hand = base64.b64encode(zlib.compress(struct.pack("<4f", *scores), 9)).decode()
    assert packed(scores) == by_hand
    assert unpacked(by_hand).tolist() == list(struct.unpack("<4f", struct.pack("<4f", *scores)))


def test_what_was_measured_is_read_back(folder):
    results = Results.read(folder)
    rung = results.rung("lora/all", 0.38, steps=20)
    assert rung.loss == pytest.approx(1 + 0.38 + 1 / 20)
    assert rung.metric == pytest.approx(0.4)
    assert rung.scores.tolist() == list(right(0.4, EXAMPLES["search"]))
    assert rung.cost.trained_steps == 10
    full = results.full("lora/all", 0.38, split="test", steps=80)
    assert [row.seed for row in full] == [101, 102]
    assert [row.loss for row in full] == pytest.approx([1 + 0.38 + 1 / 80 + s / 1000 for s in (101, 102)])
    assert results.positions("lora/all") == (0.15, 0.38, 0.62, 0.85)
    assert results.positions("head") == (0.2, 0.5, 0.8)


def test_a_run_that_diverged_has_no_loss_and_no_later_rows(folder):
    results = Results.read(folder)
    row = results.rung("lora/all", 0.85, steps=20)
    assert (row.status, row.loss, row.metric, row.scores.size) == ("DIVERGED", None, None, 0)
    with pytest.raises(TableError, match=r"no row \('lora/all', 0\.85, 'search', 40, 0\)"):
        results.rung("lora/all", 0.85, steps=40)


def _change(line, column, value):
    def change(rows):
        rows[line][rows[0].index(column)] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_change(3, "loss", "x"), "trials.csv, line 4: could not convert string to float"),
        (_change(3, "metric", "0.7"), "line 4: the metric is 0.7, the mean of its scores 0.4"),
        (_change(3, "plan", "0123456789"), "line 4: examples.csv has 0 scores of 100 examples"),
        (lambda rows: rows.append(rows[1][:9]), "9 cells, not 17; the row was not written to its end"),
    ],
)
def test_a_damaged_table_is_refused_with_its_place(folder, change, message):
    path = folder / "trials.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(TableError, match=message):
        Results.read(folder)


def test_a_description_gives_back_every_plan(tmp_path):
    made = toy_candidates()
    described = description.read(write_table(tmp_path / "toy", truth, made))
    assert described.plans() == {(c.arm, c.position): c.plan for c in made}
    assert {plan.digest for plan in described.plans().values()} == {c.plan.digest for c in made}
    assert described.targets == TARGETS
    assert len({c.arm for c in made}) > 10, "the toy has many arms"
