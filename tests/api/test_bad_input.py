"""Models and rows that do not fit: one sentence names the fault, or the log says how it was fixed.

`autopeft.analyze` prepares the same things as a search. The command line prints the same sentences.
"""

from __future__ import annotations

import copy
import json
import logging

import datasets
import pytest
import torch
import transformers
from toys.bases import toy_config
from toys.words import LABEL_NAMES, toy_rows

import autopeft
from autopeft.errors import ModelError

N = 100
TEXTS, LABELS = toy_rows(N, seed=0)
WORDS = [text.split() for text in TEXTS]
KINDS = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
}


def module(task, n_outputs=2):
    config = toy_config("bert")
    config.num_labels = n_outputs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, KINDS[task]).from_config(config)


@pytest.fixture
def analyze(tokenizer, caplog):
    """A function: task, data and what differs -> the analysis, and what was logged on the way."""

    def analyze(task, data, *, score="parameters", **other):
        arguments = {"model": module(task), "tokenizer": tokenizer} | other
        if isinstance(arguments["model"], str):
            del arguments["tokenizer"]
        with caplog.at_level(logging.INFO):
            analysis = autopeft.analyze(
                data=data, task=task, scores=score, budget="30%", max_steps=4, batch_size=8, **arguments
            )
        return analysis, caplog.text

    return analyze


def changed(cells, row, value):
    cells = copy.deepcopy(list(cells))
    cells[row] = value
    return cells


def labelled(texts=TEXTS):
    return datasets.Dataset.from_dict({"text": texts, "label": [LABEL_NAMES[i] for i in LABELS]})


def test_tokenizer_without_padding_and_end_is_refused_and_one_with_an_end_pads_with_it(analyze, tokenizer):
    changed_tokenizer = copy.deepcopy(tokenizer)
    changed_tokenizer.pad_token = None
    with pytest.raises(ModelError, match="padding"):
        analyze("text-classification", labelled(), tokenizer=changed_tokenizer)
    changed_tokenizer.eos_token = "[SEP]"
    first, log = analyze("text-classification", labelled(), tokenizer=changed_tokenizer, score="fisher")
    assert "no padding token" in log
    second, _ = analyze("text-classification", labelled(), score="fisher")  # what pads does not matter
    assert first.scores[0].values == pytest.approx(second.scores[0].values, rel=1e-3, abs=1e-9)


def test_words_that_the_model_does_not_know(analyze, tokenizer):
    """A token beyond the embeddings in one row of a split, not even in the longest one."""
    changed_tokenizer = copy.deepcopy(tokenizer)
    changed_tokenizer.add_tokens(["newword"])
    with pytest.raises(ModelError, match="token 34"):
        analyze("text-classification", labelled(changed(TEXTS, 50, "newword")), tokenizer=changed_tokenizer)


def test_weights_with_another_vocabulary_than_the_config_are_refused(analyze, tokenizer, tmp_path):
    """transformers would leave the embeddings at random, and every number would be that of noise."""
    module("text-classification").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 9}))
    with pytest.raises(ModelError, match="word_embeddings"):
        analyze("text-classification", labelled(), model=str(tmp_path))


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_head_of_another_size_is_replaced_on_the_disk_and_refused_in_memory(
    analyze, tokenizer, tmp_path, task
):
    tags = [["B-x" if len(word) % 2 else "O" for word in row] for row in WORDS]
    tagged = datasets.Dataset.from_dict({"tokens": WORDS, "tags": tags})
    data = labelled() if task == "text-classification" else tagged
    wide = module(task, 5)
    wide.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, log = analyze(task, data, model=str(tmp_path), score="fisher")
    assert "its head is not used" in log
    with pytest.raises(ModelError, match="num_labels=2"):
        analyze(task, data, model=wide)
