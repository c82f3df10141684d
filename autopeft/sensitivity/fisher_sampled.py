"""Sampled Fisher: the trace of the Fisher information, with labels drawn from the model's own predictions.

As `fisher`, with one label drawn for each example, or for each token that has a label. Several labels per
example are drawn independently, each with the chance of its sigmoid; a number is drawn from the normal
distribution around the prediction with train's variance. The gradient is that of the task's own loss. Where
the loss is k times -log p (2 for the squared error, 1 / C for the mean over C labels), the value is k² times
the trace of the Fisher. The predictions take one more forward pass. For experts in one parameter the batch's
gradient is squared: gradients of drawn labels are zero on average, so the square estimates the same sum.

Source: Kunstner et al. 2019, arXiv:1905.12558, on why drawn and true labels differ, and equation 1 on the
squared error as -log p of a normal distribution. That the loss keeps its factor k is ours.
"""

from autopeft.sensitivity.parts.gradients import fisher_reducer
from autopeft.sensitivity.parts.score import SiteScore

PART = SiteScore(
    name="fisher_sampled",
    summary="trace of the Fisher (labels drawn from the model's predictions)",
    unit="(loss per unit of weight) squared",
    needed_pass="sampled",
    reducer=fisher_reducer,
)
