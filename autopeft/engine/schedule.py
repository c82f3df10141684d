"""How long each kind of measurement is, on how many examples it is judged, and what it costs in R."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from autopeft.records import Fidelity, Measurement

# Examples of the search split that each rung is judged on; the last takes all. Pairs share examples, so
# that few rank well, and judging costs as much as training does: an example half a step's share.
_RUNG_EXAMPLES = (192, 384)
_BESIDE = (4, 3)  # what goes on beside the best: the baseline, a small plan, the head, a sentinel
_N_RETUNED = 2  # the incumbent and the baseline, at a lower rate
_LONGEST_LAST = 0.7  # of a full run; chosen by hand
_RANKING = 75  # steps below which few plans have left the share of the most frequent label; see `rungs`
_LARGE_STEP = 3.5  # from one rung to the next, above which one lies between; chosen by hand
_EVAL_COST = 0.5  # of an example, relative to training on it: one forward pass against two passes' worth


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Steps of rungs, of a full run and of a confirmation, and examples in each split.

    `rung_steps` ascends; a rung takes up the run of the one before, so that it costs only what is new.
    `n_best` plans go on from the first rung and from the second, `beside` others with them at most.
    """

    rung_steps: tuple[int, ...]
    full_steps: int
    confirm_steps: int
    batch_size: int
    n_search: int
    n_confirm: int
    n_test: int
    n_general: int = 0
    n_best: tuple[int, int] = (3, 2)
    beside: tuple[int, int] = _BESIDE

    def n_promoted(self, index: int) -> int:
        """How many plans reach a rung above the first at most."""
        level = min(index, 2) - 1
        return self.n_best[level] + self.beside[level]

    @property
    def last(self) -> int:
        """Index of the last rung."""
        return len(self.rung_steps) - 1

    def rung(self, index: int, *, seed: int) -> Fidelity:
        """A measurement at a rung, on the search split or a part of it."""
        n_examples = self.n_search if index == self.last else min(self.n_search, _RUNG_EXAMPLES[index])
        steps = self.rung_steps[index]
        return Fidelity(
            split="search",
            train_steps=steps,
            train_examples=steps * self.batch_size,
            eval_examples=n_examples,
            seed=seed,
        )

    def fidelity(self, split: str, *, seed: int) -> Fidelity:
        """A confirming run, judged on the whole of the confirm split, or its weights on other text."""
        return Fidelity(
            split=split,
            train_steps=self.confirm_steps,
            train_examples=self.confirm_steps * self.batch_size,
            eval_examples={"confirm": self.n_confirm, "test": self.n_test, "general": self.n_general}[split],
            seed=seed,
        )

    def new_steps(self, index: int) -> int:
        """Steps that a rung adds to a plan that comes from the one before."""
        return self.rung_steps[index] - (self.rung_steps[index - 1] if index else 0)

    def cost(self, *, steps: int, eval_examples: int) -> float:
        """What training and judging take in R, counted in examples, so that it repeats on any machine."""
        return (steps + _EVAL_COST * eval_examples / self.batch_size) / self.full_steps

    def cost_of(self, measurement: Measurement) -> float:
        """The same of a measurement; the test split costs its examples alone."""
        fidelity = measurement.fidelity
        return self.cost(steps=measurement.trained_steps, eval_examples=fidelity.eval_examples)

    def rung_cost(self, index: int, *, is_new: bool = False) -> float:
        """What one plan costs at a rung in R: from the rung before, or from the start where it is new."""
        steps = self.rung_steps[index] if is_new else self.new_steps(index)
        return self.cost(steps=steps, eval_examples=self.rung(index, seed=0).eval_examples)


