"""A model with what is trained on it, built from the config alone."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from autopeft.adapters import Count, auto_class_of, compile_plan, count_configs, count_plan
from autopeft.errors import SiteError, SpecError
from autopeft.estimate.fake_tensors import quantise_maps
from autopeft.estimate.memory_tracker import repeated_layers
from autopeft.estimate.replay import set_dtype, with_configs, without_weights
from autopeft.estimate.scaling import DEPTHS, TracedModel
from autopeft.estimate.trained_part import Setup, TrainedPart, refusal_in_few_bits, require_trainable
from autopeft.extension import Batch, Method, Task
from autopeft.model import BaseModel, load_skeleton
from autopeft.model.checkpoint_source import is_built_by
from autopeft.model.quantisation import (
    StoredWeights,
    expert_weights,
    output_layer_names,
    plain_experts_note,
    stored_weights,
)
from autopeft.model.training_pass import without_cache
from autopeft.records import Plan
from autopeft.tasks.parts.token_losses import pieces_of_a_gpu

_MOST_EXPERTS = 0.5  # of all weights: with more in experts, few bits save little; chosen by hand
_CAUSAL, _SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"
_CLASSES, _TOKENS = "AutoModelForSequenceClassification", "AutoModelForTokenClassification"
# The auto class of models that read tokens, by the ending of a class of transformers.
_AUTO_CLASSES = {
    "ForCausalLM": _CAUSAL,
    "LMHeadModel": _CAUSAL,
    "ForSequenceClassification": _CLASSES,
    "ForTokenClassification": _TOKENS,
    "ForConditionalGeneration": _SEQ2SEQ,
    "ForSeq2SeqLM": _SEQ2SEQ,
}


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is trained on which base model: how to replay it, and what is counted.

    `task` names the task that such a model is trained for. `head_params` are those of the task head.
    `stored` is set if the checkpoint is quantised already.
    `takes_few_bits` says whether `--quantize` is allowed and would save memory.
    """

    traced: TracedModel
    base_model: str
    task: str
    base_params: int
    head_params: int
    count: Count | None
    stored: StoredWeights | None = None
    takes_few_bits: bool = True
    notes: tuple[str, ...] = ()


def describe(
    part: TrainedPart,
    setup: Setup,
    *,
    methods: Mapping[str, Method],
    tasks: Mapping[str, Task],
) -> Description:
    """Describe what is trained on which model, from the model's config alone.

    Raises:
        SpecError: The class of the model is none whose batches are known here, or a whole model in few bits.
        ModelError: A model that is quantised already, and shall be quantised.
        SiteError: What is trained does not fit the model.
    """
    auto_class = auto_class_of([file.config for file in part.files])
    if part.task is not None:  # as of a plan; its checkpoint may name the class of a pretraining
        auto_class = tasks[part.task].auto_class
    base = load_skeleton(setup.model, auto_class=auto_class)
    stored = stored_weights(base.module.config)
    require_trainable(part, setup, base, stored)
    task = _task_of(part, base, auto_class, tasks)
    if auto_class is None and not is_built_by(base.module, task.auto_class):
        base = load_skeleton(setup.model, auto_class=task.auto_class)
    # All of this is read before adapters are counted on the model.
    n_layers = _n_alike(base.module, stored.kept_modules(base.module) if stored else ())
    max_tokens, notes = base.max_tokens, _notes(setup, base, stored)
    is_mostly_experts = expert_weights(base.module) >= _MOST_EXPERTS * base.base_params
    plan = None if part.is_full or part.files else part.on(base, methods)
    refusal = None if plan is None else refusal_in_few_bits(plan, base, methods)
    if refusal and setup.model.quantize != "none":
        raise SiteError(
            f"In {setup.model.quantize} {refusal}; leave --quantize out, or choose another method."
        )
    count = None
    if plan is not None:
        count = count_part(part, plan, base, methods, task_type=task.peft_task_type)
    elif part.files:
        count = count_configs(part.files, base, path=part.path)
    if count is not None and n_layers is not None and not _is_even(count, n_layers):
        n_layers = None
    builder = _Builder(part=part, setup=setup, task=task, methods=methods, auto_class=auto_class)
    return Description(
        traced=builder.traced_model(n_layers=n_layers, max_tokens=max_tokens),
        base_model=base.name,
        task=task.name,
        base_params=base.base_params,
        head_params=base.head_params,
        count=count,
        stored=stored,
        takes_few_bits=not (stored or part.is_full or refusal or is_mostly_experts),
        notes=notes,
    )


