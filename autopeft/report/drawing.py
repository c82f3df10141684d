"""The charts of one result, each drawn when it is called for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from autopeft.records import Measurement, SearchResult
from autopeft.report import charts
from autopeft.report.charts import Sheet, short_runs
from autopeft.report.named_plans import chart_names, confirmed_plans
from autopeft.report.naming import Naming
from autopeft.report.tables import first_proposals
from autopeft.report.words import PartWords

_FEW = 3  # plans at a rung that are too few to compare; chosen by hand


class Drawing:
    """The charts of a result; each is None where the result has too little to draw."""

    def __init__(self, result: SearchResult, words: PartWords) -> None:
        """Name the plans and group them by method."""
        self._result, self._words = result, words
        self._naming = Naming(result=result, words=words, first=first_proposals(result))
        self._groups = self._naming.groups()
        self._names = chart_names(result, self._naming)
        self._confirmed = confirmed_plans(result)
        self._rungs = short_runs(result)

    @cached_property
    def is_confirmed(self) -> bool:
        """Whether the first chart shows confirmed plans and not short trial runs."""
        return len(self._confirmed) > 1 and any(record.plan.adapters for record in self._confirmed)

    @property
    def score_steps(self) -> int:
        """Steps of the short trial runs that stand in where nothing is confirmed; 0 without any."""
        trials = self._trials
        return trials[0].fidelity.train_steps if trials else 0

    @property
    def _trials(self) -> Sequence[Measurement]:
        """The longest rung with enough plans to compare; else the first rung, which has all of them."""
        enough = (rung for rung in reversed(self._rungs) if len(rung) > _FEW)
        return next(enough, next(iter(self._rungs), ()))

    @property
    def _other_trials(self) -> Sequence[Measurement]:
        """The longest run of each named plan with adapters that never ran as long as those of `_trials`."""
        drawn = {run.plan for run in self._trials}
        longest = {run.plan: run for rung in self._rungs for run in rung}
        return [run for plan, run in longest.items() if plan in self._names.keys() - drawn and plan.adapters]

    def score(self) -> Sheet | None:
        """Score by parameters with the front; the loss of short trial runs where nothing is confirmed."""
        if not self.is_confirmed:
            return charts.loss_by_parameters(
                self._result, self._trials, self._groups, self._names, others=self._other_trials
            )
        return charts.score_by_parameters(
            self._result, self._confirmed, self._groups, self._names, is_share=self._words.metric_is_share
        )

    def seeds(self) -> Sheet | None:
        """The metric of each seed, equal seeds joined."""
        return charts.same_seeds(
            self._result, self._confirmed, self._groups, self._names, is_share=self._words.metric_is_share
        )

    def difference(self) -> Sheet | None:
        """The difference to the baseline with its interval and the margin."""
        candidate = self._naming.short(self._result.incumbent)
        baseline = self._naming.short(self._result.baseline)
        is_share = self._words.metric_is_share
        return charts.verdict_interval(self._result.verdict, candidate, baseline, is_share=is_share)

    def rates(self) -> Sheet | None:
        """Loss by learning rate."""
        return charts.loss_by_rate(self._result, self._rungs, self._groups)

    def rungs(self) -> Sheet | None:
        """The loss of each plan along the rungs, and where it stopped."""
        return charts.who_went_on(self._result, self._rungs, self._groups)
