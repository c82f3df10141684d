"""`PeftMethod`: all that is true of a PEFT method, in one record that meets `extension.Method`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from peft import PeftConfig

from autopeft.extension import REFERENCE_WIDTH, Options
from autopeft.records import Adapter, OptionValue, Site

# How fast the best learning rate of LoRA falls with the hidden size: 5e-4 * (2000 / hidden size)**0.775 on
# Llama-like models (Thinking Machines 2025, LoRA Without Regret, and its cookbook). It also takes the best
# rates that we measured at 384 to those published at 3072, for LoRA and for most other methods
# (reports/studies/learning_rates.md).
WIDTH_EXPONENT = 0.775
COMPARISON = "peft's method comparison on Llama-3.2-3B: seconds of training, plain LoRA's 942 being 1"


def no_rank(site: Site, options: Options) -> Sequence[int]:
    """One step, which takes the method at a site or leaves it."""
    return (1,)


@dataclass(frozen=True, kw_only=True)
class PeftMethod:
    """A PEFT method as data and a few functions; `extension.Method` says what each of them means.

    By default a method starts as the identity, merges, shares no state among sites, learns from the first
    step, and has no options, no scale and no servers that read it. `ranks` makes it a ranked one, of low-rank
    matrices unless `low_rank` is False. `short` is the word for narrow cells where `label` is too long.
    `learning_rate_range` is for base models of `REFERENCE_WIDTH`; elsewhere it is divided by the ratio of the
    widths to the power of `width_exponent`, 0 for the same range everywhere. Narrower models keep it too, as
    nothing was measured there. The first rate tried is divided by the rank to the power of `rank_exponent`.
    `autopeft/methods/hira.py` is a short example.
    """

    name: str
    label: str
    short: str = ""
    summary: str
    formula: str
    learning_rate_range: tuple[float, float]
    learning_rate_source: str
    width_exponent: float = 0.0
    rank_exponent: float = 0.0
    step_time: float
    step_time_source: str = COMPARISON
    low_rank: bool = True
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    starts_slowly: bool = False
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)
    choice_labels: Mapping[str, str] = field(default_factory=dict)
    refusal: Callable[[Site], str | None]
    cost: Callable[[Site, int, Options], int]
    configs: Callable[[Sequence[Adapter]], tuple[PeftConfig, ...]]
    ranks: Callable[[Site, Options], Sequence[int]] = no_rank
    only_if_asked: Callable[[Site], bool] = lambda site: False
    options: Callable[..., Options] = lambda site, **choices: {}
    scale: Callable[..., float] = lambda rank, **choices: 1.0
    servers: Callable[[Options], tuple[str, ...]] = lambda options: ()
    readable_type: str | None = None
    read_choices: Callable[[PeftConfig], Options] = lambda config: {}

    def at_width(self, hidden_size: int) -> PeftMethod:
        """The method with its learning rates, to two digits, for base models of a hidden size."""
        factor = (REFERENCE_WIDTH / max(hidden_size, REFERENCE_WIDTH)) ** self.width_exponent
        low, high = (float(f"{rate * factor:.2g}") for rate in self.learning_rate_range)
        return replace(self, learning_rate_range=(low, high), width_exponent=0.0)

    @property
    def ranked(self) -> bool:
        """Whether the method has ranks to choose from."""
        return self.ranks is not no_rank

    @property
    def short_label(self) -> str:
        """The label in one word."""
        return self.short or self.label
