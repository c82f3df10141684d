"""Encoders with a decoder: labels, masks and losses by hand."""

from __future__ import annotations

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


def test_what_is_cut_is_noted(toy):
    made = toy.encoded(max_length=4)
    assert {len(example["input_ids"]) for example in made.examples} == {4}
    assert len(made.notes) == 1
    assert made.dropped == tuple(i for i, labels in enumerate(made.labels) if set(labels.tolist()) == {-100})
    assert len(made.dropped) == 6
