"""An analysis of a model and a dataset that are objects."""

from __future__ import annotations

import datasets
import pytest
import torch
import transformers
from toys.memory import toy_dataset
from toys.specs import run_spec
from toys.words import LABEL_NAMES

import autopeft
from autopeft import commands


def test_analysis_in_memory_gives_what_that_of_the_directory_gives(model_dir, tokenizer, data_dir, tmp_path):
    module = transformers.AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2)
    module.config.id2label = dict(enumerate(LABEL_NAMES))
    for saved in (module, tokenizer):  # with its head, which the checkpoint has not
        saved.save_pretrained(tmp_path)
    read = commands.analyze(run_spec(tmp_path, data_dir), scores=["fisher"], max_examples=32)
    data = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_csv(str(data_dir / f"{name}.csv"))
            for name in ("train", "validation", "test")
        }
    )
    analysis = autopeft.analyze(
        model=module, data=data, tokenizer=tokenizer, scores=["fisher"], max_examples=32
    )
    assert analysis.scores[0].n_examples == read.scores[0].n_examples == 32
    by_name = dict(zip([s.name for s in read.targets], read.scores[0].values, strict=True))
    for target, value in zip(analysis.targets, analysis.scores[0].values, strict=True):
        if target.name in by_name:
            assert value == pytest.approx(by_name[target.name], rel=1e-5)


@pytest.mark.parametrize("setting", [torch.no_grad, torch.inference_mode])
def test_a_caller_who_needs_no_gradients_gets_the_same_analysis(setting, module, tokenizer):
    given = {"data": toy_dataset(), "tokenizer": tokenizer, "budget": "5%", "seed": 3}
    usual = autopeft.analyze(model=module, **given)
    with setting():
        again = autopeft.analyze(model=module, **given)
        assert not torch.is_grad_enabled()
    assert again.scores == usual.scores