def _notes(setup: Setup, base: BaseModel, stored: StoredWeights | None) -> tuple[str, ...]:
    """How the weights of a quantised checkpoint are counted, and what `--quantize` leaves plain."""
    dtype, n_weights = str(setup.dtype).removeprefix("torch."), base.base_params + base.head_params
    if stored is None:
        bits = setup.model.quantize
        note = plain_experts_note(base.module, bits, n_weights=n_weights, dtype=dtype)
        return (note,) if note and bits != "none" else ()
    already = f"{base.name} is quantised already ({stored.method})"
    if stored.is_loaded_plain:
        return (f"{already}: it is dequantised to be trained, and counted in {dtype}.",)
    if stored.weight_bytes is None:
        return (f"{already}: its weights are counted as if plain.",)
    experts = expert_weights(base.module)
    of_experts = f", experts in {dtype}" if experts else ""
    n_bytes = f"{stored.weight_bytes:.3g} bytes"
    return (f"{already}: a weight of its linear maps is counted with {n_bytes}{of_experts}.",)


@dataclass(frozen=True, kw_only=True)
class _Builder:
    """Makes models without weights, batches and losses for what is trained."""

    part: TrainedPart
    setup: Setup
    task: Task
    methods: Mapping[str, Method]
    auto_class: str | None

    def traced_model(self, *, n_layers: int | None, max_tokens: int | None) -> TracedModel:
        """Bundle what a replay needs; a plain loop takes the loss that the model computes itself."""
        setup, task = self.setup, self.task
        return TracedModel(
            build=self.build,
            n_layers=n_layers,
            batch=self.batch,
            loss=(lambda model, batch: model(**batch).loss) if setup.plain_loop else self.loss,
            n_terms=None if setup.plain_loop else task.n_terms,
            max_tokens=max_tokens,
            autocast=setup.dtype != torch.float32,
            on_gpu=setup.on_gpu,
            rates=setup.rates,
        )

    def build(self, n_layers: int | None) -> nn.Module:
        """The model with its adapters, with a number of layers or all of them."""
        part, setup = self.part, self.setup
        base = load_skeleton(
            setup.model, auto_class=self.auto_class or self.task.auto_class, n_layers=n_layers
        )
        if part.is_full:
            set_dtype(base, setup.dtype)
            return base.module.requires_grad_(True)
        if setup.model.quantize != "none":
            kept = (*base.head_names, *output_layer_names(base.module))
            quantise_maps(base.module, setup.model.quantize, skipped=kept, dtype=setup.dtype)
        stored = stored_weights(base.module.config)
        if stored is not None and stored.weight_bytes is not None:
            kept = (*base.head_names, *stored.kept_modules(base.module))
            quantise_maps(base.module, stored.weight_bytes, skipped=kept, dtype=setup.dtype)
        lightened = not setup.plain_loop
        if part.files:
            configs = [file.config for file in part.files]
            return cast(nn.Module, with_configs(base, configs, dtype=setup.dtype, lightened=lightened))
        configs = list(compile_plan(part.on(base, self.methods), self.methods).configs)
        task_type = self.task.peft_task_type
        adapted = without_weights(base, configs, task_type=task_type, dtype=setup.dtype, lightened=lightened)
        return cast(nn.Module, adapted)

    def batch(self, n_rows: int, n_tokens: int) -> Batch:
        """Rows of tokens that all have labels, or rows with one label each."""
        ids = torch.zeros(n_rows, n_tokens, dtype=torch.long)
        labels = torch.zeros(n_rows, dtype=torch.long) if self.task.auto_class == _CLASSES else ids
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss as autopeft's trainer takes it."""
        as_on_device = pieces_of_a_gpu() if self.setup.on_gpu else contextlib.nullcontext()
        with without_cache(model), as_on_device:
            return self.task.loss(model, batch)


