"""Attach `peft` configs to a model without weights, so that what would be trained can be counted.

On the meta device shapes cost nothing, and `peft` itself says what it makes. Four of its types
(BOFT, FRoD, AdaMSS and UniLoRA in 0.21) read numbers while they attach: three of them are counted
by a formula at the sites that LoRA with the same targets would take, the fourth with real indices.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import peft
import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftType
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from autopeft import model
from autopeft.errors import SiteError
from autopeft.model import BaseModel

Layers = dict[str, nn.Module]


@dataclass(frozen=True, kw_only=True)
class Attached:
    """A model with adapters on it; `beneath` a prompt lies the model that keeps the other adapters.

    `beside_bytes` are saved with the adapters and are no tensors of the model.
    """

    model: PeftModel
    beneath: PeftModel | None = None
    beside_bytes: int = 0

    def configs(self) -> dict[str, tuple[PeftModel, PeftConfig]]:
        """Each adapter's config, and the model that saves it."""
        holders = [self.model] if self.beneath is None else [self.beneath, self.model]
        return {name: (holder, config) for holder in holders for name, config in holder.peft_config.items()}


def attach(base: BaseModel, configs: Sequence[PeftConfig]) -> Attached:
    """The base model with the configs on it, on the meta device.

    Args:
        base: A skeleton; changed in place, and not given back.
        configs: In the order in which they are attached, but that a prompt, which wraps the whole
            model, comes last; changed where an initial value would need weights.
    """
    names = model.adapter_names(configs)
    for config in configs:
        spare(config)
    stand_ins = [_stand_in(config) if config.peft_type in _FORMULAS else config for config in configs]
    ordered = sorted(zip(stand_ins, names, strict=True), key=lambda pair: pair[0].is_prompt_learning)
    (first, name), *others = ordered
    attached, beneath = _get_peft_model(base.module, first, name), None
    for config, name in others:
        if config.is_prompt_learning:
            if beneath is not None or first.is_prompt_learning:
                raise ValueError("two of its configs are prompts, a model takes one")
            trained = [parameter for parameter in base.module.parameters() if parameter.requires_grad]
            attached, beneath = _get_peft_model(base.module, config, name), attached
            for parameter in trained:  # peft has frozen them
                parameter.requires_grad_(True)
        else:
            with _without_memory(config):
                peft.inject_adapter_in_model(config, base.module, name)
    beside = [
        _apply_formula(config, base.module, name)
        for config, name in zip(configs, names, strict=True)
        if config.peft_type in _FORMULAS
    ]
    complete(attached)
    for config, name in zip(configs, names, strict=True):
        if config.peft_type == PeftType.ADALORA:
            _prune(config, base.module, name)
    return Attached(model=attached, beneath=beneath, beside_bytes=sum(beside))


def _get_peft_model(module: nn.Module, config: PeftConfig, name: str) -> PeftModel:
    with _without_memory(config):
        return peft.get_peft_model(module, config, adapter_name=name)


def _prune(config: Any, inner: nn.Module, adapter: str) -> None:
    """Cut AdaLoRA's layers to the ranks that training has left, as `peft` does when it loads them."""
    for key, kept in (config.rank_pattern or {}).items():
        layer = cast(Any, inner.get_submodule(key.split(".lora_E")[0]))
        n_kept = sum(kept)
        layer.r[adapter] = n_kept
        layer.lora_E[adapter] = nn.Parameter(torch.empty(n_kept, 1, device="meta"))
        layer.lora_A[adapter] = nn.Parameter(torch.empty(n_kept, layer.in_features, device="meta"))
        layer.lora_B[adapter] = nn.Parameter(torch.empty(layer.out_features, n_kept, device="meta"))
    config.rank_pattern = None  # else the state would be cut once more


def attaches_without_weights(config: PeftConfig) -> bool:
    """Whether `peft` can attach a config on the meta device."""
    return config.peft_type not in (*_FORMULAS, PeftType.UNILORA)


@contextlib.contextmanager
def _without_memory(config: PeftConfig) -> Iterator[None]:
    """New tensors are made on the meta device; UniLoRA draws its indices, then counts them."""
    if config.peft_type == PeftType.UNILORA:
        yield
    else:
        with torch.device("meta"):
            yield


