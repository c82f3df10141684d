"""Whether adapter configs fit a base model: on its shapes, one at a site, ranks in range."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import peft
import torch
from peft import PeftType
from peft.tuners.tuners_utils import BaseTunerLayer

from autopeft.errors import SiteError, SpecError
from autopeft.model import BaseModel
from autopeft.pipeline.counting import skeleton, sources
from autopeft.pipeline.counting.skeleton import Attached
from autopeft.pipeline.counting.sources import Source

# The types whose rank is that of a matrix; peft attaches more than the layer can use, without a word.
_LOW_RANK = (PeftType.LORA, PeftType.ADALORA, PeftType.DELORA, PeftType.DEFT)


def attach_fitting(found: Sequence[Source], base: BaseModel, *, path: Path) -> Attached:
    """The configs on a skeleton.

    Args:
        found: The configs, in the order in which they are attached; left as they are.
        base: A skeleton; changed in place.
        path: Where the configs were read, for the message.

    Raises:
        SiteError: Sites that the model lacks, two adapters at one site, a rank above a map's size, or
            what `peft` says of a config that it cannot attach.
    """
    modules = [name for name, _ in base.module.named_modules() if name]
    sites = [site.name for site in base.sites if site.kind != "model"]
    for source in found:
        sources.require_match(source, modules, sites, where=f"{path} and {base.name}")
    with skeleton.fitting(path, base.name):
        attached = skeleton.attach(base, [copy.deepcopy(source.config) for source in found])
        skeleton.refuse_overlap(attached, path=path)
    _refuse_ranks(attached, path=path)
    return attached


def refuse_weights(
    attached: Attached, weights: Mapping[str, Mapping[str, torch.Tensor]], *, path: Path
) -> None:
    """Refuse tensors of LoRA that are not those of its config: others, too few, or of another shape.

    Args:
        attached: The configs on a skeleton.
        weights: Of each adapter by its name; of other types than LoRA, which `peft` saves in more than
            one way, they are left to what reads them.
        path: Where they were read, for the message.

    Raises:
        SpecError: With the first tensor that is odd.
    """
    for name, (holder, config) in attached.configs().items():
        if config.peft_type != PeftType.LORA or name not in weights:
            continue
        state = peft.get_peft_model_state_dict(holder, adapter_name=name, save_embedding_layers=False)
        expected = {key: tuple(own.shape) for key, own in state.items() if ".lora_" in key}
        seen = {key: tuple(own.shape) for key, own in weights[name].items() if ".lora_" in key}
        for key in sorted(expected.keys() | seen.keys()):
            if expected.get(key) != seen.get(key):
                raise SpecError(
                    f"The weights in {path} hold {_told(seen.get(key))} as {key}, the config asks for "
                    f"{_told(expected.get(key))}; use the config and weights of one adapter, and "
                    "--model with its base model."
                )


def _told(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else " × ".join(map(str, shape))


def wasteful(attached: Attached) -> list[str]:
    """A note where a rank is above the smaller side of a map, as at the router of a few experts."""
    high = [(name, rank, min(sides)) for name, rank, sides in _ranks(attached) if rank > min(sides)]
    if not high:
        return []
    name, rank, most = high[0]
    return [f"rank {rank:,} at {name}{_others(high)} is above what the map can use, {most:,}."]


def _refuse_ranks(attached: Attached, *, path: Path) -> None:
    """Refuse a rank above both sides of a map: it can only be a slip."""
    high = [(name, rank, sides) for name, rank, sides in _ranks(attached) if rank > max(sides)]
    if high:
        name, rank, sides = high[0]
        raise SiteError(
            f"{path} has rank {rank:,} at {name}{_others(high)}, whose size is {sides[0]:,} × {sides[1]:,}; "
            f"a rank of at most {min(sides):,} is of use there: lower it, or use the model that it is for."
        )


def _ranks(attached: Attached) -> list[tuple[str, int, tuple[int, int]]]:
    """Name, rank, and inputs and outputs of every map that holds a matrix of a rank."""
    low_rank = {name for name, (_, config) in attached.configs().items() if config.peft_type in _LOW_RANK}
    found = []
    for name, layer in attached.model.get_base_model().named_modules():
        if isinstance(layer, BaseTunerLayer) and isinstance(getattr(layer, "r", None), Mapping):
            own = [rank for adapter, rank in layer.r.items() if adapter in low_rank and rank]
            sides = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
            if own and isinstance(sides[0], int) and isinstance(sides[1], int):
                found.append((name, max(own), (sides[0], sides[1])))
    return found


def _others(high: Sequence[object]) -> str:
    return f" and {len(high) - 1:,} other sites" if len(high) > 1 else ""
