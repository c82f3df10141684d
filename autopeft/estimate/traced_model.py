"""Builds a model with what is trained on it, from the config alone."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from autopeft.adapters import Count, auto_class_of, compile_plan, count_configs, count_plan
from autopeft.errors import SpecError, TargetError
from autopeft.estimate.fake_tensors import quantize_linear_layers
from autopeft.estimate.memory_tracker import repeated_layers
from autopeft.estimate.replay import set_dtype, with_configs, without_weights
from autopeft.estimate.scaling import DEPTHS, TracedModel
from autopeft.estimate.trained_part import Setup, TrainedPart, quantized_refusal, require_trainable
from autopeft.model import BaseModel, load_processor, load_skeleton, task_type_of
from autopeft.model.checkpoint_source import is_built_by
from autopeft.model.checks import example_features
from autopeft.model.quantization import (
    StoredWeights,
    expert_weights,
    output_layer_names,
    plain_experts_note,
    stored_weights,
)
from autopeft.model.training_pass import without_cache
from autopeft.plugins import Batch, Method, Task
from autopeft.tasks._shared.token_losses import pieces_of_a_gpu
from autopeft.types import Plan, listed

ONE_IMAGE = 1  # "tokens" of an image, whose size the processor decides
_MOST_EXPERTS = 0.5  # of all weights: with more in experts, quantizing saves little; heuristic
_CLASSES, _IMAGES = "AutoModelForSequenceClassification", "AutoModelForImageClassification"
_WORDS = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForTokenClassification")
_READ = (*_WORDS, _CLASSES, _IMAGES)  # the auto classes whose batches we can make


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is trained on which base model: how to replay it, and its counts of parameters."""

    traced: TracedModel
    base_model: str
    task: str
    base_params: int
    head_params: int
    count: Count | None  # of trained parameters; None for full fine-tuning
    stored: StoredWeights | None = None  # set if the checkpoint is quantized already
    can_be_quantized: bool = True  # `--quantize` is allowed and would save memory
    notes: tuple[str, ...] = ()

    @property
    def reads_images(self) -> bool:
        """Whether its rows are images."""
        return self.traced.max_tokens == ONE_IMAGE


def describe(
    part: TrainedPart,
    setup: Setup,
    *,
    methods: Mapping[str, Method],
    tasks: Mapping[str, Task],
) -> Description:
    """Describe what is trained on which model, from the model's config alone.

    Raises SpecError if we cannot make batches for its class, TargetError if what is trained does not fit it,
    and ModelError or SpecError for weights that cannot be quantized, or trained so.
    """
    auto_class = auto_class_of([file.config for file in part.files])
    if part.task is not None:  # a plan names its task; the checkpoint may name the class of its pretraining
        auto_class = tasks[part.task].auto_class
    base = load_skeleton(setup.model, auto_class=auto_class)
    task = _task_of(part, base, auto_class, tasks)
    if auto_class is None and not is_built_by(base.module, task.auto_class):
        base = load_skeleton(setup.model, auto_class=task.auto_class)
    stored = stored_weights(base.module.config)
    require_trainable(part, setup, base, stored)
    plan = None if part.is_full or part.files else part.on(base, methods)
    refusal = None if plan is None else quantized_refusal(plan, base, methods)
    if refusal and setup.model.quantize != "none":
        raise TargetError(
            f"In {setup.model.quantize} {refusal}; leave --quantize out, or choose another method."
        )
    image = None
    if task.auto_class == _IMAGES:
        base.tokenizer = load_processor(setup.model, needs_images=True)
        image = example_features(base, task.auto_class)
    is_mostly_experts = expert_weights(base.module) >= _MOST_EXPERTS * base.base_params
    # float16 is as large as bfloat16, the one that CPUs' autocast and kernels take.
    as_replayed = replace(setup, dtype=torch.bfloat16) if setup.dtype == torch.float16 else setup
    builder = _Builder(
        part=part, setup=as_replayed, task=task, methods=methods, auto_class=auto_class, image=image
    )
    described = Description(
        traced=builder.traced_model(
            n_layers=_n_equal_layers(base.module, stored.kept_modules(base.module) if stored else ()),
            max_tokens=ONE_IMAGE if image is not None else base.max_tokens,
        ),
        base_model=base.name,
        task=task.name,
        base_params=base.base_params,
        head_params=base.head_params,
        count=None,
        stored=stored,
        can_be_quantized=not (stored or part.is_full or refusal or is_mostly_experts),
        notes=_notes(setup, base, stored),
    )
    if part.is_full:
        return described
    # Counted at the end, since that attaches the adapters to the model.
    if plan is None:
        count = count_configs(part.files, base, path=part.path)
    else:
        count = count_part(part, plan, base, methods, task_type=task.peft_task_type)
    traced = described.traced
    if traced.n_layers is not None and not _is_even(count, traced.n_layers):
        traced = replace(traced, n_layers=None)  # layers train different numbers of parameters
    return replace(described, traced=traced, count=count)


