"""Texts are generated greedily, whatever the model's own config says."""

from __future__ import annotations

import pytest
import torch
import transformers
from toys.bases import toy_config
from toys.families import BART

from autopeft.tasks._shared import generating


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(toy_config("llama")).eval()


class Words:
    """A tokenizer that writes the numbers of tokens."""

    def batch_decode(self, ids, skip_special_tokens):
        return [" ".join(map(str, row)) for row in ids.tolist()]


SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05}
BEAMS = {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0, "min_length": 4, "max_length": 9}


PENALTIES = {
    "repetition_penalty": 9.0,
    "no_repeat_ngram_size": 1,
    "encoder_repetition_penalty": 9.0,
    "encoder_no_repeat_ngram_size": 1,
}


@pytest.mark.parametrize("values", [{}, SAMPLING, BEAMS, PENALTIES, {"min_new_tokens": 3}])
@pytest.mark.parametrize("kind", ["llama", "bart"])
def test_settings_of_the_model_s_own_config_change_no_text(kind, values, llama):
    torch.manual_seed(0)
    bart = transformers.BartForConditionalGeneration(transformers.BartConfig(**BART)).eval()
    model = llama if kind == "llama" else bart
    ids = torch.tensor([[5, 6, 7], [8, 9, 4]])
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    config = {"max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None, "decoder_start_token_id": 2}
    plain = generating.generate_greedily(model, Words(), features, **config)
    if values == {"min_new_tokens": 3}:  # the first token written ends a text all the same
        n_before = ids.shape[1] if kind == "llama" else 1
        config["eos_token_id"] = int(plain[0].split()[n_before])
    before = generating.generate_greedily(model, Words(), features, **config)
    own = model.generation_config
    model.generation_config = transformers.GenerationConfig(**{**own.to_diff_dict(), **values})
    known = model.generation_config.to_dict()
    try:
        assert generating.generate_greedily(model, Words(), features, **config) == before
        assert model.generation_config.to_dict() == known
    finally:
        model.generation_config = own
