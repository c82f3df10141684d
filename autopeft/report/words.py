"""Numbers, plans and their modules as people write them: the filters that both templates share."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePath

from markupsafe import Markup, escape

from autopeft.records import Adapter, Plan, Site, minus, rate, shortened

NOTHING = "–"
_LEAST = 1e-3  # the smallest number but 0 that three decimals show
HEAD_ALONE, UNTRAINED = "head alone", "untrained model"  # a plan without adapters
_MOST_ROLES, _MOST_LAYERS = 7, 4  # that are named one by one; chosen by hand


@dataclass(frozen=True, kw_only=True)
class WeightFolders:
    """How the trained weights of a plan lie in their folder, and what loads them.

    `order` names the sub-folders of several configs, those that are merged first; empty for one config, which
    lies in the folder itself. `n_unmerged` counts those that cannot be merged. `imports` are modules that
    tell `peft` about a method of autopeft. `is_bare` says that no tokenizer and no config lie beside them, as
    in runs of version 0.2.0 and earlier.
    """

    order: tuple[str, ...] = ()
    n_unmerged: int = 0
    imports: tuple[str, ...] = ()
    is_bare: bool = False


@dataclass(frozen=True, kw_only=True)
class PartWords:
    """What the parts of a search say about themselves; a report cannot import them, since they need torch.

    `labels` gives the name of each method that people write, and under `choice_key` the words for a choice
    that is not the usual one; `short_labels` gives one word that fits a map's cell. A method that is missing,
    because it is no longer installed, keeps its own name. `auto_class` names the transformers class that
    loads the task's base model. A metric that is a share is read as percent. `weights` says how those of the
    best plan are loaded.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    short_labels: Mapping[str, str] = field(default_factory=dict)
    auto_class: str = "AutoModel"
    metric_is_share: bool = False
    weights: WeightFolders = WeightFolders()


def choice_key(method: str, option: str, value: object) -> str:
    """Where `PartWords.labels` has the words for an option of a method: `lora.dora=True`."""
    return f"{method}.{option}={value}"


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


def plan_words(plan: Plan, labels: Mapping[str, str], *, head: str = HEAD_ALONE) -> str:
    """What a plan adapts, in a few words; `labels` as in `PartWords`, `head` for a plan without adapters.

    Example:
        >>> from autopeft.records import Adapter
        >>> plan = Plan(adapters=(Adapter(method="lora", site="h.0.q", rank=4),),
        ...             learning_rate=1e-3, trainable_params=512)
        >>> plan_words(plan, {"lora": "LoRA"}), plan_words(plan, {})
        ('LoRA r 4 on 1 module', 'lora r 4 on 1 module')
    """
    words = []
    named = [(method_words(adapter, labels), adapter.rank) for adapter in plan.adapters]
    for method, n in Counter(name for name, _ in named).items():
        ranks = sorted({rank for name, rank in named if name == method and rank})
        span = f" r {ranks[0]}" if ranks else ""
        span += f"–{ranks[-1]}" if len(ranks) > 1 else ""
        words.append(f"{method}{span} on {n:,} module{'s' if n > 1 else ''}")
    return " + ".join(words) or head


def count(number: int) -> str:
    """A count with thousands separators."""
    return f"{number:,}"


def last_part(name: str) -> str:
    """The name of a base model: of a local path its last part, which says enough in a heading.

    Example:
        >>> last_part("/data/models/tiny.gguf"), last_part("org/tiny")
        ('tiny.gguf', 'org/tiny')
    """
    return PurePath(name).name if PurePath(name).is_absolute() else name


def percent(number: float) -> str:
    """A percentage with two decimals, or two digits where it is small."""
    if number == 0 or number >= 0.1:
        return f"{number:.2f} %"
    return f"{number:.2g} %" if number >= 1e-4 else "< 0.0001 %"


def significant(number: float, n_digits: int = 2) -> str:
    """A number with so many significant digits; with an exponent only below a millionth.

    Example:
        >>> significant(100.0), significant(4.25), significant(0.0000312, 3), significant(-0.00000031)
        ('100', '4.2', '0.0000312', '−3.1e-7')
    """
    text = rate(number) if 0 < abs(number) < 1e-6 else f"{Decimal(f'{number:.{n_digits}g}'):f}"
    return minus(text) if number < 0 else text


