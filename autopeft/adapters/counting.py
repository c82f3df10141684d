"""What a plan or adapter configs train on a base model, by role and by layer, counted without weights."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autopeft.adapters.compiling import compile_plan
from autopeft.adapters.configs import ConfigFile, in_head, reads_weights, type_name, unknown_keys, unmatched
from autopeft.adapters.skeleton import (
    Attached,
    attach_fitting,
    attach_without_weights,
    fitting_errors,
    held_names,
)
from autopeft.errors import SpecError, TargetError
from autopeft.model import BaseModel, adapter_names, for_task
from autopeft.model.linear_layers import role_by_name
from autopeft.plugins import Method
from autopeft.types import Plan, Target
from autopeft.types.plans import LAYER

Place = tuple[str, str, str, bool]  # module, role, layer, and whether it is in the head
_OUTSIDE, _SHARED = "outside", "shared"  # instead of a layer's number or a role
# Names under which peft keeps what it trains inside a module that is not a linear layer or norm.
_WRAPPED = tuple(
    "modules_to_save token_adapter trainable_tokens lora_ adaption_ base_layer original_module".split()
)


@dataclass(frozen=True, kw_only=True)
class ComponentCount:
    """How many modules of a component are adapted, of how many, and with how many parameters."""

    adapted: int
    modules: int
    base_params: int
    trainable_params: int


@dataclass(frozen=True, kw_only=True)
class Count:
    """Trainable parameters of a plan without the task head; `by_role` and `by_layer` each add up to them.

    `by_component` has all components of the base model, with what is adapted of each.
    `targets` counts the target modules of each role. `ranks` has the lowest and highest rank of each role
    with ranks. `adapter_bytes` is the size of the tensors that `save_pretrained` writes, head included.
    """

    base_model: str
    methods: tuple[str, ...]
    trainable_params: int
    head_params: int
    base_params: int
    adapter_bytes: int
    by_role: dict[str, int]
    by_layer: dict[str, int]
    targets: dict[str, int]
    ranks: dict[str, tuple[int, int]]
    topology: str
    by_component: dict[str, ComponentCount]
    notes: tuple[str, ...] = ()

    @property
    def share_of_base(self) -> float:
        """Trainable parameters as a fraction of the base model's."""
        return self.trainable_params / self.base_params


def count_plan(plan: Plan, base: BaseModel, methods: Mapping[str, Method], *, task_type: str | None) -> Count:
    """Count what a plan that passed `check_plan` trains on a skeleton, which is changed in place.

    `task_type` is that of `peft` configs. Raises TargetError if `peft` attaches another number of parameters
    than the plan has.
    """
    stack = compile_plan(plan, methods)
    configs = for_task(stack.configs, base.module, task_type=task_type, head_names=base.head_names)
    attached = attach_without_weights(base.module, configs)
    names = tuple(dict.fromkeys(adapter.method for adapter in plan.adapters)) or ("head",)
    count = _tally(attached, base, methods=names, notes=())
    if count.trainable_params != plan.trainable_params:
        raise TargetError(
            f"The plan has {plan.trainable_params:,} trainable parameters, but peft attaches "
            f"{count.trainable_params:,} to {base.name}; the plan was made for another version of peft."
        )
    return count


def count_configs(files: Sequence[ConfigFile], base: BaseModel, *, path: Path) -> Count:
    """Count what adapter configs, read from `path`, train on a skeleton, which is changed in place.

    Notes list keys and patterns without effect, and what depends on data. Raises what `attach_fitting`
    raises, and SpecError for a type that reads the base model's weights.
    """
    if odd := [type_name(file.config) for file in files if reads_weights(file.config)]:
        raise SpecError(f"{path} is {odd[0]}, which cannot be counted without weights; attach it with peft.")
    modules = [name for name, _ in base.module.named_modules() if name]
    configs = [file.config for file in files]
    attached = attach_fitting(base.module, configs, base_name=base.name, path=path)
    methods = tuple(dict.fromkeys(type_name(file.config).lower() for file in files))
    notes = []
    with fitting_errors(path, base.name):
        for file, name in zip(files, adapter_names(configs), strict=True):
            targeted = [target for target, layer in attached.targets() if name in held_names(layer)]
            lost = unmatched(file, targeted, modules=modules, model=base.module)
            notes += [*unknown_keys(file), *lost]
            if type_name(file.config) == "ADALORA" and not getattr(file.config, "rank_pattern", None):
                notes.append("AdaLoRA is counted at the rank that it begins with; training prunes it.")
        return _tally(attached, base, methods=methods, notes=notes)


