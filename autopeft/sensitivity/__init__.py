"""Importance scores, one file each, and the pass over some batches that serves them all."""

from __future__ import annotations

from autopeft.sensitivity._pass import ENOUGH, MEASURED_KINDS, measure

__all__ = ["ENOUGH", "MEASURED_KINDS", "measure"]
