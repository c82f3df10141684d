"""Texts are written in as many rows at a time as their keys and values have room for."""

from __future__ import annotations

import pytest
import torch
import transformers
from toys.bases import toy_config
from toys.families import BART

from autopeft.tasks._shared import generating

LENGTH, NEW, CPU = 5, 3, torch.device("cpu")


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(toy_config("llama")).eval()


class Words:
    """A tokenizer that writes the numbers of tokens."""

    def batch_decode(self, ids, skip_special_tokens):
        return [" ".join(map(str, row)) for row in ids.tolist()]


def cache_bytes(model, n_rows, n_tokens):
    """What a cache of transformers holds after a forward pass."""
    ids = torch.ones(n_rows, n_tokens, dtype=torch.long)
    cache = model(input_ids=ids, use_cache=True).past_key_values
    return sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))


@pytest.mark.parametrize("n_free_rows", [0, 1, 2, 2.9, 100])
def test_rows_at_a_time_leave_half_of_the_memory_to_their_cache(n_free_rows, llama, monkeypatch):
    row_bytes = cache_bytes(llama, 1, LENGTH + NEW)
    monkeypatch.setattr(generating, "free_bytes", lambda device: int(2 * n_free_rows * row_bytes))
    assert generating.rows_that_fit(llama, LENGTH + NEW, device=CPU) == max(1, int(n_free_rows))


def test_texts_are_the_same_however_many_rows_are_written_at_a_time(llama, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, llama.config.vocab_size, (5, LENGTH), generator=generator)
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    texts, calls = [], []
    hook = llama.model.register_forward_pre_hook(lambda *_: calls.append(1))
    for n_rows in (5, 2, 1):
        monkeypatch.setattr(generating, "rows_that_fit", lambda *_, n=n_rows, **place: n)
        config = {"max_new_tokens": NEW, "pad_token_id": 0, "eos_token_id": None}
        texts.append(generating.generate_greedily(llama, Words(), features, n_skipped=LENGTH, **config))
    hook.remove()
    assert texts[0] == texts[1] == texts[2]
    assert [len(text.split()) for text in texts[0]] == [NEW] * 5
    assert len(calls) == NEW * (1 + 3 + 5)


SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05}
BEAMS = {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0, "min_length": 4, "max_length": 9}


@pytest.mark.parametrize("values", [{}, SAMPLING, BEAMS, {"min_new_tokens": 3}])
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
