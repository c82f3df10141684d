"""What a device has decides micro-batches and checkpointing, unless the user does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

from autopeft.model import BaseModel
from autopeft.plugins import discover
from autopeft.train import Bench, Compute, EncodedSplit, choose_compute, choosing
from autopeft.train.choosing import most_tokens
from autopeft.types import ExecutionSpec

GIB, MIB = 2**30, 2**20


@pytest.mark.parametrize(
    ("device", "token_bytes", "room", "weights", "tokens"),
    [
        ("cpu", MIB // 8, 16 * GIB, GIB, 2048),  # a small model: more at once brings no speed
        ("cpu", 2 * MIB, 16 * GIB, 4 * GIB, 512),  # a quarter of the weights
        ("cpu", 2 * MIB, 16 * GIB, GIB, 256),  # fewer would cost time
        ("cpu", 2 * MIB, 325 * MIB, 4 * GIB, 128),  # there is room for 162
        ("cpu", 2 * MIB, 0, 4 * GIB, 1),
        ("cuda", 2 * MIB, 325 * MIB, 4 * GIB, 128),
        ("cuda", 2 * MIB, 2 * 1535 * MIB, 4 * GIB, 1024),  # there is room for 1535
        ("cuda", 2 * MIB, 10 * GIB, 4 * GIB, 5120),
        ("cuda", 2 * MIB, 8 * GIB, 4 * GIB, 4096),
        ("cuda", 2 * MIB, 80 * GIB, 4 * GIB, 16384),
    ],
)
def test_micro_batches_are_as_large_as_brings_speed_and_memory_allows(
    device, token_bytes, room, weights, tokens
):
    assert most_tokens(device, token_bytes, available=room, weights=weights)[0] == tokens


def eight_b():
    """A Llama of 8 billion weights, without any."""
    shape = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 128_256}
    config = transformers.LlamaConfig(**shape, num_key_value_heads=8, intermediate_size=14_336)
    with torch.device("meta"):
        module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return BaseModel(module, None, name="8 B", untrained=frozenset())


@pytest.mark.parametrize(
    ("gigabytes", "percent", "n_gpus"), [(7.4, 0.5, 1), (7.4, 2, 1), (24, 1, 1), (44, 0.5, 1), (7.4, 0.5, 4)]
)
def test_what_rows_keep_fits_beside_all_else_that_a_gpu_holds(
    gigabytes, percent, n_gpus, methods, monkeypatch
):
    free, input_bytes, n_layers = int(gigabytes * 1e9), 2 * 4096, 32  # of a token, in 16 bits
    layer_bytes = 17 * input_bytes  # what a layer keeps without checkpointing

    def saved_bytes(self, plan, rows):
        per_token = input_bytes if self.compute.checkpointing else input_bytes + layer_bytes
        return 8192 * len(rows) * n_layers * per_token

    monkeypatch.setattr(Bench, "saved_bytes", saved_bytes)
    monkeypatch.setattr(choosing, "free_bytes", lambda *_, **__: free)
    row = {"input_ids": [1] * 8192, "attention_mask": [1] * 8192}
    splits = {"train": EncodedSplit(examples=(row,), labels=([1] * 8192,))}
    task, base = discover("autopeft.tasks")["text-generation"], eight_b()
    bench = Bench(base=base, task=task, methods=methods, splits=splits, batch_size=8)
    base.module.hf_device_map = {f"model.layers.{gpu}": gpu for gpu in range(n_gpus)}
    trained = int(percent / 100 * base.base_params)
    compute, _ = choose_compute(bench, ExecutionSpec(), trained_params=trained)
    kept = compute.micro_batch_tokens * (n_layers // n_gpus * input_bytes + layer_bytes)
    optimizer = trained * 4 * 4  # the parameters, their gradients, two moments
    logits = 128_256 * 523 * 2 * (2 + 4)  # of one piece and their gradients, in 16 and in 32 bits
    batches = 0.1 * free
    assert compute.checkpointing
    assert kept + optimizer + logits + batches <= free
    is_capped = compute.micro_batch_tokens == 16_384
    step = 512 * kept // compute.micro_batch_tokens if compute.micro_batch_tokens > 512 else kept
    assert is_capped or kept + step + optimizer + logits + batches > 0.9 * free


@pytest.mark.parametrize("tokens", [None, 4096])
def test_plans_that_cannot_be_checkpointed_get_as_many_tokens_as_keep_the_same(tokens, make_bench, make_plan):
    """The toy has two layers: with checkpointing a row keeps their inputs, and what one of them keeps."""
    bench = make_bench()
    longest = [int(bench.splits["train"].sizes.argmax())]
    plan = make_plan(bench.base, "lora", rank=8)
    plain = bench.saved_bytes(plan, longest)
    inputs = replace(bench, compute=Compute(checkpointing=True)).saved_bytes(plan, longest)
    compute, _ = choose_compute(bench, ExecutionSpec(checkpointing="on", micro_batch_tokens=tokens))
    share = (inputs + (plain - inputs) / 2) / plain
    assert compute.plain_tokens == pytest.approx(share * compute.micro_batch_tokens, rel=0.05)
    off, _ = choose_compute(bench, ExecutionSpec(checkpointing="off", micro_batch_tokens=tokens))
    assert off.plain_tokens == off.micro_batch_tokens


def test_less_memory_makes_smaller_micro_batches_and_then_checkpoints(make_bench, make_base):
    bench = make_bench(base=make_base("bert"))
    lengths = bench.splits["train"].lengths
    roomy, _ = choose_compute(bench, ExecutionSpec())
    assert not roomy.checkpointing
    assert roomy.micro_batch_tokens >= 8 * lengths.max()  # a whole step
    tight, decisions = choose_compute(bench, ExecutionSpec(memory_bytes=1))
    assert (tight.micro_batch_tokens, tight.checkpointing) == (1, True)
    names = ["execution.micro_batch_tokens", "execution.checkpointing"]
    assert [decision.setting for decision in decisions] == names


@pytest.mark.parametrize("requested", ["auto", "on"])
def test_a_row_that_fits_with_checkpointing_alone_is_checkpointed(requested, make_bench, monkeypatch):
    bench, counted = make_bench(), Bench.saved_bytes

    def scarce(self, plan, rows):
        if not self.compute.checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return counted(self, plan, rows)

    plain, _ = choose_compute(bench, ExecutionSpec(checkpointing="off"))
    monkeypatch.setattr(Bench, "saved_bytes", scarce)
    compute, _ = choose_compute(bench, ExecutionSpec(checkpointing=requested, memory_bytes=10**9))
    assert compute.checkpointing and 1 <= compute.micro_batch_tokens <= plain.micro_batch_tokens
    with pytest.raises(torch.OutOfMemoryError):
        choose_compute(bench, ExecutionSpec(checkpointing="off"))


def test_what_is_set_is_not_chosen(make_bench):
    bench = make_bench()
    requested = ExecutionSpec(micro_batch_tokens=40, checkpointing="off", memory_bytes=1)
    compute, decisions = choose_compute(bench, requested)
    assert (compute.micro_batch_tokens, compute.checkpointing, decisions) == (40, False, ())
    on, decisions = choose_compute(bench, ExecutionSpec(checkpointing="on"))
    assert on.checkpointing
    assert [decision.setting for decision in decisions] == ["execution.micro_batch_tokens"]


def test_checkpointed_row_keeps_less_and_trains_to_the_same_numbers(make_bench, make_plan, fidelity):
    plain, thrifty = make_bench(), make_bench()
    thrifty.compute.checkpointing = True
    plan = make_plan(plain.base, "lora")
    assert thrifty.saved_bytes(plan, [0, 1]) < 0.6 * plain.saved_bytes(plan, [0, 1])
    seen, again = (bench.measure(plan, fidelity()) for bench in (plain, thrifty))
    assert again.loss == pytest.approx(seen.loss, abs=1e-6)  # with dropout, whose draws repeat
    assert again.peak_bytes < seen.peak_bytes
