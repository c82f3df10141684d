"""The charts of the report, each as a sheet that becomes inline SVG or a figure.

Inside the folder each file imports only from those before it:
canvas → marks → scores, rungs.
"""

from __future__ import annotations

from autopeft.report.charts.canvas import Sheet, png_of, sheet
from autopeft.report.charts.rungs import loss_by_rate, short_runs, who_went_on
from autopeft.report.charts.scores import (
    loss_by_parameters,
    same_seeds,
    score_by_parameters,
    verdict_interval,
)
