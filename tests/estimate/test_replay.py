"""A replayed step has the bytes of a real one, to the byte, and of closed forms."""

from __future__ import annotations

from dataclasses import replace

import peft
import pytest
import torch
import transformers
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode
from toys.bases import PEFT_TASKS, toy_base
from toys.topologies import build

from autopeft.adapters import compile_plan
from autopeft.errors import SpecError
from autopeft.estimate import Replay, TrainingStep, measure, quantize_linear_layers, without_weights
from autopeft.estimate.memory_tracker import MemoryTracker
from autopeft.model import BaseModel, attach
from autopeft.model.quantization import BYTES_PER_WEIGHT
from autopeft.plugins import discover

HIDDEN, N_ROWS, N_TOKENS = 16, 3, 7
TASKS = {"bert": "text-classification", "llama": "text-classification", "llama-lm": "text-generation"}


def skeleton_of(base):
    """The same model on the meta device, with the names of its untrained weights."""
    with torch.device("meta"):
        module = type(base.module)(base.module.config)
    return BaseModel(module, None, name=base.name, untrained=base.untrained)


def batch_of(architecture):
    """Rows of one length, the last token of each row being padding."""
    ids = torch.arange(N_ROWS * N_TOKENS).reshape(N_ROWS, N_TOKENS) % 10
    mask = torch.ones_like(ids)
    mask[:, -1] = 0
    labels = ids.masked_fill(mask == 0, -100) if architecture.endswith("-lm") else torch.tensor([0, 1, 0])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def step_of(architecture, **choices):
    task, batch = discover("autopeft.tasks")[TASKS[architecture]], batch_of(architecture)
    return TrainingStep(batch=batch, loss=task.loss, n_terms=task.n_terms(batch), **choices)


def both(architecture, method, methods, make_plan, *, dtype=torch.float32, **choices):
    """The memory of a step, replayed without weights and measured with them."""
    base, step = toy_base(architecture, hidden=HIDDEN), step_of(architecture, **choices)
    configs = compile_plan(make_plan(base, method), methods).configs
    task_type = PEFT_TASKS.get(architecture, "SEQ_CLS")
    adapted = without_weights(skeleton_of(base), configs, task_type=task_type, dtype=dtype)
    predicted = Replay(adapted).memory(step)
    for parameter in base.module.parameters():
        parameter.data = parameter.data.to(dtype)
    base.widen_head()
    real = attach(base.module, configs, task_type=task_type, head_names=base.head_names)
    return predicted, measure(real, step)


LABELS = 8 * N_ROWS * N_TOKENS  # one more copy of the labels, where code asks which tokens have one


def assert_same(predicted, real, *, slack):
    assert replace(predicted, peaks={}) == replace(real, peaks={})
    assert predicted.peaks.keys() == real.peaks.keys()
    assert abs(predicted.peak_bytes - real.peak_bytes) <= slack
    for phase, peak in real.peaks.items():  # a kernel may take more for itself than its stand-in
        assert predicted.peaks[phase] == pytest.approx(peak, rel=0.1, abs=slack), phase


