"""The plans that are confirmed, and their names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

from autopeft.engine.ledger import Ledger
from autopeft.engine.problem import SearchProblem
from autopeft.engine.promote import best_user_plans
from autopeft.engine.ranking import by_loss
from autopeft.records import Plan

# Of the best plan's parameters, for the smallest plan; to save less is not worth a confirmation. By hand.
SMALLEST_SHARE = 0.5
_FORMER_SMALLEST = "smaller plan"  # a confirmed candidate that is not small beside the plan handed over
_RUNNER_UP = "runner-up"  # the plan that the search preferred, where a plan that it passed over is better


class Chosen(NamedTuple):
    """Incumbent, baseline, and the candidate for the smallest equivalent plan."""

    incumbent: Plan
    baseline: Plan
    smallest: Plan


@dataclass(frozen=True, kw_only=True)
class Finalists:
    """The plans to confirm, fixed before the confirmation: incumbent, baseline, a small plan, and others.

    `best` is the plan that is handed over, which the confirmation decides; before, it is the incumbent.
    """

    incumbent: Plan
    best: Plan
    baseline: Plan
    smallest: Plan
    others: tuple[tuple[str, Plan], ...] = ()

    @property
    def by_name(self) -> dict[str, Plan]:
        """Every plan by its name; one plan may have several."""
        chief = {"best": self.best, "smallest": self.smallest, "baseline": self.baseline}
        lost = {"incumbent": self.incumbent} if self.incumbent != self.best else {}
        return chief | lost | {name: plan for name, plan in self.others if plan not in chief.values()}

    @property
    def chief(self) -> tuple[Plan, ...]:
        """Best, smallest and baseline, each once; the test split is read for these."""
        return tuple(dict.fromkeys((self.best, self.smallest, self.baseline)))

    def led_by(self, plan: Plan) -> Finalists:
        """With a confirmed plan as incumbent and best, which the search had passed over."""
        smallest = min(plan, self.smallest, key=lambda plan: plan.trainable_params)
        named = (plan, self.baseline, smallest, *(other for _, other in self.others))
        runner_up = [] if self.incumbent in named else [(_RUNNER_UP, self.incumbent)]
        others = (*runner_up, *self.others)
        return replace(self, incumbent=plan, best=plan, smallest=smallest, others=others)


def with_best(finalists: Finalists, best: Plan, *, confirmed: Collection[Plan]) -> Finalists:
    """The finalists once the confirmation has decided which plan is handed over.

    Where that is the baseline, an incumbent with few enough parameters is a candidate for the smallest plan.
    Which of two is taken does not follow their scores, so that the test of the one that is named keeps its
    level. A confirmed candidate that has too many parameters beside the baseline stays among the others.
    """
    if best == finalists.incumbent:
        return finalists
    former = finalists.smallest
    most = SMALLEST_SHARE * best.trainable_params
    small = [p for p in (former, finalists.incumbent) if p in confirmed and p.trainable_params <= most]
    smallest = min(small, key=lambda plan: plan.trainable_params, default=best)
    named = (finalists.incumbent, best, smallest, *(plan for _, plan in finalists.others))
    is_nameless = former in confirmed and former not in named
    others = [(_FORMER_SMALLEST, former)] if is_nameless else []
    return replace(finalists, best=best, smallest=smallest, others=(*others, *finalists.others))


def with_baseline(finalists: Finalists, baseline: Plan) -> Finalists:
    """The finalists with another plan wherever the baseline was."""

    def replaced(plan: Plan) -> Plan:
        return baseline if plan == finalists.baseline else plan

    return replace(
        finalists,
        incumbent=replaced(finalists.incumbent),
        best=replaced(finalists.best),
        baseline=baseline,
        smallest=replaced(finalists.smallest),
    )


def find_finalists(problem: SearchProblem, ledger: Ledger, chosen: Chosen) -> Finalists:
    """The chosen three, with the head alone and the user's plans at their best rates."""
    longest_first = sorted(ledger.measured.values(), key=lambda m: (-m.fidelity.train_steps, by_loss(m)))
    finished = [m for m in longest_first if m.loss is not None]
    heads = [m.plan for m in finished if not m.plan.adapters]
    others = [(str(problem.without_adapters), plan) for plan in heads[:1]]
    others += [(str(ledger.arms[plan]), plan) for plan in best_user_plans(problem, ledger, finished)]
    return Finalists(
        incumbent=chosen.incumbent,
        best=chosen.incumbent,
        baseline=chosen.baseline,
        smallest=chosen.smallest,
        others=tuple(others),
    )
