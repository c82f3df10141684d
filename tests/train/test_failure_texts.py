"""What a measurement says of the error that broke its run off."""

from __future__ import annotations

from autopeft.train.failures import error_text
from autopeft.train.loop import DivergedError


def test_a_run_that_diverged_is_told_in_words_and_other_errors_by_their_type():
    text = "diverged at step 2 of 2: the loss is not finite"
    assert error_text(DivergedError(text), is_quantised=False) == text
    assert error_text(KeyError("labels"), is_quantised=False).startswith("KeyError: ")
