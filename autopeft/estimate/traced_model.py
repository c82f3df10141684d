"""Describes a model with what is trained on it from the config alone, and replays its training steps."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import torch
from torch import nn

from autopeft.adapters import Count, compile_plan, count_configs, count_plan
from autopeft.errors import SpecError, TargetError
from autopeft.estimate.fake_tensors import quantize_linear_layers
from autopeft.estimate.memory_tracker import repeated_layers
from autopeft.estimate.replay import (
    Replay,
    StepMemory,
    TrainingStep,
    set_dtype,
    with_configs,
    without_weights,
)
from autopeft.estimate.trained_part import (
    Setup,
    TrainedPart,
    build_base,
    quantized_refusal,
    require_trainable,
)
from autopeft.model import BaseModel, config_of, load_processor, load_skeleton
from autopeft.model.checkpoint_source import own_class
from autopeft.model.checks import example_features, pad_with
from autopeft.model.linear_layers import output_layer_names
from autopeft.model.quantization import (
    BYTES_PER_WEIGHT,
    StoredWeights,
    expert_weights,
    plain_experts_note,
    stored_weights,
)
from autopeft.model.training_pass import without_cache
from autopeft.plugins import Batch, Method, Task
from autopeft.tasks._shared.token_losses import pieces_of_a_gpu
from autopeft.types import Plan, listed

_DEPTHS = (3, 4)  # layers; with fewer the first and the last layer are one, or have none between them
_ONE_IMAGE = 1  # "tokens" of an image, whose size the processor decides
_MOST_EXPERTS = 0.5  # of all weights: with more in experts, quantizing saves little; heuristic
_CLASSES, _IMAGES = "AutoModelForSequenceClassification", "AutoModelForImageClassification"
_WORDS = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForTokenClassification")
_READ = (*_WORDS, _CLASSES, _IMAGES)  # the auto classes whose batches we can make


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is trained on which base model: how to replay it, and its counts of parameters."""

    traced: TracedModel
    base_model: str
    base_params: int
    count: Count | None  # of trained parameters; None for full fine-tuning
    stored: StoredWeights | None  # None unless the checkpoint is quantized already
    can_be_quantized: bool  # `--quantize` is allowed and would save memory
    notes: tuple[str, ...]

    @property
    def reads_images(self) -> bool:
        """Whether its rows are images."""
        return self.traced.image is not None


def describe(
    part: TrainedPart, setup: Setup, *, methods: Mapping[str, Method], tasks: Mapping[str, Task]
) -> Description:
    """Describe what is trained on which model, from the model's config alone."""
    built = build_base(setup.model, task=part.task, files=part.files, tasks=tasks)
    base, task = built.base, built.task
    reads = "pixel_values" if task is not None and task.auto_class == _IMAGES else "input_ids"
    if task is None or task.auto_class not in _READ or base.module.main_input_name != reads:
        readable = sorted(task.name for task in tasks.values() if task.auto_class in _READ)
        raise SpecError(
            f"The memory of {base.name} ({built.auto_class or type(base.module).__name__}) cannot be "
            f"predicted; it can be for the --task {listed(readable, len(readable))}. Else run autopeft "
            "search --dry-run."
        )
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
    notes = (*built.notes, *_notes(setup, base, stored))
    if plan is not None and (whole := own_class(config_of(setup.model), task.auto_class)):
        names = f"target modules are named as in {type(base.module).__name__}: adapt that class, not {whole}."
        notes = (*notes, names)
    n_layers = _n_equal_layers(base.module, stored.kept_modules(base.module) if stored else ())
    # Counted at the end, since that attaches the adapters to the model.
    count = None
    if part.files:
        count = count_configs(part.files, base, path=part.path)
    elif plan is not None:
        count = count_part(part, plan, base, methods, task_type=task.peft_task_type)
    if n_layers is not None and count is not None and not _is_even(count, n_layers):
        n_layers = None  # layers train different numbers of parameters
    # float16 is as large as bfloat16, the one that CPUs' autocast and kernels take.
    as_replayed = replace(setup, dtype=torch.bfloat16) if setup.dtype == torch.float16 else setup
    return Description(
        traced=TracedModel(
            part=part,
            setup=as_replayed,
            task=task,
            methods=methods,
            auto_class=built.auto_class or task.auto_class,
            image=image,
            n_layers=n_layers,
            max_tokens=base.max_tokens if image is None else _ONE_IMAGE,
        ),
        base_model=base.name,
        base_params=base.base_params,
        count=count,
        stored=stored,
        can_be_quantized=not (stored or part.is_full or refusal or is_mostly_experts),
        notes=notes,
    )


