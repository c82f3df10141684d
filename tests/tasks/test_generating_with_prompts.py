"""Texts of models with a trained prompt or prefix before the text, which takes some of their positions."""

from __future__ import annotations

import pytest
import torch
import transformers
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from toys.bases import toy_config
from toys.tasks import with_end_of_text

from autopeft.extension import Target, discover
from autopeft.records import TaskSpec

PART = discover("autopeft.tasks")["text-generation"]
N_VIRTUAL = 6
CONFIGS = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}


def with_prompt(kind, architecture, n_positions):
    """A toy with a random prompt or prefix, for at most so many positions."""
    torch.manual_seed(0)
    module_config = toy_config(architecture)
    module_config.max_position_embeddings = n_positions
    module = transformers.AutoModelForCausalLM.from_config(module_config)
    config = CONFIGS[kind](task_type="CAUSAL_LM", num_virtual_tokens=N_VIRTUAL)
    return get_peft_model(module, config).eval()


def by_hand(model, ids, n_new, end):
    """The most likely tokens after `ids`, each by a forward pass over all before it."""
    written = []
    for _ in range(n_new):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*ids, *written]])).logits
        written.append(int(logits[0, -1].argmax()))
        if written[-1] == end:
            break
    return written


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_as_many_tokens_are_written_as_the_prompt_leaves_positions(kind, architecture, tokenizer):
    words, n_positions = with_end_of_text(tokenizer), 16
    model = with_prompt(kind, architecture, n_positions)
    task = PART.fitted(TaskSpec(), Target(kind="completion"), words)
    prompts = ["the food was so", "a plot"]
    made = task.encode([(prompt,) for prompt in prompts], ["good", "bad"], words, 10)
    texts = PART.model_type.generate(model, task.collate(made.examples, made.labels, 0), words, 64)
    n_new = n_positions - N_VIRTUAL - len(words(prompts[0])["input_ids"])
    expected = [by_hand(model, words(prompt)["input_ids"], n_new, words.eos_token_id) for prompt in prompts]
    assert texts == words.batch_decode(expected, skip_special_tokens=True)