def _tally(attached: Attached, base: BaseModel, *, methods: Sequence[str], notes: Sequence[str]) -> Count:
    """Count what requires a gradient in a skeleton with adapters, by the targets and head of `base`."""
    components = base.parts | {target.name: target.component for target in base.targets}
    by_role, by_layer, by_component = Counter[str](), Counter[str](), Counter[str]()
    targets_of_role: dict[str, set[str]] = defaultdict(set)
    adapted: dict[str, set[str]] = defaultdict(set)
    head_params = 0
    for size, places in _trained_tensors(attached, base):
        if places and all(is_in_head for *_, is_in_head in places):
            head_params += size
            continue
        modules, roles = {module for module, *_ in places}, {role for _, role, *_ in places}
        layers = {layer for _, _, layer, _ in places} or {_OUTSIDE}
        role = roles.pop() if len(roles) == 1 else _SHARED
        by_role[role] += size
        by_layer[layers.pop() if len(layers) == 1 else _SHARED] += size
        targets_of_role[role] |= modules or {_SHARED}
        for module in modules:
            adapted[components.get(module, "other")].add(module)
        if modules:
            by_component[components.get(max(modules), "other")] += size
    # Layers on the parameters of experts are nested in each other, and each has its own rank.
    by_target: dict[str, list[int]] = defaultdict(list)
    for layer, of_adapters in attached.ranks().items():
        by_target[layer.replace(".base_layer", "")] += of_adapters.values()
    ranks = {role: [r for name in names for r in by_target[name]] for role, names in targets_of_role.items()}
    # Layers by number, then tensors shared between layers, then those outside of them.
    ordered = sorted(
        by_layer, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else name == _OUTSIDE)
    )
    return Count(
        base_model=base.name,
        methods=tuple(methods),
        trainable_params=by_role.total(),
        head_params=head_params,
        base_params=base.base_params,
        adapter_bytes=attached.saved_bytes(),
        by_role=dict(by_role.most_common()),
        by_layer={layer: by_layer[layer] for layer in ordered},
        targets={role: len(targets_of_role[role]) for role, _ in by_role.most_common()},
        ranks={role: (min(values), max(values)) for role, values in ranks.items() if values},
        topology=base.topology,
        by_component={
            component: ComponentCount(
                adapted=len(adapted[component]),
                modules=n_modules,
                base_params=n_params,
                trainable_params=by_component[component],
            )
            for component, (n_modules, n_params) in base.part_sizes.items()
        },
        notes=tuple(notes),
    )


def _trained_tensors(attached: Attached, base: BaseModel) -> Iterator[tuple[int, list[Place]]]:
    """Yield size and places of each trained tensor; several if modules share it, none outside the base."""
    targets = {target.name: target for target in base.targets}
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in attached.model.get_base_model().named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    for parameter in attached.model.parameters():
        if parameter.requires_grad:
            yield parameter.numel(), [_locate(name, targets, base) for name in names[id(parameter)]]


def _locate(name: str, targets: Mapping[str, Target], base: BaseModel) -> Place:
    """Return a parameter's target, else its module; the role, the layer, and whether it is in the head."""
    parts = name.split(".")
    prefixes = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    target = next((targets[prefix] for prefix in prefixes if prefix in targets), None)
    if target is None:
        holder = ".".join(itertools.takewhile(lambda part: not part.startswith(_WRAPPED), parts[:-1]))
        depth = LAYER.search(f".{holder}.")
        role = role_by_name(holder) or holder.rpartition(".")[2]
        return (holder, role, depth[1] if depth else _OUTSIDE, in_head(holder, base))
    # A linear layer outside the layers that is trained whole next to a task head is a pooler, part of the
    # head.
    is_pooler = "modules_to_save" in parts and target.layer is None and target.kind == "linear"
    layer = _OUTSIDE if target.layer is None else str(target.layer)
    return (target.name, target.role, layer, is_pooler and bool(base.head_names))
