"""A finished adapter notes what its base model's tokenizer and generation config decide."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from toys.bases import toy_config
from toys.folders import word_tokenizer
from toys.tasks import image_processor

from autopeft.run.base_facts import base_facts
from autopeft.tasks._shared.generating import generate_greedily

IDS = torch.tensor([[2, 9, 14, 5]])


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(toy_config("llama")).eval()


def texts_and_facts(model, tokenizer):
    features = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    texts = generate_greedily(model, tokenizer, features, max_new_tokens=6, n_skipped=4, pad_token_id=0)
    return texts, base_facts(model, tokenizer, weights={})


@pytest.mark.parametrize(
    ("values", "has_effect"),
    [
        ({"suppress_tokens": list(range(4, 30))}, True),
        ({"forced_eos_token_id": 7}, True),
        ({"bad_words_ids": [[token] for token in range(4, 30)]}, True),
        ({"temperature": 0.3, "top_p": 0.5, "num_beams": 4, "max_new_tokens": 2}, False),
    ],
)
def test_facts_differ_where_the_generation_config_changes_texts(llama, values, has_effect):
    changed = copy.deepcopy(llama)
    changed.generation_config.update(**values)
    (texts, facts), (other_texts, other_facts) = (
        texts_and_facts(model, word_tokenizer()) for model in (llama, changed)
    )
    assert (texts != other_texts, facts != other_facts) == (has_effect, has_effect)


def test_facts_differ_where_the_tokenizer_joins_tokens_otherwise(llama):
    content = json.loads(word_tokenizer().backend_tokenizer.to_str())
    content["decoder"] = {"type": "Replace", "pattern": {"String": "o"}, "content": "0"}
    fast = word_tokenizer()
    fast.backend_tokenizer.decoder = Tokenizer.from_str(json.dumps(content)).decoder
    (texts, facts), (other_texts, other_facts) = (
        texts_and_facts(llama, tokenizer) for tokenizer in (word_tokenizer(), fast)
    )
    assert texts != other_texts
    assert {name for name in facts if facts[name] != other_facts[name]} == {"texts of sample token ids"}


@pytest.mark.parametrize(
    ("name", "value"), [("model_input_names", ["input_ids"]), ("truncation_side", "left")]
)
def test_facts_differ_where_the_tokenizer_gives_other_inputs(llama, name, value):
    changed = word_tokenizer()
    setattr(changed, name, value)
    (inputs, facts), (other_inputs, other_facts) = (
        (tokenizer("a good film", truncation=True, max_length=4), base_facts(llama, tokenizer, weights={}))
        for tokenizer in (word_tokenizer(), changed)
    )
    assert dict(inputs) != dict(other_inputs)
    assert {name for name in facts if facts[name] != other_facts[name]} == {f"tokenizer.{name}"}


def test_facts_of_a_timm_model_are_the_same_whatever_its_labels():
    architecture = {"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 1}}
    config = transformers.TimmWrapperConfig.from_dict(architecture, num_labels=3)
    first = transformers.TimmWrapperForImageClassification(config)
    facts = base_facts(first, None, weights={})
    config.id2label = {0: "bird", 1: "cat"}
    assert base_facts(first, None, weights={}) == facts


def test_facts_differ_where_an_image_processor_gets_a_step_more(llama):
    changed = image_processor()
    changed.do_center_crop, changed.crop_size = True, {"height": 6, "width": 6}
    facts, other_facts = (base_facts(llama, each, weights={}) for each in (image_processor(), changed))
    names = {"image processor.do_center_crop", "image processor.crop_size"}
    assert {name for name in facts if facts[name] != other_facts[name]} == names