@pytest.mark.parametrize(
    "architecture", ["bert", "llama-lm", pytest.param("llama", marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize(
    "choices",
    [{}, {"dtype": torch.bfloat16, "autocast": True}, {"foreach": True}, {"checkpointing": True}],
    ids=str,
)
def test_replayed_step_has_the_bytes_of_a_real_one(architecture, choices, methods, make_plan):
    predicted, real = both(architecture, "lora", methods, make_plan, **choices)
    assert_same(predicted, real, slack=LABELS if architecture.endswith("-lm") else 0)


@pytest.mark.parametrize("method", sorted(discover("autopeft.methods")))
def test_replayed_step_of_every_method_has_the_bytes_of_a_real_one(method, methods, make_plan):
    architecture = "bert" if method == "bitfit" else "llama-lm"  # a Llama has no biases
    predicted, real = both(architecture, method, methods, make_plan)
    assert_same(predicted, real, slack=LABELS if architecture.endswith("-lm") else 0)


@pytest.mark.parametrize("choices", [{}, {"checkpointing": True}], ids=str)
def test_replayed_step_of_hira_in_16_bits_has_the_bytes_of_a_real_one(choices, methods, make_plan):
    """It computes its updates again in the backward pass, in the format of autocast."""
    usual = {"dtype": torch.bfloat16, "autocast": True}
    predicted, real = both("llama-lm", "hira", methods, make_plan, **usual, **choices)
    assert_same(predicted, real, slack=LABELS)


def test_adapter_with_sparse_tensors_is_refused():
    config, base = peft.ShiraConfig(r=2, target_modules=["q_proj"]), toy_base("llama-lm")
    adapted = without_weights(skeleton_of(base), [config], task_type="CAUSAL_LM", dtype=torch.float32)
    with pytest.raises(SpecError):
        Replay(adapted).memory(step_of("llama-lm"))


# Their code in `peft` reads values of tensors.
READING = {
    "unilora": ("UniLoraConfig", {"r": 2, "theta_d_length": 32}),
    "vblora": ("VBLoRAConfig", {"r": 2, "num_vectors": 20, "vector_length": 8, "topk": 2}),
}


@pytest.mark.parametrize("name", READING)
def test_method_whose_code_reads_values_is_near_a_real_step(name):
    kind, fields = READING[name]
    config = getattr(peft, kind)(target_modules=["q_proj", "v_proj"], **fields)
    base, step = toy_base("llama-lm", hidden=64), step_of("llama-lm")
    adapted = without_weights(skeleton_of(base), [config], task_type="CAUSAL_LM", dtype=torch.float32)
    predicted = Replay(adapted).memory(step)
    real = measure(attach(base.module, [config], task_type="CAUSAL_LM", head_names=()), step)
    assert predicted.trained_bytes == pytest.approx(real.trained_bytes, rel=0.01)  # k-means has other parts
    assert predicted.peak_bytes == pytest.approx(real.peak_bytes, rel=0.02)


def llama_skeleton(**shape):
    config = transformers.LlamaConfig(**{"num_attention_heads": 2, "num_hidden_layers": 1} | shape)
    with torch.device("meta"):
        module = transformers.AutoModelForCausalLM.from_config(config)
    return BaseModel(module, None, name="skeleton", untrained=frozenset())


def lora_of(rank):
    return LoraConfig(r=rank, target_modules=["q_proj", "down_proj"])


def plain_loss(model, batch):
    return model(**batch).loss


def test_bytes_of_weights_adapters_and_moments_follow_from_the_shapes():
    hidden, inner, words, rank = 32, 80, 50, 4
    base = llama_skeleton(
        hidden_size=hidden, intermediate_size=inner, vocab_size=words, tie_word_embeddings=False
    )
    adapted = without_weights(base, [lora_of(rank)], task_type="CAUSAL_LM", dtype=torch.bfloat16)
    step = TrainingStep(batch=batch_of("llama-lm"), loss=plain_loss)
    memory = Replay(adapted).memory(step)
    frozen = 2 * words * hidden + 4 * hidden**2 + 3 * hidden * inner + 3 * hidden
    trained = rank * (hidden + hidden) + rank * (inner + hidden)
    rotary = 2 * 4 * (hidden // 2 // 2)  # inverse frequencies in float32, and a copy of them
    assert memory.weights_bytes == 2 * frozen + rotary
    assert memory.trained_bytes == 4 * trained
    n_steps_taken = 4 * 4  # one float32 for each of four tensors
    assert memory.optimizer_bytes == 2 * 4 * trained + n_steps_taken
    assert memory.peak_bytes > memory.weights_bytes + 4 * 4 * trained


def test_layers_that_may_be_dropped_are_all_counted():
    """LayerDrop compares a random number with its chance, which stand-ins of values answered by True."""

    def memory(chance):
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 50}
        config = transformers.BioGptConfig(**shape, num_attention_heads=2, layerdrop=chance)
        with torch.device("meta"):
            module = transformers.BioGptForCausalLM(config)
        return Replay(module).memory(TrainingStep(batch=batch_of("llama-lm"), loss=plain_loss))

    dropping, plain = memory(0.5), memory(0.0)
    assert dropping.flops == plain.flops > 0
    assert 0 <= dropping.peak_bytes - plain.peak_bytes <= 8  # the random numbers themselves


@pytest.mark.parametrize(("quantize", "bytes_per_weight"), [("4bit", 0.515869140625), ("8bit", 1.0)])
def test_quantized_layers_take_their_packed_bytes_and_one_layer_unpacked(quantize, bytes_per_weight):
    hidden, inner = 64, 1024  # so wide that the peak is where a layer is unpacked
    shape = {"hidden_size": hidden, "intermediate_size": inner, "vocab_size": 20}

    def memory(quantize):
        base = llama_skeleton(**shape)
        if quantize is not None:
            quantize_linear_layers(base.module, BYTES_PER_WEIGHT[quantize], skipped=("lm_head",))
        adapted = without_weights(base, [lora_of(2)], task_type="CAUSAL_LM", dtype=torch.bfloat16)
        return Replay(adapted).memory(TrainingStep(batch=batch_of("llama-lm"), loss=plain_loss))

    plain, packed = memory(None), memory(quantize)
    n_weights = 4 * hidden**2 + 3 * hidden * inner
    assert plain.weights_bytes - packed.weights_bytes == (2 - bytes_per_weight) * n_weights
    largest = 2 * hidden * inner
    excess = packed.peak_bytes - packed.weights_bytes - (plain.peak_bytes - plain.weights_bytes)
    assert 0 < excess <= largest


@pytest.mark.parametrize("checkpointing", [False, True])
def test_layer_norm_gives_float32_under_a_gpus_autocast(checkpointing, methods, make_plan):
    def body_bytes(architecture, *, on_gpu):
        base = toy_base(architecture, hidden=HIDDEN)
        configs = compile_plan(make_plan(base, "lora"), methods).configs
        skeleton = skeleton_of(base)
        model = without_weights(skeleton, configs, task_type="SEQ_CLS", dtype=torch.bfloat16)
        step = step_of(architecture, autocast=True, on_gpu=on_gpu, checkpointing=checkpointing)
        return Replay(model).memory(step).body_bytes

    # BERT's residual stream follows a LayerNorm; Llama has RMSNorm, whose code is alike on both.
    assert body_bytes("bert", on_gpu=True) > 1.05 * body_bytes("bert", on_gpu=False)
    assert body_bytes("llama", on_gpu=True) == body_bytes("llama", on_gpu=False)


def test_products_of_experts_are_those_of_each_row_with_its_expert():
    rows, experts = torch.randn(6, 16).bfloat16(), torch.randn(3, 16, 8).bfloat16()
    with MemoryTracker() as tracker:
        torch._grouped_mm(rows, experts, offs=torch.tensor([1, 3, 6], dtype=torch.int32))
    with FlopCounterMode(display=False) as counted:
        _ = rows[:1] @ experts[0], rows[1:3] @ experts[1], rows[3:] @ experts[2]
    assert tracker.flops == counted.get_total_flops()


def test_experts_in_float32_take_the_bytes_and_products_of_real_ones():
    step = TrainingStep(batch=batch_of("llama-lm"), loss=plain_loss)
    predicted, real = Replay(build("mixtral")).memory(step), measure(build("mixtral", device="cpu"), step)
    assert (predicted.peak_bytes, predicted.flops) == (real.peak_bytes, real.flops)


def test_operations_of_a_step_are_those_that_torch_counts():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 5, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**sizes, vocab_size=2000)
    config._attn_implementation = "eager"  # torch has no count of the CPU's fused attention
    model = transformers.LlamaForCausalLM(config)
    ids = torch.zeros(2, 10, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    with FlopCounterMode(display=False) as counted:
        model(**batch).loss.backward()
    step = TrainingStep(batch=batch, loss=plain_loss)
    assert measure(model, step).flops == counted.get_total_flops()
    config._attn_implementation = "sdpa"
    fused = measure(transformers.LlamaForCausalLM(config), step).flops
    # The fused backward pass multiplies queries and keys once more, for rows of ten tokens in five layers.
    assert fused == counted.get_total_flops() + 5 * 2 * 2 * 10 * 10 * 32


def test_a_model_that_was_replayed_before_takes_what_a_new_one_takes():
    def skeleton():
        shape = {"hidden_size": 32, "intermediate_size": 80, "vocab_size": 50, "num_hidden_layers": 4}
        return without_weights(
            llama_skeleton(**shape), [lora_of(4)], task_type="CAUSAL_LM", dtype=torch.bfloat16
        )

    steps = [step_of("llama-lm", checkpointing=on) for on in (False, True, False)]
    used = Replay(skeleton())
    assert [used.memory(step) for step in steps] == [Replay(skeleton()).memory(step) for step in steps]
