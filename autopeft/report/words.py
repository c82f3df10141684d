"""Numbers and plans in words: the filters that both templates share."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from autopeft.records import Adapter, Plan

METHOD_WORDS = {
    "bitfit": "BitFit",
    "bottleneck": "bottleneck adapter",
    "c3a": "C³A",
    "delora": "DeLoRA",
    "fourierft": "FourierFT",
    "hira": "HiRA",
    "ia3": "IA³",
    "ln_tuning": "norm tuning",
    "loha": "LoHa",
    "lokr": "LoKr",
    "lora": "LoRA",
    "miss": "MiSS",
    "oft": "OFT",
    "p_tuning": "P-tuning",
    "prefix_tuning": "prefix",
    "prompt_tuning": "prompt",
    "road": "RoAd",
    "shira": "SHiRA",
    "vera": "VeRA",
}
# Metrics in [0, 1] that people read as percent; correlations and losses stay as they are.
_PERCENT_METRIC = re.compile(r"accuracy|f1|exact-match|precision|recall")
_SHORT_WORDS = {"bitfit": "bias", "bottleneck": "adapter", "ln_tuning": "norm"}
NOTHING = "–"


def method_words(method: str) -> str:
    """A method as people write it; an unknown one keeps its name."""
    return METHOD_WORDS.get(method, method)


def short_words(method: str) -> str:
    """A method in one word that fits a map's cell."""
    return _SHORT_WORDS.get(method, method_words(method))


def plan_words(plan: Plan) -> str:
    """What a plan does, in a few words.

    Example:
        >>> plan_words(Plan(adapters=(), learning_rate=1e-3, trainable_params=0))
        'head alone'
    """
    groups: dict[str, list[Adapter]] = {}
    for adapter in plan.adapters:
        groups.setdefault(adapter.method, []).append(adapter)
    return " + ".join(_group_words(method, group) for method, group in groups.items()) or "head alone"


def _group_words(method: str, group: list[Adapter]) -> str:
    ranks = sorted({adapter.rank for adapter in group if adapter.rank})
    span = f" r {ranks[0]}" if ranks else ""
    span += f"–{ranks[-1]}" if len(ranks) > 1 else ""
    return f"{method_words(method)}{span} on {len(group):,} site{'s' if len(group) > 1 else ''}"


def count(number: int) -> str:
    """A count with thousands separators."""
    return f"{number:,}"


def percent(number: float) -> str:
    """A percentage with two decimals, or two digits where it is small."""
    if number == 0 or number >= 0.1:
        return f"{number:.2f} %"
    return f"{number:.2g} %" if number >= 1e-4 else "< 0.0001 %"


def metric(value: float | None, name: str) -> str:
    """A metric: percent with one decimal where `name` is a share, else three decimals."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{100 * value:.1f} %" if _is_share(name) else f"{value:.3f}"


def plus_minus(std_error: float | None, name: str) -> str:
    """A standard error in the unit of `metric`; one decimal more where it would round to zero."""
    if std_error is None or not math.isfinite(std_error):
        return ""
    value, digits = (100 * std_error, 1) if _is_share(name) else (std_error, 3)
    return f"± {value:.{digits if round(value, digits) or not value else digits + 1}f}"


def difference(value: float | None, name: str, *, signed: bool = True) -> str:
    """A difference of metrics: points with one decimal for a share, else three decimals."""
    if value is None or not math.isfinite(value):
        return NOTHING
    sign = "+" if signed else ""
    text = f"{100 * value:{sign}.1f} points" if _is_share(name) else f"{value:{sign}.3f}"
    return text.replace("-", "−")


def loss(value: float | None) -> str:
    """A loss with three decimals."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.3f}"


def rate(value: float) -> str:
    """A learning rate as people write it.

    Example:
        >>> rate(0.004), rate(0.00015)
        ('4e-3', '1.5e-4')
    """
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def agreement(correlation: float | None, n_plans: int) -> str:
    """What the rank correlation between rungs means for the reader; thresholds chosen by hand."""
    if correlation is None or not math.isfinite(correlation):
        return "It was not measured, so how far a short run foretells a longer one is unknown here."
    hint = " So few plans make it a hint, no more." if n_plans < 10 else ""
    if correlation >= 0.8:
        return f"Short runs ordered the plans much as longer ones did: few good ones were lost early.{hint}"
    if correlation >= 0.5:
        return f"Short runs gave a fair order: the best was likely kept, a good plan may be lost.{hint}"
    return f"Short runs ordered the plans poorly: a good plan may well have been lost early.{hint}"


def rhos(correlations: Sequence[float | None]) -> str:
    """Rank correlations by comma, a dash where there is none."""
    return ", ".join("–" if rho is None else f"{rho:.2f}" for rho in correlations)


def _is_share(name: str) -> bool:
    return _PERCENT_METRIC.search(name) is not None
