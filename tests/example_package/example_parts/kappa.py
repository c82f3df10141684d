"""A metric: Cohen's kappa, agreement beyond chance, of any task with one class per example."""

from __future__ import annotations

from dataclasses import dataclass

from sklearn.metrics import cohen_kappa_score

from autopeft.metrics import Floats, Scored, jackknifed


@dataclass(frozen=True)
class Kappa:
    """In [-1, 1]; no mean of examples, so that its scores are pseudo-values."""

    name: str = "kappa"
    kinds: tuple[str, ...] = ("class",)
    greater_is_better: bool = True
    score_span: float | None = None

    def scored(self, truth: Floats, guesses: Floats) -> Scored:
        return jackknifed(_kappa, truth, guesses)


def _kappa(truth: Floats, guesses: Floats) -> float:
    """0 where all is of one class, as there is nothing to agree on."""
    is_one = len({*truth.tolist(), *guesses.tolist()}) < 2
    return 0.0 if is_one else float(cohen_kappa_score(truth, guesses))


PART = Kappa()
