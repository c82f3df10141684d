"""Findings beside the verdict: the winner's curse, plans as good as the best, the worst seed."""

from __future__ import annotations

import re

from scipy import stats
from toys.engine import levels, method_of, run

from autopeft.records import Fidelity, Plan


def luck(plan: Plan, fidelity: Fidelity) -> float:
    """IA3 looks better by ten points than it is."""
    return levels(ia3=0.9 if fidelity.split == "search" else 0.8)(plan, fidelity)


def sentence_of(outcome, start: str) -> str:
    (sentence,) = [text for text in outcome.sentences if text.startswith(start)]
    return sentence


def test_what_the_search_promised_is_set_against_what_was_confirmed() -> None:
    outcome = run(luck, seeds=3, n_confirm=400).outcome
    assert method_of(outcome.best) == "ia3"
    sentence = sentence_of(outcome, "The search promised")
    promised, confirmed = (float(x) for x in re.findall(r"[+-]\d+\.\d", sentence)[:2])
    named = {c.name: c.metric_mean for c in outcome.confirmations}
    assert abs(confirmed - 100 * (named["best"] - named["baseline"])) < 0.06
    assert 8 < promised - confirmed < 12  # ten points less, but for scores that are whole examples
    assert "worse than promised" in sentence


def test_worst_seed_comes_with_the_chance_of_divergence() -> None:
    outcome = run(levels(ia3=0.9), seeds=3).outcome
    sentence = sentence_of(outcome, "The worst seed of the best plan")
    (best,) = [c for c in outcome.confirmations if c.name == "best"]
    assert f"accuracy {100 * min(best.metrics):.1f} %" in sentence
    # None of n diverged: the 95 % bound solves (1 - p)**n = 0.025.
    bound = 1 - 0.025 ** (1 / len(best.seeds))
    assert f"0 of {len(best.seeds)} seeds diverged" in sentence and f"{100 * bound:.0f} %" in sentence
    assert abs(bound - stats.beta.ppf(0.975, 1, len(best.seeds))) < 1e-12


def test_plans_as_good_as_the_best_are_listed_with_the_smallest() -> None:
    def truth(plan: Plan, fidelity: Fidelity) -> float:
        return 0.8 if method_of(plan) != "head" else 0.7999

    outcome = run(truth, n_confirm=400).outcome
    sentence = sentence_of(outcome, "Proven to lose less than the margin")
    # All tables are alike, so that every plan is within the margin; the head alone is the smallest.
    assert "smallest (0 parameters)" in sentence and "baseline (" in sentence
    assert outcome.verdict.as_good[0] == "smallest" and "baseline" in outcome.verdict.as_good
    nothing_near = run(levels(ia3=0.9), seeds=3, trials=12).outcome
    assert nothing_near.verdict.as_good == ()
    assert sentence_of(nothing_near, "No other of the 3 confirmed plans")


def test_without_confirmation_there_are_no_findings() -> None:
    assert run(levels(), confirm="none").outcome.sentences == ()