def spare(config: Any) -> None:
    """Ask for no initial value that must be computed; the number of parameters stays the same."""
    if config.peft_type == PeftType.LORA and config.init_lora_weights != "mica":  # mica freezes A
        config.init_lora_weights = True
    if config.peft_type == PeftType.SHIRA:
        config.mask_fn = None  # the mask says which weights, `r` says how many
    if getattr(config, "prompt_tuning_init", None) is not None:
        config.prompt_tuning_init = "RANDOM"  # a text would be read by the tokenizer


def complete(attached: PeftModel) -> None:
    """Give SHiRA the indices that go into its file, two int32 per weight, which the mask would have."""
    for layer in attached.modules():
        if isinstance(layer, BaseTunerLayer) and hasattr(layer, "shira_indices"):
            for name, weight in cast(Any, layer).shira_weight.items():
                indices = torch.empty(2, weight.numel(), dtype=torch.int32, device="meta")
                cast(Any, layer).shira_indices[name] = indices


def remarks(config: Any) -> list[str]:
    """What a config leaves open, or what becomes of the count in training."""
    kind = config.peft_type
    if kind == PeftType.ADAMSS:
        return [
            "AdaMSS parts the outputs by k-means of the weights; counted as if no part were smaller than "
            "subspace_rank, which is exact but for odd weights and an upper bound with use_dynamic_rank."
        ]
    if kind == PeftType.ADALORA and not config.rank_pattern:
        return [f"AdaLoRA begins at rank {config.init_r}, which is counted, and prunes to {config.target_r}."]
    if kind == PeftType.BOFT and config.boft_n_butterfly_factor > 1:
        return ["peft trains one butterfly factor where it cannot build its CUDA extension for BOFT."]
    return []


@contextlib.contextmanager
def fitting(path: Path, named: str) -> Iterator[None]:
    """Turn what `peft` says of a config that does not fit into one sentence.

    Raises:
        SiteError: With peft's own reason.
    """
    try:
        yield
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RuntimeError,
        ImportError,
        OSError,
        re.error,
    ) as error:
        said = str(error).strip() or type(error).__name__
        reason = said.splitlines()[0].split(". ")[0].rstrip(".")
        raise SiteError(
            f"{path} does not fit {named}: {reason}; correct it, or use the base model that it was made for."
        ) from error


def targets(attached: Attached) -> dict[str, list[str]]:
    """The modules, and the parameters inside modules, that each adapter took, by the adapter's name."""
    found: dict[str, list[str]] = {}
    for name, layer in attached.model.get_base_model().named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        parameter = getattr(layer, "parameter_name", None)  # several of one module are wrapped in each other
        if parameter or not name.endswith(".base_layer"):
            target = f"{name.replace('.base_layer', '')}.{parameter}" if parameter else name
            for adapter in _held(layer):
                found.setdefault(adapter, []).append(target)
    return found


def refuse_overlap(attached: Attached, *, path: Path) -> None:
    """Refuse two adapters at one site.

    Raises:
        SiteError: The message names the first such site.
    """
    for name, layer in attached.model.get_base_model().named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        below = layer.base_layer
        held = _held(layer) | (_held(below) if isinstance(below, BaseTunerLayer) else set())
        if len(held) > 1:
            raise SiteError(
                f"{path} puts {' and '.join(sorted(held))} on the site {name!r}; "
                "one site takes one method: narrow the target_modules of one of them."
            )


def _held(layer: BaseTunerLayer) -> set[str]:
    return {name for kind in layer.adapter_layer_names for name in getattr(layer, kind, {})}


# What peft makes of types that cannot be attached without weights.


@dataclass(frozen=True)
class _Formula:
    """Trainable parameters at one layer, the bytes saved beside them for all layers, and what it takes."""

    kinds: tuple[str, ...]
    params: Callable[[Any, nn.Module], int]
    beside: Callable[[Any, Layers], int]


def _boft(config: Any, layer: nn.Module) -> int:
    """Factors of blocks b × b along the diagonal, and one scale per output (peft: boft/layer.py)."""
    n_in, n_out = _shape(layer)
    block = config.boft_block_size or n_in // config.boft_block_num
    if block < 1 or n_in % block or config.boft_n_butterfly_factor < 1:
        raise ValueError(f"{n_in} inputs must be divisible by the block size ({block}), factors at least 1")
    return int(config.boft_n_butterfly_factor * n_in * block + n_out)


