"""Counts what requires a gradient in a model, by role and by layer, and what would be saved of it."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft import PeftModel, PeftType
from torch.overrides import TorchFunctionMode

from autopeft.adapters.fitting import wasteful_ranks
from autopeft.adapters.representable import in_head
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


@dataclass(frozen=True)
class _Place:
    """Where a trained tensor lies: the sites or modules that hold it, and whether all are in the head."""

    names: frozenset[str]
    role: str
    layer: str
    head: bool


def tally(attached: Attached, base: BaseModel, *, methods: Sequence[str], notes: Sequence[str]) -> Count:
    """Count what requires a gradient in a base model with adapters on it, without weights.

    `base` gives the sites, the head and the size; `methods` and `notes` go into the count.
    """
    by_role: Counter[str] = Counter()
    by_layer: Counter[str] = Counter()
    names: dict[str, set[str]] = defaultdict(set)
    head_params = 0
    for place, n_params in _places(attached.model, base):
        if place.head:
            head_params += n_params
        else:
            by_role[place.role] += n_params
            by_layer[place.layer] += n_params
            names[place.role].update(place.names)
    return Count(
        base_model=base.name,
        methods=tuple(methods),
        trainable_params=by_role.total(),
        head_params=head_params,
        base_params=base.base_params,
        adapter_bytes=_saved_bytes(attached) + attached.beside_bytes,
        by_role=dict(by_role.most_common()),
        by_layer={layer: by_layer[layer] for layer in sorted(by_layer, key=_depth)},
        sites={role: len(names[role]) for role, _ in by_role.most_common()},
        ranks=_rank_ranges(attached, names),
        notes=(*notes, *wasteful_ranks(attached)),
    )


def _rank_ranges(attached: Attached, names: Mapping[str, set[str]]) -> dict[str, tuple[int, int]]:
    """The lowest and the highest rank of each role that has ranks."""
    by_site = {site: max(ranks.values()) for site, ranks in attached.ranks().items() if ranks}
    by_role = {role: [by_site[site] for site in sites if site in by_site] for role, sites in names.items()}
    return {role: (min(ranks), max(ranks)) for role, ranks in by_role.items() if ranks}


def _depth(layer: str) -> tuple[bool, int]:
    """Sorts layers by number, then tensors shared between layers, then those outside of them."""
    return (False, int(layer)) if layer.isdigit() else (True, layer == _OUTSIDE)


def _places(adapted: PeftModel, base: BaseModel) -> Iterator[tuple[_Place, int]]:
    """The place and the size of each trained tensor, in the order of the model."""
    sites = {site.name: site for site in base.sites}
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in adapted.get_base_model().named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            places = [_place(inside, sites, base) for inside in names[id(parameter)]]
            yield _joined(places) if places else _beside(adapted, name), parameter.numel()


def _joined(places: Sequence[_Place]) -> _Place:
    """One place for a tensor that several modules hold; its role or layer is `shared` where they differ."""
    names = frozenset(name for place in places for name in place.names)
    roles, layers = {place.role for place in places}, {place.layer for place in places}
    role = roles.pop() if len(roles) == 1 else _SHARED
    layer = layers.pop() if len(layers) == 1 else _SHARED
    return _Place(names, role, layer, all(place.head for place in places))


def _place(name: str, sites: Mapping[str, Site], base: BaseModel) -> _Place:
    """The site that a parameter belongs to, else the module of the base model that holds it."""
    parts = name.split(".")
    prefixes = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    site = next((sites[prefix] for prefix in prefixes if prefix in sites), None)
    if site is None:
        holder = ".".join(itertools.takewhile(lambda part: not part.startswith(_WRAPPED), parts[:-1]))
        depth = _DEPTH.search(f".{holder}.")
        role = known_role(holder) or holder.rpartition(".")[2]
        return _Place(frozenset({holder}), role, depth[1] if depth else _OUTSIDE, in_head(holder, base))
    # A linear map outside the layers that is trained whole beside a task head is its pooler.
    is_pooler = "modules_to_save" in parts and site.layer is None and site.kind == "linear"
    layer = _OUTSIDE if site.layer is None else str(site.layer)
    return _Place(frozenset({site.name}), site.role, layer, is_pooler and bool(base.head_names))


def _beside(adapted: PeftModel, name: str) -> _Place:
    """The place of a tensor outside the base model: of a prompt, or of numbers that all sites share."""
    role = _SHARED
    if name.startswith("prompt_encoder"):
        kinds = {config.peft_type for config in adapted.peft_config.values()}
        role = "prefix" if kinds & {PeftType.PREFIX_TUNING, PeftType.CARTRIDGE} else "prompt"
    return _Place(frozenset({role}), role, _OUTSIDE, head=False)


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
        return args[0] if func is torch.Tensor.cpu else func(*args, **(kwargs or {}))
