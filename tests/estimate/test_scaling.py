"""A step that was scaled up from few layers has the bytes of the same step replayed with all layers."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import transformers
from peft import LoraConfig

from autopeft.adapters import read_configs
from autopeft.errors import TargetError
from autopeft.estimate import Rates, Replay, Setup, TrainedPart, by_name, describe
from autopeft.estimate.answers import in_parts, longest_row, most_rows, step_of
from autopeft.plugins import discover
from autopeft.types import ModelSpec

N_LAYERS, HIDDEN, WORDS = 7, 32, 400
RATES = Rates(name="", flops=1e9, bytes=1e8, call_seconds=1e-6, runs_ahead=True)
METHODS, TASKS = discover("autopeft.methods"), discover("autopeft.tasks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A config of a small Llama of seven layers, without weights."""
    return saved_config(tmp_path_factory.mktemp("llama"), n_words=WORDS, n_positions=4096)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """As `folder`, with adapters of a high rank that count next to the activations of a long row."""
    path = tmp_path_factory.mktemp("wide")
    return saved_config(path, n_words=WORDS, n_positions=2**16, hidden_size=256, intermediate_size=700)


def saved_config(path, *, n_words, n_positions, **sizes):
    config = transformers.LlamaConfig(
        **{"hidden_size": HIDDEN, "intermediate_size": 80, **sizes},
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        vocab_size=n_words,
        max_position_embeddings=n_positions,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(path)
    return path


def described(folder, word, **setup):
    choices = {"dtype": torch.bfloat16} | setup
    model = ModelSpec(id=str(folder), quantize=choices.pop("quantize", "none"))
    return describe(by_name(word, METHODS), Setup(model=model, **choices), methods=METHODS, tasks=TASKS)


def whole(traced, n_rows, n_tokens, *, checkpointing=False):
    """The step as it is, with all layers."""
    return Replay(traced.build(None)).memory(traced.step(n_rows, n_tokens, checkpointing=checkpointing))


@pytest.mark.parametrize(
    ("word", "checkpointing"),
    [
        ("lora_r4", True),
        ("full", False),
        *(
            pytest.param(*case, marks=pytest.mark.nightly)
            for case in (("lora_r4", False), ("full", True), *product(("ia3", "hira_r4"), (False, True)))
        ),
    ],
)
def test_few_layers_scaled_up_have_the_bytes_of_all_layers(folder, word, checkpointing):
    traced = described(folder, word, rates=RATES).traced
    assert traced.n_layers == N_LAYERS
    scaled = traced.at(3, 100, checkpointing=checkpointing)
    replayed = whole(traced, 3, 100, checkpointing=checkpointing)
    assert scaled.peaks.keys() == replayed.peaks.keys()
    assert scaled.peak_bytes == replayed.peak_bytes
    assert scaled.weights_bytes == replayed.weights_bytes
    assert scaled.optimizer_bytes == replayed.optimizer_bytes
    assert scaled.body_bytes == replayed.body_bytes
    assert scaled.busy_seconds == pytest.approx(replayed.busy_seconds, rel=1e-6)
    assert scaled.n_calls == pytest.approx(replayed.n_calls, rel=0.01)


@pytest.mark.parametrize(
    ("n_tokens", "word", "quantize"),
    [
        (8192, "lora_r64", "4bit"),
        (32_768, "lora_r8", "none"),
        *(
            pytest.param(*case, marks=pytest.mark.nightly)
            for case in product((8192, 16_384, 32_768), ("lora_r8", "lora_r64"), ("none", "4bit"))
        ),
    ],
)
def test_long_rows_have_the_bytes_of_all_layers_and_no_negative_part(wide, n_tokens, word, quantize):
    traced = described(wide, word, quantize=quantize).traced
    step = traced.at(1, n_tokens, checkpointing=True)
    replayed = whole(traced, 1, n_tokens, checkpointing=True)
    assert step.peak_bytes == pytest.approx(replayed.peak_bytes, rel=0.005)
    parts, expected = (in_parts(memory, on_gpu=True) for memory in (step, replayed))
    assert parts.trained == pytest.approx(expected.trained, rel=0.05)
    assert min(parts.weights, parts.trained, parts.activations, parts.logits) >= 0
    assert parts.activations > 0


def test_more_rank_never_fits_longer_rows(wide):
    lengths = []
    for rank in (8, 64):
        traced = described(wide, f"lora_r{rank}").traced
        step = step_of(traced, 1, 16_384, checkpointing=True)
        lengths.append(longest_row(traced, step, 2 * 2**30, limit=2**16))
    assert lengths[0] > lengths[1] > 8192


def test_hira_in_another_loop_keeps_its_update_of_each_layer(folder):
    traced = (described(folder, "hira_r2", plain_loop=plain).traced for plain in (False, True))
    ours, theirs = (step_of(each, 2, 64).memory for each in traced)
    n_weights = 4 * HIDDEN**2 + 3 * HIDDEN * 80
    assert theirs.activations - ours.activations >= 2 * (N_LAYERS - 1) * n_weights


def test_methods_that_need_the_weights_are_refused_on_quantized_layers(folder):
    with pytest.raises(TargetError, match="loha"):
        described(folder, "loha_r2", quantize="4bit")
    assert not described(folder, "loha_r2").can_be_quantized  # so that no advice names them
    assert described(folder, "lora_r2").can_be_quantized


def test_layers_that_train_unevenly_are_all_replayed(folder, tmp_path):
    LoraConfig(target_modules=["q_proj"], layers_to_transform=[5, 6]).save_pretrained(tmp_path)
    part = TrainedPart(label="last", files=tuple(read_configs(tmp_path)), path=tmp_path)
    setup = Setup(model=ModelSpec(id=str(folder)), dtype=torch.bfloat16)
    uneven = describe(part, setup, methods=METHODS, tasks=TASKS)
    assert uneven.traced.n_layers is None
    assert uneven.count.trainable_params == 2 * 8 * (HIDDEN + HIDDEN)


def test_parts_of_a_step_are_what_the_shapes_say(folder):
    traced = described(folder, "lora_r4", plain_loop=True).traced
    memory = step_of(traced, 2, 64).memory
    n_weights = 4 * HIDDEN**2 + 3 * HIDDEN * 80
    n_frozen = N_LAYERS * (n_weights + 2 * HIDDEN) + 2 * WORDS * HIDDEN + HIDDEN
    assert memory.weights == pytest.approx(2 * n_frozen, rel=0.001)  # and a few numbers of the rotation
    n_trained = 4 * N_LAYERS * (4 * 2 * HIDDEN + 3 * (HIDDEN + 80))
    assert 12 * n_trained <= memory.trained <= 16 * n_trained + 4 * 14 * N_LAYERS
    assert memory.logits >= 4 * 2 * 64 * WORDS  # the logits in float32 once, at least
    assert memory.low < memory.expected < memory.high
    assert memory.low == memory.weights + memory.trained + memory.activations + memory.logits


@pytest.mark.parametrize("checkpointing", [False, True])
def test_most_rows_fit_and_one_more_does_not(folder, checkpointing):
    traced, on = described(folder, "lora_r4").traced, {"checkpointing": checkpointing}
    max_bytes = 2**29 + 150 * 10**6

    def high(n_rows, n_tokens):
        memory = whole(traced, n_rows, n_tokens, **on)
        return in_parts(memory, on_gpu=True).high

    n_rows = most_rows(traced, step_of(traced, 16, 1024, **on), max_bytes)
    assert n_rows > 1
    assert high(n_rows, 1024) <= 1.005 * max_bytes
    assert high(n_rows + 1, 1024) > 0.995 * max_bytes
    n_tokens = longest_row(traced, step_of(traced, 3, 1024, **on), max_bytes, limit=4096)
    assert high(3, n_tokens) <= 1.005 * max_bytes


def test_4bit_and_float32_change_only_the_weights(folder):
    def weights(**setup):
        return described(folder, "lora_r4", **setup).traced.at(1, 32).weights_bytes

    n_linear = N_LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * 80)
    plain = weights()
    assert plain - weights(quantize="4bit") == pytest.approx((2 - 0.515869) * n_linear, rel=0.001)
    assert weights(dtype=torch.float32) == pytest.approx(2 * plain, rel=0.001)


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        (transformers.BertConfig, "BertForSequenceClassification"),
        (transformers.Qwen3Config, "Qwen3ForCausalLM"),
        (transformers.Gemma3TextConfig, "Gemma3ForCausalLM"),
        (transformers.GPT2Config, "GPT2LMHeadModel"),
    ],
)
def test_families_are_scaled_too(kind, task, tmp_path):
    shape = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "vocab_size": 100}
    if kind is not transformers.GPT2Config:
        shape |= {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 16}
    kind(**shape, architectures=[task]).save_pretrained(tmp_path)
    traced = described(tmp_path, "lora_r2").traced
    assert traced.n_layers == 6
    scaled = traced.at(2, 50)
    replayed = whole(traced, 2, 50)
    # Of six layers of a Gemma 3 one attends to all tokens, with a mask that the first few do not have.
    assert scaled.peak_bytes == pytest.approx(replayed.peak_bytes, rel=0.005)
