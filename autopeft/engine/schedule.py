"""How long each kind of measurement is, on how many examples it is judged, and what it costs in R."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autopeft.records import Fidelity, Measurement
from autopeft.train import rung_course

# Examples of the search split that each rung is judged on; the last takes all. Pairs share examples, so
# that few rank well, and judging costs as much as training does: an example half a step's share.
_RUNG_EXAMPLES = (256, 512)
_EVAL_COST = 0.5  # of an example, relative to training on it: one forward pass against two passes' worth


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Steps of rungs, of a full run and of a confirmation, and examples in each split.

    `rung_steps` ascends; a rung takes up the trunk of the one before, so that it costs only what is new.
    """

    rung_steps: tuple[int, ...]
    full_steps: int
    confirm_steps: int
    batch_size: int
    n_search: int
    n_confirm: int
    n_test: int

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
        """A confirming run, judged on the whole of the confirm split, or its weights on the test split."""
        return Fidelity(
            split=split,
            train_steps=self.confirm_steps,
            train_examples=self.confirm_steps * self.batch_size,
            eval_examples={"confirm": self.n_confirm, "test": self.n_test}[split],
            seed=seed,
        )

    def new_steps(self, index: int) -> int:
        """Steps that a rung adds to a plan that comes from the one before."""
        if index == 0:
            return self.rung_steps[0]
        before = rung_course(self.rung_steps[index - 1], first_rung_steps=self.rung_steps[0])
        return self.rung_steps[index] - before.branch_at

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

    About 30 steps, then at least 75 or an eighth of a long run; a short run takes shares of its own.
    In the pilot behind the floor (MiniLM-L6, TREC-6, 300 steps) the loss ranked the final one with
    Spearman 0.44 after 30 steps and 0.89 after 75.

    Args:
        full_steps: Steps of a full run.
        strategy: `halving`; `topk` skips what lies between first and last; `random` has the last alone.

    Example:
        >>> rungs(955), rungs(200), rungs(112), rungs(3)
        ((30, 75, 115), (30, 75), (18, 45), (1, 2))
        >>> rungs(5000), rungs(5000, strategy="topk"), rungs(5000, strategy="random")
        ((50, 173, 600), (50, 600), (600,))
    """
    first = max(1, min(max(30, round(0.01 * full_steps)), round(0.16 * full_steps)))
    last = max(first + 1, min(max(75, round(0.12 * full_steps)), round(0.4 * full_steps)))
    if strategy == "random":
        return (last,)
    if strategy == "topk" or last < 3.5 * first:
        return (first, last)
    return (first, max(min(75, last - 1), round(math.sqrt(first * last))), last)


N_SECOND = 7  # plans above the first rung: the best, baselines, a small one, a sentinel
N_THIRD = 4
N_RETUNED = 2  # the incumbent and the baseline at a lower rate


def n_promoted(index: int) -> int:
    """How many plans reach a rung above the first at most."""
    return N_SECOND if index == 1 else N_THIRD


def later_cost(schedule: Schedule) -> float:
    """What the rungs above the first cost at most in R, with rates tuned again at the last."""
    promoted = math.fsum(
        n_promoted(index) * schedule.rung_cost(index) for index in range(1, schedule.last + 1)
    )
    return promoted + (N_RETUNED * schedule.rung_cost(schedule.last, is_new=True) if schedule.last else 0.0)
