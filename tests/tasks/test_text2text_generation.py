"""Encoders with a decoder: labels, masks and losses by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from toys.families import BART
from toys.tasks import make_toy

from autopeft.plugins import discover

PLUGIN = discover("autopeft.tasks")["text2text-generation"]


@pytest.fixture
def toy(tokenizer):
    """Twenty prompts whose completions have different lengths, and a tiny T5."""
    toy = make_toy(PLUGIN, tokenizer)
    toy.labels = [" ".join(["good", "bad", "film"][: 1 + i % 3]) for i in range(20)]
    return toy


def test_loss_is_that_of_the_completion_alone(toy):
    made = toy.encoded()
    losses = []
    with torch.no_grad():
        for example, labels in zip(made.examples, made.labels, strict=True):
            # The decoder's input is its start, then what was written.
            before = torch.tensor([[0, *labels[:-1].tolist()]])
            ids = torch.tensor([example["input_ids"].tolist()])
            logits = toy.module(input_ids=ids, decoder_input_ids=before).logits[0].double()
            losses += (-logits.log_softmax(-1)[range(len(labels)), labels.tolist()]).tolist()
    seen = toy.task.evaluate(toy.module, iter(toy.batches(7)))
    assert seen.loss == pytest.approx(np.mean(losses), abs=1e-6)
    assert seen.metric == seen.loss


@pytest.mark.parametrize("name", ["M2M100", "Blenderbot", "Bart"])
def test_decoder_reads_what_the_model_itself_makes_of_labels(name):
    """transformers shifts labels inside the forward pass of these; two of them have no method for it."""
    config = getattr(transformers, f"{name}Config")(**BART)
    module = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    labels = torch.tensor([[5, 6, 7, 3], [8, 3, -100, -100]])
    ids = torch.tensor([[4, 9, 3], [7, 3, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}
    with torch.no_grad():
        expected = module(**batch).logits
        assert torch.equal(module(**PLUGIN.model_type.features(module, batch)).logits, expected)


def test_generated_answers_are_the_greedy_ones(toy, tokenizer):
    (batch,) = toy.batches(20)
    features = {name: value[:2] for name, value in batch.items() if name not in ("labels", "token_type_ids")}
    made = toy.task.model_type.generate(toy.module, features, tokenizer, 4)
    for row in range(2):
        ids = features["input_ids"][row][features["attention_mask"][row] == 1][None]
        written = [0]
        for _ in range(4):
            with torch.no_grad():
                logits = toy.module(input_ids=ids, decoder_input_ids=torch.tensor([written])).logits
            written.append(int(logits[0, -1].argmax()))
        assert made[row] == tokenizer.decode(written, skip_special_tokens=True)


def test_what_is_cut_is_noted(toy):
    made = toy.encoded(max_length=4)
    assert {len(example["input_ids"]) for example in made.examples} == {4}
    (note,) = made.notes
    assert note.startswith("20 of 20 prompts were cut to 4 tokens, and 6 rows")
    assert made.dropped == tuple(i for i, labels in enumerate(made.labels) if set(labels.tolist()) == {-100})
    assert len(made.dropped) == 6
