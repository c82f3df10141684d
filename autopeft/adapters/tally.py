"""Counts what requires a gradient in a model, by role and by layer, and what would be saved of it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import peft
import torch
from peft import PeftModel, PeftType
from torch.overrides import TorchFunctionMode

from autopeft.adapters.fitting import wasteful_ranks
from autopeft.adapters.skeleton import Attached
from autopeft.model import BaseModel, known_role
from autopeft.records import Site

_DEPTH = re.compile(r"\.(\d+)\.")
_OUTSIDE, _SHARED = "outside", "shared"
# Names under which peft keeps what it trains inside a module that is no linear map or norm.
_WRAPPED = tuple(
    "modules_to_save token_adapter trainable_tokens lora_ adaption_ base_layer original_module".split()
)


@dataclass(frozen=True, kw_only=True)
class Count:
    """Trainable parameters of a plan, without the task head; `by_role` and `by_layer` each add up to them.

    `sites` counts the places of each role. `ranks` has the lowest and the highest rank of each role with
    ranks. `adapter_bytes` is the size of the tensors that `save_pretrained` writes, head included.
    """

    base_model: str
    methods: tuple[str, ...]
    trainable_params: int
    head_params: int
    base_params: int
    adapter_bytes: int
    by_role: dict[str, int]
    by_layer: dict[str, int]
    sites: dict[str, int]
    ranks: dict[str, tuple[int, int]]
    notes: tuple[str, ...] = ()

    @property
    def percent(self) -> float:
        """Trainable parameters in percent of the base model's."""
        return 100 * self.trainable_params / self.base_params


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a trained tensor lies, how many numbers it has, and whether it is part of the task head."""

    names: frozenset[str]
    role: str
    layer: str
    head: bool
    params: int = 0


def tally(attached: Attached, base: BaseModel, *, methods: Sequence[str], notes: Sequence[str] = ()) -> Count:
    """Count what requires a gradient, each tensor by the site that holds it.

    Args:
        attached: The base model with adapters on it; meta tensors are fine.
        base: Gives the sites, the head and the size.
        methods: What to call the adapters.
        notes: What the user should know.
    """
    places = _places(attached.model, base)
    by_role: Counter[str] = Counter()
    by_layer: Counter[str] = Counter()
    names: dict[str, set[str]] = defaultdict(set)
    for place in places:
        if not place.head:
            by_role[place.role] += place.params
            by_layer[place.layer] += place.params
            names[place.role].update(place.names)
    return Count(
        base_model=base.name,
        methods=tuple(methods),
        trainable_params=by_role.total(),
        head_params=sum(place.params for place in places if place.head),
        base_params=base.base_params,
        adapter_bytes=_saved_bytes(attached) + attached.beside_bytes,
        by_role=dict(by_role.most_common()),
        by_layer=dict(sorted(by_layer.items(), key=lambda item: _depth(item[0]))),
        sites={role: len(names[role]) for role, _ in by_role.most_common()},
        ranks=_rank_ranges(attached, names),
        notes=(*notes, *wasteful_ranks(attached)),
    )


def _rank_ranges(attached: Attached, names: Mapping[str, set[str]]) -> dict[str, tuple[int, int]]:
    """The lowest and the highest rank of each role that has ranks."""
    by_site = {site: max(held.values()) for site, held in attached.ranks().items() if held}
    by_role = {role: [by_site[site] for site in sites if site in by_site] for role, sites in names.items()}
    return {role: (min(ranks), max(ranks)) for role, ranks in by_role.items() if ranks}


def _depth(layer: str) -> tuple[bool, int]:
    """Layers in their order, and what lies in none of them last."""
    return (False, int(layer)) if layer.isdigit() else (True, layer == _OUTSIDE)


def _places(adapted: PeftModel, base: BaseModel) -> list[_Place]:
    """One per trained tensor, in the order of the model."""
    sites = {site.name: site for site in base.sites}
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in adapted.get_base_model().named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    places = []
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            held = [_place(inside, sites, base.head_names) for inside in names[id(parameter)]]
            place = _joined(held) if held else _beside(adapted, name)
            places.append(replace(place, params=parameter.numel()))
    return places


def _joined(places: Sequence[_Place]) -> _Place:
    """One place for a tensor that several modules hold; its role or layer is `shared` where they differ."""
    roles, layers = {place.role for place in places}, {place.layer for place in places}
    return _Place(
        names=frozenset[str]().union(*(place.names for place in places)),
        role=roles.pop() if len(roles) == 1 else _SHARED,
        layer=layers.pop() if len(layers) == 1 else _SHARED,
        head=all(place.head for place in places),
    )


def _place(name: str, sites: Mapping[str, Site], heads: Sequence[str]) -> _Place:
    """The site that a parameter belongs to, else the module of the base model that holds it."""
    parts = name.split(".")
    prefixes = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    site = next((sites[prefix] for prefix in prefixes if prefix in sites), None)
    if site is None:
        marks = [i for i, part in enumerate(parts) if part.startswith(_WRAPPED)]
        holder = ".".join(parts[: marks[0]] if marks else parts[:-1])
        head = any(f"{holder}.".startswith(f"{other}.") for other in heads)
        depth = _DEPTH.search(f".{holder}.")
        layer = depth[1] if depth else _OUTSIDE
        role = known_role(holder) or holder.rpartition(".")[2]
        return _Place(names=frozenset({holder}), role=role, layer=layer, head=head)
    # A linear map outside the layers that is trained whole beside a task head is its pooler.
    is_whole = "modules_to_save" in parts
    head = is_whole and bool(heads) and site.layer is None and site.kind == "linear"
    layer = _OUTSIDE if site.layer is None else str(site.layer)
    return _Place(names=frozenset({site.name}), role=site.role, layer=layer, head=head)


def _beside(adapted: PeftModel, name: str) -> _Place:
    """What stands outside the base model: a prompt, or what all sites share."""
    kinds = {config.peft_type for config in adapted.peft_config.values()}
    if not name.startswith("prompt_encoder"):
        role = _SHARED
    elif kinds & {PeftType.PREFIX_TUNING, PeftType.CARTRIDGE}:
        role = "prefix"
    else:
        role = "prompt"
    return _Place(names=frozenset({role}), role=role, layer=_OUTSIDE, head=False)


def _saved_bytes(attached: Attached) -> int:
    """The size of the tensors that `save_pretrained` would write."""
    total = 0
    for name, (holder, config) in attached.configs().items():
        config.base_model_name_or_path = None  # else peft asks the hub for the model's vocabulary
        config.inference_mode = config.peft_type == PeftType.CPT  # else it looks at the numbers
        with _StayOnMeta():
            # The state is passed in so that stand-ins may have shapes of their own.
            saved = peft.get_peft_model_state_dict(holder, state_dict=holder.state_dict(), adapter_name=name)
        total += sum(tensor.numel() * tensor.itemsize for tensor in saved.values())
    return total


class _StayOnMeta(TorchFunctionMode):
    """Leaves a tensor where it is when `peft` asks for it on the CPU, as it does to save a prompt."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The tensor itself in place of a copy on the CPU; all else as usual."""
        return args[0] if func is torch.Tensor.cpu else func(*args, **(kwargs or {}))
