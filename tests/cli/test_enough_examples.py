"""What `analyze` says of the examples that a score has seen."""

from __future__ import annotations

import pytest

from autopeft.report import enough_examples
from autopeft.types import TargetScores


@pytest.mark.parametrize(
    ("rho", "n", "sentence"),
    [
        (0.972, 128, "enough examples: two halves of 128 have a rank correlation of 0.97"),
        (-0.2, 64, "too few examples: two halves of 64 have a rank correlation of −0.20"),
        (None, 0, "needs no examples"),
    ],
)
def test_one_sentence_says_whether_enough_was_seen(rho, n, sentence):
    score = TargetScores(name="fisher", values=(), split_half=rho, n_examples=n)
    assert enough_examples(score) == sentence
