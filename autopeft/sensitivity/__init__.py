"""Importance scores, one file each; `parts/` is what they share, and the pass over some batches."""

from autopeft.sensitivity.parts.measure import MEASURED_KINDS, measure
from autopeft.sensitivity.parts.visit import ScoredModel
