"""What the sentences about a result share: names, scores and differences in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autopeft.records import Confirmation, Plan, SearchResult
from autopeft.report.measured import n_evaluated, record_of
from autopeft.report.naming import Naming
from autopeft.report.words import difference

NO_ADAPTERS = "adapts nothing"
_CLEARLY_SMALLER = 1.25  # chosen by hand: a ratio of parameters below it is not worth a sentence


@dataclass(frozen=True, kw_only=True)
class Terms:
    """One result, with what its sentences call its plans and their scores."""

    result: SearchResult
    naming: Naming

    def compared(self, first: Confirmation, second: Confirmation) -> str:
        """The second score beside the first: `the same on the test split`, or `2.9 points lower on …`."""
        gain = (second.metric_mean - first.metric_mean) * self.sign
        gap = difference(abs(gain), self.is_share, signed=False)
        words = "the same" if self.is_nothing(gain) else f"{gap} {self.lower if gain < 0 else self.higher}"
        return f"{words} on the {second.split} split"

    def failed(self, plan: Plan) -> str:
        """How many of a plan's runs reached less than half of the best run of all: `1 of 2 runs`, or nothing.

        Nothing where none of the plan's runs did better: it does not fail, it is worse. Nothing either where
        even the best run may have learned nothing: it is within two standard errors of what guesses have,
        which are at most 1 / sqrt(N) where an answer changes an example's score by 1.
        """
        record = self.record(plan)
        if record is None or len(record.metrics) < 2 or self.sign < 0:
            return ""
        n_examples = max(n_evaluated(self.result, record.split), 1)
        if self.best_run - (self.result.setting.chance or 0.0) <= 2 / math.sqrt(n_examples):
            return ""
        n_failed = sum(value < self.best_run / 2 for value in record.metrics)
        return f"{n_failed} of {len(record.metrics)} runs" if 0 < n_failed < len(record.metrics) else ""

    @property
    def best_run(self) -> float:
        """The highest metric of any confirming run; 0 without one."""
        runs = (value for record in self.result.confirmations for value in record.metrics)
        return max(runs, default=0.0)

    @property
    def proven_head(self) -> str:
        """That the plan without adapters is proven as good as the best one, which has some; else nothing."""
        named = {record.name: record.plan for record in self.result.confirmations}
        heads = [named[name] for name in self.result.verdict.as_good if name in named]
        if self.result.verdict.smallest_equivalent == "proven":
            heads.append(self.result.smallest)
        head = next((plan for plan in heads if not plan.adapters), None)
        if head is None or not self.result.best.adapters:
            return ""
        margin = difference(self.result.verdict.margin, self.is_share, signed=False)
        return f"{self.full(head)} is proven as good, within {margin}"

    def fewer(self, larger: Plan, smaller: Plan) -> str:
        """How much less a plan trains than another; empty where that is not worth a sentence."""
        if not smaller.trainable_params:
            return NO_ADAPTERS if larger.trainable_params else ""
        ratio = larger.trainable_params / smaller.trainable_params
        return f"trains {_times(ratio)} fewer parameters" if ratio >= _CLEARLY_SMALLER else ""

    def is_nothing(self, gap: float) -> bool:
        """Whether a difference is too small to speak of: for a share, 0 with one decimal of a point."""
        return not (round(100 * gap, 1) if self.is_share else gap)

    def full(self, plan: Plan) -> str:
        """A plan's name within a sentence."""
        return self.naming.full(plan)

    def record(self, plan: Plan) -> Confirmation | None:
        """A plan's confirmation; None where it has none."""
        return record_of(self.result.confirmations, plan)

    @property
    def defaults(self) -> str:
        """What was tried where there are no rivals: the defaults, and the head alone if it was."""
        tried = [run.plan for run in self.result.measurements if run.fidelity.split == "search"]
        n_defaults = len({plan.adapters for plan in tried if plan.adapters})
        head = "" if all(plan.adapters for plan in tried) else f" and the {self.naming.head}"
        return f"the default{'s' * (n_defaults > 1)}{head}"

    @property
    def is_share(self) -> bool:
        """Whether the metric is read as percent."""
        return self.naming.words.metric_is_share

    @property
    def sign(self) -> int:
        """Factor that turns the metric into one where larger is better."""
        return 1 if self.result.setting.greater_is_better else -1

    @property
    def lower(self) -> str:
        """How a worse score is called: lower, or for losses higher, which is said to be worse."""
        return "lower" if self.result.setting.greater_is_better else "higher (worse)"

    @property
    def higher(self) -> str:
        """How a better score is called: higher, or for losses lower."""
        return "higher" if self.result.setting.greater_is_better else "lower (better)"


def capital(name: str) -> str:
    """The text with its first letter as a capital."""
    return f"{name[:1].upper()}{name[1:]}"


def _times(ratio: float) -> str:
    """A ratio in words.

    Example:
        >>> _times(4.02), _times(16.4), _times(1.5)
        ('4 times', '16 times', '1.5 times')
    """
    return f"{ratio:.0f} times" if ratio >= 1.95 else f"{ratio:.1f} times"
