"""Did the score help? Matched pairs of short runs: plans laid out by the score and by a null score.

Differences are null minus score in units of the loss: **positive favours the score**.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from autopeft.evidence import rank_correlation
from autopeft.records import NULL_SCORES, ScorePair, SearchResult, Status
from autopeft.report.words import gain

UNIFORM = NULL_SCORES[0]  # even ranks: the null that decides
MIN_PAIRS = 6  # the fewest with which a two-sided signed-rank test can reach 5 % (2 / 2**6 = 0.031)
_MARGIN = 0.01  # of the null's loss: a smaller gain does not matter, as for a verdict on losses


@dataclass(frozen=True, kw_only=True)
class Against:
    """The score against one null, over the `n_pairs` in which both losses are finite.

    `won` counts the pairs with the lower loss under the score. The 95 % t interval of the mean difference and
    the p-value are None below `MIN_PAIRS`. `reference` is the null's mean loss.
    """

    null: str
    n_pairs: int
    won: int
    tied: int
    mean_difference: float
    reference: float
    interval_95: tuple[float, float] | None
    p_value: float | None


@dataclass(frozen=True, kw_only=True)
class Helped:
    """The answer; `helped` is None where the pairs leave it open.

    `single_sites` is Spearman's rho in [-1, 1] between the score of a site and the low loss of a plan of this
    site alone, with the number of sites; None below three sites.
    """

    score: str
    helped: bool | None
    sentence: str
    against: tuple[Against, ...]
    single_sites: tuple[float, int] | None


def did_it_help(result: SearchResult) -> Helped:
    """Whether the score that ordered the sites lowered the loss in the short runs of this search."""
    score = result.spec.search.score
    rows = (_against(null, result.score_pairs) for null in NULL_SCORES if null != score)
    against = {row.null: row for row in rows if row is not None}
    helped, sentence = _answer(score, against)
    sites = _single_sites(result, score)
    shown = tuple(against.values())
    return Helped(score=score, helped=helped, sentence=sentence, against=shown, single_sites=sites)


def sensitivity_json(result: SearchResult) -> dict[str, Any]:
    """The `sensitivity` of result.json: the answer, every pair, and how far each score can be trusted."""
    answer = did_it_help(result)
    sites = answer.single_sites
    return {
        **asdict(answer),
        "single_sites": sites and {"rank_correlation": sites[0], "n_sites": sites[1]},
        "pairs": [asdict(pair) for pair in result.score_pairs],
        "scores": [
            {"name": s.name, "split_half": s.split_half, "n_examples": s.n_examples} for s in result.scores
        ],
    }


def _against(null: str, pairs: Iterable[ScorePair]) -> Against | None:
    """The score against a null; None if no pair has a finite loss on both sides."""
    losses = [(pair.with_score, getattr(pair, null)) for pair in pairs]
    finite = [(ours, other) for ours, other in losses if other is not None and math.isfinite(ours + other)]
    if not finite:
        return None
    ours, others = np.asarray(finite, dtype=np.float64).T
    difference = others - ours
    is_enough = len(finite) >= MIN_PAIRS
    return Against(
        null=null,
        n_pairs=len(finite),
        won=int((difference > 0).sum()),
        tied=int((difference == 0).sum()),
        mean_difference=float(difference.mean()),
        reference=float(others.mean()),
        interval_95=_t_interval(difference) if is_enough else None,
        p_value=_p_value(difference) if is_enough else None,
    )


def _t_interval(difference: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Student's paired 95 % t interval of the mean difference."""
    n = difference.size
    half = float(stats.t.ppf(0.975, n - 1)) * float(difference.std(ddof=1)) / math.sqrt(n)
    mean = float(difference.mean())
    return mean - half, mean + half


def _p_value(difference: np.ndarray[Any, Any]) -> float:
    """Wilcoxon's two-sided signed-rank test without the ties; 1 if all pairs are ties."""
    return float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0


def _answer(score: str, against: Mapping[str, Against]) -> tuple[bool | None, str]:
    """`helped` and its sentence."""
    if score == UNIFORM:
        return None, "The sites were ordered by no score but “uniform”, so there is nothing that could help."
    uniform = against.get(UNIFORM)
    if uniform is None:
        return None, (
            f"Whether the score “{score}” helped was not measured: no plan was run with it and with uniform "
            "in its place (--check-score does that)."
        )
    others = ", ".join(f"{_won(row)} against {null}" for null, row in against.items() if null != UNIFORM)
    wins = f"in {_won(uniform)} pairs against uniform" + (f" ({others})" if others else "")
    if uniform.interval_95 is None:
        return None, (
            f"There are too few pairs to say: the score “{score}” had the lower loss {wins}, "
            f"and a test needs at least {MIN_PAIRS}."
        )
    mean, (low, high) = uniform.mean_difference, uniform.interval_95
    size = f"{gain(abs(mean))} {'lower' if mean >= 0 else 'higher'} on average"
    helped, finding = _finding(score, uniform, [r.null for r in against.values() if r.mean_difference <= 0])
    bounds = f"95 % interval of the gain {gain(low)} to {gain(high)}"
    return helped, f"{finding}: its loss was {size} ({bounds}) and lower {wins}."


def _finding(score: str, uniform: Against, rivals: list[str]) -> tuple[bool | None, str]:
    """Uniform decides; but a gain proves nothing if `rivals`, nulls with a loss as low, have it too."""
    assert uniform.interval_95 is not None and uniform.p_value is not None
    low, high = uniform.interval_95
    is_significant, margin = uniform.p_value < 0.05, _MARGIN * abs(uniform.reference)
    if is_significant and low > 0 and high >= margin:
        if not rivals:
            return True, f"The score “{score}” helped"
        return None, f"The score “{score}” beat uniform but not {' and '.join(rivals)}, which proves no help"
    if is_significant and high < 0:
        return False, f"The score “{score}” did harm"
    if high < margin:
        return False, f"The score “{score}” brought no gain that matters (1 % of the loss)"
    return None, f"It stays open whether the score “{score}” helped"


def _won(row: Against) -> str:
    tied = f" ({row.tied} tied)" if row.tied else ""
    return f"{row.won} of {row.n_pairs}{tied}"


def _single_sites(result: SearchResult, score: str) -> tuple[float, int] | None:
    """Spearman's rho of score and low loss over plans of one site, for the commonest method and length."""
    groups: dict[tuple[int, str], dict[str, float]] = {}
    for run in result.measurements:
        sites = {adapter.site for adapter in run.plan.adapters}
        is_short_run = run.fidelity.split == "search" and run.status is Status.COMPLETE
        if not is_short_run or len(sites) != 1 or run.loss is None or not math.isfinite(run.loss):
            continue
        losses = groups.setdefault((run.fidelity.train_steps, run.plan.adapters[0].method), {})
        losses[min(sites)] = min(run.loss, losses.get(min(sites), math.inf))
    values = next((scores.values for scores in result.scores if scores.name == score), None)
    if not groups or values is None:
        return None
    losses = max(groups.values(), key=len)
    by_site = dict(zip((site.name for site in result.sites), values, strict=True))
    rho = rank_correlation([by_site[site] for site in losses], [-loss for loss in losses.values()])
    return None if rho is None else (rho, len(losses))