def metric(value: float | None, is_share: bool) -> str:
    """A metric: percent with one decimal if it is a share in [0, 1], else three decimals.

    Numbers too small for these have three digits.

    Example:
        >>> metric(0.954, True), metric(-0.25, False), metric(0.0000123, False)
        ('95.4 %', '−0.250', '0.0000123')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if not is_share and 0 < abs(value) < _LEAST:
        return significant(value, 3)
    number, digits = (100 * value, 1) if is_share else (value, 3)
    text = minus(f"{round(number, digits) or 0.0:.{digits}f}")
    return f"{text} %" if is_share else text


def plus_minus(std_error: float | None, is_share: bool) -> str:
    """A standard error in the unit of `metric`; two digits where it would round to zero.

    Example:
        >>> plus_minus(0.0123, True), plus_minus(0.0123, False), plus_minus(0.000012, False)
        ('± 1.2', '± 0.012', '± 0.000012')
    """
    if std_error is None or not math.isfinite(std_error):
        return ""
    value, digits = (100 * std_error, 1) if is_share else (std_error, 3)
    return f"± {value:.{digits}f}" if round(value, digits) or not value else f"± {significant(value)}"


def difference(value: float | None, is_share: bool, *, signed: bool = True) -> str:
    """A difference of metrics: points with one decimal for a share, else three decimals.

    Shares differ by 100 points at most, whatever an interval of few seeds holds. Where all decimals would be
    0, points have one more, and other metrics have two digits.

    Example:
        >>> difference(0.014, True), difference(0.014, False), difference(0.00031, False, signed=False)
        ('+1.4 points', '+0.014', '0.00031')
        >>> difference(-0.0004, True), difference(0.0, True, signed=False)
        ('−0.04 points', '0.0 points')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    sign = "+" if signed else ""
    if is_share:
        points = 100 * within_share(value)
        digits = 1 if round(points, 1) or not round(points, 2) else 2
        text = f"{round(points, digits) or 0.0:{sign}.{digits}f} points"
    elif round(value, 3) or not value:
        text = f"{value:{sign}.3f}"
    else:
        return f"{sign if value > 0 else ''}{significant(value)}"
    return minus(text) if value < 0 else text


def within_share(difference: float) -> float:
    """A difference of two shares, which is never beyond ± 1."""
    return min(max(difference, -1.0), 1.0)


def minuses(sentence: str) -> str:
    """A sentence whose negative numbers have a minus sign.

    Example:
        >>> minuses("-1.5 points, 95 % interval -2.0 to 1.0, half-length runs at 1e-3")
        '−1.5 points, 95 % interval −2.0 to 1.0, half-length runs at 1e-3'
    """
    return re.sub(r"(?<![\w.-])-(?=\d)", "−", sentence)


def loss(value: float | None) -> str:
    """A loss with three decimals."""
    return metric(value, is_share=False)


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def megabytes(value: float) -> str:
    """Megabytes with two digits, `< 0.01` where there are fewer."""
    if value >= 99.5:  # which two digits would write as 1e+02
        return f"{value:,.0f}"
    return f"{value:.2g}" if value >= 0.01 else "0" if value == 0 else "< 0.01"


def memory(n_bytes: int | None) -> str:
    """Bytes of training memory in MB or GB."""
    if not n_bytes:
        return NOTHING
    return (
        f"{n_bytes / 1e9:.1f} GB"
        if n_bytes >= 1e9
        else f"{n_bytes / 1e6:.0f} MB"
        if n_bytes >= 1e6
        else "< 1 MB"
    )


def tied(sentence: str) -> Markup:
    """The sentence for a page, with no line break between a number and its unit, or within a rate.

    Example:
        >>> print(tied("Learning rate 3.7e-3 <"))
        Learning rate <span class="tied">3.7e-3</span> &lt;
    """
    joined = re.sub(
        r"(?<=\d) (?=[%±]|points?\b|[MG]B\b|s\b|min\b|h\b|times\b|seeds\b)|(?<=±) ",
        "\N{NO-BREAK SPACE}",
        sentence,
    )
    return Markup(re.sub(r"\d[\d.]*e-\d+", r'<span class="tied">\g<0></span>', str(escape(joined))))


