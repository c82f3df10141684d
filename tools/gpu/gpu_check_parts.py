"""What the checks of a GPU share: random models, plans, benches, the peak and time of a step."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn

from autopeft.adapters import compile_plan
from autopeft.estimate import Replay, TrainingStep, measure, without_weights
from autopeft.model import BaseModel, Precision, choose_precision
from autopeft.model.training_pass import can_checkpoint, checkpointed
from autopeft.plugins import Method, discover
from autopeft.tasks._shared.token_losses import pieces_of_a_gpu
from autopeft.train import Bench, EncodedSplit
from autopeft.types import Adapter, Fidelity, Plan

TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TINY |= {"intermediate_size": 128, "vocab_size": 200, "max_position_embeddings": 256}
ONE_B = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}
ONE_B |= {"head_dim": 64, "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True}
EIGHT_B = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
EIGHT_B |= {"intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False}
NEAR = (
    0.10  # largest error of a predicted peak; the allocator's rounding and kernels' own memory are not in it
)
TASK = discover("autopeft.tasks")["text-generation"]
METHODS: dict[str, Method] = discover("autopeft.methods")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where the checks run, and how large they are."""

    device: torch.device
    tiny: bool

    @property
    def precision(self) -> Precision:
        """Return the number format that a search chooses on the GPU."""
        if self.tiny:
            return Precision()
        return choose_precision(transformers.LlamaConfig(**ONE_B), self.device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """The answer of one check: PASS, FAIL or SKIP, and its numbers."""

    name: str
    status: str
    numbers: dict[str, Any]


def base_of(shape: dict[str, Any], place: Place, **settings: Any) -> BaseModel:
    """Build a Llama of a shape with random weights on the device."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**shape, **settings)
    with torch.device(place.device):
        module = transformers.AutoModelForCausalLM.from_config(config, dtype=place.precision.torch_dtype)
    return BaseModel(module, None, name="random", untrained=frozenset(), precision=place.precision)


def skeleton_of(shape: dict[str, Any]) -> BaseModel:
    """Build the same without weights."""
    with torch.device("meta"):
        module = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**shape))
    return BaseModel(module, None, name="skeleton", untrained=frozenset())


def plan_of(base: BaseModel, method: Method, *, rank: int = 4, rate: float = 1e-3) -> Plan | None:
    """Plan a method at every target module that it fits, near a rank; None where it fits none."""
    adapters = []
    for target in base.chosen:
        if method.refusal(target) is None:
            options = method.options(target)
            ranks = [known for known in method.ranks(target, options) if known <= rank]
            best = max(ranks, default=min(method.ranks(target, options), default=0))
            adapters.append(
                Adapter(
                    method=method.name,
                    target=target.name,
                    rank=best,
                    scale=method.scale(best),
                    options=tuple(options.items()),
                )
            )
    if not adapters:
        return None
    return Plan(adapters=tuple(adapters), learning_rate=rate, trainable_params=_cost(base, adapters))


def _cost(base: BaseModel, adapters: Sequence[Adapter]) -> int:
    targets = {target.name: target for target in base.chosen}
    return sum(METHODS[a.method].cost(targets[a.target], a.rank, dict(a.options)) for a in adapters)


def bench_of(
    base: BaseModel, place: Place, *, n_tokens: int = 32, is_ragged: bool = False, **settings: Any
) -> Bench:
    """Build a bench on rows of random tokens, of eight lengths if they are ragged."""
    generator = torch.Generator().manual_seed(0)
    n_words = len(base.module.get_input_embeddings().weight)
    rows = torch.randint(1, n_words, (64, n_tokens), generator=generator).tolist()
    rows = [row[i % 8 :] if is_ragged else row for i, row in enumerate(rows)]
    examples = tuple({"input_ids": row, "attention_mask": [1] * len(row)} for row in rows)
    splits = {
        name: EncodedSplit(examples=examples[part], labels=tuple(rows[part]))
        for name, part in {
            "train": slice(0, 48),
            "search": slice(48, 64),
            "confirm": slice(48, 64),
        }.items()
    }
    return Bench(base=base, task=settings.pop("task", TASK), methods=METHODS, splits=splits, **settings)


def short_run(n_steps: int, batch_size: int) -> Fidelity:
    """Return the fidelity of a short run of some steps, evaluated on 8 rows."""
    return Fidelity(
        split="search", train_steps=n_steps, train_examples=n_steps * batch_size, eval_examples=8, seed=0
    )


def step_of(place: Place, vocabulary: int) -> TrainingStep:
    """Return a step of 4 rows of 512 tokens, a quarter of them labelled."""
    n_rows, n_tokens = (2, 16) if place.tiny else (4, 512)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, vocabulary, (n_rows, n_tokens), generator=generator)
    labels = ids.clone()
    labels[:, : 3 * n_tokens // 4] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return TrainingStep(
        batch=batch,
        loss=TASK.loss,
        n_terms=TASK.n_terms(batch),
        autocast=place.precision.dtype == "bfloat16",
        checkpointing=True,
    )


def peak_bytes_of(model: nn.Module, step: TrainingStep, place: Place) -> int:
    """Measure the peak bytes of a step, as torch counts them on a GPU and `measure` on a CPU."""
    if place.tiny:
        return measure(model, step).peak_bytes
    measure(model, step)  # the first step warms up
    torch.cuda.synchronize(place.device)
    torch.cuda.reset_peak_memory_stats(place.device)
    measure(model, step)
    torch.cuda.synchronize(place.device)
    return torch.cuda.max_memory_allocated(place.device)


def seconds_of(model: nn.Module, step: TrainingStep, place: Place) -> float:
    """Measure the seconds of a step, without counting memory, which costs time at every kernel."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, seconds = torch.optim.AdamW(trained, fused=True), 0.0
    model.train()
    with checkpointed(model) if can_checkpoint(model) else contextlib.nullcontext():
        for _ in range(2):  # the first step warms up
            wait(place)
            started = time.perf_counter()
            placed = {name: tensor.to(place.device) for name, tensor in step.batch.items()}
            with place.precision.autocast(place.device):
                loss = TASK.loss(model, placed)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            wait(place)
            seconds = time.perf_counter() - started
    return seconds


def memory_finding(
    name: str, base: BaseModel, skeleton: BaseModel, place: Place, *, plan: Plan | None = None
) -> Finding:
    """Compare the peak of a step with its replay, and measure tokens per second; LoRA without a plan."""
    plan = plan or planned(base)
    configs = compile_plan(plan, METHODS).configs
    step = step_of(place, len(base.module.get_input_embeddings().weight))
    dtype = place.precision.torch_dtype
    adapted = without_weights(skeleton, configs, task_type="CAUSAL_LM", dtype=dtype)
    with contextlib.nullcontext() if place.tiny else pieces_of_a_gpu():
        predicted = Replay(adapted).memory(dataclasses.replace(step, on_gpu=not place.tiny)).peak_bytes
    with base.attached(configs, plan=plan, task_type="CAUSAL_LM", seed=0) as model:
        peak, seconds = peak_bytes_of(model, step, place), seconds_of(model, step, place)
    numbers = {
        "predicted_gb": round(predicted / 1e9, 4),
        "measured_gb": round(peak / 1e9, 4),
        "error": round(predicted / peak - 1, 4),
        "seconds": round(seconds, 2),
        "tokens_per_second": round(step.batch["input_ids"].numel() / seconds),
    }
    return Finding(name=name, status="PASS" if abs(numbers["error"]) <= NEAR else "FAIL", numbers=numbers)


def planned(base: BaseModel, **options: Any) -> Plan:
    """Return LoRA of rank 16 on all linear layers, with options of its own."""
    plan = plan_of(base, METHODS["lora"], rank=16)
    assert plan is not None, "a Llama has linear layers"
    adapters = [
        dataclasses.replace(adapter, options=tuple((dict(adapter.options) | options).items()))
        for adapter in plan.adapters
    ]
    return dataclasses.replace(plan, adapters=tuple(adapters), trainable_params=_cost(base, adapters))


def saved_base(shape: dict[str, Any], place: Place, folder: str) -> None:
    """Save a Llama of a shape with random weights, with a tokenizer of one token per word."""
    words = {f"w{index}": index for index in range(4, shape["vocab_size"])}
    words |= {"[PAD]": 0, "[UNK]": 1, "[BOS]": 2, "[EOS]": 3}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    special = {name: f"[{name[:3].upper()}]" for name in ("pad_token", "unk_token", "bos_token", "eos_token")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    base_of(shape, place, bos_token_id=2, eos_token_id=3).module.save_pretrained(folder)


def wait(place: Place) -> None:
    """Wait until the device has finished."""
    if place.device.type == "cuda":
        torch.cuda.synchronize(place.device)
