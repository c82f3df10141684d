"""Trained biases of norms and of Conv1D maps as a tuner for `peft`, whose BEFT takes `nn.Linear` alone.

Importing this file registers the tuner with `peft`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils import register_peft_method
from torch import nn

from autopeft.errors import SiteError

NAME = "bias_shift"


def _extend_peft_type(name: str) -> PeftType:
    """Add a member to `peft`'s enum of methods, unless it is there; `register_peft_method` needs it.

    A Python enum is closed: the member is put into the three tables by which enums look members up, as their
    metaclass does (run on CPython 3.11 and 3.13).
    """
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_ = member._value_ = name
        member.__objclass__ = PeftType
        type.__setattr__(PeftType, name, member)  # attribute access, from 3.12 on
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = member
        PeftType._value2member_map_[name] = member
    return PeftType[name]


PEFT_TYPE = _extend_peft_type(NAME.upper())


@dataclass
class BiasConfig(PeftConfig):  # type: ignore[misc]
    """The `adapter_config.json` of trained biases, for modules that have a bias."""

    target_modules: str | list[str] | set[str] | None = None
    modules_to_save: list[str] | None = None
    bias: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)


class BiasLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """A module whose output, shape (..., out_features), gets a trained vector added."""

    adapter_layer_names = ("bias_shift_vector",)
    # Members of `peft`'s layers, which mypy would take for tensors.
    active_adapters: list[str]
    disable_adapters: bool
    merged: bool
    merged_adapters: list[str]
    get_base_layer: Callable[[], nn.Module]
    set_adapter: Callable[..., None]
    _move_adapter_to_device_of_base_layer: Callable[..., None]

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bias_shift_vector = nn.ParameterDict()
        self._active_adapter = adapter_name
        self.merged_adapters = []

    def update_layer(self, adapter_name: str, config: BiasConfig) -> None:
        """Add a shift that starts at zero."""
        shift = torch.zeros_like(_bias_of(self.get_base_layer()))
        self.bias_shift_vector[adapter_name] = nn.Parameter(shift)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run the module and add the shifts."""
        y = cast(torch.Tensor, self.base_layer(x, *args, **kwargs))
        if self.disable_adapters or self.merged:
            return y
        for name in self.active_adapters:
            if name in self.bias_shift_vector:
                y = y + self.bias_shift_vector[name].to(y.dtype)
        return y

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the shifts to the module's own bias."""
        bias = _bias_of(self.get_base_layer())
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.bias_shift_vector:
                shifted = bias.data + self.bias_shift_vector[name].data.to(bias.dtype)
                if safe_merge and not torch.isfinite(shifted).all():
                    raise ValueError(f"The trained bias {name!r} is not finite and is not merged.")
                bias.data = shifted
                self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Subtract the shifts from the module's own bias."""
        bias = _bias_of(self.get_base_layer())
        while self.merged_adapters:
            bias.data = bias.data - self.bias_shift_vector[self.merged_adapters.pop()].data.to(bias.dtype)


class BiasModel(BaseTuner):  # type: ignore[misc]
    """The tuner that `peft` makes of a `BiasConfig`."""

    prefix = f"{NAME}_"
    tuner_layer_cls = BiasLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - no default: name the modules

    def _create_and_replace(
        self,
        peft_config: BiasConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        """Wrap a module, or add an adapter to its wrapper."""
        layer = target if isinstance(target, BiasLayer) else BiasLayer(target, adapter_name)
        layer.update_layer(adapter_name, peft_config)
        if layer is not target:
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)


def _bias_of(module: nn.Module) -> nn.Parameter:
    bias = getattr(module, "bias", None)
    if not isinstance(bias, nn.Parameter):
        raise SiteError(
            f"A bias was to be trained at a {type(module).__name__} without one; choose modules with a bias."
        )
    return bias


if PEFT_TYPE not in PEFT_TYPE_TO_TUNER_MAPPING:
    register_peft_method(name=NAME, config_cls=BiasConfig, model_cls=BiasModel)
