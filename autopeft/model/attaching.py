"""Puts `peft` configs on a model: in which order, under which names, what then trains, and the way back."""

from __future__ import annotations

import contextlib
import copy
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import peft
import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from peft.utils.constants import DUMMY_TARGET_MODULES
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn

from autopeft.model.lightening import lighten

_EXPECTED = ("`is_gradient_checkpointing`", "Already found a `peft_config`", "Unsupported layer type")


def attach(
    module: nn.Module,
    configs: Sequence[PeftConfig],
    *,
    task_type: str | None,
    head_names: Sequence[str],
    lightened: bool = True,
) -> PeftModel:
    """A model with the adapters of a plan and its trainable task head.

    Args:
        module: The base model; changed in place.
        configs: In the order in which they are attached; left as they are. Empty for the head alone.
        task_type: `peft`'s word for the task; None where it has none.
        head_names: The modules that are trained whole.
        lightened: Whether some layers compute what `peft`'s do with less memory, or are `peft`'s.
    """
    chosen = for_task(configs, module, task_type=task_type, head_names=head_names)
    adapted = put_on(module, chosen, names=adapter_names(chosen))
    for parameter in adapted.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()  # made like a bias of a map in 4 bits
    # An injection makes its name the active one in the head's wrapper and in all layers of its tuner, also
    # where another name lies: the head and the earlier of two LoRA configs would not be trained, and would
    # still be counted (seen in peft 0.21.2).
    for layer in adapted.modules():
        if isinstance(layer, ModulesToSaveWrapper):
            layer.set_adapter(list(layer.modules_to_save))
        elif isinstance(layer, BaseTunerLayer):
            held = {name for kind in layer.adapter_layer_names for name in getattr(layer, kind)}
            layer.set_adapter(sorted(held))
    if lightened:
        lighten(adapted)
    return adapted


def put_on(
    module: nn.Module,
    configs: Sequence[PeftConfig],
    *,
    names: Sequence[str],
    making: Callable[[PeftConfig], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> PeftModel:
    """A model with one or more configs on it, which name their task and head themselves.

    The first config goes through `get_peft_model`, others are injected.
    Arguments are those of `attach`; `names` are the adapters' names inside the model, and `making`
    gives the context in which a config's tensors are made.
    """
    adapted: PeftModel | None = None
    for config, name in zip(configs, names, strict=True):
        with making(config), warnings.catch_warnings():
            # A deprecated name that peft asks for; and a mix of methods, or one on norms, is meant here.
            for message in _EXPECTED:
                warnings.filterwarnings("ignore", message=message)
            if adapted is None:
                adapted = peft.get_peft_model(module, config, adapter_name=name)
            else:
                peft.inject_adapter_in_model(config, module, name)
    assert adapted is not None, "there is at least one config"
    return adapted


def for_task(
    configs: Sequence[PeftConfig],
    module: nn.Module | None,
    *,
    task_type: str | None,
    head_names: Sequence[str],
) -> list[PeftConfig]:
    """Copies of configs, as `attach` takes them, with the task and its head in the first.

    No configs become one that adapts no module, for the head alone. Patterns that `peft` would widen are
    spelled out on the base model, where it is known.
    """
    copies = [copy.deepcopy(config) for config in configs] or [head_only_config()]
    if module is not None:
        for config in copies:
            _spell_out(config, module)
    first: Any = copies[0]
    first.task_type, first.modules_to_save = task_type, list(head_names) or None
    return copies


def adapter_names(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """What a plan's configs are called inside the model: `default` alone, else `ia3_0`, `lora_1` and so on.

    `peft` saves `default` in the folder itself and any other name in a folder of that name. The number is
    there as `peft` warns of a name that is contained in a tuner's prefix.
    """
    if len(configs) <= 1:
        return ("default",)
    return tuple(f"{config.peft_type.value.lower()}_{index}" for index, config in enumerate(configs))


def head_only_config() -> LoraConfig:
    """A config that adapts no module, for a plan that trains the task head alone."""
    return LoraConfig(r=1, target_modules=DUMMY_TARGET_MODULES)


def rewrites_targets(targets: str | set[str], module: nn.Module) -> bool:
    """Whether `peft` rewrites the targets of LoRA, names of modules or a pattern, for the model type.

    It takes LoRA configs for those of older transformers versions, whose experts were separate maps, by the
    last name alone: `shared_expert.up_proj`, which is no expert's map, becomes all `gate_up_proj`
    (peft 0.21.2).
    """
    config = LoraConfig(target_modules=targets)
    try:
        convert_peft_config_for_transformers(config, model=module, conversions=None)
    except ValueError:  # peft misses the other half of a fused pair
        return True
    return bool(config.target_modules != targets)


def _spell_out(config: PeftConfig, module: nn.Module) -> None:
    """Replace the pattern of a LoRA config by the names that it matches where `peft` would widen it.

    Mixtral, Qwen-MoE, OLMoE and others once had a module for each expert and now have one parameter for all.
    For such models `peft` 0.21.2 rewrites every pattern as if it came from an older checkpoint: it keeps the
    last part of each name, so that one layer's q_proj becomes the q_proj of all layers. It asks for the model
    type alone, so that it does this to a model of such a type without experts too.
    """
    pattern = getattr(config, "target_modules", None)
    if not isinstance(config, LoraConfig) or not isinstance(pattern, str):
        return
    if rewrites_targets(pattern, module):
        names = [name for name, _ in module.named_modules() if re.fullmatch(pattern, name)]
        config.target_modules = set(names) or pattern  # "all-linear" matches no name


def note_modules(root: nn.Module) -> Callable[[], None]:
    """A function that puts back the module objects and flags that a model has now, frozen, without gradients.

    `peft`'s `unload()` leaves trained copies of `modules_to_save` in the base model (peft 0.21.2); putting
    the original objects back cannot. Parameters are put back in their order too: LoRA on a parameter takes
    it out and in again at every forward, and a safe merge gives it another tensor.
    """
    modules = list(root.modules())
    modes = [(module, module.training) for module in modules]
    names = ("_modules", "_parameters", "_forward_pre_hooks", "_forward_hooks")
    contents = [getattr(module, name) for module in modules for name in names]
    copies = [(content, dict(content)) for content in contents]
    plain = (parameter for parameter in root.parameters() if type(parameter) is nn.Parameter)
    tensors = [(parameter, parameter.data) for parameter in plain]  # no copies
    attributes = set(vars(root))

    def restore() -> None:
        for content, before in copies:
            content.clear()
            content.update(before)
        for module, is_training in modes:
            module.training = is_training
        for parameter, tensor in tensors:
            if parameter.data_ptr() != tensor.data_ptr():
                parameter.data = tensor
        for name in set(vars(root)) - attributes:
            delattr(root, name)
        for parameter in root.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None

    return restore
