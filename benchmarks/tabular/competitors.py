"""Searches as people write them with Optuna, over the same space and at a given cost.

All proposals are measured on the search split; lengths are the rungs of the cell and a full run. What is
handed over is the plan with the lowest loss at the greatest length that any plan reached; if that is not a
full run, the plan is trained in full beyond the cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import optuna
from optuna.pruners import HyperbandPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from policies import Finder, Found, handed_over, problem_of, proposed
from surrogate import Surrogate, TableBench
from table import SEARCH_SEED, TableError

from autopeft.engine import SearchProblem
from autopeft.store.study_file import errors_alone
from autopeft.types import Fidelity, Measurement, Plan, RunSpec

COSTS = (1, 2, 4, 7)  # in R
_REDUCTION = 3  # of plans from one length to the next, Optuna's default


class _PaidPlans:
    """Plans of a sampler on a cell, measured as long as a cost in R pays."""

    def __init__(self, surrogate: Surrogate, *, seed: int, max_cost: float) -> None:
        cell = surrogate.description.cell
        spec = RunSpec.model_validate({"budget": {"requested": surrogate.description.budget.requested}})
        self.problem: SearchProblem = problem_of(surrogate, spec)
        self.bench = TableBench(surrogate, seed=seed)
        self.lengths: Sequence[int] = (*cell.rungs, cell.full)
        self.max_cost = max_cost

    def propose(self, study: optuna.Study) -> tuple[optuna.Trial, Plan]:
        """A trial of the study, and its plan."""
        trial = study.ask()
        return trial, proposed(trial, self.problem)

    def step_cost(self, index: int) -> float:
        """Cost in R of going on to a length from the one before it."""
        before = self.lengths[index - 1] if index else 0
        steps = self.lengths[index] - before
        return self.bench.lengths.cost(self._fidelity(steps))

    def pays(self, index: int, *, n_plans: int = 1) -> bool:
        """Whether plans can go on to a length."""
        return self.bench.cost() + n_plans * self.step_cost(index) <= self.max_cost

    def measure(self, plan: Plan, index: int) -> Measurement:
        """A plan at a length."""
        return self.bench.measure(plan, self._fidelity(self.lengths[index]))

    def _fidelity(self, steps: int) -> Fidelity:
        """A run of so many steps, evaluated on the whole search split."""
        lengths = self.bench.lengths
        return replace(lengths.short(seed=SEARCH_SEED), train_steps=steps, eval_examples=lengths.n_search)

    def best(self) -> Found:
        """The best of the longest runs; raises TableError where none finished."""
        finished = [m for m in self.bench.measured if m.loss is not None]
        if not finished:
            raise TableError(f"None of the {len(self.bench.measured)} runs finished that the cost pays.")
        best = min(finished, key=lambda m: (-m.fidelity.train_steps, m.loss))
        if best.fidelity.train_steps < self.lengths[-1]:
            return handed_over([best.plan], self.bench)
        self.bench.measure(best.plan, self.bench.lengths.test(seed=self.bench.seed))
        return Found(plan=best.plan, bench=self.bench)


def hyperband(max_cost: float) -> Finder:
    """Optuna's TPE with its Hyperband pruner."""

    def find(surrogate: Surrogate, seed: int) -> Found:
        paid = _PaidPlans(surrogate, seed=seed, max_cost=max_cost)
        pruner = HyperbandPruner(
            min_resource=paid.lengths[0], max_resource=paid.lengths[-1], reduction_factor=_REDUCTION
        )
        study = _study(TPESampler(seed=seed), pruner, name=f"hyperband-{seed}")
        while paid.pays(0):
            trial, plan = paid.propose(study)
            state = TrialState.COMPLETE
            for index in range(len(paid.lengths)):
                if not paid.pays(index):
                    return paid.best()
                measurement = paid.measure(plan, index)
                if measurement.loss is None:
                    state = TrialState.FAIL
                    break
                trial.report(measurement.loss, paid.lengths[index])
                if trial.should_prune():
                    state = TrialState.PRUNED
                    break
            study.tell(trial, measurement.loss if state is TrialState.COMPLETE else None, state=state)
        return paid.best()

    return find


def halving(max_cost: float) -> Finder:
    """Random plans, a third of which go on from each length to the next, as many as can be paid."""

    def find(surrogate: Surrogate, seed: int) -> Found:
        paid = _PaidPlans(surrogate, seed=seed, max_cost=max_cost)
        study, indices = _study(RandomSampler(seed=seed)), range(len(paid.lengths))

        def cost(n: int) -> float:
            return math.fsum(max(1, n // _REDUCTION**index) * paid.step_cost(index) for index in indices)

        n_plans = 1
        while cost(n_plans + 1) <= max_cost:
            n_plans += 1
        plans = [paid.propose(study)[1] for _ in range(n_plans)]
        for index in indices:
            if index and not paid.pays(index, n_plans=len(plans)):
                break
            measured = [paid.measure(plan, index) for plan in plans]
            ranked = sorted((m for m in measured if m.loss is not None), key=lambda m: m.loss or 0.0)
            plans = [m.plan for m in ranked[: max(1, n_plans // _REDUCTION ** (index + 1))]]
        return paid.best()

    return find


def _study(
    sampler: BaseSampler, pruner: HyperbandPruner | None = None, *, name: str = "challenger"
) -> optuna.Study:
    """A study in memory; by its name, random if none is given, the pruner chooses a trial's bracket."""
    with errors_alone("optuna"):
        return optuna.create_study(sampler=sampler, pruner=pruner, study_name=name)


def competitors() -> dict[str, Finder]:
    """Every challenger at several costs in R, by name."""
    kinds = {"Hyperband": hyperband, "random halving": halving}
    return {f"{name} {cost} R": kind(cost) for cost in COSTS for name, kind in kinds.items()}
