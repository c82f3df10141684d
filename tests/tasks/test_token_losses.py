"""Losses in pieces over labelled tokens, against plain cross-entropy on all logits of the model."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
import transformers
from torch import nn
from toys import topologies
from toys.bases import state_of
from toys.storages import LargestStorage
from toys.words import VOCABULARY

from autopeft.plugins import LabelSpace, discover
from autopeft.tasks._shared import token_losses
from autopeft.types import TaskSpec

TASKS = discover("autopeft.tasks")
FAMILIES = topologies.FAMILIES | topologies.TOPOLOGIES
CAUSAL = [name for name, (_, _, auto_class) in FAMILIES.items() if auto_class == topologies.CAUSAL]
CAUSAL.remove("rwkv")  # whose own backward pass fails in eval mode
V = len(VOCABULARY)
SHAPE = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
PHI = {name: value for name, value in SHAPE.items() if name != "head_dim"}
CONFIGS = {
    "llama": transformers.LlamaConfig(**SHAPE),
    "tied": transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "softcapped": transformers.Gemma2Config(**SHAPE, final_logit_softcapping=2.0),
    "scaled": transformers.CohereConfig(**SHAPE, logit_scale=0.3),
    "divided": transformers.GraniteConfig(**SHAPE, logits_scaling=3.0),
    "biased": transformers.PhiConfig(**PHI),
    "experts": transformers.MixtralConfig(**SHAPE, num_local_experts=3, output_router_logits=True),
    "opt": transformers.OPTConfig(
        vocab_size=V, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
        word_embed_proj_dim=8, max_position_embeddings=32, dropout=0.0, pad_token_id=0,
    ),
    "bert": transformers.BertConfig(**PHI, is_decoder=True, hidden_dropout_prob=0.0,
                                    attention_probs_dropout_prob=0.0),
}  # fmt: skip
SEQ2SEQ = {
    "t5": transformers.T5Config(vocab_size=V, d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2,
                                dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0),
    "bart": transformers.BartConfig(vocab_size=V, d_model=16, encoder_layers=1, decoder_layers=2,
                                    encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
                                    decoder_ffn_dim=32, max_position_embeddings=32, dropout=0.0,
                                    init_std=0.3, pad_token_id=0, decoder_start_token_id=2),
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Pieces of 3 tokens."""
    monkeypatch.setattr(token_losses, "PIECE_LOGITS", 3 * V)


def task_of(name):
    return TASKS[name].fitted(TaskSpec(), LabelSpace(kind="completion"))


def model_of(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name in SEQ2SEQ:
            model = transformers.AutoModelForSeq2SeqLM.from_config(copy.deepcopy(SEQ2SEQ[name]))
        else:
            model = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name]))
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)  # biases are 0 at first
    return model.requires_grad_(True)


def batch_of(n_rows=4, n_tokens=9):
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(4, V, (n_rows, n_tokens), generator=draw)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    labels = torch.where(torch.rand(ids.shape, generator=draw) < 0.6, ids, -100).masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def plain_loss(model, batch):
    """Cross-entropy in fp32 on all logits."""
    features = {name: value for name, value in batch.items() if name != "labels"}
    labels = batch["labels"]
    if model.config.is_encoder_decoder:
        logits = model(**batch).logits[:, -labels.shape[1] :]
    else:
        logits, labels = model(**features).logits[:, -labels.shape[1] : -1], labels[:, 1:]
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_as_plain(model, task, batch):
    mine, plain = task.loss(model, batch), plain_loss(model, batch)
    torch.testing.assert_close(mine, plain, rtol=1e-6, atol=0)
    of_mine, of_plain = gradients(model, mine), gradients(model, plain)
    assert of_mine.keys() == of_plain.keys() and of_mine
    size = max(gradient.norm() for gradient in of_plain.values())
    for name, gradient in of_plain.items():
        assert (of_mine[name] - gradient).norm() <= 1e-6 * (gradient.norm() + size), name


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_are_those_of_all_logits(name):
    assert_same_as_plain(model_of(name).eval(), task_of("text-generation"), batch_of())


@pytest.mark.nightly
@pytest.mark.parametrize("name", CAUSAL)
def test_loss_and_gradients_of_many_families_are_those_of_all_logits(name):
    model = topologies.build(name, device="cpu").eval()
    assert_same_as_plain(model, task_of("text-generation"), batch_of())


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_loss_and_gradients_of_an_encoder_with_a_decoder_are_those_of_all_logits(name):
    assert_same_as_plain(model_of(name).eval(), task_of("text2text-generation"), batch_of())


@pytest.mark.parametrize("is_training", [False, True])
def test_checkpointed_layers_change_nothing(is_training):
    model = model_of("llama").train(is_training)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same_as_plain(model, task_of("text-generation"), batch_of())


@pytest.mark.parametrize("name", ["llama", "softcapped"])
@pytest.mark.parametrize("choices", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_adapter_on_the_output_layer_gets_its_gradient(name, choices):
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM", init_lora_weights=False, **choices
    )
    model = peft.get_peft_model(model_of(name).requires_grad_(False), config).eval()
    assert_same_as_plain(model, task_of("text-generation"), batch_of())


def test_autocast_computes_the_same_and_keeps_its_gradients():
    """In bfloat16 the pieces differ from the whole by rounding alone."""
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    model = peft.get_peft_model(model_of("llama").requires_grad_(False), config).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine, plain = task_of("text-generation").loss(model, batch_of()), plain_loss(model, batch_of())
    assert mine.dtype == torch.float32 and mine.item() == pytest.approx(plain.item(), rel=1e-3)
    of_mine, of_plain = gradients(model, mine), gradients(model, plain)
    assert of_mine.keys() == of_plain.keys()
    for name, gradient in of_plain.items():
        assert (of_mine[name] - gradient).norm() <= 0.03 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_model_is_left_as_found(name):
    model = model_of(name).eval()
    before, config = state_of(model), dict(vars(model))
    task = task_of("text2text-generation" if name in SEQ2SEQ else "text-generation")
    task.loss(model, batch_of())
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        task.loss(model, {**batch_of(), "input_ids": torch.full((4, 9), V + 7)})
    assert state_of(model) == before and vars(model).keys() == config.keys()


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_no_keys_and_values_are_kept_for_tokens_that_do_not_come(name):
    model, seen = model_of(name).eval(), []
    model.register_forward_hook(lambda _, __, output: seen.append(output.past_key_values))
    task_of("text2text-generation" if name in SEQ2SEQ else "text-generation").loss(model, batch_of())
    assert seen == [None]


def test_no_tensor_is_as_large_as_all_logits(monkeypatch):
    """With 50,000 words and 4 x 64 tokens: neither all logits, nor those of the labelled half, in fp32."""
    n_words, n_tokens, limit = 50_000, 4 * 64, 2**21
    monkeypatch.setattr(token_losses, "PIECE_LOGITS", limit)
    config = transformers.LlamaConfig(**SHAPE | {"vocab_size": n_words, "max_position_embeddings": 64})
    model = transformers.LlamaForCausalLM(config).requires_grad_(False)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    ids = torch.randint(4, n_words, (4, 64))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    task = task_of("text-generation")
    with LargestStorage() as plain:
        plain_loss(model, batch).backward()
    with LargestStorage() as seen:
        task.loss(model, batch).backward()
        task.evaluate(model, iter([batch]))
    assert plain.largest_bytes >= 4 * n_tokens * n_words
    assert seen.largest_bytes <= 4 * limit < 4 * n_tokens * n_words / 5
