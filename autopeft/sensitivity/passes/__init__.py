"""The pass over some batches that feeds every score.

Inside the folder each file imports only from those before it:
labels, layout, halves → visit → batches → measure.
"""

from __future__ import annotations

from autopeft.sensitivity.passes.measure import ENOUGH, MEASURED_KINDS, measure

__all__ = ["ENOUGH", "MEASURED_KINDS", "measure"]
