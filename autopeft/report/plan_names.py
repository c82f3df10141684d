"""Words for a plan: its methods, ranks and modules, and its role in a result."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from autopeft.types import Adapter, Plan, SearchResult, SearchSoFar, Target, counted, listed

ANSWERS = ("best", "baseline", "challenger")  # the plans that a result names
HEAD_ALONE, UNTRAINED = "head alone", "untrained model"  # a plan without adapters
LINEAR = ("linear", "conv1d")  # kinds of target modules that are linear layers
_MOST_ROLES = 5  # that are listed one by one; heuristic


@dataclass(frozen=True, kw_only=True)
class PartWords:
    """Words of the plug-ins of a search, which a report cannot import, since they need torch.

    `labels` has the label of each method, and under `choice_key` the words for an unusual choice of an
    option; `short_labels` has one word for the cells of a table. `auto_class` is the transformers class that
    loads the task's base model. Of the best plan's weights, `order` names the sub-folders of several configs
    in the order of loading, `imports` are modules that register a method with `peft`, and `servers` read the
    folder as it is.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    short_labels: Mapping[str, str] = field(default_factory=dict)
    auto_class: str = "AutoModel"
    order: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()


def choice_key(method: str, option: str, value: object) -> str:
    """Return the key of an option's words in `PartWords.labels`, such as `lora.dora=True`."""
    return f"{method}.{option}={value}"


def plan_words(
    plan: Plan, targets: Sequence[Target], labels: Mapping[str, str], *, head: str = HEAD_ALONE
) -> str:
    """Describe a plan by method, rank and modules; `head` are the words for a plan without adapters."""
    by_method: dict[str, list[Adapter]] = {}
    for adapter in plan.adapters:
        by_method.setdefault(method_words(adapter, labels), []).append(adapter)
    phrases = []
    for method, adapters in by_method.items():
        ranks = sorted({adapter.rank for adapter in adapters if adapter.rank})
        ends = "–".join(map(str, dict.fromkeys((ranks[0], ranks[-1])))) if ranks else ""
        modules = module_words({adapter.target for adapter in adapters}, targets)
        phrases.append(f"{method} of rank {ends} on {modules}" if ends else f"{method} on {modules}")
    choices = [f", {name} {value}" for name, value in plan.choices]
    if plan.head_factor != 1:
        choices.append(f", head rate / {1 / plan.head_factor:g}")
    return (" + ".join(phrases) or head) + "".join(choices)


def method_words(adapter: Adapter, labels: Mapping[str, str]) -> str:
    """Return the label of an adapter's method, with its unusual choices, such as `LoRA with DoRA`."""
    keys = (choice_key(adapter.method, option, value) for option, value in adapter.options)
    choices = " and ".join(labels[key] for key in keys if key in labels)
    label = labels.get(adapter.method, adapter.method)
    return f"{label} with {choices}" if choices else label


def module_words(names: Collection[str], targets: Sequence[Target]) -> str:
    """Describe modules as `q and v in the last 2 of 4 layers`; by their number if layers differ in roles."""
    inside = [target for target in targets if target.layer is not None]
    adapted = [target for target in inside if target.name in names]
    roles = list(dict.fromkeys(target.role for target in adapted))
    layers = {target.layer for target in adapted if target.layer is not None}
    possible = [target for target in inside if target.role in roles]
    where = "" if layers == {target.layer for target in possible} else _layer_words(sorted(layers), inside)
    if not adapted or len(adapted) < sum(target.layer in layers for target in possible):
        return f"{counted(len(names), 'module')}{where}"
    is_all = set(roles) == {target.role for target in inside if target.kind in LINEAR}
    kinds = listed(roles, _MOST_ROLES) if len(roles) <= _MOST_ROLES else f"{len(roles)} kinds of modules"
    outside = [] if is_all and not where else sorted(set(names) - {target.name for target in adapted})
    beyond = "".join(outside) if len(outside) == 1 else f"{len(outside)} modules outside the layers"
    and_outside = f", plus {beyond}" if outside else ""
    return f"{'all linear layers' if is_all else kinds}{where}{and_outside}"


def _layer_words(layers: Sequence[int], targets: Sequence[Target]) -> str:
    """Describe layers as the last or first ones, else by their number."""
    all_layers = sorted({target.layer for target in targets if target.layer is not None})
    n_layers, count = len(layers), f"{len(layers)} " if len(layers) > 1 else ""
    for end, at_end in (("last", all_layers[-n_layers:]), ("first", all_layers[:n_layers])):
        if list(layers) == at_end:
            return f" in the {end} {count}of {len(all_layers)} layers"
    return f" in {n_layers} of {len(all_layers)} layers"


def name_of(plan: Plan, result: SearchResult | SearchSoFar, labels: Mapping[str, str]) -> str:
    """Describe a plan of a result as `plan_words` does, with the right words for a plan without adapters."""
    head = UNTRAINED if is_untrained(result, plan) else HEAD_ALONE
    return plan_words(plan, result.targets, labels, head=head)


def is_untrained(result: SearchResult | SearchSoFar, plan: Plan) -> bool:
    """Whether a plan is the base model as it is: it has no adapters, and the task no head to train."""
    return not plan.adapters and not result.setting.head_params


def marks_of(result: SearchResult | SearchSoFar, plan: Plan) -> str:
    """Join the roles of a plan in the result, such as `best = baseline`; "" for a plan without a role.

    A challenger that is returned is only called best.
    """
    named = [name for name in ANSWERS if getattr(result, name) == plan]
    return " = ".join(named[:1] if named == ["best", "challenger"] else named)
