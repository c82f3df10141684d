"""A plan's `peft` configs put onto a model: in which order, under which names, and what then trains."""

from __future__ import annotations

import re
from collections.abc import Sequence

import peft
import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from autopeft.errors import SiteError

# Under which name a model with virtual tokens remembers the PeftModel of the adapters beneath them.
_BENEATH = "_autopeft_beneath"


def attach(
    module: nn.Module, configs: Sequence[PeftConfig], *, task_type: str | None, head_names: Sequence[str]
) -> PeftModel:
    """Attach all of a plan's configs, and the task head with the one that does the forward.

    The first config goes through `get_peft_model`, the others are injected beside it; virtual
    tokens are wrapped around whatever lies beneath, and come last.
    """
    chosen = list(configs) or [head_only_config()]
    weights = [config for config in chosen if not config.is_prompt_learning]
    prompts = chosen[len(weights) :]
    if len(prompts) > 1 or not all(config.is_prompt_learning for config in prompts):
        raise SiteError(
            f"A plan has {sum(c.is_prompt_learning for c in chosen)} configs of virtual tokens among "
            f"{len(chosen)}; it can have one, in the last place: choose prompts, P-tuning or a prefix."
        )
    forward = prompts[0] if prompts else chosen[0]
    forward.task_type = task_type
    forward.modules_to_save = list(head_names) or None
    for config in weights:
        spell_out(config, module)
    names = adapter_names(chosen)
    model = _attach_weights(module, weights, names) if weights else None
    if prompts:
        model = _wrap(module, prompts[0], name=names[-1], beneath=model)
    assert model is not None, "there is at least one config"
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()  # made like a bias of a map in 4 bits
    _activate(model)
    return model


def adapter_names(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """What a plan's configs are called inside the model: `default` alone, else `ia3_0`, `lora_1` and so on.

    `peft` saves `default` in the folder itself and any other name in a folder of that name;
    it warns of a name that is contained in a tuner's prefix, hence the number.
    """
    if len(configs) <= 1:
        return ("default",)
    return tuple(f"{config.peft_type.value.lower()}_{index}" for index, config in enumerate(configs))


def head_only_config() -> LoraConfig:
    """A config that adapts no module, for a plan that trains the task head alone."""
    return LoraConfig(r=1, target_modules=DUMMY_TARGET_MODULES)


def holder_of(model: PeftModel, name: str) -> PeftModel:
    """The PeftModel that keeps the adapter of that name: the model itself, or the one beneath its prompt."""
    beneath: PeftModel | None = vars(model).get(_BENEATH)
    return beneath if beneath is not None and name in beneath.peft_config else model


def attached_names(model: PeftModel) -> tuple[str, ...]:
    """The names of all adapters of a model, in the order in which they were attached."""
    beneath: PeftModel | None = vars(model).get(_BENEATH)
    return (*(beneath.peft_config if beneath is not None else ()), *model.peft_config)


def spell_out(config: PeftConfig, module: nn.Module) -> None:
    """Replace a pattern of a LoRA config by the names that it matches, where `peft` would widen it.

    In models whose experts became parameters (Mixtral, Qwen-MoE, OLMoE …) `peft` 0.21.2 takes a pattern
    for one of an older checkpoint and keeps the last names alone: one layer's q_proj becomes all of them.
    """
    pattern = getattr(config, "target_modules", None)
    has_experts = any(
        parameter.ndim == 3 and "expert" in name for name, parameter in module.named_parameters()
    )
    if has_experts and isinstance(config, LoraConfig) and isinstance(pattern, str):
        names = [name for name, _ in module.named_modules() if re.fullmatch(pattern, name)]
        config.target_modules = set(names) or pattern


def _attach_weights(module: nn.Module, configs: Sequence[PeftConfig], names: Sequence[str]) -> PeftModel:
    model = peft.get_peft_model(module, configs[0], adapter_name=names[0])
    for config, name in zip(configs[1:], names[1:], strict=False):
        peft.inject_adapter_in_model(config, model.base_model.model, name)
    return model


def _wrap(module: nn.Module, config: PeftConfig, *, name: str, beneath: PeftModel | None) -> PeftModel:
    """Virtual tokens around a model; `peft` freezes all in it, also the adapters that it has by now."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    model = peft.get_peft_model(module, config, adapter_name=name)
    for parameter in trained if beneath is not None else ():
        parameter.requires_grad_(True)
    vars(model)[_BENEATH] = beneath  # not by attribute: a child module would be saved twice
    return model


def _activate(model: PeftModel) -> None:
    """Let every layer and the head use the adapter that they hold.

    An injection makes its own name the active one in the head's wrapper and in all layers of its
    tuner, also where another name lies: the head and the earlier config of two LoRA configs
    would stand still, and still be counted (seen in peft 0.21.2).
    """
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.set_adapter(list(module.modules_to_save))
        elif isinstance(module, BaseTunerLayer):
            held = {name for kind in module.adapter_layer_names for name in getattr(module, kind)}
            module.set_adapter(sorted(held))
