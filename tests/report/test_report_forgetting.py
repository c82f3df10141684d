"""Forgetting in reports and in the terminal's line: rows without doubles, spreads over seeds."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import stdev

import pytest

from autopeft import report
from autopeft.pipeline.forgetting import BASE
from autopeft.records import Forgetting, GeneralLoss, GeneralText
from autopeft.report.forgetting import change, forgot

TEXT = GeneralText(
    name="a/b.txt",
    n_texts=1,
    n_blocks=2,
    block_tokens=8,
    n_tokens=14,
    duplicates_removed=0,
    fingerprint="0",
)


def test_plan_with_two_names_stands_once_and_one_without_seeds_not_at_all():
    other = replace(BASE, learning_rate=1.0)
    losses = {"seeds": (1, 2), "losses": (2.0, 2.5)}
    forgetting = Forgetting(
        text=TEXT,
        base_loss=2.0,
        seconds=1.0,
        plans=(
            GeneralLoss(name="best", plan=BASE, **losses),
            GeneralLoss(name="smallest", plan=other, seeds=(), losses=()),
            GeneralLoss(name="baseline", plan=BASE, **losses),
        ),
    )
    (row,) = forgot(forgetting)
    assert (row.names, row.n_seeds, row.difference) == ("best, baseline", 2, 0.25)
    assert row.perplexity == pytest.approx(math.exp(2.25))
    assert change(row.difference, row.spread) == f"+0.2500 ± {stdev((2.0, 2.5)):.4f}"
    line = report.forgetting_line(forgetting)
    assert line.count("\n") == 0 and "smallest" not in line