def agreement(correlation: float | None, n_plans: int) -> str:
    """What the rank correlation between rungs means for the reader; thresholds chosen by hand."""
    if correlation is None or not math.isfinite(correlation):
        return "It was not measured, so how well a short run predicts a longer one is unknown here."
    hint = " With so few plans this is only a hint." if n_plans < 10 else ""
    if correlation >= 0.8:
        return f"Short runs ordered the plans much as longer ones did: few good ones were lost early.{hint}"
    if correlation >= 0.5:
        return f"Short runs gave a fair order: the best was likely kept, a good plan may be lost.{hint}"
    return f"Short runs ordered the plans poorly: a good plan may well have been lost early.{hint}"


def rhos(correlations: Sequence[float | None]) -> str:
    """Rank correlations by comma, a dash where there is none."""
    return ", ".join(NOTHING if rho is None else f"{rho:.2f}" for rho in correlations)


def first_line(error: str | None) -> str:
    """The first line of an error, shortened."""
    line = next(iter((error or "").strip().splitlines()), "no message")
    return shortened(line, 200)


def places(plan: Plan, sites: Sequence[Site]) -> str:
    """The number, kinds and layers of the modules that a plan adapts: `12 modules: q and v in all 6 layers`.

    Layers are counted from 0, as in the names of modules. `sites` are those of the base model. Empty for a
    plan without adapters, and for modules outside the layers alone.
    """
    adapted = {adapter.site for adapter in plan.adapters}
    chosen = [site for site in sites if site.name in adapted and site.layer is not None]
    layers = sorted({site.layer for site in chosen if site.layer is not None})
    if not layers:
        return ""
    roles = list(dict.fromkeys(site.role for site in chosen))
    possible = sum(site.layer in layers and site.role in roles for site in sites)
    words = f"{len(adapted)} modules" if len(adapted) > 1 else "1 module"
    kinds = listed(roles) if len(roles) <= _MOST_ROLES else f"{len(roles)} kinds"
    some = "" if possible == len(chosen) else "some of "
    outside = _outside([site for site in sites if site.name in adapted and site.layer is None])
    n_layers = len({site.layer for site in sites if site.layer is not None})
    return f"{words}: {some}{kinds} {_where(layers, n_layers)}{outside}"


def _outside(sites: Sequence[Site]) -> str:
    """Modules outside the layers in words: ` and 1 module outside the layers (dense)`; empty for none."""
    if not sites:
        return ""
    roles = list(dict.fromkeys(site.role for site in sites))
    kinds = listed(roles) if len(roles) <= _MOST_ROLES else f"{len(roles)} kinds"
    return f" and {len(sites)} module{'s' * (len(sites) > 1)} outside the layers ({kinds})"


def _where(layers: Sequence[int], n_layers: int) -> str:
    """Layers in words, of `n_layers` in all.

    Example:
        >>> _where([0, 1, 2, 3], 4), _where([2, 3], 4), _where([0], 4), _where([0, 2], 4)
        ('in all 4 layers', 'in layers 2 to 3 of 4', 'in layer 0 of 4', 'in layers 0 and 2 of 4')
    """
    first, last = layers[0], layers[-1]
    if len(layers) == n_layers:
        return {1: "in its layer", 2: "in both layers"}.get(n_layers, f"in all {n_layers} layers")
    if len(layers) == 1:
        return f"in layer {first} of {n_layers}"
    if last - first + 1 == len(layers):
        return f"in layers {first} to {last} of {n_layers}"
    if len(layers) <= _MOST_LAYERS:
        return f"in layers {listed(list(map(str, layers)))} of {n_layers}"
    return f"in {len(layers)} of {n_layers} layers"


def listed(words: Sequence[str]) -> str:
    """Words with commas and a last `and`.

    Example:
        >>> listed(["q"]), listed(["q", "v"]), listed(["q", "k", "v"])
        ('q', 'q and v', 'q, k and v')
    """
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
