"""Lengths of rungs and confirmations, the examples that judge them, and their costs in R."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from autopeft.records import EvaluatedSplit, Fidelity, Measurement, Plan

# Examples of the search split that judge each rung but the last, which takes all. Few examples rank well,
# since all plans share them, and evaluating them costs a large part of a short rung. Chosen by hand.
_RUNG_EXAMPLES = (192, 384)
# Plans that go on beside the best: two baselines at two rates each, a small plan, the head and a sentinel;
# from the second rung the best baseline, a small plan and the head. One that starts slowly may be one more.
_BESIDE = (7, 3)
# Plans for which room is left at the second rung and at those above it: a baseline, a rival, LoRA in the
# layers of the highest score and a method that starts slowly, or further rivals where these are missing; or
# one of so many of the first, if that is more (LOG.md, 2026-11-27).
_LEAST_KEPT = (4, 3)
_LEAST_KEPT_OF = (5, 10)
LEAST_AT_RUNG = 2  # plans of a rung, whatever they cost
_N_RETUNED = 2  # the incumbent and the baseline, at a lower rate
_LONGEST_LAST = 0.7  # of a full run; a rung of that length ranks as well as a full run; chosen by hand
_RANKING = 75  # steps below which many plans still give every example the most frequent label; see `rungs`
_LARGE_STEP = 3.5  # ratio between two rungs above which a third lies between; chosen by hand
# Cost of evaluating an example, relative to training on it: training adds a backward pass, which costs about
# as much as the forward pass, since most weights are frozen.
_EVAL_COST = 0.5
_HEAD_COST = 0.35  # of a step without adapters, which has no backward pass through the body; chosen by hand


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a run costs beside its training steps.

    `example` is the cost of evaluating an example, relative to training on it; `run` is that of each run, in
    steps. Where costs are to be the same on all machines, neither is measured.
    """

    example: float = _EVAL_COST
    run: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Lengths of rungs, full runs and confirmations in steps, and sizes of the splits in examples.

    A rung continues the runs of the rung before, so that it costs only its new steps. `rung_steps` ascend.
    `n_test` is 0 where there is no test split. `n_best` says how many of the best plans go on from the first
    rung, and from the second; `beside`, how many others at most.
    Without a head (`has_head`) a plan without adapters trains nothing.
    """

    rung_steps: tuple[int, ...]
    full_steps: int
    confirm_steps: int
    batch_size: int
    n_search: int
    n_confirm: int
    n_test: int
    n_best: tuple[int, int] = (3, 2)
    beside: tuple[int, int] = _BESIDE
    prices: Prices = Prices()
    has_head: bool = True

    @property
    def _head_cost(self) -> float:
        return _HEAD_COST if self.has_head else 0.0

    def n_promoted(self, index: int) -> int:
        """How many plans reach a rung above the first at most."""
        level = min(index, 2) - 1
        return self.n_best[level] + self.beside[level]

    @property
    def with_slow_starter(self) -> Schedule:
        """The schedule with room for a plan that starts slowly, where full runs are long enough for it."""
        return self if self.is_brief else replace(self, beside=(self.beside[0] + 1, self.beside[1] + 1))

    @property
    def last(self) -> int:
        """Index of the last rung."""
        return len(self.rung_steps) - 1

    @property
    def longest_last(self) -> int:
        """Steps of the longest last rung that pays: it ranks as well as a full run."""
        return round(_LONGEST_LAST * self.full_steps)

    @property
    def is_brief(self) -> bool:
        """Whether full runs are too short for a method that starts slowly to catch up."""
        return self.full_steps < 2 * _RANKING

    @property
    def has_long_last(self) -> bool:
        """Whether the last rung is as long as pays."""
        return self.rung_steps[-1] >= self.longest_last

    @property
    def has_longer_confirmation(self) -> bool:
        """Whether confirming runs are so much longer than the last rung that they may order plans anew."""
        return self.rung_steps[-1] < round(_LONGEST_LAST * self.confirm_steps)

    def rung(self, index: int, *, seed: int) -> Fidelity:
        """The fidelity of a rung, on the search split or a part of it."""
        n_examples = self.n_search if index == self.last else min(self.n_search, _RUNG_EXAMPLES[index])
        return self._fidelity("search", self.rung_steps[index], n_examples, seed)

    def full_rung(self, *, seed: int) -> Fidelity:
        """The fidelity of a full run on the search split."""
        return self._fidelity("search", self.full_steps, self.n_search, seed)

    def fidelity(self, split: EvaluatedSplit, *, seed: int) -> Fidelity:
        """The fidelity of a confirming run, or of its weights on the test split."""
        n_examples = {"confirm": self.n_confirm, "test": self.n_test}[split]
        return self._fidelity(split, self.confirm_steps, n_examples, seed)

    def _fidelity(self, split: EvaluatedSplit, steps: int, eval_examples: int, seed: int) -> Fidelity:
        return Fidelity(
            split=split,
            train_steps=steps,
            train_examples=steps * self.batch_size,
            eval_examples=eval_examples,
            seed=seed,
        )

    def new_steps(self, index: int) -> int:
        """Steps that a rung adds to those of the rung before."""
        return self.rung_steps[index] - (self.rung_steps[index - 1] if index else 0)

    def cost(self, *, steps: float, eval_examples: int) -> float:
        """Cost of one run in R, counted in steps and examples."""
        examples = self.prices.example * eval_examples / self.batch_size
        return (self.prices.run + steps + examples) / self.full_steps

    def cost_of(self, measurement: Measurement) -> float:
        """Cost of a measurement in R; on the test split it is that of its examples alone."""
        steps = measurement.trained_steps * (1.0 if measurement.plan.adapters else self._head_cost)
        return self.cost(steps=steps, eval_examples=measurement.fidelity.eval_examples)

    def rung_cost(self, index: int, *, is_new: bool = False) -> float:
        """Cost of one plan at a rung in R, counted from the rung before, or from the start if it is new."""
        steps = self.rung_steps[index] if is_new else self.new_steps(index)
        return self.cost(steps=steps, eval_examples=self.rung(index, seed=0).eval_examples)

    def least_cost_above(self, index: int, *, n_plans: int = 0) -> float:
        """Cost in R of the rungs above a rung of `n_plans` plans, for those that it must keep room for."""
        costs = []
        for above in range(index + 1, self.last + 1):
            level = min(above, 2) - 1
            costs.append(max(_LEAST_KEPT[level], n_plans // _LEAST_KEPT_OF[level]) * self.rung_cost(above))
        return math.fsum(costs)

    def n_paid(self, *, n_first: int, max_cost: float) -> list[int]:
        """How many plans each rung measures where a search may cost so much R, the first rung first.

        Two plans at least, as many as may go on at most; room stays for the rungs above.
        """
        numbers = [n_first]
        left = max_cost - n_first * self.rung_cost(0)
        for index in range(1, self.last + 1):
            most, cost = self.n_promoted(index), self.rung_cost(index)
            room = left - self.least_cost_above(index)
            numbers.append(most if room >= most * cost else max(LEAST_AT_RUNG, int(room / cost)))
            left -= numbers[-1] * cost
        return numbers

    def confirm_cost(self, *, n_seeds: int) -> float:
        """Cost in R of confirming two plans and the head alone on so many seeds, the test split included."""
        read = self.cost(steps=0, eval_examples=self.n_test)
        return n_seeds * (2 * (self._confirm_run() + read) + self._confirm_run(self._head_cost))

    def confirm_run_cost(self, plan: Plan) -> float:
        """Cost in R of one confirming run of a plan, without the test split."""
        return self._confirm_run(1.0 if plan.adapters else self._head_cost)

    def _confirm_run(self, step_cost: float = 1.0) -> float:
        return self.cost(steps=step_cost * self.confirm_steps, eval_examples=self.n_confirm)


def rungs(full_steps: int) -> tuple[int, ...]:
    """Steps of the rungs: a first one drops diverging rates, the last one ranks, one may lie between.

    About 30 steps, then at least 75 or an eighth of a long run. Shorter runs have rungs of 16 % and 40 %, and
    a third of 75 steps or of the whole run. Source of the floor of 75: in a pilot (MiniLM-L6, TREC-6, 300
    steps) losses after 30 steps ranked the final ones with Spearman 0.44, after 75 steps with 0.89. On
    poem_sentiment, 71 steps in full, most plans still gave every text the most frequent label after 28; the
    plan that learned first led there and lost in full.

    Example:
        >>> rungs(955), rungs(200), rungs(112), rungs(71), rungs(3)
        ((30, 75, 115), (30, 75), (18, 45, 75), (11, 28, 71), (1, 2, 3))
    """
    first = max(1, min(max(30, round(0.01 * full_steps)), round(0.16 * full_steps)))
    second = max(first + 1, min(max(_RANKING, round(0.12 * full_steps)), round(0.4 * full_steps)))
    last = max(second, min(_RANKING, full_steps))
    if last > second:
        return (first, second, last)
    if last < _LARGE_STEP * first:
        return (first, last)
    return (first, max(min(_RANKING, last - 1), round(math.sqrt(first * last))), last)


def usual_schedule(full_steps: int, *, eval_share: float) -> Schedule:
    """Halving and a confirmation at half length, where evaluating a split takes a share of a full run."""
    batch_size = 16
    n_examples = int(eval_share * full_steps * batch_size / _EVAL_COST)
    return Schedule(
        rung_steps=rungs(full_steps),
        full_steps=full_steps,
        confirm_steps=max(1, round(full_steps / 2)),
        batch_size=batch_size,
        n_search=n_examples,
        n_confirm=n_examples,
        n_test=n_examples,
    )


def planned_cost(schedule: Schedule, *, trials: int) -> float:
    """Cost of a search in R at most, without the few runs of further learning rates."""
    return trials * schedule.rung_cost(0) + _above(schedule)


def stretched(schedule: Schedule, *, n_first: int, max_cost: float) -> Schedule:
    """The schedule with wider rungs and a longer last one, as far as a cost limit allows.

    If the limit pays for it, a quarter of the first rung goes on, and a tenth to a third rung. Then the last
    rung is lengthened, to 70 % of a full run at most: few finalists with long runs tell more than many with
    short ones (reports/LOG.md, by `replay_rungs.py` of commit a7a790e4, on published curves).

    Args:
        schedule: As `rungs` gives it.
        n_first: Plans at the first rung.
        max_cost: Of the search, in R.
    """
    left = max_cost - n_first * schedule.rung_cost(0)
    wide = replace(schedule, n_best=(max(3, n_first // 4), max(2, n_first // 10)))
    chosen = wide if _above(wide) <= left else schedule
    low, high = chosen.rung_steps[-1], max(schedule.longest_last, chosen.rung_steps[-1])
    while low < high:  # the longest last rung that can be paid, by bisection
        middle = (low + high + 1) // 2
        fits = _above(_with_last(chosen, middle)) <= left
        low, high = (middle, high) if fits else (low, middle - 1)
    return _with_last(chosen, low)


def _above(schedule: Schedule) -> float:
    new = _N_RETUNED * schedule.rung_cost(schedule.last, is_new=True)
    return new + math.fsum(
        schedule.n_promoted(i) * schedule.rung_cost(i) for i in range(1, schedule.last + 1)
    )


def _with_last(schedule: Schedule, last: int) -> Schedule:
    """The schedule with a last rung of so many steps, and a rung between where the ratio is large."""
    first, *between, before = schedule.rung_steps
    if not between and last >= _LARGE_STEP * first and last > before:
        between = [before]
    return replace(schedule, rung_steps=(first, *between, last))
