"""What `peft` attaches for adapter configs to a model without weights.

On the meta device shapes cost nothing. Types that read weights of the base model while they attach fail;
UniLoRA reads only its own indices, which are real.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import peft
import torch
from peft import PeftConfig, PeftModel, PeftType
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from autopeft.errors import TargetError, foreign_file
from autopeft.model import adapter_names
from autopeft.model.attaching import attach_configs, require_shapes


@dataclass(frozen=True, kw_only=True)
class Attached:
    """A model without weights, with adapters on it; `layers` and `targets` have names of the base model."""

    model: PeftModel

    def layers(self) -> Iterator[tuple[str, BaseTunerLayer]]:
        """Yield the layers with adapters, by their names in the base model."""
        modules = self.model.get_base_model().named_modules()
        return ((name, layer) for name, layer in modules if isinstance(layer, BaseTunerLayer))

    def targets(self) -> Iterator[tuple[str, BaseTunerLayer]]:
        """Yield the name of each adapted module or parameter, and the outermost layer there."""
        for name, layer in self.layers():
            if isinstance(layer, ParamWrapper):  # parameters of one module are wrapped in each other
                yield f"{name.replace('.base_layer', '')}.{layer.parameter_name}", layer
            elif not name.endswith(".base_layer"):
                yield name, layer

    def ranks(self) -> dict[str, dict[str, int]]:
        """Return the rank of each adapter at each layer with ranks, by the layer's name."""
        return {
            name: {adapter: rank for adapter, rank in layer.r.items() if isinstance(rank, int)}
            for name, layer in self.layers()
            if isinstance(getattr(layer, "r", None), Mapping)
        }

    def saved_bytes(self) -> int:
        """Count the bytes of the tensors that `save_pretrained` would write."""
        total = 0
        for name, config in self.model.peft_config.items():
            config.base_model_name_or_path = None  # else peft asks the hub for the model's vocabulary
            saved = peft.get_peft_model_state_dict(
                self.model, state_dict=self.model.state_dict(), adapter_name=name
            )
            total += sum(tensor.numel() * tensor.itemsize for tensor in saved.values())
        return total


def attach_without_weights(module: nn.Module, configs: Sequence[PeftConfig]) -> Attached:
    """Attach configs, in order, to a model on the meta device, which is changed in place.

    Raises what `peft` raises for a config that does not fit; see `fitting_errors`.
    """
    names, copies = adapter_names(configs), [without_initial_values(config) for config in configs]
    adapted = attach_configs(
        module,
        copies,
        names=names,
        # UniLoRA draws its indices and counts them.
        context_of=lambda c: nullcontext() if c.peft_type == "UNILORA" else torch.device("meta"),
    )
    for config, name in zip(copies, names, strict=True):
        if config.peft_type == PeftType.ADALORA:
            # Cut the layers to the ranks that training kept, as `peft` does when it loads them.
            for key, kept in (cast(Any, config).rank_pattern or {}).items():
                layer = cast(Any, module.get_submodule(key.split(".lora_E")[0]))
                layer.r[name] = rank = sum(kept)
                layer.lora_E[name] = nn.Parameter(torch.empty(rank, 1, device="meta"))
                layer.lora_A[name] = nn.Parameter(torch.empty(rank, layer.in_features, device="meta"))
                layer.lora_B[name] = nn.Parameter(torch.empty(layer.out_features, rank, device="meta"))
            cast(Any, config).rank_pattern = None  # else the state would be cut once more
    add_shira_indices(adapted)
    return Attached(model=adapted)


def held_names(layer: BaseTunerLayer) -> set[str]:
    """List the names of a layer's adapters."""
    return {name for kind in layer.adapter_layer_names for name in getattr(layer, kind, {})}


def without_initial_values(config: PeftConfig) -> Any:
    """Return a copy of a config with as many parameters, for which `peft` computes no initial values."""
    copied: Any = copy.deepcopy(config)
    if copied.peft_type == PeftType.LORA and copied.init_lora_weights != "mica":  # mica freezes A
        copied.init_lora_weights = True
    if copied.peft_type == PeftType.SHIRA:
        copied.mask_fn = None  # the mask chooses the weights, and `r` alone says how many
    return copied


def add_shira_indices(adapted: nn.Module) -> None:
    """Add to SHiRA's layers the indices of their weights, two int32 each, which its mask would have."""
    for layer in adapted.modules():
        if isinstance(layer, BaseTunerLayer) and hasattr(layer, "shira_indices"):
            for name, weight in cast(Any, layer).shira_weight.items():
                indices = torch.empty(2, weight.numel(), dtype=torch.int32, device="meta")
                cast(Any, layer).shira_indices[name] = indices


def attach_fitting(
    module: nn.Module, configs: Sequence[PeftConfig], *, base_name: str, path: Path
) -> Attached:
    """Attach configs, read from `path`, to a model without weights, which is changed in place.

    Raises TargetError if they do not fit, or two adapt one target module.
    """
    with fitting_errors(path, base_name):
        attached = attach_without_weights(module, configs)
    for name, layer in attached.layers():
        below = layer.base_layer
        names = held_names(layer) | (held_names(below) if isinstance(below, BaseTunerLayer) else set())
        if len(names) > 1:
            raise TargetError(
                f"{path} has {' and '.join(sorted(names))} at the target module {name!r}; "
                "a target module can have one adapter: narrow the target_modules of one of them."
            )
    return attached


def fitting_errors(path: Path, base_name: str) -> AbstractContextManager[None]:
    """Raise a TargetError of one sentence for whatever `peft` raises for a config that does not fit."""

    def sentence(error: Exception) -> TargetError:
        reason = " ".join(str(error).split()).split(". ")[0]
        return TargetError(
            f"{path} does not fit {base_name}: {reason}; correct it, or use the base model that it was made "
            "for."
        )

    return foreign_file(sentence)


def refuse_weights(attached: Attached, weights: Sequence[Mapping[str, torch.Tensor]], *, path: Path) -> None:
    """Raise SpecError if tensors of LoRAs, read from `path`, have other names or shapes than on a skeleton.

    Weights of other types are not checked, as `peft` saves them in more than one way. `weights` has the
    tensors of each config in order; if it is empty, nothing is checked.
    """
    for (name, config), tensors in zip(attached.model.peft_config.items(), weights, strict=False):
        if config.peft_type != PeftType.LORA:
            continue
        state = peft.get_peft_model_state_dict(attached.model, adapter_name=name, save_embedding_layers=False)
        stored, expected = (
            {key: t for key, t in each.items() if ".lora_" in key} for each in (tensors, state)
        )
        require_shapes(stored, expected, path=path)
