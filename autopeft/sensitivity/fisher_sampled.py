"""Sampled Fisher: the trace of the Fisher information, with labels drawn from the model's own predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopeft.extension import Reducer
from autopeft.records import Site
from autopeft.sensitivity._fisher import FisherTerm
from autopeft.sensitivity._sums import Sums


@dataclass(frozen=True)
class FisherSampled:
    """As `fisher`, with one label drawn for each example, or for each token that has one.

    Of several labels per example each is drawn by itself with the chance of its sigmoid; a number is drawn
    from the normal distribution about the prediction with variance 1. The gradient is that of the task's
    own loss, as in `fisher`: where the loss is k times -log p (2 for the squared error, 1 / C for the mean
    over C labels), the value is k² times the trace of the Fisher. Takes a forward pass more, for the
    predictions. Of experts in one parameter the batch's gradient is squared: since gradients of drawn
    labels are zero on average, this estimates the same sum.

    Source: Kunstner et al. 2019, arXiv:1905.12558, on why drawn and true labels differ, and equation 1 on
    the squared error as -log p of a normal distribution. That the loss keeps its factor k is ours.
    """

    name: str = "fisher_sampled"
    summary: str = "trace of the Fisher (labels drawn from the model's predictions)"
    unit: str = "(loss per unit of weight) squared"
    labels: str = "sampled"

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """Site name -> sum over weights of grad², averaged over examples, >= 0."""
        return Sums(FisherTerm())


PART = FisherSampled()
