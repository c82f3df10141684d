"""Whether adapter configs fit a base model: on its modules, one at a site, ranks in range."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import peft
import torch
from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from autopeft.adapters.matching import require_match
from autopeft.adapters.reading import ConfigFile
from autopeft.adapters.skeleton import Attached, attach_without_weights, held_names
from autopeft.errors import SiteError, SpecError
from autopeft.model import BaseModel

# The types whose rank is that of a matrix; peft attaches more than the layer can use, without a word.
_LOW_RANK = (PeftType.LORA, PeftType.ADALORA, PeftType.DELORA, PeftType.DEFT)
# What `peft` and torch raise of a config that does not fit.
_PEFT_ERRORS = (
    *(ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError, OSError, re.error),
    ArithmeticError,  # a rank of 0, or a number with hundreds of digits
)


def attach_fitting(files: Sequence[ConfigFile], base: BaseModel, *, path: Path) -> Attached:
    """A base model with adapter configs on it, in their order.

    Args:
        files: The configs; left as they are.
        base: A skeleton; changed in place.
        path: Where the configs were read, for messages.

    Raises:
        SiteError: Sites that the model lacks, two adapters at one site, a rank above a map's size, or
            what `peft` says of a config that it cannot attach.
    """
    for file in files:
        require_match(file, base, path=path)
    attached = attach_one_each(base.module, [file.config for file in files], base_name=base.name, path=path)
    # A rank above both sides of a map can only be a slip.
    high = [(name, rank, sides) for name, rank, sides in _ranks(attached) if rank > max(sides)]
    if high:
        name, rank, sides = high[0]
        raise SiteError(
            f"{path} has rank {rank:,} at {name}{_others(high)}, whose size is {sides[0]:,} × {sides[1]:,}; "
            f"a rank of at most {min(sides):,} is of use there: lower it, or use the model that it is for."
        )
    return attached


def attach_one_each(
    module: nn.Module, configs: Sequence[PeftConfig], *, base_name: str, path: Path
) -> Attached:
    """A model without weights with configs on it; SiteError where they do not fit or two adapt one site."""
    with in_a_sentence(path, base_name):
        attached = attach_without_weights(module, configs)
    for name, layer in attached.layers():
        below = layer.base_layer
        names = held_names(layer) | (held_names(below) if isinstance(below, BaseTunerLayer) else set())
        if len(names) > 1:
            raise SiteError(
                f"{path} puts {' and '.join(sorted(names))} on the site {name!r}; "
                "one site takes one method: narrow the target_modules of one of them."
            )
    return attached


@contextlib.contextmanager
def in_a_sentence(path: Path, base_name: str) -> Iterator[None]:
    """Turn what `peft` says of a config that does not fit into a SiteError of one sentence."""
    try:
        yield
    except _PEFT_ERRORS as error:
        message = str(error).strip() or type(error).__name__
        reason = message.splitlines()[0].split(". ")[0].rstrip(".")
        raise SiteError(
            f"{path} does not fit {base_name}: {reason}; correct it, or use the base model that it was made "
            "for."
        ) from error


def refuse_weights(attached: Attached, weights: Sequence[Mapping[str, torch.Tensor]], *, path: Path) -> None:
    """Refuse tensors of LoRA that are not those of its config: others, too few, or of another shape.

    Args:
        attached: The configs on a skeleton.
        weights: The tensors of each config, or nothing. Those of types other than LoRA are not checked, as
            `peft` saves them in more than one way.
        path: Where the weights were read, for the message.

    Raises:
        SpecError: Names the first such tensor.
    """
    for (name, config), tensors in zip(attached.model.peft_config.items(), weights, strict=False):
        if config.peft_type != PeftType.LORA:
            continue
        state = peft.get_peft_model_state_dict(attached.model, adapter_name=name, save_embedding_layers=False)
        expected, seen = _lora_shapes(state), _lora_shapes(tensors)
        for key in sorted(expected.keys() | seen.keys()):
            if expected.get(key) != seen.get(key):
                raise SpecError(
                    f"The weights in {path} hold {seen.get(key, 'nothing')} as {key}, the config asks for "
                    f"{expected.get(key, 'nothing')}; use the config and weights of one adapter, and "
                    "--model with its base model."
                )


def _lora_shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {key: " × ".join(map(str, tensor.shape)) for key, tensor in tensors.items() if ".lora_" in key}


def wasteful_ranks(attached: Attached) -> list[str]:
    """A note where a rank is above the smaller side of a map, as at the router of a few experts."""
    high = [(name, rank, min(sides)) for name, rank, sides in _ranks(attached) if rank > min(sides)]
    return [
        f"rank {rank:,} at {name}{_others(high)} is above what the map can use, {limit:,}."
        for name, rank, limit in high[:1]
    ]


def _ranks(attached: Attached) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """Name, rank, and inputs and outputs of every map that holds a matrix of a rank."""
    configs = attached.model.peft_config
    low_rank = {name for name, config in configs.items() if config.peft_type in _LOW_RANK}
    ranks = attached.ranks()
    for name, layer in attached.layers():
        matrices = [rank for adapter, rank in ranks.get(name, {}).items() if adapter in low_rank and rank]
        n_in, n_out = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
        if matrices and isinstance(n_in, int) and isinstance(n_out, int):
            yield name, max(matrices), (n_in, n_out)


def _others(high: Sequence[object]) -> str:
    return f" and {len(high) - 1:,} other sites" if len(high) > 1 else ""
