"""What `peft` attaches for a stack of configs, on a model without weights.

On the meta device shapes cost nothing, and `peft` itself decides what it makes. Types that read numbers of
the base model while they attach fail; UniLoRA reads its own indices alone, which are real.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import peft
import torch
from peft import PeftConfig, PeftModel, PeftType
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from autopeft.model import adapter_names, put_on


@dataclass(frozen=True, kw_only=True)
class Attached:
    """A model without weights, with adapters on it."""

    model: PeftModel

    def layers(self) -> Iterator[tuple[str, BaseTunerLayer]]:
        """The layers that hold adapters, by their names in the base model."""
        modules = self.model.get_base_model().named_modules()
        return ((name, layer) for name, layer in modules if isinstance(layer, BaseTunerLayer))

    def targets(self) -> Iterator[tuple[str, BaseTunerLayer]]:
        """The outermost layer at each module, by the module's name, and at each parameter inside modules."""
        for name, layer in self.layers():
            if isinstance(layer, ParamWrapper):  # parameters of one module are wrapped in each other
                yield f"{name.replace('.base_layer', '')}.{layer.parameter_name}", layer
            elif not name.endswith(".base_layer"):
                yield name, layer

    def ranks(self) -> dict[str, dict[str, int]]:
        """The rank of each adapter at each layer that has one, by the layer's name."""
        return {
            name: {adapter: rank for adapter, rank in layer.r.items() if isinstance(rank, int)}
            for name, layer in self.layers()
            if isinstance(getattr(layer, "r", None), Mapping)
        }

    def saved_bytes(self) -> int:
        """The size of the tensors that `save_pretrained` would write."""
        total = 0
        for name, config in self.model.peft_config.items():
            config.base_model_name_or_path = None  # else peft asks the hub for the model's vocabulary
            saved = peft.get_peft_model_state_dict(
                self.model, state_dict=self.model.state_dict(), adapter_name=name
            )
            total += sum(tensor.numel() * tensor.itemsize for tensor in saved.values())
        return total


def attach_without_weights(module: nn.Module, configs: Sequence[PeftConfig]) -> Attached:
    """The configs, in their order, on a model on the meta device, which is changed in place.

    Raises:
        Exception: What `peft` raises of a config that does not fit; see `fitting.in_a_sentence`.
    """
    names, copies = adapter_names(configs), [copy.deepcopy(config) for config in configs]
    for config in copies:
        forgo_initial_values(config)
    adapted = put_on(
        module,
        copies,
        names=names,
        # UniLoRA draws its indices and counts them.
        making=lambda config: (
            contextlib.nullcontext() if config.peft_type == PeftType.UNILORA else torch.device("meta")
        ),
    )
    for config, name in zip(copies, names, strict=True):
        if config.peft_type == PeftType.ADALORA:
            # Cut the layers to the ranks that training has left, as `peft` does when it loads them.
            for key, kept in (cast(Any, config).rank_pattern or {}).items():
                layer = cast(Any, module.get_submodule(key.split(".lora_E")[0]))
                layer.r[name] = rank = sum(kept)
                layer.lora_E[name] = nn.Parameter(torch.empty(rank, 1, device="meta"))
                layer.lora_A[name] = nn.Parameter(torch.empty(rank, layer.in_features, device="meta"))
                layer.lora_B[name] = nn.Parameter(torch.empty(layer.out_features, rank, device="meta"))
            cast(Any, config).rank_pattern = None  # else the state would be cut once more
    add_shira_indices(adapted)
    _add_monteclora_samplers(adapted)
    return Attached(model=adapted)


def held_names(layer: BaseTunerLayer) -> set[str]:
    """The names of the adapters that a layer holds."""
    return {name for kind in layer.adapter_layer_names for name in getattr(layer, kind, {})}


def remarks(config: Any) -> list[str]:
    """Notes of what a config leaves open, or what training makes of the count."""
    if config.peft_type == PeftType.ADALORA and not config.rank_pattern:
        return [f"AdaLoRA begins at rank {config.init_r}, which is counted, and prunes to {config.target_r}."]
    return []


def forgo_initial_values(config: Any) -> None:
    """Change a config so that no initial value must be computed; the number of parameters stays the same."""
    if config.peft_type == PeftType.LORA and config.init_lora_weights != "mica":  # mica freezes A
        config.init_lora_weights = True
    if config.peft_type == PeftType.SHIRA:
        config.mask_fn = None  # the mask says which weights, `r` says how many


def add_shira_indices(adapted: nn.Module) -> None:
    """Give SHiRA's layers the indices of their weights, two int32 each, which its mask would have."""
    for layer in adapted.modules():
        if isinstance(layer, BaseTunerLayer) and hasattr(layer, "shira_indices"):
            for name, weight in cast(Any, layer).shira_weight.items():
                indices = torch.empty(2, weight.numel(), dtype=torch.int32, device="meta")
                cast(Any, layer).shira_indices[name] = indices


def _add_monteclora_samplers(adapted: nn.Module) -> None:
    """Give MonteCLoRA's layers the numbers of their samplers, which `peft` makes on real devices alone."""
    for module in adapted.modules():
        layer = cast(Any, module)
        for name, config in getattr(layer, "_lora_monteclora_config", {}).items():
            rank, n_samples = layer.lora_A[name].out_features, config.num_samples
            sampler = nn.Module()
            sampler.std_prior = nn.Parameter(torch.empty(rank, device="meta"))
            sampler.expert_weights_prior = nn.Parameter(torch.empty(n_samples, device="meta"))
            sampler.register_buffer("gaussian_var_prior", torch.empty(rank, rank, device="meta"))
            sampler.register_buffer("expert_weights", torch.empty(n_samples, device="meta"))
            layer.lora_monteclora_sampler[name] = sampler
