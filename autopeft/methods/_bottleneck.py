"""Bottleneck adapters as a `peft` tuner of our own, for `peft` has none.

Importing this file registers it: from then on `get_peft_model`, `inject_adapter_in_model`,
`save_pretrained` and `PeftModel.from_pretrained` take a `BottleneckConfig` as any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from peft.utils.other import get_pattern_key
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from autopeft.errors import SiteError, SpecError, UnknownNameError
from autopeft.methods._peft_types import extend_peft_type
from autopeft.model import list_sites
from autopeft.records import Site

NAME = "bottleneck"
MODES = ("serial", "parallel")
FIRST_ROLES = ("up", "gate_up")  # of the maps that begin a feed-forward sub-layer
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "swish": F.silu,
}
PEFT_TYPE = extend_peft_type(NAME.upper())
_LAYER = re.compile(r"^.*?\.\d+\.")  # a module's name as far as its layer, by the first number


@dataclass
class BottleneckConfig(PeftConfig):  # type: ignore[misc]
    """What `adapter_config.json` says of bottleneck adapters.

    `serial` adapts what a map gives: y + scale · up(act(down(y))). `parallel` wraps the first
    map of a feed-forward sub-layer and adds scale · up(act(down(x))) of its input x to what
    the last map gives; `outputs` names that map for each wrapped one, and is filled in on
    injection where it does not. `r` is the hidden size. `rank_pattern` and `scale_pattern`
    give other values to the modules that a pattern matches, as in `LoraConfig`; `bias` is
    none, all or bottleneck_only.
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
            ("bottleneck mode", self.mode, MODES),
            ("bottleneck activation", self.activation, ACTIVATIONS),
            ("bottleneck bias", self.bias, ("none", "all", f"{NAME}_only")),
        ):
            if value not in known:
                raise UnknownNameError(noun, value, known)
        smallest = min([self.r, *self.rank_pattern.values()])
        if smallest < 1:
            raise SpecError(f"The hidden size of a bottleneck adapter is {smallest}; give it at least 1.")


class BottleneckLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """A linear map with bottleneck adapters behind it, or beside the sub-layer that it begins.

    A parallel adapter hands its term over with a forward hook on whatever sits in the place of
    the last map at that moment, put up in the forward of the first map and taken down as it fires.
    So another adapter on the last map never sees the term, whichever came first, nothing is
    kept once a forward is over, and there is no hook to leave behind.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("r", "scaling", "activation", "outputs")

    # What comes from `peft`, which has no types: declared, or torch would say that they are tensors.
    active_adapters: list[str]
    disable_adapters: bool
    merged_adapters: list[str]
    get_base_layer: Callable[[], nn.Module]
    set_adapter: Callable[..., None]
    _cast_input_dtype: Callable[..., torch.Tensor]
    _move_adapter_to_device_of_base_layer: Callable[..., None]

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        """Wrap a map, or another tuner's layer around one; adapters come with `update_layer`."""
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = _shape(self.get_base_layer())
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.activation: dict[str, str] = {}
        # Where a parallel adapter's term goes: the parent of the last map, and the map's name in it. In a
        # tuple, for torch would otherwise take the parent for a part of this layer.
        self.outputs: dict[str, tuple[nn.Module, str]] = {}
        self._pending: dict[str, RemovableHandle] = {}
        self._active_adapter = adapter_name
        self.merged_adapters = []

    def update_layer(
        self, adapter_name: str, config: BottleneckConfig, *, key: str, output: tuple[nn.Module, str] | None
    ) -> None:
        """Add an adapter that starts as the identity.

        `down` starts as an `nn.Linear` with no bias, so that hidden units are as large at any
        width, and `up` at zero, as in He et al. 2022 (Houlsby et al. 2019 draw both from a
        normal distribution of deviation 1e-2, so that their start is the identity but for a little).
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
        """What the map gives, of shape (..., out_features), serial adapters applied."""
        self.forget()
        y = cast(torch.Tensor, self.base_layer(x, *args, **kwargs))
        if self.disable_adapters:
            return y
        result = y
        for name in self.active_adapters:
            if name in self.outputs:
                self._hand_over(name, self._term(name, x))
            elif name in self.bottleneck_down:
                result = result + self._term(name, y)
        return result

    def _term(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """What an adapter adds, in the precision of its input."""
        down, up = self.bottleneck_down[name], self.bottleneck_up[name]
        hidden = ACTIVATIONS[self.activation[name]](down(self._cast_input_dtype(x, down.weight.dtype)))
        return cast(torch.Tensor, (self.scaling[name] * up(hidden)).to(x.dtype))

    def _hand_over(self, name: str, term: torch.Tensor) -> None:
        """Add a term to what the last map of the sub-layer gives next, once."""

        def add(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            self._pending.pop(name).remove()
            return output + term.to(output.dtype)

        parent, child = self.outputs[name]
        self._pending[name] = getattr(parent, child).register_forward_hook(add)

    def forget(self) -> None:
        """Drop the terms of a forward that was broken off before the last map was reached."""
        while self._pending:
            self._pending.popitem()[1].remove()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: what is not linear cannot go into the weight of a linear map."""
        raise _not_mergeable()

    def unmerge(self) -> None:
        """Nothing to do: nothing is ever merged."""

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """The map itself; `peft` asks every layer that has this, also when another tuner unloads."""
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
        """Find, before any module is replaced, where the terms of parallel adapters go."""
        if peft_config.mode == "parallel":
            peft_config.outputs = _outputs_of(
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


def _outputs_of(
    model: nn.Module, *, is_target: Callable[[str], bool], known: Mapping[str, str]
) -> dict[str, str]:
    """First map -> last map of its feed-forward sub-layer, by name, for every target.

    Args:
        model: A transformer, with or without tuners on it.
        is_target: Whether a map of that name gets a parallel adapter.
        known: What need not be looked for; it is checked all the same.

    Raises:
        SiteError: A target has no last map in its layer, several, or one of another width.
    """
    sites = {site.name: site for site in list_sites(_maps_alone(model))}
    outputs = {}
    for name, site in sites.items():
        if is_target(name):
            last = known[name] if name in known else _last_map(site, tuple(sites.values()))
            _check_width(site, last, sites)
            outputs[name] = last
    return outputs


def _maps_alone(model: nn.Module) -> nn.Module:
    """The parts of a model that tuners wrap, under the names that they had before."""
    tree = nn.Module()
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside):
            continue
        if isinstance(module, BaseTunerLayer):
            inside = (*inside, f"{name}.")
            module = module.get_base_layer()
        if name and not any(True for _ in module.children()):
            *path, last = name.split(".")
            parent = tree
            for part in path:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(last, module)
    return tree


