"""Importance scores of target modules, one file each, and the pass that computes them (`_shared/`)."""

from autopeft.sensitivity._shared.gradients import ScoredModel
from autopeft.sensitivity._shared.measure import measure
