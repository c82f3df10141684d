"""A large split: a sample of its rows is encoded at once, the others when they are first read."""

from __future__ import annotations

import numpy as np
import pytest
from toys.bases import toy_base
from toys.tasks import with_end_of_text
from toys.words import CONTEXT, FILLER

from autopeft.data import Split
from autopeft.plugins import LabelSpace, discover
from autopeft.train import EncodedSplit, encode_split, train_rows
from autopeft.train.encoding import MOST_AT_START
from autopeft.types import TaskSpec

N = MOST_AT_START + 50


class Counted:
    """A tokenizer that counts the texts it gets."""

    def __init__(self, tokenizer):
        self.tokenizer, self.n_texts = tokenizer, 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, texts, *others, **options):
        self.n_texts += len(texts)
        return self.tokenizer(texts, *others, **options)


def rows_of(n):
    """Texts of 1 to 9 words, one of 20, and their labels."""
    rng = np.random.default_rng(0)
    words = rng.choice(FILLER, size=20)
    texts = [" ".join(words[: 20 if i == n // 2 else int(k)]) for i, k in enumerate(rng.integers(1, 10, n))]
    return Split(name="train", inputs=tuple((text,) for text in texts), labels=tuple(i % 2 for i in range(n)))


@pytest.fixture(scope="module")
def rows():
    return rows_of(N)


@pytest.fixture
def base(make_base):
    base = make_base("bert", dropout=0.1)
    base.tokenizer = Counted(base.tokenizer)
    return base


@pytest.fixture(scope="module")
def every(rows, task, tokenizer):
    """All rows, encoded by one call of the task."""
    made = task.encode(rows.inputs, rows.labels, tokenizer, CONTEXT)
    return EncodedSplit(examples=made.examples, labels=made.labels)


def test_rows_of_a_large_split_are_encoded_when_they_are_first_read(rows, base, task, every):
    split = encode_split(rows, base=base, task=task, max_length=CONTEXT)
    n_first = base.tokenizer.n_texts
    assert n_first == len(split.known) < N // 4
    steps = train_rows(split.lengths, n_steps=20, batch_size=2, seed=3)
    assert steps == train_rows(every.lengths, n_steps=20, batch_size=2, seed=3)
    n_read = base.tokenizer.n_texts - n_first
    assert 0 < n_read <= 2 * 16 * 2  # 32 rows are sorted by length together
    for row in (row for step in steps for row in step):
        np.testing.assert_equal(split.examples[row], every.examples[row])
        assert split.labels[row] == every.labels[row]
        assert split.sizes[row] == every.sizes[row]
    assert base.tokenizer.n_texts == n_first + n_read


def test_lengths_of_all_rows_are_those_of_rows_encoded_together(rows, base, task, every):
    split = encode_split(rows, base=base, task=task, max_length=CONTEXT)
    assert (len(split.labels), len(split.lengths), split.longest) == (N, N, every.longest)
    assert split.lengths[split.largest_rows(1)] == [every.lengths.max()] == [22]  # 20 words, and two beside
    assert split.lengths[split.typical].mean() == pytest.approx(every.lengths.mean(), rel=0.05)
    np.testing.assert_array_equal(split.lengths[:], every.lengths)
    np.testing.assert_array_equal(split.sizes[:], every.sizes)
    assert list(split.labels) == list(rows.labels)
    assert base.tokenizer.n_texts == N


@pytest.mark.parametrize("n", [30, N])
def test_rows_whose_completions_lose_their_end_are_never_learned(tokenizer, n):
    """A small split leaves them out; of a large one, whose rows are read late, they have no labels."""
    words = with_end_of_text(tokenizer)
    answers = tuple("good fine bad dull" if i % 10 == 0 else "bad" for i in range(n))
    rows = Split(name="train", inputs=(("the food",),) * n, labels=answers)
    task = discover("autopeft.tasks")["text-generation"].fitted(
        TaskSpec(), LabelSpace(kind="completion"), words
    )
    base = toy_base("llama-lm")
    base.tokenizer = words
    split = encode_split(rows, base=base, task=task, max_length=5)
    learned = [row for row in range(len(split.labels)) if set(split.labels[row].tolist()) != {-100}]
    whole = [row for row in range(n) if row % 10]
    assert learned == (whole if split.lazy else [*range(len(whole))])
    assert split.rows == (None if split.lazy else tuple(whole))