def _notes(setup: Setup, base: BaseModel, stored: StoredWeights | None) -> tuple[str, ...]:
    """Describe how quantized weights are counted, or which weights `--quantize` leaves plain."""
    dtype, n_weights = str(setup.dtype).removeprefix("torch."), base.base_params + base.head_params
    if stored is None:
        bits = setup.model.quantize
        note = plain_experts_note(base.module, bits, n_weights=n_weights, dtype=dtype)
        return (note,) if note and bits != "none" else ()
    already = f"{base.name} is quantized already ({stored.method})"
    if stored.is_loaded_plain:
        return (f"{already}: it is dequantized to be trained, and counted in {dtype}.",)
    if stored.weight_bytes is None:
        return (f"{already}: its weights are counted as if plain.",)
    of_experts = f", experts in {dtype}" if expert_weights(base.module) else ""
    n_bytes = f"{stored.weight_bytes:.3g} bytes"
    return (f"{already}: a weight of its linear layers is counted with {n_bytes}{of_experts}.",)


@dataclass(frozen=True, kw_only=True)
class _Builder:
    """Builds models without weights, their batches and their losses."""

    part: TrainedPart
    setup: Setup
    task: Task
    methods: Mapping[str, Method]
    auto_class: str | None
    image: Batch | None  # the features of one image, for a task of images

    def traced_model(self, *, n_layers: int | None, max_tokens: int | None) -> TracedModel:
        """Combine what a replay needs; in a plain loop the model computes its own loss."""
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
        """Build the model with its adapters, with `n_layers` layers or with all of them (None)."""
        part, setup = self.part, self.setup
        base = load_skeleton(
            setup.model, auto_class=self.auto_class or self.task.auto_class, n_layers=n_layers
        )
        if part.is_full:
            set_dtype(base, setup.dtype)
            return base.module.requires_grad_(True)
        if setup.model.quantize != "none":
            kept = (*base.head_names, *output_layer_names(base.module))
            quantize_linear_layers(base.module, setup.model.quantize, skipped=kept, dtype=setup.dtype)
        stored = stored_weights(base.module.config)
        if stored is not None and stored.weight_bytes is not None:
            kept = (*base.head_names, *stored.kept_modules(base.module))
            quantize_linear_layers(base.module, stored.weight_bytes, skipped=kept, dtype=setup.dtype)
        lightened = not setup.plain_loop
        if part.files:
            configs = [file.config for file in part.files]
            return cast(nn.Module, with_configs(base, configs, dtype=setup.dtype, lightened=lightened))
        configs = list(compile_plan(part.on(base, self.methods), self.methods).configs)
        task_type = self.task.peft_task_type
        adapted = without_weights(base, configs, task_type=task_type, dtype=setup.dtype, lightened=lightened)
        return cast(nn.Module, adapted)

    def batch(self, n_rows: int, n_tokens: int) -> Batch:
        """Make a batch without padding, with one label for each row of a classifier, else for each token."""
        ids, classes = (torch.zeros(*shape, dtype=torch.long) for shape in ((n_rows, n_tokens), (n_rows,)))
        if self.image is not None:
            images = {k: torch.zeros(n_rows, *v.shape[1:], dtype=v.dtype) for k, v in self.image.items()}
            return images | {"labels": classes}
        labels = classes if self.task.auto_class == _CLASSES else ids
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute the loss as autopeft's trainer does."""
        as_on_device = pieces_of_a_gpu() if self.setup.on_gpu else contextlib.nullcontext()
        with without_cache(model), as_on_device:
            return self.task.loss(model, batch)


def _task_of(part: TrainedPart, base: BaseModel, auto_class: str | None, tasks: Mapping[str, Task]) -> Task:
    """Return the task of what is trained, else of the model's class; raise SpecError for an unknown one."""

    def of_type(word: str | None) -> Task | None:
        return next((task for task in tasks.values() if word and task.peft_task_type == word), None)

    config = cast(Any, base.module.config)
    if auto_class is None and is_built_by(base.module, _IMAGES):
        auto_class = _IMAGES
    by_class = next((task for task in tasks.values() if task.auto_class == auto_class), None)
    task = tasks[part.task] if part.task else by_class or of_type(task_type_of(base.module))
    if task is None and auto_class is None and base.module.main_input_name == "input_ids":
        # A config without architectures, such as a GGUF file's, is a decoder's if no masked model has it.
        is_decoder = not config.architectures and (
            type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
        )
        is_pair = getattr(config, "is_encoder_decoder", False)
        task = of_type("CAUSAL_LM" if is_decoder else "SEQ_2_SEQ_LM" if is_pair else "SEQ_CLS")
    reads = "pixel_values" if task is not None and task.auto_class == _IMAGES else "input_ids"
    if task is None or task.auto_class not in _READ or base.module.main_input_name != reads:
        readable = sorted(task.name for task in tasks.values() if task.auto_class in _READ)
        raise SpecError(
            f"The memory of {base.name} ({auto_class or type(base.module).__name__}) cannot be predicted; it "
            f"can be for the --task {listed(readable, len(readable))}. Else run autopeft search --dry-run."
        )
    return task


def count_part(
    part: TrainedPart, plan: Plan, base: BaseModel, methods: Mapping[str, Method], *, task_type: str | None
) -> Count:
    """Count the parameters that are trained."""
    counted = count_plan(plan, base, methods, task_type=task_type)
    left_out = () if part.method is None else base.left_out
    return replace(counted, notes=(*counted.notes, *left_out))


def _n_equal_layers(module: nn.Module, kept: Sequence[str]) -> int | None:
    """Count the layers of a model if all have the same tensors; None if they may differ or are too few.

    `kept` names the layers that a quantized checkpoint holds plain.
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
