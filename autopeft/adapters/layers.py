"""What `peft` makes of configs, module by module: ranks, scales and trainable numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.tuners.lora.layer import ParamWrapper
from torch import nn

from autopeft.adapters.fitting import attach_one_each
from autopeft.adapters.representable import in_head
from autopeft.adapters.skeleton import Attached
from autopeft.model import BaseModel, conv1d_to_linear


@dataclass(frozen=True, kw_only=True)
class AttachedLayer:
    """What `peft` made at one module; `scale` None where the type has none, `params` are trainable.

    `on_inputs` says that the factors of IA3 multiply the inputs rather than the outputs.
    """

    kind: str = field(compare=False)
    rank: int
    scale: float | None = field(compare=False)
    dora: bool
    on_inputs: bool
    params: int

    def is_same(self, other: AttachedLayer | None) -> bool:
        """Whether another layer trains the same numbers in the same way; scales up to rounding."""
        return other == self and math.isclose(self.scale or 0.0, other.scale or 0.0, rel_tol=1e-9)


def describe_layer(layer: AttachedLayer | None) -> str:
    """A phrase for messages; `nothing` for None."""
    if layer is None:
        return "nothing"
    scale = "" if layer.scale is None else f" with scale {layer.scale:g}"
    return f"{layer.params:,} parameters{scale}{' on the inputs' if layer.on_inputs else ''}"


def attached_layers(
    configs: Sequence[PeftConfig], base: BaseModel, *, path: Path
) -> dict[str, AttachedLayer]:
    """What `peft` makes of configs on a copy of the base model without weights, by module.

    Modules that the configs train whole, such as the task head, are left out. The arguments stay as they are.

    Raises:
        SiteError: The configs, which were read from `path`, do not fit, or two adapt one site.
    """
    return {target: _attached_layer(layer) for target, layer in _attach(configs, base, path=path).targets()}


def n_trained(config: PeftConfig, base: BaseModel, *, path: Path) -> int:
    """Parameters outside the task head that `peft` trains for a config, biases of the base model too.

    Raises:
        SiteError: The config, which was read from `path`, does not fit.
    """
    adapted = _attach([config], base, path=path).model.get_base_model()
    trained = ((name, p) for name, p in adapted.named_parameters() if p.requires_grad)
    return sum(parameter.numel() for name, parameter in trained if not in_head(name, base))


def _attach(configs: Sequence[PeftConfig], base: BaseModel, *, path: Path) -> Attached:
    """The configs without what they train whole, on a copy of the base model without weights."""
    with torch.device("meta"):
        module = type(base.module)(copy.deepcopy(cast(Any, base.module.config)))
    if any(site.quantised for site in base.sites):
        conv1d_to_linear(module)
    copies = [copy.deepcopy(config) for config in configs]
    for config in copies:
        config.task_type = None
        if hasattr(config, "modules_to_save"):
            config.modules_to_save = None
    module.requires_grad_(False).eval()
    return attach_one_each(module, copies, base_name=base.name, path=path)


def _attached_layer(layer: Any) -> AttachedLayer:
    ranks = list(layer.r.values()) if isinstance(getattr(layer, "r", None), Mapping) else []
    scales = getattr(layer, "scaling", None)
    dora = getattr(layer, "use_dora", {})
    base_layer = layer.get_base_layer()
    inner = {id(p) for p in layer.base_layer.parameters()} if isinstance(layer, ParamWrapper) else set()
    return AttachedLayer(
        kind=type(base_layer).__name__ if isinstance(base_layer, nn.Module) else "parameter",
        rank=int(ranks[0]) if ranks else 0,
        scale=float(next(iter(scales.values()))) if isinstance(scales, Mapping) and scales else None,
        dora=isinstance(dora, Mapping) and any(dora.values()),
        on_inputs=bool(getattr(layer, "is_feedforward", False)),
        params=sum(p.numel() for p in layer.parameters() if p.requires_grad and id(p) not in inner),
    )
