"""Texts as arrays of tokens: what the tokenizer gives row by row, in four bytes a token."""

from __future__ import annotations

import copy

import pytest
from tokenizers.pre_tokenizers import Split
from toys.tasks import TOYS, make_toy

from autopeft.plugins import discover
from autopeft.tasks._shared.tokens import tokenized

TASKS = [name for name in TOYS if name != "image-classification"]


@pytest.mark.parametrize("max_length", [3, 5, 6, 40])
@pytest.mark.parametrize("n_columns", [1, 2])
def test_texts_are_cut_as_the_tokenizer_cuts_them(tokenizer, n_columns, max_length):
    texts = ["good " * (1 + i % 5) for i in range(2100)]  # nine chunks
    columns = [texts, texts[::-1]][:n_columns]
    examples, cut = tokenized(tokenizer, columns, max_length=max_length)
    expected = tokenizer(*columns, truncation=True, max_length=max_length)
    for name, rows in expected.items():
        assert [example[name].tolist() for example in examples] == rows
    assert cut == [len(ids) for ids in tokenizer(*columns)["input_ids"] if len(ids) > max_length]


@pytest.mark.parametrize("name", TASKS)
def test_encoded_tokens_and_labels_are_arrays_that_cannot_be_written_to(name, tokenizer):
    made = make_toy(discover("autopeft.tasks")[name], tokenizer).encoded()
    rows = [row for example in made.examples for row in example.values()]
    rows += [label for label in made.labels if not isinstance(label, int)]
    assert {(row.dtype.name, row.flags.writeable) for row in rows} == {("int32", False)}


def without_separator(tokenizer):
    """As GPT-2's and Qwen's tokenizers, which write two texts of a pair as one."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.backend_tokenizer.pre_tokenizer = Split("\n", "isolated")  # a line break is a token here
    tokenizer.backend_tokenizer.normalizer = None
    return tokenizer


def test_a_line_break_stands_between_the_texts_of_a_pair_where_no_token_does(tokenizer):
    task, plain = discover("autopeft.tasks")["text-classification"], without_separator(tokenizer)
    (written,), (usual,) = (
        [row["input_ids"] for row in task.encode([("good", "bad")], [0], each, 16).examples]
        for each in (plain, tokenizer)
    )
    assert written.tolist() == plain(["good\nbad"])["input_ids"][0] and len(written) == 3
    assert usual.tolist() == tokenizer("good", "bad")["input_ids"]
