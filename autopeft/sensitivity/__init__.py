"""Importance scores, one file each; `parts/` is what they share, and the pass over some batches."""

from autopeft.sensitivity.parts.measure import measure
from autopeft.sensitivity.parts.visit import ScoredModel
