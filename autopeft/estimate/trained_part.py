"""What is trained (a plan, adapter configs, a method at all target modules, the whole model), and how."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from autopeft.adapters import ConfigFile, auto_class_of
from autopeft.errors import SpecError, TargetError, UnknownNameError
from autopeft.estimate.rates import Rates
from autopeft.model import BaseModel, load_skeleton, task_type_of
from autopeft.model.checkpoint_source import has_model, is_built_by
from autopeft.model.linear_layers import output_layer_names
from autopeft.model.quantization import StoredWeights, require_plain_weights
from autopeft.plugins import Method, Task, hint_for
from autopeft.space import plan_everywhere
from autopeft.types import ModelSpec, Plan

FULL = "full"  # the word for full fine-tuning
_SHORTHAND = re.compile(r"([a-z0-9_]+?)(?:_r([1-9]\d*))?")  # such as lora_r16, or ia3
_RANK = 16  # of a method that is named without one; heuristic


@dataclass(frozen=True, kw_only=True)
class TrainedPart:
    """What is trained: a plan, files of configs, or a method with a rank; the whole model if none is set."""

    label: str
    plan: Plan | None = None
    files: tuple[ConfigFile, ...] = ()
    path: Path = Path()  # of the configs
    method: Method | None = None
    rank: int = 0
    task: str | None = None

    @property
    def is_full(self) -> bool:
        """Whether all weights are trained."""
        return self.plan is None and not self.files and self.method is None

    def on(self, base: BaseModel, methods: Mapping[str, Method]) -> Plan:
        """Return the plan at the base model's targets; raise TargetError if the method fits none."""
        if self.method is None:
            assert self.plan is not None, "configs and the whole model have no plan"
            names = {target.name for target in base.targets}
            return replace(self.plan, adapters=tuple(a for a in self.plan.adapters if a.target in names))
        plan = plan_everywhere(self.method.name, self.rank, base.chosen, methods)
        if not plan.adapters:
            words = f"{self.method.name} of rank {self.rank}" if self.rank else self.method.name
            raise TargetError(f"{words} fits no module of {base.name}; choose another method or rank.")
        return plan


@dataclass(frozen=True, kw_only=True)
class BuiltBase:
    """A base model without weights, built as it is trained: its class, and its task if that is known.

    `auto_class` is None if the class is that of the model's config. Notes name a class that was guessed.
    """

    base: BaseModel
    auto_class: str | None
    task: Task | None
    notes: tuple[str, ...] = ()


def build_base(
    spec: ModelSpec, *, task: str | None, files: Sequence[ConfigFile] = (), tasks: Mapping[str, Task]
) -> BuiltBase:
    """Build the class that a task trains, else that of adapter configs, else the one for the model's config.

    A config that names no class of a task, such as `BertForMaskedLM` or `BertModel`, is taken for a
    classifier's, or a language model's if it can be nothing else; without such a class it is built as named.

    Raises:
        UnknownNameError: The task is unknown.
        ModelError, TargetError: As `load_skeleton`.
    """
    if task is not None and task not in tasks:
        raise UnknownNameError("task", task, sorted(tasks))
    if task is not None:  # the checkpoint may name the class of its pretraining
        named = tasks[task].auto_class
        return BuiltBase(base=load_skeleton(spec, auto_class=named), auto_class=named, task=tasks[task])
    by_type = {each.peft_task_type: each for each in reversed([*tasks.values()]) if each.peft_task_type}
    auto_class = auto_class_of([file.config for file in files])
    base = load_skeleton(spec, auto_class=auto_class)
    config = cast(Any, base.module).config
    by_class = (each for each in tasks.values() if is_built_by(base.module, each.auto_class))
    found = next(by_class, by_type.get(task_type_of(base.module) or ""))
    if found is not None or auto_class is not None:
        return BuiltBase(base=base, auto_class=auto_class, task=found)
    if base.module.main_input_name == "input_ids":
        # A config without architectures, such as a GGUF file's, is a decoder's if no masked model has it.
        is_decoder = not config.architectures and (
            type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
        )
        is_pair = getattr(config, "is_encoder_decoder", False)
        guess = by_type.get("CAUSAL_LM" if is_decoder else "SEQ_2_SEQ_LM" if is_pair else "SEQ_CLS")
        if guess is not None and has_model(guess.auto_class, config):
            found, base = guess, load_skeleton(spec, auto_class=guess.auto_class)
    kind, stored = type(base.module).__name__, next(iter(config.architectures or ()), "no class")
    note = f"Without --task, {kind} is built, as the config names {stored}; pass --task for another class."
    return BuiltBase(base=base, auto_class=None, task=found, notes=(note,))


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a step is computed: the model and its quantization, its number format, the loop, the device."""

    model: ModelSpec
    dtype: torch.dtype
    plain_loop: bool = False  # as in `transformers`: all logits at once, and `peft`'s own layers
    on_gpu: bool = True
    rates: Rates | None = None  # of the device; None predicts no time


def by_name(word: str, methods: Mapping[str, Method]) -> TrainedPart:
    """Read `full`, or a method at every target that it fits, such as `lora_r16`; else raise SpecError."""
    if word.casefold() == FULL:
        return TrainedPart(label="full fine-tuning")
    match = _SHORTHAND.fullmatch(word.casefold())
    name, rank = (match[1], match[2]) if match else (word, None)
    if name not in methods:
        hint = hint_for(name, methods)
        raise UnknownNameError("file, folder or method", word, [*methods, FULL], hint=hint)
    method = methods[name]
    rank = int(rank or _RANK) if method.ranked else 0
    shown = f"{method.label} of rank {rank}" if rank else method.label
    return TrainedPart(label=f"{shown} at all target modules", method=method, rank=rank)


def require_trainable(part: TrainedPart, setup: Setup, base: BaseModel, stored: StoredWeights | None) -> None:
    """Raise SpecError for full fine-tuning of quantized weights, ModelError for quantizing them twice."""
    is_stored_packed = stored is not None and not stored.is_loaded_plain
    if part.is_full and (is_stored_packed or setup.model.quantize != "none"):
        raise SpecError(
            f"Full fine-tuning cannot train {base.name} quantized; leave --quantize out, and pass --model "
            "with the plain checkpoint."
        )
    if setup.model.quantize != "none":
        require_plain_weights(base.module.config, base.name)


def quantized_refusal(plan: Plan, base: BaseModel, methods: Mapping[str, Method]) -> str | None:
    """Describe why a method of the plan cannot be trained on a quantized layer; None if all can."""
    plain = (*base.head_names, *output_layer_names(base.module))
    targets = {
        target.name: target for target in base.targets if target.kind == "linear" and target.name not in plain
    }
    for adapter in plan.adapters:
        if adapter.target in targets:
            reason = methods[adapter.method].refusal(replace(targets[adapter.target], quantized=True))
            if reason:
                return f"{adapter.method} cannot be trained at {adapter.target}: it {reason}"
    return None
