"""Fisher: the trace of the empirical Fisher information of a site's weights.

The value is the sum of the squared per-example gradients of the weight, by the ghost identity; of a norm also
of the bias. Biases of maps would vanish beside the weight; `bias_fisher` measures them. Experts in one
parameter have no gradient per example: the batch's gradient is squared, which favours what examples agree on.

Source: Kirkpatrick et al. 2017, arXiv:1612.00796, with the true labels. The Fisher proper is that of
`fisher_sampled`.
"""

from autopeft.sensitivity.parts.gradients import fisher_reducer
from autopeft.sensitivity.parts.score import SiteScore

PART = SiteScore(
    name="fisher",
    summary="trace of the empirical Fisher (summed squared per-example gradients)",
    unit="(loss per unit of weight) squared",
    needed_pass="true",
    reducer=fisher_reducer,
)
