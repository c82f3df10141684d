"""Classifiers on families whose padding, pooling or checkpoint differs from BERT's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from toys import topologies
from toys.bases import toy_config
from toys.families import V
from toys.memory import SMALL, toy_dataset

import autopeft
from autopeft import model
from autopeft.errors import ModelError
from autopeft.types import ModelSpec

CLASSIFIER = "AutoModelForSequenceClassification"


@pytest.fixture
def folder_of(tmp_path, tokenizer):
    """A function: a model -> its folder, with the toy tokenizer."""

    def save(module):
        module.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


def test_a_classifier_whose_text_model_has_a_config_of_its_own_knows_the_padding(folder_of, tokenizer):
    """Qwen3.5's looks for the last token before the padding by the inner config."""
    folder = folder_of(topologies.build("qwen3_5", device="cpu"))
    base = model.load(ModelSpec(id=str(folder)), auto_class=CLASSIFIER, label_names=("a", "b"))
    short, long = "the film", "the film was good and the food was bad"
    batch = tokenizer([short, long], padding=True, return_tensors="pt")
    features = {name: batch[name] for name in ("input_ids", "attention_mask")}
    alone = {name: tensor[:1, : len(tokenizer(short)["input_ids"])] for name, tensor in features.items()}
    with torch.no_grad():
        together, single = (base.module.eval()(**each).logits[0] for each in (features, alone))
    torch.testing.assert_close(together, single, atol=1e-5, rtol=1e-4)


def test_xlnet_is_refused(folder_of):
    config = transformers.XLNetConfig(vocab_size=V, d_model=8, n_layer=1, n_head=2, d_inner=16)
    folder = folder_of(transformers.XLNetForSequenceClassification(config))
    with pytest.raises(ModelError, match="XLNet"):
        model.load(ModelSpec(id=str(folder)), auto_class=CLASSIFIER, label_names=("a", "b"))


def test_the_card_loads_onto_a_checkpoint_with_another_number_of_labels(folder_of, tmp_path, monkeypatch):
    """As those of ImageNet and MNLI have: transformers refuses other shapes unless it draws them again."""
    config = toy_config("bert", hidden=32)
    config.num_labels = 5
    folder = folder_of(transformers.BertForSequenceClassification(config))
    result = autopeft.search(str(folder), toy_dataset(120), **SMALL, methods="lora", out=tmp_path / "run")
    card = Path(result.path / "best/weights/README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(result.path)
    names: dict[str, object] = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    weights = names["model"].state_dict()
    (head,) = [weights[name] for name in weights if name.endswith("modules_to_save.default.weight")]
    assert head.shape[0] == 2
