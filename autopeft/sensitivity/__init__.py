"""Importance scores, one file each; `passes/` runs them over some batches, `parts/` is what they share."""

from autopeft.sensitivity.passes.halves import reads_examples
from autopeft.sensitivity.passes.measure import MEASURED_KINDS, measure
from autopeft.sensitivity.passes.shares import layer_shares
from autopeft.sensitivity.passes.visit import ScoredModel

__all__ = ["MEASURED_KINDS", "ScoredModel", "layer_shares", "measure", "reads_examples"]
