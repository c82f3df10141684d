"""Metrics of labels, one file each, with one score per example; tasks of tokens and texts bring their own.

For a metric that is no mean of examples, `jackknifed` makes the scores out of a plain function.
"""

from __future__ import annotations

from autopeft.metrics._jackknife import Floats, Scored, jackknifed, pseudo_values, ratio_scores

__all__ = ["Floats", "Scored", "jackknifed", "pseudo_values", "ratio_scores"]
