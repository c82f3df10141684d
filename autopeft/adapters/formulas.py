"""What `peft` makes of the types that it cannot attach without weights: BOFT, FRoD and AdaMSS.

They read numbers of the base model while they attach. A LoRA with the same targets stands in for them, so
that `peft` chooses the modules, and gets as many numbers as a formula says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from autopeft.model import map_shape

Layers = dict[str, nn.Module]

_TARGETS = "target_modules exclude_modules layers_to_transform layers_pattern modules_to_save".split()


@dataclass(frozen=True)
class _Formula:
    """Which layers a type takes, its trainable parameters at one, and the bytes saved beside all of them."""

    kinds: tuple[str, ...]
    params: Callable[[Any, nn.Module], int]
    beside_bytes: Callable[[Any, Layers], int]


def has_formula(config: PeftConfig) -> bool:
    """Whether a config is counted by a formula."""
    return config.peft_type in _FORMULAS


def stand_in(config: Any) -> LoraConfig:
    """LoRA of rank 1 with the targets of a config, to let `peft` choose the modules."""
    bias = getattr(config, "bias", "none")
    return LoraConfig(
        r=1,
        bias="lora_only" if bias.endswith("_only") else bias,
        task_type=config.task_type,
        **{field: getattr(config, field, None) for field in _TARGETS},
    )


def apply_formula(config: PeftConfig, layers: Iterable[tuple[str, BaseTunerLayer]], *, adapter: str) -> int:
    """Give a stand-in as many numbers as its config would train; returns the bytes saved beside them.

    The layers hold the stand-in under the name `adapter`; they come by their names in the base model and are
    changed in place. A ValueError says which layer the type does not take, or which sizes do not go together.
    """
    formula = _FORMULAS[config.peft_type]
    wrapped: Layers = {}
    for name, holder in layers:
        layer = wrapped[name] = cast(nn.Module, holder.base_layer)
        if not {cls.__name__ for cls in type(layer).__mro__}.intersection(formula.kinds):
            kinds = " and ".join(formula.kinds)
            raise ValueError(f"{config.peft_type.value} takes {kinds}, {name} is {type(layer).__name__}")
        n_params, tensors = formula.params(config, layer), cast(Any, holder)
        tensors.lora_A[adapter].weight = nn.Parameter(torch.empty(n_params, device="meta"))
        tensors.lora_B[adapter].weight = nn.Parameter(torch.empty(0, device="meta"))
        del tensors.r[adapter]  # the stand-in's
    return formula.beside_bytes(config, wrapped)


def _boft(config: Any, layer: nn.Module) -> int:
    """Factors of blocks b × b along the diagonal, and one scale per output (peft: boft/layer.py)."""
    n_in, n_out = _sizes(layer)
    block = config.boft_block_size or n_in // config.boft_block_num
    if block < 1 or n_in % block or config.boft_n_butterfly_factor < 1:
        raise ValueError(f"{n_in} inputs must be divisible by the block size ({block}), factors at least 1")
    return int(config.boft_n_butterfly_factor * n_in * block + n_out)


def _frod(config: Any, layer: nn.Module) -> int:
    """A diagonal and a sparse matrix in the space of the inputs (peft: frod/model.py)."""
    n_in, _ = _sizes(layer)
    return n_in + _frod_sparse(config, n_in)


def _frod_sparse(config: Any, n_in: int) -> int:
    n_entries = min(int(n_in * n_in * config.sparse_rate), n_in * n_in - n_in)
    return max(1, n_entries) if config.sparse_rate > 0 and n_in > 1 else n_entries


def _frod_beside_bytes(config: Any, layers: Layers) -> int:
    """Per kind of module one projection like the weights, the sparse indices and the shape in int64."""
    if not config.save_projection:
        return 0
    total = 0
    for layer in {_frod_kind(name): layer for name, layer in layers.items()}.values():
        n_in, _ = _sizes(layer)
        total += cast(Any, layer).weight.itemsize * n_in * n_in + 16 * _frod_sparse(config, n_in) + 16
    return total


def _frod_kind(name: str) -> tuple[str, ...]:
    """FRoD shares projections between modules of one name and one holder, whatever their layer."""
    parts = name.split(".")
    if parts[-3:] == ["attention", "output", "dense"]:
        return ("attention_output",)
    return tuple(part for part in parts[-2:] if not part.isdigit())


def _adamss(config: Any, layer: nn.Module) -> int:
    """K parts of the outputs, each of rank s in the first r directions; all outputs are in a part.

    K-means of the weights decides which outputs share a part. Where each part holds at least s of them, as
    it nearly always does, the count is the same.
    """
    (_, n_out), (n_directions, _) = _sizes(layer), _adamss_directions(config, layer)
    return int(config.subspace_rank * (min(config.num_subspaces, n_out) * n_directions + n_out))


def _adamss_directions(config: Any, layer: nn.Module) -> tuple[int, int]:
    """The shape of the frozen directions: their number, and the inputs of the map with its bias."""
    n_in, n_out = _sizes(layer)
    width = n_in + (getattr(layer, "bias", None) is not None)
    return min(int(config.r), width, n_out), width


def _adamss_beside_bytes(config: Any, layers: Layers) -> int:
    """The frozen directions in fp32."""
    return sum(4 * math.prod(_adamss_directions(config, layer)) for layer in layers.values())


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear map."""
    _, n_in, n_out = cast("tuple[str, int, int]", map_shape(layer))
    return n_in, n_out


_FORMULAS = {
    PeftType.BOFT: _Formula(("Linear",), _boft, lambda config, layers: 0),
    PeftType.FROD: _Formula(("Linear", "Conv1D"), _frod, _frod_beside_bytes),
    PeftType.ADAMSS: _Formula(("Linear",), _adamss, _adamss_beside_bytes),
}
