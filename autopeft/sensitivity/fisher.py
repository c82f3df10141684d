"""Fisher: the trace of the empirical Fisher information of a site's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopeft.extension import Reducer
from autopeft.records import Site
from autopeft.sensitivity._fisher import FisherTerm
from autopeft.sensitivity._sums import Sums


@dataclass(frozen=True)
class Fisher:
    """Summed squared per-example gradients of the weight, by the ghost identity; of norms of the bias too.

    Biases of maps are left out: their sum would vanish beside that of the weight. Experts in one parameter
    have no gradient per example: the batch's is squared, which counts what examples agree on more often.

    Source: Kirkpatrick et al. 2017, arXiv:1612.00796, with the true labels; `fisher_sampled` is
    the Fisher proper.
    """

    name: str = "fisher"
    summary: str = "trace of the empirical Fisher (summed squared per-example gradients)"
    unit: str = "(loss per unit of weight) squared"
    labels: str = "true"

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """Site name -> sum over weights of grad², averaged over examples, >= 0."""
        return Sums(FisherTerm())


PART = Fisher()
