"""Groups of examples, as of one patient or document, in the verdict and in the standard errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from toys.engine import levels, method_of, run

from autopeft.records import Confirmation

# The plans differ on a fifth of the examples, which are two groups of eight, or of ten.
GROUPS = {"confirm": [i // 50 for i in range(400)], "test": [i // 10 for i in range(100)]}


def std_error(record: Confirmation, *, n: int, size: int) -> float:
    """Of the mean of equal groups, two rows of 0 and two of 1 of half weight added; seeds are alike."""
    n_groups, mean = n // size, record.metric_mean
    means = (np.arange(n) < round(mean * n)).reshape(n_groups, size).mean(axis=1)
    squares = ((means - mean) ** 2).sum() + (mean**2 + (1 - mean) ** 2) / size**2
    return math.sqrt(squares / n_groups / (n_groups - 1))


def test_the_verdict_and_the_standard_errors_count_groups() -> None:
    settings = {"n_confirm": 400, "n_test": 100}
    assert run(levels(), **settings).outcome.verdict.label == "better"
    outcome = run(levels(), groups=GROUPS, **settings).outcome
    assert outcome.verdict.label == "inconclusive"
    for record in outcome.confirmations:
        assert record.metric_std_error == pytest.approx(std_error(record, n=400, size=50))
    assert outcome.test
    for record in outcome.test:
        assert record.metric_std_error == pytest.approx(std_error(record, n=100, size=10))


@pytest.mark.parametrize(("size", "n_seeds"), [(1, 1), (4, 1), (50, 3)])
def test_one_seed_settles_no_plan_whose_groups_leave_a_doubt(size: int, n_seeds: int) -> None:
    """The head is 160 of 400 examples behind.

    By groups of four that are 8.1 standard errors, by groups of 50 2.3.
    """
    gaps = np.array([40 <= i < 200 for i in range(400)]).reshape(-1, size).mean(axis=1)
    is_far = gaps.mean() > 4 * gaps.std(ddof=1) / math.sqrt(len(gaps))
    assert is_far == (n_seeds == 1)
    groups = {"confirm": [i // size for i in range(400)]}
    truth = {"head": 0.1, "lora": 0.5, "ia3": 0.5}
    outcome = run(
        lambda plan, fidelity: truth[method_of(plan)], n_confirm=400, seeds=3, groups=groups
    ).outcome
    head = next(c for c in outcome.confirmations if c.name == "head")
    assert len(head.seeds) == n_seeds
