"""When a confirmation may stop: the decision after each seed, and the price for having looked several times.

**What is guaranteed.** If best and baseline are equally good in truth, `better` or `worse` is said in at
most 5 % of confirmations (2.5 % each). This holds for every share of seeds and examples in the noise,
however many looks were taken, and whatever ended the confirmation. It was simulated for normal, log-normal
and 0/1 scores, 20 to 1000 examples, 2 to 10 seeds.

**Why no textbook bound fits.** Group sequential bounds assume that information grows with the number k of
seeds. Here the mean after k seeds has variance w + v / k: the part w of the examples remains when seeds are
added, and looks at few seeds resemble each other the more, the larger w is. The ratio of w and v is not
estimated for the early looks either: a v that is small by chance would spend more of the error and look
larger at once. Look k of K has the two-sided tail probability

    p_k = alpha g (k / K)**3,    p_K = alpha (g + (1 - g) R**2),

R being the share of the examples in the variance at the last look (at 1 all looks saw the same, so that
looking costs nothing). g is chosen so that the whole procedure errs in alpha of all cases at the least
favourable w / v.

Source:
    Lan & DeMets 1983, Biometrika 70:659 (alpha spending); Jennison & Turnbull 1999, "Group Sequential
    Methods", chapter 5 (nominal levels). The bounds are this project's, reports/LOG.md 2026-11-25,
    simulated by `reports/studies/confirmation_calibration.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from autopeft.evidence.variance import Floats, MeanSquares, apart_by, half_width

MAX_SEEDS = 10
FIRST_LOOK = 3  # seeds before which nothing is decided, or all seeds if two are planned
# Decisions as numbers, for arrays.
OPEN, BETTER, WORSE, EQUIVALENT, FUTILE = range(5)
# g of p_k by alpha and planned seeds (simulated, 150,000 confirmations each).
_G = {
    0.10: {2: 1.0, 3: 1.0, 4: 0.815, 5: 0.75, 6: 0.705, 7: 0.695, 8: 0.675, 9: 0.67, 10: 0.665},
    0.05: {2: 1.0, 3: 0.995, 4: 0.725, 5: 0.67, 6: 0.62, 7: 0.62, 8: 0.59, 9: 0.59, 10: 0.585},
}
_VARIANCE_LEVEL = 0.9  # confidence of the bound on the seeds' variance for futility; chosen by hand


@dataclass(frozen=True, kw_only=True)
class Design:
    """How a confirmation is judged; `margin` > 0, `span` and `step` in units of the scores.

    More seeds are futile where the planned ones decide with less than `least_chance`.
    """

    planned_seeds: int
    margin: float
    span: float | None = 1.0
    step: float | None = None
    least_chance: float = 0.15  # a seventh fewer seeds of alike plans than 0.05, as much power (two_stage.md)

    @property
    def first_look(self) -> int:
        """Seeds at the first look."""
        return min(FIRST_LOOK, self.planned_seeds)

    def at_margin(self, squares: MeanSquares) -> MeanSquares:
        """The mean squares for a test whether the difference may be as large as the margin."""
        return apart_by(self.margin, squares, step=self.step or self.span)

    def tail(self, squares: MeanSquares, alpha: float) -> Floats:
        """Two-sided tail probability p_k of this look, if all looks together have `alpha`, 0.05 or 0.1."""
        g = _G[alpha][self.planned_seeds]
        if squares.n_seeds < self.planned_seeds:
            return np.asarray(alpha * g * (squares.n_seeds / self.planned_seeds) ** 3)
        return np.asarray(alpha * (g + (1 - g) * squares.example_share**2))


def decide(squares: MeanSquares, design: Design) -> npt.NDArray[np.int64]:
    """The decision of one look at each table, all of `squares.n_seeds` seeds.

    BETTER or WORSE where the 95 % interval excludes 0. EQUIVALENT where the 90 % interval lies within ±
    margin: two one-sided tests at 5 % (Schuirmann 1987, J. Pharmacokinetics and Biopharmaceutics 15:657).
    FUTILE where the planned seeds would hardly decide either. OPEN otherwise.
    """
    wide = half_width(squares, design.tail(squares, 0.05))
    narrow = half_width(design.at_margin(squares), design.tail(squares, 0.10))
    cases = [squares.mean > wide, squares.mean < -wide, np.abs(squares.mean) + narrow < design.margin]
    codes = [BETTER, WORSE, EQUIVALENT]
    if squares.n_seeds < design.planned_seeds:
        cases, codes = [*cases, _chance(squares, design) < design.least_chance], [*codes, FUTILE]
    return np.asarray(np.select(cases, codes, default=OPEN))


def _chance(squares: MeanSquares, design: Design) -> Floats:
    """Conditional power: chance that the planned seeds decide, if the true mean is the present one.

    Optimistic on purpose: it takes the lower confidence bound of the seeds' variance, and unadjusted bounds.
    """
    now, last, freedom = squares.n_seeds, design.planned_seeds, squares.freedom
    factor = freedom / float(stats.chi2.ppf(_VARIANCE_LEVEL, freedom))
    example = squares.residual + squares.excess * last / now
    later = freedom * (last - 1) // (now - 1)
    at_end = replace(squares, seed=squares.seed * factor, example=example, n_seeds=last, freedom=later)
    wide = half_width(at_end, 0.05)
    narrow = np.maximum(design.margin - half_width(design.at_margin(at_end), 0.10), 0.0)
    step = np.sqrt(squares.seed / squares.n_examples * (1 / now - 1 / last)) + 1e-9 * wide + 1e-150  # never 0

    chance = np.ones_like(wide)
    # Elsewhere one bound alone is near enough. Student's t is slow, and this runs for thousands of subsets.
    at = np.abs(squares.mean) < wide - float(special.stdtrit(freedom, 1 - design.least_chance)) * step
    chance[at] = _beyond(wide[at], squares.mean[at], step[at], freedom)
    at &= narrow > 0
    chance[at] += 1 - _beyond(narrow[at], squares.mean[at], step[at], freedom)
    return chance


def _beyond(bound: Floats, mean: Floats, step: Floats, freedom: int) -> Floats:
    """Chance that mean + step * t leaves ± bound, t of Student's distribution with `freedom` degrees."""
    above, below = ((sign * mean - bound) / step for sign in (1, -1))
    return np.asarray(special.stdtr(freedom, above) + special.stdtr(freedom, below))