def _last_map(site: Site, sites: Sequence[Site]) -> str:
    """The map of role `down` in the layer of a site, the nearest by name where there are several."""
    layer = _LAYER.match(site.name)
    if site.role not in FIRST_ROLES or layer is None:
        raise SiteError(
            f"A parallel bottleneck adapter was put at {site.name}, a map of role {site.role!r}; it takes "
            "the first map of a layer's feed-forward: choose one of role up or gate_up, or name its last "
            "map in outputs."
        )
    found = [other for other in sites if other.role == "down" and other.name.startswith(layer[0])]
    shared = {other.name: _n_shared_parts(site.name, other.name) for other in found}
    nearest = [name for name, n in shared.items() if n == max(shared.values())]
    if len(nearest) != 1:
        seen = f"has the last maps {', '.join(sorted(nearest))}" if nearest else "has no last map (role down)"
        raise SiteError(
            f"A parallel bottleneck adapter was put at {site.name}, whose layer {seen}; it needs exactly "
            "one to add to: use a serial adapter there, or name the map in outputs."
        )
    return nearest[0]


def _n_shared_parts(name: str, other: str) -> int:
    """How many leading parts two dotted names share."""
    pairs = zip(name.split("."), other.split("."), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _check_width(site: Site, last: str, sites: Mapping[str, Site]) -> None:
    """The sub-layer must give as many numbers as it takes, for the term has that width."""
    if last not in sites:
        raise SiteError(
            f"The term of {site.name} is to go to {last}, and the model has no linear map of that name; "
            "correct outputs in the adapter's config, or leave it out."
        )
    if sites[last].out_features != site.in_features:
        raise SiteError(
            f"The term of {site.name} has its {site.in_features} inputs as width, but {last} gives "
            f"{sites[last].out_features} numbers; use a serial adapter there."
        )


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


def _register() -> None:
    """Make the tuner known to `peft`; a second import finds it there."""
    known = PEFT_TYPE_TO_TUNER_MAPPING.get(PEFT_TYPE)
    if known is None or known.__module__ != __name__:  # another package's: peft says that the name is taken
        register_peft_method(name=NAME, config_cls=BottleneckConfig, model_cls=BottleneckModel)


_register()