def _task_of(part: TrainedPart, base: BaseModel, auto_class: str | None, tasks: Mapping[str, Task]) -> Task:
    """The task of a plan, or of a class of transformers; an encoder without a head classifies texts."""
    kind, config = auto_class or type(base.module).__name__, cast(Any, base.module.config)
    task = tasks[part.task] if part.task else None
    if task is None:
        is_pair = getattr(config, "is_encoder_decoder", False)
        by_ending = next((auto for ending, auto in _AUTO_CLASSES.items() if kind.endswith(ending)), None)
        if by_ending is None and auto_class is None and base.module.main_input_name == "input_ids":
            # A config without architectures, as of a GGUF file, is a decoder's if it builds no masked model.
            is_decoder = not config.architectures and (
                type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
                and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
            )
            by_ending = _CAUSAL if is_decoder else _SEQ2SEQ if is_pair else _CLASSES
        if by_ending == _SEQ2SEQ and not is_pair:  # Gemma 3 with its images
            by_ending = _CAUSAL
        task = next((task for task in tasks.values() if task.auto_class == by_ending), None)
    if task is None or task.auto_class not in _AUTO_CLASSES.values():
        allowed = ", ".join(dict.fromkeys(_AUTO_CLASSES.values()))
        raise SpecError(
            f"The memory of {base.name} ({kind}) cannot be told; it can be for {allowed}. "
            "Train a few steps to see it."
        )
    return task


def count_part(
    part: TrainedPart, plan: Plan, base: BaseModel, methods: Mapping[str, Method], *, task_type: str | None
) -> Count:
    """Count a plan, or a method at all of its sites, which `part` on the base model is."""
    counted = count_plan(plan, base, methods, task_type=task_type)
    if part.method is None:
        return counted
    notes = [*counted.notes, *base.remarks]
    lower = [adapter.rank for adapter in plan.adapters if adapter.rank < part.rank]
    if lower:  # sites that are narrower than the rank
        ranks = str(min(lower)) if min(lower) == max(lower) else f"{min(lower)} to {max(lower)}"
        notes.append(
            f"{len(lower)} of {len(plan.adapters)} sites get rank {ranks} in place of {part.rank}, "
            f"the highest that they can use; a peft config of r={part.rank} attaches that rank there "
            "too, with more parameters."
        )
    return replace(counted, notes=tuple(notes))


def _n_alike(module: nn.Module, kept: Sequence[str]) -> int | None:
    """The number of a model's layers where all have the same tensors; None where they may differ.

    `kept` are the maps that a quantised checkpoint holds in plain numbers.
    """
    layers = repeated_layers(module)
    config: Any = module.config
    n_layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if layers is None or len(layers) != n_layers or len(layers) <= DEPTHS[-1] or config.is_encoder_decoder:
        return None
    plain = {id(module.get_submodule(name)) for name in kept}
    kinds = set()
    for layer in layers:
        shapes = tuple((name, tuple(parameter.shape)) for name, parameter in layer.named_parameters())
        kinds.add((shapes, tuple(name for name, child in layer.named_modules() if id(child) in plain)))
    return n_layers if len(kinds) == 1 else None


def _is_even(count: Count, n_layers: int) -> bool:
    by_layer = [n for layer, n in count.by_layer.items() if layer.isdigit()]
    return not by_layer or (len(by_layer) == n_layers and len(set(by_layer)) == 1)
