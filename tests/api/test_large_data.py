"""A dataset of more rows than a suggestion needs: only a sample of them is tokenised."""

from __future__ import annotations

import copy

import datasets
import pytest
from toys.words import FILLER, LABEL_NAMES

import autopeft

N = 14_000  # rows, of which more than 10,000 are left for train


@pytest.fixture(scope="module")
def rows():
    texts = [f"{FILLER[i % 20]} {FILLER[i // 20 % 20]} {i}" for i in range(N)]
    return datasets.Dataset.from_dict({"text": texts, "label": [LABEL_NAMES[i % 2] for i in range(N)]})


@pytest.fixture
def counted(tokenizer):
    """The tokenizer, and a list with the number of texts of each of its calls."""
    calls = []

    class Counted(type(tokenizer)):
        def __call__(self, text=None, *others, **options):
            calls.append(len(text) if isinstance(text, list) else 1)
            return super().__call__(text, *others, **options)

    counting = copy.deepcopy(tokenizer)
    counting.__class__ = Counted
    return counting, calls


def test_suggestion_tokenises_a_sample(module, rows, counted):
    tokenizer, calls = counted
    assert autopeft.suggest(module, rows, "20%", tokenizer=tokenizer).trainable_params > 0
    # 2,000 rows for the length, 2,000 and the 128 longest of train, at most 2,000 of search and of confirm.
    assert 2_000 < sum(calls) < 8_200
