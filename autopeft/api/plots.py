"""The charts of the report as matplotlib figures, for notebooks and papers."""

from __future__ import annotations

from matplotlib.figure import Figure

from autopeft import pipeline, report
from autopeft.errors import SpecError
from autopeft.records import SearchResult


class Plots:
    """One method per chart; each gives a figure, which a notebook shows and `savefig` writes.

    Every method raises SpecError where the run has too little to draw.
    """

    def __init__(self, result: SearchResult) -> None:
        """Draw nothing yet."""
        self._result = result
        self._drawing = report.Drawing(result, pipeline.part_words(result))

    def front(self) -> Figure:
        """Metric by trainable parameters, with 95 % intervals, the front, the budget and the head alone.

        Without confirmed plans it is the loss of the short trial runs.
        """
        return _figure(self._drawing.score(), "two plans with adapters")

    def seeds(self) -> Figure:
        """The metric of every confirming run, equal seeds joined across plans."""
        return _figure(self._drawing.seeds(), "two plans confirmed on two seeds")

    def difference(self) -> Figure:
        """The difference of the searched plan to the baseline with its 95 % interval and the margin."""
        return _figure(self._drawing.difference(), "a verdict with an interval")

    def rates(self) -> Figure:
        """Loss by learning rate, for each group of plans and rung."""
        return _figure(self._drawing.rates(), "two short trial runs")

    def rungs(self) -> Figure:
        """The loss of every plan along the rungs, with a cross where it stopped."""
        return _figure(self._drawing.rungs(), "two rungs")

    def ranks(self) -> Figure:
        """The ranks of the best plan by layer and role; a method without rank shows its name."""
        return _figure(self._drawing.ranks(), "a best plan with adapters")

    def sensitivity(self, score: str | None = None) -> Figure:
        """A sensitivity score by layer and role, in percent of its total.

        Args:
            score: Name of a score of the run; None takes the score that ordered the sites.
        """
        name = self._result.spec.search.score if score is None else score
        known = ", ".join(scores.name for scores in self._result.scores) or "none"
        chart = self._drawing.sensitivity(name)
        return _figure(chart, f"a score {name!r} that is above 0 (its scores: {known})")

    def __repr__(self) -> str:
        names = [name for name, value in vars(type(self)).items() if name[0] != "_" and callable(value)]
        return f"Plots({', '.join(names)})"


def _figure(chart: report.Sheet | None, needed: str) -> Figure:
    if chart is None:
        raise SpecError(f"This run has too little for this chart, which needs {needed}.")
    return chart.picture()