def rungs(full_steps: int, *, strategy: str = "halving") -> tuple[int, ...]:
    """Steps of the rungs: one that drops diverging rates, one that ranks, and in long runs one between.

    About 30 steps, then at least 75 or an eighth of a long run. A run shorter than that allows takes
    shares of its own, and a third rung of 75 steps or of the whole run. In the pilot behind the floor
    (MiniLM-L6, TREC-6, 300 steps) the loss ranked the final one with Spearman 0.44 after 30 steps and 0.89
    after 75; and on poem_sentiment, 71 steps in full, most plans still gave every text the most frequent
    label after 28, so that the one that began to learn first won there and lost in full.

    Args:
        full_steps: Steps of a full run.
        strategy: `halving`; `topk` skips what lies between first and last; `random` has the last alone.

    Example:
        >>> rungs(955), rungs(200), rungs(112), rungs(71), rungs(3)
        ((30, 75, 115), (30, 75), (18, 45, 75), (11, 28, 71), (1, 2, 3))
        >>> rungs(5000), rungs(5000, strategy="topk"), rungs(5000, strategy="random")
        ((50, 173, 600), (50, 600), (600,))
    """
    first = max(1, min(max(30, round(0.01 * full_steps)), round(0.16 * full_steps)))
    second = max(first + 1, min(max(_RANKING, round(0.12 * full_steps)), round(0.4 * full_steps)))
    last = max(second, min(_RANKING, full_steps))
    if strategy == "random":
        return (last,)
    if strategy == "topk":
        return (first, last)
    if last > second:
        return (first, second, last)
    if last < _LARGE_STEP * first:
        return (first, last)
    return (first, max(min(_RANKING, last - 1), round(math.sqrt(first * last))), last)


def n_first(schedule: Schedule, *, trials: int, strategy: str) -> int:
    """Plans at the first rung: the trials asked for, or as many as cost the same at the last rung alone.

    The strategy `random` measures each plan once, at the last rung of a halving run, for the same cost.
    """
    if strategy != "random":
        return trials
    halving = replace(schedule, rung_steps=rungs(schedule.full_steps))
    cost = trials * halving.rung_cost(0) + later_cost(halving)
    return max(1, round(cost / schedule.rung_cost(0)))


def later_cost(schedule: Schedule) -> float:
    """What the rungs above the first cost at most in R, with two rates tuned again at the last."""
    promoted = math.fsum(
        schedule.n_promoted(index) * schedule.rung_cost(index) for index in range(1, schedule.last + 1)
    )
    retuned = _N_RETUNED * schedule.rung_cost(schedule.last, is_new=True) if schedule.last else 0.0
    return promoted + retuned


def stretched(schedule: Schedule, *, n_first: int, max_cost: float, n_retuned: int = _N_RETUNED) -> Schedule:
    """The schedule with wider rungs and a longer last one, where a cost limit leaves room for them.

    First a quarter of the first rung goes on, and a tenth to a third rung, if that can be paid; then the
    last rung grows with what is left, to 70 % of a full run at most: few finalists that are trained for
    long tell more than many short ones (`reports/studies/replay_rungs.py`, on published curves).

    Args:
        schedule: As `rungs` gives it.
        n_first: Plans at the first rung.
        max_cost: What the search may cost, in R.
        n_retuned: Plans that are trained anew at the last rung.
    """
    left = max_cost - n_first * schedule.rung_cost(0)
    wide = replace(schedule, n_best=(max(3, n_first // 4), max(2, n_first // 10)))
    chosen = wide if _above(wide, n_retuned) <= left else schedule
    most = round(_LONGEST_LAST * schedule.full_steps)
    low, high = chosen.rung_steps[-1], max(most, chosen.rung_steps[-1])
    while low < high:  # the longest last rung that can be paid, by bisection
        middle = (low + high + 1) // 2
        fits = _above(_with_last(chosen, middle), n_retuned) <= left
        low, high = (middle, high) if fits else (low, middle - 1)
    return _with_last(chosen, low)


def _above(schedule: Schedule, n_retuned: int) -> float:
    """Cost of the rungs above the first in R."""
    new = n_retuned * schedule.rung_cost(schedule.last, is_new=True)
    return new + math.fsum(
        schedule.n_promoted(i) * schedule.rung_cost(i) for i in range(1, schedule.last + 1)
    )


def _with_last(schedule: Schedule, last: int) -> Schedule:
    """A last rung of so many steps, with a rung between where the step up to it is large."""
    first, *_, before = schedule.rung_steps
    between = schedule.rung_steps[1:-1]
    if not between and last >= _LARGE_STEP * first and last > before:
        between = (before,)
    return replace(schedule, rung_steps=(first, *between, last))
