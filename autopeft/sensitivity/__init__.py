"""Importance scores, one file each; `parts/` is what they share, and the pass over some batches."""

from autopeft.sensitivity._shared.measure import measure
from autopeft.sensitivity._shared.visit import ScoredModel
