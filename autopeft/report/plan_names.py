"""What people call a plan: its methods, ranks and modules, and the names that it has in a result."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from autopeft.records import Adapter, Plan, SearchResult, Site, counted
from autopeft.report.formatting import PartWords, choice_key

ANSWERS = ("best", "baseline", "rival")  # the plans that a result names
HEAD_ALONE, UNTRAINED = "head alone", "untrained model"  # a plan without adapters
LINEAR = ("linear", "conv1d")  # kinds of sites that are linear maps
_MOST_ROLES, _MOST_LAYERS = 5, 4  # that are named one by one; chosen by hand
_N_COLOURS = 9  # of the page: `--g0` to `--g8`


def plan_words(
    plan: Plan, sites: Sequence[Site], labels: Mapping[str, str], *, head: str = HEAD_ALONE
) -> str:
    """A plan by method, rank and modules.

    Args:
        plan: Its adapters are read, not its learning rate.
        sites: Those of the base model.
        labels: Names of methods and choices, as in `PartWords`.
        head: The words for a plan without adapters.

    Example:
        >>> sites = [Site(name=f"h.{n}.q", layer=n, role="q", kind="linear", in_features=8, out_features=8,
        ...               has_bias=False) for n in range(4)]
        >>> adapters = tuple(Adapter(method="lora", site=f"h.{n}.q", rank=4) for n in (2, 3))
        >>> plan = Plan(adapters=adapters, learning_rate=1e-3, trainable_params=128)
        >>> plan_words(plan, sites, {"lora": "LoRA"})
        'LoRA of rank 4 on all linear maps in layers 2 to 3 of 4'
    """
    by_method: dict[str, list[Adapter]] = {}
    for adapter in plan.adapters:
        by_method.setdefault(method_words(adapter, labels), []).append(adapter)
    parts = (
        f"{method}{_rank_words(adapters)} on {module_words({a.site for a in adapters}, sites)}"
        for method, adapters in by_method.items()
    )
    return " + ".join(parts) or head


def method_words(adapter: Adapter, labels: Mapping[str, str]) -> str:
    """What people call the method of an adapter, with its unusual choices.

    Example:
        >>> adapter = Adapter(method="lora", site="q", rank=4, scale=2.0, options=(("dora", True),))
        >>> method_words(adapter, {"lora": "LoRA", "lora.dora=True": "DoRA"})
        'LoRA with DoRA'
    """
    keys = (choice_key(adapter.method, option, value) for option, value in adapter.options)
    choices = " and ".join(labels[key] for key in keys if key in labels)
    label = labels.get(adapter.method, adapter.method)
    return f"{label} with {choices}" if choices else label


def _rank_words(adapters: Sequence[Adapter]) -> str:
    ranks = sorted({adapter.rank for adapter in adapters if adapter.rank})
    return f" of rank {' to '.join(map(str, dict.fromkeys((ranks[0], ranks[-1]))))}" if ranks else ""


def module_words(names: Collection[str], sites: Sequence[Site]) -> str:
    """Modules by role and layer: `q and v in layers 2 to 3 of 4`; by their number where they make no grid.

    Layers are counted from 0, as in the names of modules.
    """
    inside = [site for site in sites if site.layer is not None]
    chosen = [site for site in inside if site.name in names]
    roles = list(dict.fromkeys(site.role for site in chosen))
    layers = {site.layer for site in chosen if site.layer is not None}
    possible = [site for site in inside if site.role in roles]
    where = "" if layers == {site.layer for site in possible} else _layer_words(sorted(layers), inside)
    if not chosen or len(chosen) < sum(site.layer in layers for site in possible):
        return f"{counted(len(names), 'module')}{where}"
    if set(roles) == {site.role for site in inside if site.kind in LINEAR}:
        return f"all linear maps{where}"
    kinds = listed(roles) if len(roles) <= _MOST_ROLES else f"{len(roles)} kinds of modules"
    n_outside = len(names) - len(chosen)
    outside = f" and {counted(n_outside, 'module')} outside the layers" if n_outside else ""
    return f"{kinds}{where}{outside}"


def _layer_words(layers: Sequence[int], sites: Sequence[Site]) -> str:
    n_layers = len({site.layer for site in sites})
    if len(layers) == 1:
        return f" in layer {layers[0]} of {n_layers}"
    if len(layers) > 1 and layers[-1] - layers[0] + 1 == len(layers):
        return f" in layers {layers[0]} to {layers[-1]} of {n_layers}"
    named = listed([str(layer) for layer in layers]) if 0 < len(layers) <= _MOST_LAYERS else ""
    return f" in layers {named} of {n_layers}" if named else f" in {len(layers)} of {n_layers} layers"


def listed(words: Sequence[str]) -> str:
    """Words with commas and a last `and`.

    Example:
        >>> listed(["q"]), listed(["q", "v"]), listed(["q", "k", "v"])
        ('q', 'q and v', 'q, k and v')
    """
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def no_adapters(result: SearchResult) -> str:
    """What a plan without adapters is: the head alone, or without a head the base model as it is."""
    return HEAD_ALONE if result.setting.head_params else UNTRAINED


def is_untrained(result: SearchResult, plan: Plan) -> bool:
    """Whether a plan is the base model as it is: it has no adapters, and the task no head to train."""
    return not plan.adapters and not result.setting.head_params


def marks_of(result: SearchResult, plan: Plan) -> str:
    """The names of a plan in the result, such as `best = baseline`; empty for a plan without a name.

    A rival that is handed over is called best alone.
    """
    named = [name for name in ANSWERS if getattr(result, name) == plan]
    return " = ".join(named[:1] if named == ["best", "rival"] else named)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Plans of one method or mix. `colour` is the number of the page's variable `--gN`, and of its shape."""

    label: str
    colour: int


def groups(result: SearchResult, words: PartWords) -> dict[Plan, Group]:
    """Every measured plan with its group, in the order of the measurements.

    Groups beyond the colours of the page share the last one.
    """
    labels = {
        plan: " + ".join(dict.fromkeys(method_words(a, words.labels) for a in plan.adapters))
        or no_adapters(result)
        for plan in dict.fromkeys(run.plan for run in result.measurements)
    }
    order = list(dict.fromkeys(labels.values()))
    last = "other methods" if len(order) > _N_COLOURS else order[-1] if order else ""
    colours = {label: min(place, _N_COLOURS - 1) for place, label in enumerate(order)}
    return {
        plan: Group(label=label if colours[label] < _N_COLOURS - 1 else last, colour=colours[label])
        for plan, label in labels.items()
    }