def _notes(setup: Setup, base: BaseModel, stored: StoredWeights | None) -> tuple[str, ...]:
    """Describe how quantized weights are counted, or which weights `--quantize` leaves plain."""
    if stored is not None:
        n_bytes = stored.weight_bytes or setup.dtype.itemsize
        dequantized = ", and dequantized to be trained" if stored.is_loaded_plain else ""
        quantized = f"{base.name} is quantized already ({stored.method}){dequantized}"
        return (f"{quantized}: its linear layers are counted with {n_bytes:.3g} bytes for each weight.",)
    bits, n_weights = setup.model.quantize, base.base_params + base.head_params
    dtype = str(setup.dtype).removeprefix("torch.")
    note = plain_experts_note(base.module, bits, n_weights=n_weights, dtype=dtype)
    return (note,) if note and bits != "none" else ()


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """Builds a model without weights with what is trained on it, and replays its steps; replays are kept."""

    part: TrainedPart
    setup: Setup
    task: Task
    methods: Mapping[str, Method]
    auto_class: str
    image: Batch | None  # the features of one image, for a task of images
    n_layers: int | None  # None if layers differ, so that all of them must be replayed
    max_tokens: int | None  # of a row; None without a limit
    _replays: dict[int | None, Replay] = field(default_factory=dict)  # by layers
    _steps: dict[tuple[int, int, bool], StepMemory] = field(default_factory=dict)

    def at(self, n_rows: int, n_tokens: int, *, checkpointing: bool = False) -> StepMemory:
        """Return the memory of a step of `n_rows` rows of `n_tokens` tokens each."""
        key = (n_rows, n_tokens, checkpointing)
        if key not in self._steps:
            step = self.step(n_rows, n_tokens, checkpointing=checkpointing)
            if self.n_layers is None:
                self._steps[key] = self._replayed(None, step)
            else:
                shallow, deeper = (self._replayed(depth, step) for depth in _DEPTHS)
                self._steps[key] = _with_more_layers(shallow, deeper, self.n_layers - _DEPTHS[0])
        return self._steps[key]

    def _replayed(self, depth: int | None, step: TrainingStep) -> StepMemory:
        if depth not in self._replays:
            self._replays[depth] = Replay(self.build(depth))
        return self._replays[depth].memory(step)

    def step(self, n_rows: int, n_tokens: int, *, checkpointing: bool) -> TrainingStep:
        """Make a step of rows of one length; in a plain loop the model computes its own loss."""
        is_plain, batch = self.setup.plain_loop, self._batch(n_rows, n_tokens)
        return TrainingStep(
            batch=batch,
            loss=(lambda model, batch: model(**batch).loss) if is_plain else self._loss,
            n_terms=0 if is_plain else self.task.n_terms(batch),
            autocast=self.setup.dtype != torch.float32,
            checkpointing=checkpointing,
            on_gpu=self.setup.on_gpu,
            rates=self.setup.rates,
        )

    def build(self, n_layers: int | None) -> nn.Module:
        """Build the model with its adapters, with `n_layers` layers or with all of them (None)."""
        part, setup = self.part, self.setup
        base = load_skeleton(setup.model, auto_class=self.auto_class, n_layers=n_layers)
        if self.task.auto_class == _CLASSES and getattr(base.module.config, "pad_token_id", None) is None:
            pad_with(base.module.config, 0)  # a search takes the tokenizer's; decoders need one for rows
        if part.is_full:
            set_dtype(base, setup.dtype)
            return base.module.requires_grad_(True)
        weight_bytes = BYTES_PER_WEIGHT.get(setup.model.quantize)
        kept = output_layer_names(base.module)
        if (stored := stored_weights(base.module.config)) is not None:
            weight_bytes, kept = stored.weight_bytes, stored.kept_modules(base.module)
        if weight_bytes is not None:
            kept = (*base.head_names, *kept)
            quantize_linear_layers(base.module, weight_bytes, skipped=kept, dtype=setup.dtype)
        lightened = not setup.plain_loop
        if part.files:
            configs = [file.config for file in part.files]
            return cast(nn.Module, with_configs(base, configs, dtype=setup.dtype, lightened=lightened))
        configs = list(compile_plan(part.on(base, self.methods), self.methods).configs)
        task_type = self.task.peft_task_type
        adapted = without_weights(base, configs, task_type=task_type, dtype=setup.dtype, lightened=lightened)
        return cast(nn.Module, adapted)

    def _batch(self, n_rows: int, n_tokens: int) -> Batch:
        """Make a batch without padding, with one label for each row of a classifier, else for each token."""
        ids, classes = (torch.zeros(*shape, dtype=torch.long) for shape in ((n_rows, n_tokens), (n_rows,)))
        if self.image is not None:
            images = {k: torch.zeros(n_rows, *v.shape[1:], dtype=v.dtype) for k, v in self.image.items()}
            return images | {"labels": classes}
        labels = classes if self.task.auto_class == _CLASSES else ids
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    def _loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute the loss as autopeft's trainer does."""
        as_on_device = pieces_of_a_gpu() if self.setup.on_gpu else contextlib.nullcontext()
        with without_cache(model), as_on_device:
            return self.task.loss(model, batch)


def _with_more_layers(shallow: StepMemory, deeper: StepMemory, n_more: int) -> StepMemory:
    """Extrapolate to `n_more` layers more than `shallow` has; `deeper` has one layer more.

    All bytes of a phase are a straight line of the number of layers, where layers are alike. The peak of a
    phase moves from one layer to another as rows get longer, so each batch and length is replayed as it is.
    """
    values: dict[str, Any] = {}
    for entry in fields(StepMemory):
        a, b = getattr(shallow, entry.name), getattr(deeper, entry.name)
        if isinstance(a, Mapping):
            values[entry.name] = {name: a[name] + n_more * (b[name] - a[name]) for name in a if name in b}
        else:
            values[entry.name] = a + n_more * (b - a)
    return StepMemory(**values)


def count_part(
    part: TrainedPart, plan: Plan, base: BaseModel, methods: Mapping[str, Method], *, task_type: str | None
) -> Count:
    """Count the parameters that are trained."""
    counted = count_plan(plan, base, methods, task_type=task_type)
    left_out = () if part.method is None else base.left_out
    return replace(counted, notes=(*counted.notes, *left_out))


def _n_equal_layers(module: nn.Module, kept: Sequence[str]) -> int | None:
    """Count the layers if all are alike, also in what they keep plain (`kept`); else None."""
    layers = repeated_layers(module)
    config: Any = module.config
    n_layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if layers is None or len(layers) != n_layers or len(layers) <= _DEPTHS[-1] or config.is_encoder_decoder:
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
