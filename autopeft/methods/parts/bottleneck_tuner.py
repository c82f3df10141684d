"""Bottleneck adapters as a tuner for `peft`, which has none.

Importing this file registers the tuner: from then on `peft` attaches, saves and loads a `BottleneckConfig`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import get_pattern_key
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from autopeft.errors import SiteError, SpecError, UnknownNameError
from autopeft.methods.parts.bottleneck_outputs import outputs_of
from autopeft.methods.parts.tuners import TunerLayer, extend_peft_type, register

NAME = "bottleneck"
ACTIVATIONS: dict[str, Callable[..., Any]] = {"relu": F.relu, "gelu": F.gelu, "swish": F.silu}
PEFT_TYPE = extend_peft_type(NAME.upper())


@dataclass
class BottleneckConfig(PeftConfig):  # type: ignore[misc]
    """The `adapter_config.json` of bottleneck adapters.

    Mode `serial` adapts the output y of a map: y + scale · up(act(down(y))). Mode `parallel` wraps the first
    map of a feed-forward sub-layer and adds scale · up(act(down(x))) of its input x to the output of the last
    map. `outputs` names the last map for each wrapped one; injection fills in those that it lacks.
    `r` is the hidden size. `rank_pattern` and `scale_pattern` give other values to the modules that a
    pattern matches, as in `LoraConfig`. `bias` is none, all or bottleneck_only.

    Raises:
        UnknownNameError: No such mode, activation or bias.
        SpecError: A hidden size below 1.
    """

    target_modules: str | list[str] | set[str] | None = None
    modules_to_save: list[str] | None = None
    mode: str = "serial"
    r: int = 8
    rank_pattern: dict[str, int] = field(default_factory=dict)
    scale: float = 1.0
    scale_pattern: dict[str, float] = field(default_factory=dict)
    activation: str = "relu"
    outputs: dict[str, str] = field(default_factory=dict)
    bias: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        for noun, value, known in (
            ("bottleneck mode", self.mode, ("serial", "parallel")),
            ("bottleneck activation", self.activation, ACTIVATIONS),
            ("bottleneck bias", self.bias, ("none", "all", f"{NAME}_only")),
        ):
            if value not in known:
                raise UnknownNameError(noun, value, known)
        smallest = min([self.r, *self.rank_pattern.values()])
        if smallest < 1:
            raise SpecError(f"The hidden size of a bottleneck adapter is {smallest}; give it at least 1.")


class BottleneckLayer(nn.Module, TunerLayer):
    """A linear map with bottleneck adapters behind it, or beside the sub-layer that it begins.

    A parallel adapter adds its term by a forward hook on the module in the place of the last map. The forward
    of the first map sets the hook, which removes itself when it fires. Therefore another adapter on the last
    map never sees the term, whichever was attached first, and no tensor and no hook outlives a forward.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("r", "scaling", "activation", "outputs")

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = _shape(self.get_base_layer())  # inside other tuners' layers
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.activation: dict[str, str] = {}
        # Where a parallel adapter's term goes: the parent of the last map, and the map's name in the parent.
        # As a bare attribute torch would count the parent as a part of this layer; in a tuple it does not.
        self.outputs: dict[str, tuple[nn.Module, str]] = {}
        self._pending: dict[str, RemovableHandle] = {}
        self._active_adapter = adapter_name
        self.merged_adapters = []

    def update_layer(
        self, adapter_name: str, config: BottleneckConfig, *, key: str, output: tuple[nn.Module, str] | None
    ) -> None:
        """Add an adapter that starts as the identity.

        `down` starts as an `nn.Linear` without bias, so that hidden units are as large at any width, and `up`
        at zero, as in He et al. 2022. Houlsby et al. 2019 draw both from a normal distribution of deviation
        1e-2: their start is the identity but for a little.
        """
        rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, key), config.r)
        width = self.out_features if output is None else self.in_features
        down, up = nn.Linear(width, rank), nn.Linear(rank, width)
        for tensor in (down.bias, up.weight, up.bias):
            nn.init.zeros_(tensor)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.r[adapter_name] = rank
        self.scaling[adapter_name] = config.scale_pattern.get(
            get_pattern_key(config.scale_pattern, key), config.scale
        )
        self.activation[adapter_name] = config.activation
        if output is not None:
            self.outputs[adapter_name] = output
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The output of the map, shape (..., out_features), serial adapters applied."""
        self.forget()
        y = result = cast(torch.Tensor, self.base_layer(x, *args, **kwargs))
        for name in () if self.disable_adapters else self.active_adapters:
            if name in self.outputs:
                self._hand_over(name, self._term(name, x))
            elif name in self.bottleneck_down:
                result = result + self._term(name, y)
        return result

    def _term(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The term that an adapter adds, in the precision of its input."""
        down, up = self.bottleneck_down[name], self.bottleneck_up[name]
        hidden = ACTIVATIONS[self.activation[name]](down(self._cast_input_dtype(x, down.weight.dtype)))
        return cast(torch.Tensor, (self.scaling[name] * up(hidden)).to(x.dtype))

    def _hand_over(self, name: str, term: torch.Tensor) -> None:
        """Add a term to the next output of the sub-layer's last map, once."""

        def add(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            self._pending.pop(name).remove()
            return output + term.to(output.dtype)

        parent, child = self.outputs[name]
        self._pending[name] = getattr(parent, child).register_forward_hook(add)

    def forget(self) -> None:
        """Drop the terms of a forward that an error stopped before the last map."""
        while self._pending:
            self._pending.popitem()[1].remove()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: an adapter that is not linear cannot go into the weight of a linear map."""
        raise _not_mergeable()

    def unmerge(self) -> None:
        """Nothing to do: nothing is ever merged."""

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """The map itself; `peft` calls this on every layer that has it, also when another tuner unloads."""
        if merge:
            raise _not_mergeable()
        self.forget()
        return self.get_base_layer()


class BottleneckModel(BaseTuner):  # type: ignore[misc]
    """The tuner that `peft` makes of a `BottleneckConfig`."""

    prefix = f"{NAME}_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - no default: name the modules

    def _prepare_model(self, peft_config: BottleneckConfig, model: nn.Module) -> None:
        """Find the last maps of parallel adapters, before any module is replaced."""
        if peft_config.mode == "parallel":
            peft_config.outputs = outputs_of(
                model,
                is_target=lambda name: bool(self._check_target_module_exists(peft_config, name)),
                known=peft_config.outputs,
            )

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        """Wrap a module, or add an adapter to the layer that is there; `peft` gives the arguments."""
        output = None
        if peft_config.mode == "parallel":
            path, _, child = peft_config.outputs[current_key].rpartition(".")
            output = (self.model.get_submodule(path), child)
        layer = target if isinstance(target, BottleneckLayer) else BottleneckLayer(target, adapter_name)
        layer.update_layer(adapter_name, peft_config, key=current_key, output=output)
        if layer is not target:
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise _not_mergeable()


def _not_mergeable() -> SpecError:
    return SpecError(
        "A bottleneck adapter cannot be merged into a linear map, for it is not linear; "
        "keep it beside the base model, or take it off with unload()."
    )


def _shape(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear map in either storage order."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        n_in, n_out = module.weight.shape
        return int(n_in), int(n_out)
    raise SiteError(
        f"A bottleneck adapter was put at a {type(module).__name__}; it takes nn.Linear and Conv1D: "
        "name only those in target_modules."
    )


register(NAME, BottleneckConfig, BottleneckModel)
