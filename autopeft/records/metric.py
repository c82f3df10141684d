"""What a metric measures: its direction, its unit and the range of its scores."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MetricFacts:
    """The facts of the metric by which plans are compared, as the fitted task gives them.

    Attributes:
        name: What specifications call it, such as `accuracy`.
        greater_is_better: True for accuracies and correlations, false for errors and losses.
        is_share: Whether the metric lies in [0, 1]: values are read as percent, differences as points of
            0.01. False for losses, errors and correlations, which are read in their own unit.
        score_span: Width of the range of the example scores, 1 for an accuracy; None where they have no
            bounds, as pseudo-values of an F1 have none either.
        label: What people call it, such as "entity F1"; empty where that is its name.
    """

    name: str
    greater_is_better: bool
    is_share: bool
    score_span: float | None = None
    label: str = ""

    @property
    def words(self) -> str:
        """The label, else the name."""
        return self.label or self.name

    @property
    def score_step(self) -> float | None:
        """By how much the scores of an example may differ where two plans give it other answers.

        It is the span, 1 for pseudo-values of an F1 or a correlation; None for losses, in which no two plans
        are equal.
        """
        return 1.0 if self.score_span is None and self.greater_is_better else self.score_span
