"""Did the score help? Matched pairs of short runs, the score against nulls in its place, in one sentence.

Differences are null − score in units of the loss, so that **positive favours the score**.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from autopeft.evidence import rank_correlation
from autopeft.records import NULL_SCORES, Measurement, ScorePair, SearchResult, Status

MIN_PAIRS = 6  # the fewest of which a two-sided signed-rank test can reach 5 % (2 / 2**6 = 0.031)
_MARGIN = 0.01  # of the null's loss: as for a verdict on losses, what is below it does not matter


@dataclass(frozen=True, kw_only=True)
class Against:
    """The score against one null over the `n_pairs` of which both losses are finite.

    `won` counts the pairs with the lower loss under the score, `tied` the equal ones; interval (95 %)
    and p-value are None below `MIN_PAIRS`. `reference` is the null's mean loss.
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
    """The answer: `helped` is None where the pairs leave it open.

    `single_sites` is Spearman's rho in [-1, 1] between the score and what plans of one site gained,
    with the number of sites; None where there were fewer than three such plans.
    """

    score: str
    helped: bool | None
    sentence: str
    against: tuple[Against, ...]
    single_sites: tuple[float, int] | None


def did_it_help(result: SearchResult) -> Helped:
    """Whether the score that ordered the sites was worth it on the short runs of this search."""
    score = result.spec.search.score
    nulls = [null for null in NULL_SCORES if null != score]
    found = (_against(null, result.score_pairs) for null in nulls)
    against = tuple(one for one in found if one is not None)
    helped, sentence = _answer(score, {one.null: one for one in against})
    return Helped(
        score=score,
        helped=helped,
        sentence=sentence,
        against=against,
        single_sites=_single_sites(result, score),
    )


def helped_json(result: SearchResult) -> dict[str, Any]:
    """The same as plain values, with every pair: the `sensitivity` of result.json."""
    found = did_it_help(result)
    n_sites = found.single_sites
    return {
        "score": found.score,
        "helped": found.helped,
        "sentence": found.sentence,
        "against": [{**vars(one)} for one in found.against],
        "single_sites": None if n_sites is None else {"rank_correlation": n_sites[0], "n_sites": n_sites[1]},
        "pairs": [{**vars(pair)} for pair in result.score_pairs],
    }


def _against(null: str, pairs: Iterable[ScorePair]) -> Against | None:
    """The pairs that have a finite loss on both sides; None where there are none."""
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
        interval_95=_interval(difference) if is_enough else None,
        p_value=_p_value(difference) if is_enough else None,
    )


def _interval(difference: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of the differences."""
    n = difference.size
    half = float(stats.t.ppf(0.975, n - 1)) * float(difference.std(ddof=1)) / math.sqrt(n)
    mean = float(difference.mean())
    return mean - half, mean + half


def _p_value(difference: np.ndarray[Any, Any]) -> float:
    """Wilcoxon's signed-rank test, two-sided; equal losses are left out, and nothing but those gives 1."""
    return float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0


def _answer(score: str, against: Mapping[str, Against]) -> tuple[bool | None, str]:
    """`helped` and its sentence."""
    if score == "uniform":
        return None, "The sites were ordered by no score but “uniform”, so there is nothing that could help."
    uniform = against.get("uniform")
    if uniform is None:
        told = f"Whether the score “{score}” helped was not measured"
        return None, f"{told}: no plan was run with it and with uniform in its place."
    rest = ", ".join(f"{_won(one)} against {one.null}" for name, one in against.items() if name != "uniform")
    count = f"in {_won(uniform)} pairs against uniform" + (f" ({rest})" if rest else "")
    mean = uniform.mean_difference
    if uniform.interval_95 is None:
        told = f"Too few pairs to say; the score “{score}” had the lower loss {count}"
        return None, f"{told}, and {MIN_PAIRS} are the least that could tell."
    low, high = uniform.interval_95
    size = f"{gain(abs(mean))} {'lower' if mean >= 0 else 'higher'} on average"
    facts = f"its loss was {size} (95 % interval of the gain {gain(low)} to {gain(high)}) and lower {count}"
    helped, finding = _finding(
        score, uniform, [one.null for one in against.values() if one.mean_difference <= 0]
    )
    return helped, f"{finding}: {facts}."


def _finding(score: str, uniform: Against, rivals: Sequence[str]) -> tuple[bool | None, str]:
    """Uniform decides, but a gain that `rivals`, nulls that were as good, have too proves nothing."""
    assert uniform.interval_95 is not None and uniform.p_value is not None
    low, high = uniform.interval_95
    is_significant, margin = uniform.p_value < 0.05, _MARGIN * abs(uniform.reference)
    if is_significant and low > 0 and high >= margin:
        if rivals:
            return (
                None,
                f"The score “{score}” beat uniform but not {' and '.join(rivals)}, which proves no help",
            )
        return True, f"The score “{score}” helped"
    if is_significant and high < 0:
        return False, f"The score “{score}” did harm"
    if high < margin:
        return False, f"The score “{score}” brought no gain that matters (1 % of the loss)"
    return None, f"It stays open whether the score “{score}” helped"


def _won(one: Against) -> str:
    tied = f" ({one.tied} tied)" if one.tied else ""
    return f"{one.won} of {one.n_pairs}{tied}"


def gain(value: float) -> str:
    """A difference of losses with three decimals, or with two digits where those would say nothing."""
    text = f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"
    return text.replace("-", "−", 1) if value < 0 else text


def _single_sites(result: SearchResult, score: str) -> tuple[float, int] | None:
    """Over plans of one site, one method and one length, the most there are of: score against low loss."""
    groups: dict[tuple[int, str], dict[str, float]] = {}
    for run in result.measurements:
        site = _only_site(run)
        if site is None or run.loss is None or not math.isfinite(run.loss):
            continue
        losses = groups.setdefault((run.fidelity.train_steps, run.plan.adapters[0].method), {})
        losses[site] = min(run.loss, losses.get(site, math.inf))
    values = next((own.values for own in result.scores if own.name == score), None)
    if not groups or values is None:
        return None
    losses = max(groups.values(), key=len)
    by_site = dict(zip((site.name for site in result.sites), values, strict=True))
    rho = rank_correlation([by_site[site] for site in losses], [-loss for loss in losses.values()])
    return None if rho is None else (rho, len(losses))


def _only_site(run: Measurement) -> str | None:
    """The site of a finished short run whose plan adapts one alone."""
    sites: Sequence[str] = tuple({adapter.site for adapter in run.plan.adapters})
    is_short_run = run.fidelity.split == "search" and run.status is Status.COMPLETE
    return sites[0] if is_short_run and len(sites) == 1 else None
