"""The record of a PEFT method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING

from packaging.version import Version

from autopeft.types import Adapter, OptionValue, Target

if TYPE_CHECKING:
    from peft import PeftConfig

Options = Mapping[str, OptionValue]

# Older releases load the weights of a second method wrongly, without an error (tests/methods/test_mixes.py).
MIXES_SINCE_PEFT = "0.21.2"
REFERENCE_WIDTH = 384  # hidden size of MiniLM-L6, on which most ranges of learning rates were measured
# How fast the best learning rate falls with the hidden size: it converts the best rates that we measured at
# 384 to those published at 3072 for most methods (benchmarks/studies/learning_rates.md), and is the exponent
# published for LoRA (Thinking Machines 2025, LoRA Without Regret); LoRA itself has a smaller one here.
WIDTH_EXPONENT = 0.775


def no_rank(target: Target, options: Options) -> Sequence[int]:
    """Return the one step of a method without ranks, which adapts a target module or leaves it alone."""
    return (1,)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A PEFT method: where it fits, what it costs, and its `peft` configs, as data and a few functions.

    `autopeft/methods/hira.py` is a short example.
    """

    name: str  # of the setting, such as `ln_tuning`
    label: str  # in prose, such as "norm tuning"
    short: str = ""  # one word for the cell of a heat map, such as "norm", if `label` is too long
    summary: str  # what is trained, in one phrase
    formula: str  # trainable parameters of a layer of n inputs and m outputs at rank r, for people
    since_peft: str = ""  # the first release of `peft` with the method; empty if every supported one has it

    # Lowest and highest learning rate of a search, > 0, for base models of `REFERENCE_WIDTH` and for narrower
    # ones, which were not measured. For wider ones they are divided by the ratio of the widths to the power
    # of `width_exponent`; the first rate tried is also divided by the rank to the power of `rank_exponent`.
    learning_rate_range: tuple[float, float]
    learning_rate_source: str
    width_exponent: float = WIDTH_EXPONENT
    rank_exponent: float = 0.0
    # Duration of a training step relative to plain LoRA at the same target modules; those of our methods are
    # from peft's method comparison on Llama-3.2-3B.
    step_time: float

    takes_rank_pattern: bool = False  # whether one config may hold several ranks; else a plan has one rank
    # Whether the adapters of a plan have a common state: then the plan has one config of the method, and
    # attaches it first.
    shared: bool = False
    starts_slowly: bool = False  # whether short runs rank the method too low, so that a search extends them

    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)  # the first is the default
    choice_labels: Mapping[str, str] = field(default_factory=dict)  # `option=value` -> prose, such as "DoRA"

    # Why the method cannot adapt a target module, as a phrase after its name; None if it can.
    refusal: Callable[[Target], str | None]
    # The options of an adapter, from the choices (as keywords) and the target module.
    options: Callable[..., Options] = lambda target, **choices: {}
    # The ranks of a target module, ascending, >= 1.
    ranks: Callable[[Target, Options], Sequence[int]] = no_rank
    # Trainable parameters at a target module and rank, exactly: 0 at rank 0, strictly increasing in it.
    cost: Callable[[Target, int, Options], int]
    # Alpha / r of an adapter, from the rank and the choices (as keywords); 1 for methods without a scale.
    scale: Callable[..., float] = lambda rank, **choices: 1.0
    # The configs for all adapters of this method in a plan; SpecError if no configs make them together.
    configs: Callable[[Sequence[Adapter]], tuple[PeftConfig, ...]]
    # Which of vllm, sglang and llama.cpp can load an exact export of an adapter with these options.
    servers: Callable[[Options], tuple[str, ...]] = lambda options: ()

    def at_width(self, hidden_size: int) -> Method:
        """Return the method with its learning rates, to two digits, for base models of a hidden size."""
        factor = (REFERENCE_WIDTH / max(hidden_size, REFERENCE_WIDTH)) ** self.width_exponent
        low, high = (float(f"{rate * factor:.2g}") for rate in self.learning_rate_range)
        return replace(self, learning_rate_range=(low, high), width_exponent=0.0)

    @property
    def ranked(self) -> bool:
        """Whether each target module gets a rank; if not, adapters have rank 0."""
        return self.ranks is not no_rank

    @property
    def short_label(self) -> str:
        """The label in one word."""
        return self.short or self.label


def missing_in_peft(label: str, since_peft: str) -> str:
    """Return a sentence if the installed `peft` is older than `since_peft`; else an empty string."""
    installed = metadata.version("peft")
    if not since_peft or Version(installed) >= Version(since_peft):
        return ""
    return f"{label} needs peft {since_peft} or newer, and {installed} is installed. Upgrade peft to use it."


def rate_factor(method: Method, lead: Method) -> float:
    """Compute the factor on a plan's learning rate, which is the `lead` method's, for another method of it.

    It is the ratio of the geometric middles of the two methods' ranges, to three digits: one rate for both
    would be wrong for one of them.
    """
    middle, lead_middle = (math.sqrt(math.prod(each.learning_rate_range)) for each in (method, lead))
    return float(f"{middle / lead_middle:.3g}")


def slow_starters(methods: Mapping[str, Method]) -> frozenset[str]:
    """List the methods that short runs rank too low (`starts_slowly`)."""
    return frozenset(name for name, method in methods.items() if method.starts_slowly)