def _frod(config: Any, layer: nn.Module) -> int:
    """A diagonal and a sparse matrix in the space of the inputs (peft: frod/model.py)."""
    n_in, _ = _shape(layer)
    return n_in + _frod_sparse(config, n_in)


def _frod_sparse(config: Any, n_in: int) -> int:
    n_entries = min(int(n_in * n_in * config.sparse_rate), n_in * n_in - n_in)
    return max(1, n_entries) if config.sparse_rate > 0 and n_in > 1 else n_entries


def _frod_beside(config: Any, layers: Layers) -> int:
    """Per kind of module one projection like the weights, the sparse indices and the shape in int64."""
    if not config.save_projection:
        return 0
    kinds = {tuple(_kind_of(name)): layer for name, layer in layers.items()}
    total = 0
    for layer in kinds.values():
        n_in, _ = _shape(layer)
        total += cast(Any, layer).weight.itemsize * n_in * n_in + 16 * _frod_sparse(config, n_in) + 16
    return total


def _kind_of(name: str) -> list[str]:
    """FRoD shares projections between modules of one name and one holder, whatever their layer."""
    parts = name.split(".")
    if parts[-3:] == ["attention", "output", "dense"]:
        return ["attention_output"]
    return [part for part in parts[-2:] if not part.isdigit()]


def _adamss(config: Any, layer: nn.Module) -> int:
    """K parts of the outputs, each of rank s in the first r directions; all outputs are in a part.

    K-means of the weights decides which outputs share a part; where each part holds at
    least s of them, as it nearly always does, the count is the same.
    """
    _, n_out = _shape(layer)
    parts = min(config.num_subspaces, n_out)
    return int(config.subspace_rank * (parts * _adamss_directions(config, layer) + n_out))


def _adamss_directions(config: Any, layer: nn.Module) -> int:
    n_in, n_out = _shape(layer)
    return min(int(config.r), n_in + _has_bias(layer), n_out)


def _adamss_beside(config: Any, layers: Layers) -> int:
    """The frozen directions in fp32, in the space of the inputs and the bias."""
    widths = [(_shape(layer)[0] + _has_bias(layer), layer) for layer in layers.values()]
    return sum(4 * width * _adamss_directions(config, layer) for width, layer in widths)


def _has_bias(layer: nn.Module) -> bool:
    return getattr(layer, "bias", None) is not None


_FORMULAS = {
    PeftType.BOFT: _Formula(("Linear",), _boft, lambda config, layers: 0),
    PeftType.FROD: _Formula(("Linear", "Conv1D"), _frod, _frod_beside),
    PeftType.ADAMSS: _Formula(("Linear",), _adamss, _adamss_beside),
}


def _stand_in(config: Any) -> LoraConfig:
    """LoRA with the targets of a config, to let `peft` choose the modules."""
    bias = getattr(config, "bias", "none")
    shared = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save")
    return LoraConfig(
        r=1,
        bias="lora_only" if bias.endswith("_only") else bias,
        task_type=config.task_type,
        **{field: getattr(config, field, None) for field in shared},
    )


def _apply_formula(config: PeftConfig, inner: nn.Module, adapter: str) -> int:
    """Put as many numbers into the stand-in as the config would train; the bytes saved beside them."""
    formula = _FORMULAS[config.peft_type]
    layers: Layers = {
        name: cast(nn.Module, layer.base_layer)
        for name, layer in inner.named_modules()
        if isinstance(layer, BaseTunerLayer) and adapter in _held(layer)
    }
    for name, layer in layers.items():
        if not {cls.__name__ for cls in type(layer).__mro__}.intersection(formula.kinds):
            taken = " and ".join(formula.kinds)
            raise ValueError(f"{config.peft_type.value} takes {taken}, {name} is {type(layer).__name__}")
        n_params = formula.params(config, layer)
        holder = cast(Any, inner.get_submodule(name))
        holder.lora_A[adapter].weight = nn.Parameter(torch.empty(n_params, device="meta"))
        holder.lora_B[adapter].weight = nn.Parameter(torch.empty(0, device="meta"))
        del holder.r[adapter]  # the stand-in's
    return formula.beside(config, layers)


def _shape(layer: Any) -> tuple[int, int]:
    """Inputs and outputs of a linear map, in either storage order."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    n_in, n_out = layer.weight.shape
    return n_in, n_out
