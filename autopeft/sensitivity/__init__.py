"""Importance scores, one file each; `passes/` runs them over some batches, `parts/` is what they share."""

from __future__ import annotations

from autopeft.sensitivity.passes import ENOUGH, MEASURED_KINDS, measure

__all__ = ["ENOUGH", "MEASURED_KINDS", "measure"]
